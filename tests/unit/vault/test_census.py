"""What is stored for whom is counted exactly, however workloads share it."""

from collections import Counter
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.ids import InstanceId
from controlplane.domain.vault import Ref
from controlplane.vault.census import Census, added
from controlplane.vault.pack import Pack
from controlplane.vault.sealing import PAGE, Blob

PLAIN, STORED = 65536, 40_000
who = st.integers(1, 4).map(lambda n: InstanceId(UUID(int=n)))
places = st.tuples(st.integers(0, 3), st.integers(0, 9))


def pack(number: int, blobs: int, pages: frozenset[int] = frozenset()) -> Pack:
    made = [
        Blob(
            id=bytes([number, i % 256]) * 16,
            codec=PAGE if i in pages else 0,
            plain=PLAIN,
            offset=100 + i * STORED,
            stored=STORED + i,
        )
        for i in range(blobs)
    ]
    size = 1000 + blobs * STORED * 2
    return Pack(
        id=bytes([number]) * 32, size=size, blobs=tuple(made), cipher=None, id_key=b""  # type: ignore[arg-type]
    )  # fmt: skip


def ref(it: Pack, position: int) -> Ref:
    return Ref(pack=it.id, position=position, id=it.blobs[position].id, digest=b"")


@given(st.lists(st.tuples(who, places), max_size=60), st.sets(places))
def test_sums_are_those_of_counting_each_blob(uses, pages):
    packs = [
        pack(n, 10, frozenset(position for number, position in pages if number == n))
        for n in range(4)
    ]
    census = Census()
    for instance, (number, position) in uses:
        census.refer(instance, ref(packs[number], position))
    waste = sum(map(census.count, packs))
    of: dict[InstanceId, set[tuple[int, int]]] = {}
    for instance, place in uses:
        of.setdefault(instance, set()).add(place)
    users = Counter(place for places in of.values() for place in places)

    def stored(some) -> int:
        return sum(packs[n].blobs[i].stored for n, i in some)

    def plain(some) -> int:
        return sum(PLAIN for place in some if place not in pages)

    usages = {instance: census.usage(instance, ()) for instance in of}
    for instance, mine in of.items():
        others = {n for other, its in of.items() if other != instance for n, _ in its}
        usage = usages[instance]
        assert usage.stored == stored(mine)
        assert usage.unique == plain(mine)
        assert usage.exclusive == stored(place for place in mine if users[place] == 1)
        assert usage.freed == sum(packs[n].size for n in {n for n, _ in mine} - others)
    whole = census.whole(usages.values())
    assert whole.stored == whole.exclusive == stored(users)
    assert whole.unique == plain(users)
    assert whole.freed == sum(packs[n].size for n in {n for n, _ in users})
    assert waste == sum(b.stored for p in packs for b in p.blobs) - whole.stored
    assert added([whole, whole]).stored == 2 * whole.stored


def test_more_sets_than_two_bytes_can_number_are_counted_too():
    count = 70_000
    it = pack(1, count)
    census = Census()
    for number in range(count):
        census.refer(InstanceId(UUID(int=number + 1)), ref(it, number))
    assert census.count(it) == 0
    for number in (0, 65_534, 65_535, 65_536, count - 1):
        usage = census.usage(InstanceId(UUID(int=number + 1)), ())
        assert usage.exclusive == STORED + number
        assert usage.freed == 0
