"""A disk that comes as VHD streams: going up it is one stream, going back it is another."""

import random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import KIB, MIB, ExtentKind, is_forward
from controlplane.domain.errors import Conflict, Denied, Invalid, Unavailable, Unsupported
from drivers.disks.raw import RawReader
from drivers.disks.vhd import VhdStream
from drivers.disks.vhd_disk import VhdDisk
from drivers.disks.vhd_image import BLOCK, VhdImage
from tests.disks.test_qcow2 import Memory, whole
from tests.disks.test_vhd import KINDS, OWN, PARENT, Told, cut

COUNT = 14
KEPT = 16 * MIB // BLOCK


class Server:
    """Gives the same file as often as it is asked, and counts."""

    def __init__(self, file: bytes) -> None:
        self.file, self.opened, self.closed, self.asked = file, 0, 0, 0
        self.revoked = False

    def open(self) -> VhdStream:
        self.opened += 1

        def parts():
            try:
                yield from cut(self.file, most=MIB)
            finally:
                self.closed += 1

        return VhdStream(parts(), what="the disk")

    def still(self) -> None:
        self.asked += 1
        if self.revoked:
            raise Denied("it was revoked")

    def disk(self, **more) -> VhdDisk:
        return VhdDisk(self.open, what="the disk", still=self.still, **more)


def numbered(*, holes: tuple[int, ...] = (3, 4)) -> bytes:
    blocks = (
        bytes(BLOCK) if n in holes else random.Random(n).randbytes(BLOCK) for n in range(COUNT)
    )
    return b"".join(blocks)


@pytest.fixture
def content() -> bytes:
    return numbered()


@pytest.fixture
def server(content: bytes) -> Server:
    return Server(whole(VhdImage(Memory(content, grain=BLOCK), identity=OWN)))


def test_reading_upwards_takes_one_stream(server: Server, content: bytes):
    disk = server.disk()
    assert is_forward(disk)
    assert whole(disk, 700_000) == content
    assert server.opened == 1
    assert [e.kind for e in disk.extents()] == [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.DATA]
    disk.close()
    assert server.closed == 1
    with pytest.raises(Unavailable, match="closed"):
        disk.read(0, 1)


def test_zeros_and_what_was_kept_need_no_bytes_of_the_stream(server: Server, content: bytes):
    disk = server.disk()
    assert disk.read(3 * BLOCK, 2 * BLOCK) == bytes(2 * BLOCK)
    assert disk.read(9 * BLOCK, 512) == content[9 * BLOCK : 9 * BLOCK + 512]
    assert disk.read((10 - KEPT) * BLOCK + 4096, 512) == content[(10 - KEPT) * BLOCK + 4096 :][:512]
    assert server.opened == 1


def test_going_back_further_takes_a_new_stream(server: Server, content: bytes):
    disk = server.disk()
    for number, opened in ((13, 1), (0, 2), (5, 2), (1, 2), (9, 2), (13, 2), (1, 3)):
        at = number * BLOCK + 70_000
        assert disk.read(at, 4096) == content[at : at + 4096]
        assert server.opened == opened, number
    assert server.closed == server.opened - 1


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_order_of_reads_gives_the_disk(data):
    content = numbered()
    disk = Server(whole(VhdImage(Memory(content, grain=BLOCK), identity=OWN))).disk()
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, min(len(content) - at, 3 * BLOCK)))
        assert disk.read(at, length) == content[at : at + length]


def test_what_lies_outside_is_invalid(server: Server, content: bytes):
    with pytest.raises(Invalid):
        server.disk().read(len(content), 1)


def test_a_revoked_disk_gives_nothing_that_it_kept(server: Server):
    disk = server.disk()
    disk.read(9 * BLOCK, 512)
    assert server.asked == 0
    server.revoked = True
    for at in (9 * BLOCK, 8 * BLOCK, 3 * BLOCK, 0):
        with pytest.raises(Denied):
            disk.read(at, 512)
    assert server.opened == 1


def test_a_stream_that_broke_is_begun_anew_by_who_asks_again(server: Server, content: bytes):
    whole_file, server.file = server.file, server.file[: 5 * BLOCK]
    disk = server.disk()
    with pytest.raises(Unavailable, match="cut off"):
        disk.read(12 * BLOCK, 512)
    server.file = whole_file
    assert disk.read(12 * BLOCK, 512) == content[12 * BLOCK : 12 * BLOCK + 512]
    assert server.opened == 2


def test_what_is_no_vhd_is_unavailable_to_who_reads_a_disk(server: Server, content: bytes):
    disk, good = server.disk(), server.file
    disk.read(12 * BLOCK, 512)
    server.file = b"<html>" * 1000
    with pytest.raises(Unavailable, match="cannot be read: the disk does not begin"):
        disk.read(0, 512)
    with pytest.raises(Unavailable, match="cannot be read"):
        server.disk()
    server.file = good + bytes(20 * MIB)
    with pytest.raises(Unavailable, match="cannot be read: the disk goes on"):
        whole(disk)
    server.file = good
    assert whole(disk) == content


def test_a_disk_that_changed_in_between_is_a_conflict(server: Server):
    disk = server.disk()
    disk.read(12 * BLOCK, 512)
    other = Memory(numbered(holes=(5,)), grain=BLOCK)
    server.file = whole(VhdImage(other, identity=OWN))
    with pytest.raises(Conflict) as caught:
        disk.read(0, 512)
    assert caught.value.reason == "changed"
    assert server.closed == server.opened


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), data=st.data())
def test_what_is_unchanged_comes_from_the_whole_disk_once_it_is_asked_for(seed, data):
    grain = 256 * KIB
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=40, max_size=40))
    told = Told(random.Random(seed).randbytes(40 * grain), kinds, grain=grain)
    server = Server(whole(VhdImage(told, identity=OWN, parent=PARENT)))
    opened: list[int] = []
    disk = server.disk(open_whole=lambda: opened.append(1) or RawReader(Memory(told.data)))
    for extent in disk.extents():
        if extent.kind is ExtentKind.UNCHANGED:
            touched = range(extent.offset // grain, -(-(extent.offset + extent.length) // grain))
            assert {kinds[n] for n in touched} == {ExtentKind.UNCHANGED}
    for n, kind in enumerate(kinds):
        if kind is not ExtentKind.UNCHANGED:
            part = told.data[n * grain : (n + 1) * grain]
            assert disk.read(n * grain, grain) == part
    assert not opened
    assert whole(disk) == told.data
    assert len(opened) == (ExtentKind.UNCHANGED in kinds)
    disk.close()


def test_without_a_way_to_the_whole_disk_what_is_unchanged_is_unsupported():
    told = Told(bytes(2 * BLOCK), [ExtentKind.DATA, ExtentKind.UNCHANGED], grain=BLOCK)
    disk = Server(whole(VhdImage(told, identity=UUID(int=1), parent=PARENT))).disk()
    assert disk.read(0, BLOCK) == bytes(BLOCK)
    with pytest.raises(Unsupported, match="only what changed"):
        disk.read(BLOCK, 1)
