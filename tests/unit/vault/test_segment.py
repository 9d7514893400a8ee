"""Local segments give back what went in, whatever they were merged from; broken files are refused."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.vault import cache as caches
from controlplane.vault import segment as segments
from controlplane.vault.cache import Cache, Folder
from controlplane.vault.segment import SHORT, Segment, key_of, merged, number_of, row

# Few ids, so that many rows share one and stand at the edges of blocks.
IDS = st.integers(0, 40).map(lambda n: (n * 0x0636_0636_0636_0636).to_bytes(16, "big"))
ROWS = st.lists(st.tuples(IDS, st.integers(1, 3), st.integers(0, 9)), max_size=60)


def made(rows, packs=None, **more) -> Segment:
    packs = packs or {n: bytes([n]) * 32 for _, n, _ in rows}
    return Segment.write(
        more.pop("path", None), domain="acme/shop", packs=packs,
        parts=[sorted(row(*each) for each in rows)], **more,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of three rows, read six at a time."""
    monkeypatch.setattr(segments, "_BLOCK", 3)
    monkeypatch.setattr(segments, "_STEP", 6)


@given(rows=ROWS, asked=IDS)
def test_a_search_finds_every_row_of_an_id_and_no_other(rows, asked):
    found = sorted(made(rows).find(asked, key_of(asked)))
    assert found == sorted((n, at) for identity, n, at in rows if identity == asked)


@given(several=st.lists(ROWS, max_size=5))
def test_merging_gives_all_rows_in_order(several):
    got = [each for part in merged([made(rows) for rows in several]) for each in part]
    assert got == sorted(row(*each) for rows in several for each in rows)


def test_a_file_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "a.segment"
    rng = random.Random(3)
    rows = [(rng.randbytes(16), 1, at) for at in range(20)]
    made(rows, path=path)
    whole = path.read_bytes()
    assert [number for i, _, _ in rows for number, _ in Segment.open(path).find(i, key_of(i))] == [
        1
    ] * 20
    meta = 20 * 24
    spoilt = [whole[:n] for n in range(0, len(whole), 7)] + [whole[24:]]
    spoilt += [whole[:at] + b"~" + whole[at + 1 :] for at in range(meta, len(whole), 5)]
    for content in spoilt:
        if content != whole:
            path.write_bytes(content)
            with pytest.raises(ValueError, match="segment"):
                Segment.open(path)


class TestCache:
    @pytest.fixture(autouse=True)
    def tiers(self, monkeypatch):
        monkeypatch.setattr(caches, "_SMALL", 16)

    def filled(self, folder, rounds=50):
        """A cache, and where each chunk lies."""
        cache, places, rng = Cache(folder, "acme/shop"), {}, random.Random(1)
        for _ in range(rounds):
            pack = rng.randbytes(32)
            chunks = [(rng.randbytes(32), at) for at in range(4)]
            cache.add({pack: chunks})
            places.update({identity: (pack, at) for identity, at in chunks})
        return cache, places

    def test_files_stay_few_and_all_is_found(self, tmp_path):
        cache, places = self.filled(tmp_path)
        assert len(list(tmp_path.iterdir())) <= 9
        again = Cache(tmp_path, "acme/shop")
        for one in (cache, again):
            assert {i: one.find(i, set()) for i in places} == places
            assert one.find(os.urandom(32), set()) is None
        assert Cache(tmp_path, "other/shop").packs() == frozenset()

    def test_a_place_that_is_wrong_is_passed_over_for_another(self):
        cache = Cache(None, "acme/shop")
        chunk = b"c" * 32
        cache.add({b"1" * 32: [(chunk, 5)]})
        cache.add({b"2" * 32: [(chunk, 7)]})
        both = {(b"1" * 32, 5), (b"2" * 32, 7)}
        for wrong in both:
            assert {cache.find(chunk, {wrong})} == both - {wrong}
        assert cache.find(chunk, both) is None

    def test_dropped_packs_are_found_no_more_and_their_rows_go(self, tmp_path):
        cache, places = self.filled(tmp_path)
        before = sum(path.stat().st_size for path in tmp_path.iterdir())
        kept = set(sorted(cache.packs())[:5])
        cache.drop(cache.packs() - kept)
        for one in (cache, Cache(tmp_path, "acme/shop")):
            for identity, place in places.items():
                if place[0] in kept:
                    assert one.find(identity, set()) == place
        assert {i for i in places if cache.find(i, set())} == {
            i for i, place in places.items() if place[0] in kept
        }
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < before / 4

    def test_numbers_of_new_packs_are_new_after_a_restart(self, tmp_path):
        _, places = self.filled(tmp_path, rounds=3)
        again = Cache(tmp_path, "acme/shop")
        again.add({b"n" * 32: [(b"n" * 32, 3)]})
        assert {i: again.find(i, set()) for i in places} == places
        assert again.find(b"n" * 32, set()) == (b"n" * 32, 3)

    def test_what_a_crash_leaves_of_a_merge_is_removed(self, tmp_path, monkeypatch):
        """The merged file is there, and so is what it replaces; or it is only half written."""
        with monkeypatch.context() as crash:
            crash.setattr(Segment, "remove", lambda self: None)
            _, places = self.filled(tmp_path)
        (tmp_path / next(tmp_path.iterdir()).with_suffix(".coming").name).write_bytes(b"half")
        crowded = len(list(tmp_path.iterdir()))
        again = Cache(tmp_path, "acme/shop")
        assert {i: again.find(i, set()) for i in places} == places
        assert len(list(tmp_path.iterdir())) < crowded / 2
        assert len(again.packs()) == 50

    def test_searches_go_on_while_segments_are_merged(self, tmp_path):
        """Files are closed when the last search let go of them."""
        import threading

        cache, places = self.filled(tmp_path, rounds=10)
        done, missed = threading.Event(), []

        def search():
            while not done.is_set():
                missed.extend(i for i in places if cache.find(i, set()) != places[i])

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(100):
            cache.add({n.to_bytes(32, "big"): [(os.urandom(32), 0)]})
        done.set()
        for thread in threads:
            thread.join()
        assert missed == []


def test_a_folder_serves_one_process_at_a_time(tmp_path):
    first = Folder(tmp_path / "index")
    assert Folder(tmp_path / "index").path is None
    first.close()
    again = Folder(tmp_path / "index")
    assert again.path is not None
    again.close()


def test_a_file_in_the_place_of_the_folder_gives_way(tmp_path):
    (tmp_path / "index").write_bytes(b"SQLite format 3")
    folder = Folder(tmp_path / "index")
    assert folder.path is not None
    folder.close()


def test_rows_tell_their_parts():
    told = row(bytes(range(32)), 77, 5)
    assert (told[:SHORT], number_of(told)) == (bytes(range(16)), 77)
