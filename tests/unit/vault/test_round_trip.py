"""What goes into the vault comes out, whatever the disk looks like."""

import itertools
import random
import threading
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import GIB, KIB, MIB, ExtentKind, Mark
from controlplane.domain.errors import Conflict, Invalid, NotFound
from controlplane.domain.ids import InstanceId, TenantName
from controlplane.domain.vault import FANOUT, Layout, Ref
from controlplane.services.bandwidth import Pace, PacedReader
from controlplane.vault import manifest
from controlplane.vault.digest import digest
from controlplane.vault.heads import head_hash, read_head
from controlplane.vault.sealing import compress
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    Bytes,
    Seal,
    World,
    commit,
    copy,
    keys,
    new_point,
    read_all,
    some_disk,
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        bytes(5),
        bytes(3 * MIB),
        some_disk(1, "RZTTZR") + b"tail",
        some_disk(2, "R" * 70 + "Z" * 600 + "TRT"),
        bytes(40 * MIB) + b"end",
    ],
    ids=["empty", "one byte", "zeros", "all zero", "mixed", "two leaves", "far end"],
)
def test_a_disk_comes_out_as_it_went_in(world, vault, data):
    point, copied = world.take(vault, data)
    assert read_all(vault, point) == data
    assert read_all(vault, point, step=10_007) == data
    assert copied.size == len(data)
    assert copied.digest == digest(Bytes(data), length=len(data)) == vault.open(point, 0).digest


class Forward(Bytes):
    """A disk that notes where it was asked to go back."""

    forward = True

    def read(self, offset: int, length: int) -> bytes:
        self.back = getattr(self, "back", 0) + any(offset < at for at, _ in self.reads)
        return super().read(offset, length)


def test_a_disk_that_comes_in_order_is_read_in_order(world, vault):
    """Also where its reader keeps to a pace; data in two leaves, which two threads would share."""
    content = some_disk(3, "R" * 80 + "Z" * 432 + "R" * 80)
    extents = [(80 * CHUNK, ExtentKind.DATA), (432 * CHUNK, ExtentKind.ZERO)]
    disk = Forward(content, [*extents, (80 * CHUNK, ExtentKind.DATA)])
    point, _ = world.take(vault, PacedReader(disk, Pace(_Free(), "a", None, threading.Event())))
    assert len(disk.reads) > 2
    assert disk.back == 0
    disk.reads.clear()
    assert digest(disk, length=disk.size) == vault.open(point, 0).digest
    assert len(disk.reads) > 2
    assert disk.back == 0


class Shared(Bytes):
    """A disk that two threads must be reading at the same time, if `shared`; else never."""

    def __init__(self, content: bytes, *, shared: bool) -> None:
        super().__init__(content)
        self.shared = shared
        self.most = 0
        self._now = 0
        self._both = threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        self._now += 1
        self.most = max(self.most, self._now)
        if self._now > 1:
            self._both.set()
        self._both.wait(10 if self.shared else 0.01)
        self._now -= 1
        return super().read(offset, length)


@pytest.mark.parametrize("shared", [True, False])
def test_only_a_disk_that_may_be_shared_is_read_by_two_at_a_time(world, vault, shared):
    """Also where its reader keeps to a pace; data in two leaves, one for each of two threads."""
    content = some_disk(4, "R" * 40 + "Z" * 472 + "T" * 40)
    disk = Shared(content, shared=shared)
    point, _ = world.take(vault, PacedReader(disk, Pace(_Free(), "a", None, threading.Event())))
    assert (disk.most > 1) is shared
    assert read_all(vault, point) == content


def test_a_chunk_that_comes_twice_in_one_read_is_stored_once(world, vault):
    one, other = some_disk(5, "RT"), some_disk(6, "R")
    content = one + other + one * 3 + other[:-7]
    point, copied = world.take(vault, content)
    assert copied.bytes_new == len(one + other + other[:-7])
    assert read_all(vault, point) == content


