"""What a Range field asks for, whatever it says."""

from hypothesis import example, given
from hypothesis import strategies as st

from api.gateway.ranges import wanted

ETAG = '"e"'
BIG = st.integers(0, 10**30)
SIZE = st.integers(0, 2**62)


@given(
    field=st.text(max_size=40) | st.from_regex(r"bytes *=[0-9 ,-]{0,30}", fullmatch=True), size=SIZE
)
@example(field="bytes=" + "1" * 5000 + "-" + "2" * 5000, size=7)
def test_garbage_is_answered_in_full_or_by_a_part_that_is_there(field, size):
    part = wanted({"range": field}, size=size, etag=ETAG)
    assert part.status in {200, 206, 416}
    assert 0 <= part.start <= part.start + part.length <= size
    assert part.length > 0 or part.status != 206
    assert part.status != 200 or (part.start, part.length) == (0, size)


@given(first=BIG, more=BIG, size=SIZE)
def test_a_first_and_a_last_byte(first, more, size):
    part = wanted({"range": f"bytes={first}-{first + more}"}, size=size, etag=ETAG)
    if first >= size:
        assert part.status == 416
    else:
        assert (part.status, part.start) == (206, first)
        assert part.length == min(more + 1, size - first)


@given(last=BIG, size=SIZE)
def test_the_last_bytes(last, size):
    part = wanted({"range": f"bytes=-{last}"}, size=size, etag=ETAG)
    there = min(last, size)
    assert part.status == (206 if there else 416)
    assert not there or (part.start, part.length) == (size - there, there)


@given(first=BIG, size=SIZE)
def test_from_a_byte_to_the_end(first, size):
    part = wanted({"range": f"bytes={first}-"}, size=size, etag=ETAG)
    assert part.status == (206 if first < size else 416)
    assert first >= size or (part.start, part.length) == (first, size - first)