@pytest.mark.parametrize("lengths", [(CHUNK,), (CHUNK, CHUNK, 1), (4 * CHUNK, 4 * CHUNK, 5)])
def test_many_are_compressed_as_each_alone(lengths):
    for kind in ("R", "T", "RT"):
        data = some_disk(7, kind * 4)
        contents = [memoryview(data)[:length] for length in lengths]
        assert compress(contents) == [packed for one in contents for packed in compress([one])]


class _Free:
    def owed(self, *_: object, **__: object) -> float:
        return 0.0


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_disk_and_any_extents_round_trip(tmp_path_factory, data):
    size = data.draw(st.integers(1, 6 * CHUNK))
    rng = random.Random(data.draw(st.integers(0, 9)))
    disk = bytearray(size)
    for _ in range(data.draw(st.integers(0, 4))):
        at = rng.randrange(size)
        disk[at : at + 3000] = rng.randbytes(min(3000, size - at))
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=4))})
    extents = []
    for a, b in itertools.pairwise(cuts):
        zero = not any(disk[a:b]) and data.draw(st.booleans())
        kind = ExtentKind.ZERO if zero else ExtentKind.UNCHANGED if rng.random() < 0.3 else None
        extents.append((b - a, kind or ExtentKind.DATA))
    world = World(tmp_path_factory.mktemp("store"))
    try:
        vault = world.vault()
        point, copied = world.take(vault, Bytes(bytes(disk), extents))
        reader = vault.open(point, 0)
        assert reader.read(0, size) == bytes(disk)
        seen = list(reader.extents())
        assert [e.offset for e in seen[1:]] == [e.offset + e.length for e in seen[:-1]]
        assert sum(e.length for e in seen) == size
        assert all(
            not any(disk[e.offset : e.offset + e.length]) for e in seen if e.kind is ExtentKind.ZERO
        )
        assert digest(reader, length=size) == copied.digest
        at = data.draw(st.integers(0, size - 1))
        length = data.draw(st.integers(0, size - at))
        assert reader.read(at, length) == bytes(disk[at : at + length])
    finally:
        world.close()


def test_zeros_cost_nothing_even_where_the_source_calls_them_data(world, vault):
    source = Bytes(bytes(8 * MIB))
    _, copied = world.take(vault, source)
    assert copied.top is None
    assert copied.bytes_stored == 0
    assert world.files("packs") == []
    hole = Bytes(bytes(8 * MIB), [(8 * MIB, ExtentKind.ZERO)])
    world.take(vault, hole)
    assert hole.reads == []


def test_equal_chunks_are_stored_once_within_and_across_points(world, vault):
    block = some_disk(3, "R")
    _, first = world.take(vault, block * 20)
    assert first.bytes_new == CHUNK
    _, second = world.take(vault, block * 5 + some_disk(4, "R"))
    assert second.bytes_new == CHUNK


def test_two_domains_share_no_id_and_no_chunk(world, vault):
    data = some_disk(5, "RR")
    _, one = world.take(vault, data)
    point = new_point()
    two = copy(vault, data, point=point, domain="other/shop")
    assert two.bytes_new == one.bytes_new
    assert one.digest == two.digest
    assert one.top.id != two.top.id


def test_another_process_finds_the_chunks_by_segments_or_by_tables(world, vault):
    data = some_disk(6, "RRRR")
    world.take(vault, data)
    again = new_point()
    assert copy(world.vault(), data, point=again).bytes_new == 0
    for segment in world.files("index"):
        segment.write_bytes(segment.read_bytes()[:-1])
    assert copy(world.vault(), data, point=new_point()).bytes_new == 0
    for segment in world.files("index"):
        segment.unlink()
    assert copy(world.vault(), data, point=new_point()).bytes_new == 0


def test_nothing_unverified_serves_another_run(world, vault):
    data = some_disk(7, "RR")
    copy(vault, data, point=new_point())
    assert copy(world.vault(), data, point=new_point()).bytes_new == 2 * CHUNK


def test_unchanged_extents_are_taken_over_without_reading(world, vault):
    old = some_disk(8, "RRRR" + "Z" * 508 + "RRRR")
    base, _ = world.take(vault, old)
    new = bytearray(old)
    new[CHUNK : 2 * CHUNK] = some_disk(9, "R")
    source = Bytes(
        bytes(new),
        [
            (CHUNK, ExtentKind.UNCHANGED),
            (CHUNK, ExtentKind.DATA),
            (len(new) - 2 * CHUNK, ExtentKind.UNCHANGED),
        ],
    )
    point, copied = world.take(vault, source, base=base)
    assert source.reads == [(CHUNK, CHUNK)]
    assert copied.bytes_new == CHUNK
    assert copied.chunks == 8
    assert read_all(vault, point) == bytes(new)
    assert copied.digest == digest(Bytes(bytes(new)), length=len(new))
    vault.forget(base)
    assert read_all(vault, point) == bytes(new)


@given(kinds=st.lists(st.sampled_from([None, 0, 1, 2]), max_size=FANOUT))
def test_a_page_tells_its_packs_and_entries_without_being_read(kinds: list[int | None]):
    names = [bytes([n]) * 32 for n in range(3)]
    refs = [
        None if n is None else Ref(pack=names[n], position=7, id=names[n], digest=names[n])
        for n in kinds
    ]
    told = manifest.outline(manifest.encode(0, 4, refs))
    assert sorted(told.packs) == sorted({names[n] for n in kinds if n is not None})
    assert told.entries == sum(n is not None for n in kinds)


def test_a_grown_disk_takes_over_what_it_can(world, vault):
    old = some_disk(10, "R" * 3) + b"odd"
    base, _ = world.take(vault, old)
    new = old + bytes(70_000) + b"more"
    source = Bytes(new, [(len(old), ExtentKind.UNCHANGED), (len(new) - len(old), ExtentKind.DATA)])
    point, _ = world.take(vault, source, base=base)
    assert read_all(vault, point) == new


def test_a_base_of_another_domain_or_none_at_all_is_refused(world, vault):
    base, _ = world.take(vault, b"x")
    with pytest.raises(Conflict, match="take a full one"):
        copy(vault, b"x", point=new_point(), base=base, domain="other/shop")
    with pytest.raises(NotFound, match="not in the vault"):
        copy(vault, b"x", point=new_point(), base=new_point())


def test_heads_are_numbered_chained_and_carry_the_mark(world, vault):
    one, two = new_point(), new_point()
    copy(vault, b"one", point=one)
    first = commit(vault, one, mark=Mark(text="snap-1"))
    copy(vault, b"two", point=two)
    copy(vault, b"second disk", point=two, disk=1)
    second = commit(vault, two, disks=(0, 1))
    assert (first.sequence, second.sequence) == (1, 2)
    head = read_head(second.head, Seal(), what="it")
    assert head.previous == head_hash(first.head)
    assert read_head(first.head, Seal(), what="it").mark == "snap-1"
    assert head.key_ids == (keys(DOMAIN).data_key_id,)
    assert commit(vault, two, disks=(0, 1)) == second
    assert read_all(vault, two, 1) == b"second disk"
    other = new_point()
    copy(vault, b"one", point=other)
    assert commit(vault, other, instance=InstanceId(UUID(int=8))).sequence == 1
    apart = new_point()
    copy(vault, b"one", point=apart)
    assert commit(vault, apart, tenant=TenantName("other")).sequence == 1


def test_a_rotated_data_key_keeps_old_points_and_dedup(world, vault):
    data = some_disk(11, "RT")
    point, _ = world.take(vault, data)
    old = keys(DOMAIN)

    def rotated(domain):
        return type(old)(
            id_key=old.id_key,
            data_key=bytes(32),
            data_key_id="key-2",
            retired={old.data_key_id: old.data_key},
        )

    later = world.vault(keys=rotated)
    assert read_all(later, point) == data
    second, copied = world.take(later, data + some_disk(12, "R"))
    assert copied.bytes_new == CHUNK
    assert read_all(later, second)[: len(data)] == data


def test_reads_beyond_the_end_are_refused(world, vault):
    point, _ = world.take(vault, b"abc")
    reader = vault.open(point, 0)
    assert reader.read(3, 0) == b""
    for offset, length in [(0, 4), (4, 0), (-1, 1), (2, -1)]:
        with pytest.raises(Invalid):
            reader.read(offset, length)
    with pytest.raises(NotFound, match="no disk 3"):
        vault.open(point, 3)


def test_chunks_grow_with_the_disk():
    tib = 1024 * GIB
    assert Layout.of(2 * tib).chunk == 64 * KIB
    assert Layout.of(2 * tib + 1).chunk == 256 * KIB
    assert Layout.of(8 * tib + 1).chunk == MIB
    assert manifest.levels(Layout.of(16 * tib)) == 3


def test_a_huge_sparse_disk_is_copied_at_once(world, vault):
    class Sparse(Bytes):
        size = 9 * 1024 * GIB
        far = 5 * 1024 * GIB

        def read(self, offset, length):
            self.reads.append((offset, length))
            return bytes(self.far - offset) + b"data" + bytes(length - 4 - self.far + offset)

    source = Sparse(
        b"",
        [
            (Sparse.far, ExtentKind.ZERO),
            (4, ExtentKind.DATA),
            (Sparse.size - Sparse.far - 4, ExtentKind.ZERO),
        ],
    )
    point, copied = world.take(vault, source)
    assert source.reads == [(Sparse.far, MIB)]
    reader = vault.open(point, 0)
    assert reader.read(Sparse.far - 2, 8) == b"\0\0data\0\0"
    assert digest(reader, length=reader.size) == copied.digest


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_changes_between_two_points_are_exactly_what_differs(tmp_path_factory, data):
    world = World(tmp_path_factory.mktemp("vault"))
    rng = random.Random(data.draw(st.integers(0, 9)))
    length = data.draw(st.integers(1, 700)) * CHUNK - data.draw(st.integers(0, CHUNK - 1))
    before = bytearray(length)
    before[: min(length, CHUNK)] = rng.randbytes(min(length, CHUNK))
    after = bytearray(before)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, length - 1))
        part = data.draw(st.sampled_from([b"\0", b"x", rng.randbytes(CHUNK)]))[: length - at]
        after[at : at + len(part)] = part
    with world.vault() as vault:
        old, _ = world.take(vault, bytes(before))
        new, _ = world.take(vault, bytes(after))
        reader = vault.open(new, 0)
        changes = list(reader.changes_since(vault.open(old, 0)))
        for extent in changes:
            before[extent.offset : extent.offset + extent.length] = reader.read(
                extent.offset, extent.length
            )
    assert before == after
    told = {
        n for e in changes for n in range(e.offset // CHUNK, -(-(e.offset + e.length) // CHUNK))
    }
    assert all(e.kind in {ExtentKind.DATA, ExtentKind.ZERO} for e in changes)
    assert len(told) <= 4 * 2


@pytest.mark.parametrize("backwards", [False, True])
def test_changes_into_and_out_of_what_was_all_zero(world, vault, backwards):
    """Whole leaves of zeros have no page of their own."""
    empty, _ = world.take(vault, bytes(1200 * CHUNK))
    data = bytes(600 * CHUNK) + b"x" * CHUNK + bytes(599 * CHUNK)
    full, _ = world.take(vault, data)
    old, new = (full, empty) if backwards else (empty, full)
    [change] = vault.open(new, 0).changes_since(vault.open(old, 0))
    kind = ExtentKind.ZERO if backwards else ExtentKind.DATA
    assert (change.offset, change.length, change.kind) == (600 * CHUNK, CHUNK, kind)


def test_changes_between_disks_of_different_size_are_refused(world, vault):
    old, _ = world.take(vault, bytes(CHUNK))
    new, _ = world.take(vault, bytes(2 * CHUNK))
    with pytest.raises(Invalid, match="not of the disk"):
        list(vault.open(new, 0).changes_since(vault.open(old, 0)))
