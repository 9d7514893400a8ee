"""VHD: our reader and our files against each other, qemu-img, dissect and libvhdi."""

import io
import itertools
import json
import random
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import GIB, KIB, MIB, SECTOR, Extent, ExtentKind
from controlplane.domain.errors import Invalid, Unavailable
from drivers.disks.raw import RawFile
from drivers.disks.vhd import (
    FOOTER_SUM,
    HEADER_SUM,
    SIZE_MAX,
    UNUSED,
    VhdKind,
    VhdStream,
    checksum,
    geometry,
)
from drivers.disks.vhd_image import BLOCK, VhdImage
from drivers.simulators.xcpng.vhd import blocks_of
from tests.disks.test_qcow2 import Memory, changed, disk, needs_qemu, qemu, whole

OWN, PARENT = UUID(int=0x11223344556677889900AABBCCDDEEFF), UUID(int=7 << 64)
KINDS = list(ExtentKind)
HEADER_AT, TABLE_AT = 512, 2048


class Told(Memory):
    """A disk that says of each grain what it is; what it says is zero is zero."""

    def __init__(self, data: bytes, kinds: list[ExtentKind], *, grain: int) -> None:
        mended = bytearray(data)
        for n, kind in enumerate(kinds):
            if kind is ExtentKind.ZERO:
                part = mended[n * grain : (n + 1) * grain]
                mended[n * grain : (n + 1) * grain] = bytes(len(part))
        super().__init__(bytes(mended), grain=grain)
        self.kinds = kinds

    def extents(self) -> Iterator[Extent]:
        for n, kind in enumerate(self.kinds):
            at = n * self.grain
            yield Extent(offset=at, length=min(self.grain, self.size - at), kind=kind)


def cut(file: bytes, *, seed: int = 0, most: int = 3 * MIB) -> Iterator[bytes]:
    """The bytes as a wire would bring them, some parts of it empty."""
    rng, at = random.Random(seed), 0
    while at < len(file):
        length = rng.choice((0, 1, 511, 70_000, most))
        yield file[at : at + length]
        at += length


def opened(file: bytes, *, seed: int = 0, length: int | None = None) -> VhdStream:
    return VhdStream(cut(file, seed=seed), what="the VHD", length=length)


def applied(stream: VhdStream, onto: bytes = b"") -> bytes:
    """The disk as the stream tells it, over what it had before; checks extents on the way."""
    out = bytearray(onto or bytes(stream.size))
    at = 0
    for extent in stream.extents():
        assert extent.offset == at
        assert extent.length > 0
        at += extent.length
        if extent.kind is ExtentKind.ZERO:
            out[extent.offset : at] = bytes(extent.length)
    assert at == stream.size
    for block in stream.blocks():
        assert block[0][0].offset % stream.block == 0
        for extent, data in block:
            assert len(data) == (extent.length if extent.kind is ExtentKind.DATA else 0)
            end = extent.offset + extent.length
            if extent.kind is not ExtentKind.UNCHANGED:
                out[extent.offset : end] = data or bytes(extent.length)
    return bytes(out)


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(0, 5 * BLOCK),
    seed=st.integers(0, 1000),
    grain=st.sampled_from([512, 4096, 65536, BLOCK, 100_000]),
    data=st.data(),
)
def test_our_reader_reads_our_files_and_any_range_of_them(size, seed, grain, data):
    content = disk(seed, size) if size else b""
    image = VhdImage(Memory(content, grain=grain), identity=OWN)
    file = whole(image)
    assert len(file) == image.size
    assert len(file) % SECTOR == 0
    at = data.draw(st.integers(0, len(file)))
    length = data.draw(st.integers(0, len(file) - at))
    assert image.read(at, length) == file[at : at + length]
    stream = opened(file, seed=seed)
    assert stream.size == image.disk_size
    assert (stream.kind, stream.identity, stream.parent) == (VhdKind.DYNAMIC, OWN, None)
    assert applied(stream) == content.ljust(image.disk_size, b"\0")


@settings(max_examples=25, deadline=None)
@given(
    grains=st.integers(1, 100),
    grain=st.sampled_from([512, 4096, 65536]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_what_differs_makes_of_the_parent_what_the_disk_is(grains, grain, seed, data):
    """Data, explicit zeros and what is unchanged, in any mixture and through the same block."""
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=grains, max_size=grains))
    old, rng = random.Random(seed).randbytes(grains * grain), random.Random(seed + 1)
    new = Told(rng.randbytes(grains * grain), kinds, grain=grain)
    image = VhdImage(new, identity=OWN, parent=PARENT, parent_name="base.vhd")
    file = whole(image, 777_777)
    at = data.draw(st.integers(0, len(file)))
    assert image.read(at, len(file) - at) == file[at:]
    stream = opened(file, seed=seed)
    assert (stream.kind, stream.parent) == (VhdKind.DIFFERENCING, PARENT)
    expected = b"".join(
        (old if kind is ExtentKind.UNCHANGED else new.data)[n * grain : (n + 1) * grain]
        for n, kind in enumerate(kinds)
    )
    assert applied(stream, old) == expected


def test_nothing_is_unchanged_without_a_parent_and_no_disk_is_too_long():
    told = Told(bytes(1024), [ExtentKind.DATA, ExtentKind.UNCHANGED], grain=512)
    with pytest.raises(Invalid, match="parent"):
        VhdImage(told, identity=OWN)
    with pytest.raises(Invalid, match="too long"):
        VhdImage(Far(SIZE_MAX + SECTOR), identity=OWN)
    with pytest.raises(Invalid, match="name"):
        VhdImage(Memory(b""), identity=OWN, parent=PARENT, parent_name="x" * 257)


class Far:
    """A long disk with ten bytes at its end."""

    def __init__(self, size: int) -> None:
        self.size = size

    def extents(self):
        yield Extent(offset=0, length=self.size - SECTOR, kind=ExtentKind.ZERO)
        yield Extent(offset=self.size - SECTOR, length=SECTOR, kind=ExtentKind.DATA)

    def read(self, offset, length):
        return (bytes(max(self.size - 10 - offset, 0)) + b"0123456789")[:length]

    def close(self):
        pass


def test_the_longest_disk_has_a_small_map():
    image = VhdImage(Far(SIZE_MAX), identity=OWN)
    assert image.size < BLOCK + 5 * MIB
    tracemalloc.start()
    stream = opened(whole(image))
    (block,) = stream.blocks()
    assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    tracemalloc.stop()
    (extent, data) = block[-1]
    assert extent.offset + extent.length == stream.size == SIZE_MAX
    assert data.endswith(b"0123456789")
    assert [e.kind for e in stream.extents()] == [ExtentKind.ZERO, ExtentKind.DATA]


# -- others' readers and writers ---------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize("size", [512, BLOCK, 3 * BLOCK + 512, 700 * MIB + 1536])
def test_qemu_reads_our_files_and_their_length_without_being_told_how(tmp_path, size):
    raw, file = tmp_path / "raw", tmp_path / "vhd"
    with raw.open("wb") as f:
        f.truncate(size)
        for at in {0, size // 2, max(size - 100_000, 0)}:
            f.seek(at)
            f.write(random.Random(at).randbytes(min(100_000, size - at)))
    image = VhdImage(RawFile(raw), identity=OWN)
    file.write_bytes(whole(image))
    image.close()
    told = json.loads(qemu("info", "--output=json", "-f", "vpc", file))
    assert told["virtual-size"] == size
    qemu("compare", "-f", "raw", "-F", "vpc", raw, file)


@needs_qemu
@pytest.mark.parametrize("options", ["force_size=on", "force_size=off"])
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_we_read_what_qemu_writes(tmp_path, subformat, options):
    """Without force_size it makes the disk longer, so that the geometry fits."""
    raw, file = tmp_path / "raw", tmp_path / "vhd"
    content = disk(4, 9 * MIB + 512, pieces=12)
    raw.write_bytes(content)
    options = f"subformat={subformat},{options}"
    qemu("convert", "-f", "raw", "-O", "vpc", "-o", options, raw, file)
    written = file.read_bytes()
    stream = opened(written, length=len(written))
    assert stream.kind is VhdKind[subformat.upper()]
    assert (
        stream.size == json.loads(qemu("info", "--output=json", "-f", "vpc", file))["virtual-size"]
    )
    assert applied(stream) == content.ljust(stream.size, b"\0")
    if subformat == "dynamic":
        assert {e.kind for e in stream.extents()} == {ExtentKind.DATA, ExtentKind.ZERO}


@needs_qemu
def test_blocks_that_lie_in_another_order_are_read(tmp_path):
    file, content = tmp_path / "vhd", bytearray(16 * MIB)
    qemu("create", "-f", "vpc", "-o", "force_size=on", file, "16M")
    for number in (5, 1, 7, 0):
        content[number * BLOCK : number * BLOCK + 4096] = bytes([number + 1]) * 4096
        write = f"write -P {number + 1} {number * BLOCK} 4096"
        subprocess.run(["qemu-io", "-f", "vpc", "-c", write, str(file)], check=True, text=True)
    assert applied(opened(file.read_bytes())) == bytes(content)
    order = [block[0][0].offset // BLOCK for block in opened(file.read_bytes()).blocks()]
    assert order == [5, 1, 7, 0]


@needs_qemu
@pytest.mark.parametrize("size", [3 * MIB, 500 * MIB, 3 * GIB, 127 * GIB, 1000 * GIB, 2039 * GIB])
def test_the_geometry_is_the_one_that_qemu_computes(tmp_path, size):
    """It makes the disk as long as its geometry, where it is not told to leave it."""
    file = tmp_path / "vhd"
    qemu("create", "-f", "vpc", "-o", "subformat=dynamic", file, str(size))
    head = file.read_bytes()[:512]
    (current,) = struct.unpack_from(">Q", head, 48)
    assert current >= size
    assert struct.unpack_from(">HBB", head, 56) == geometry(current)
    ours = VhdImage(Far(current), identity=OWN).read(0, 512)
    assert ours[48:60] == head[48:60]


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 3 * BLOCK // SECTOR), seed=st.integers(0, 1000), data=st.data())
def test_dissect_reads_our_files(size, seed, data):
    """A reader of others', written for another purpose."""
    dissect = pytest.importorskip("dissect.hypervisor.disk.vhd", reason="dissect is not installed")
    content = disk(seed, size * SECTOR)
    file = dissect.VHD(io.BytesIO(whole(VhdImage(Memory(content, grain=4096), identity=OWN))))
    assert file.size == len(content)
    at = data.draw(st.integers(0, len(content)))
    file.seek(at)
    assert file.read(len(content) - at) == content[at:]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), data=st.data())
def test_libvhdi_reads_our_files_and_what_differs_over_its_parent(seed, data):
    """Another reader of others', which knows parents."""
    pyvhdi = pytest.importorskip("pyvhdi", reason="libvhdi is not installed")
    grain = 64 * KIB
    old = disk(seed, 70 * grain)
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=70, max_size=70))
    new = Told(random.Random(seed).randbytes(len(old)), kinds, grain=grain)
    expected = bytearray(old)
    for n, kind in enumerate(kinds):
        if kind is not ExtentKind.UNCHANGED:
            expected[n * grain : (n + 1) * grain] = new.data[n * grain : (n + 1) * grain]
    parent, file = pyvhdi.file(), pyvhdi.file()
    parent.open_file_object(io.BytesIO(whole(VhdImage(Memory(old, grain=grain), identity=PARENT))))
    image = VhdImage(new, identity=OWN, parent=PARENT, parent_name="base.vhd")
    file.open_file_object(io.BytesIO(whole(image)))
    assert file.get_parent_identifier() == str(PARENT)
    file.set_parent(parent)
    assert parent.read_buffer_at_offset(len(old), 0) == old
    assert file.read_buffer_at_offset(len(old), 0) == bytes(expected)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), data=st.data())
def test_the_simulated_pool_reads_what_differs_as_we_meant_it(seed, data):
    """Its reader shares nothing with ours."""
    grain = 64 * KIB
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=70, max_size=70))
    new = Told(random.Random(seed).randbytes(70 * grain), kinds, grain=grain)
    old = random.Random(seed + 1).randbytes(new.size)
    file = whole(VhdImage(new, identity=OWN, parent=PARENT))
    found, expected = bytearray(old), bytearray(old)
    for offset, part in blocks_of(io.BytesIO(file)):
        found[offset : offset + len(part)] = part
    for n, kind in enumerate(kinds):
        if kind is not ExtentKind.UNCHANGED:
            expected[n * grain : (n + 1) * grain] = new.data[n * grain : (n + 1) * grain]
    assert found[: new.size] == expected


# -- hostile files -----------------------------------------------------------------------------


def summed(file: bytes) -> bytes:
    """The same with the checksums that its structures should have, and the end as the beginning."""
    out = bytearray(file)
    struct.pack_into(">I", out, FOOTER_SUM, checksum(bytes(out[:512]), FOOTER_SUM))
    header = bytes(out[HEADER_AT : HEADER_AT + 1024])
    struct.pack_into(">I", out, HEADER_AT + HEADER_SUM, checksum(header, HEADER_SUM))
    out[-512:] = out[:512]
    return bytes(out)


CONTENT = b"".join(random.Random(n).randbytes(BLOCK) if n % 2 else bytes(BLOCK) for n in range(6))
GOOD = whole(VhdImage(Memory(CONTENT, grain=BLOCK), identity=OWN))
FIRST, SECOND = struct.unpack_from(">4I", GOOD, TABLE_AT)[1::2]


@pytest.mark.parametrize(
    ("at", "form", "value", "named"),
    [
        (12, ">I", 0x20000, "version 0x20000"),
        (16, ">Q", 0, "header at 0"),
        (16, ">Q", 1 << 60, "header at"),
        (16, ">Q", 1024, "no dynamic header"),
        (48, ">Q", 1 << 62, "claims"),
        (48, ">Q", 12 * MIB + 1, "claims"),
        (48, ">Q", 12 * MIB + 512, "it needs 7"),
        (60, ">I", 2, "fixed VHD"),
        (60, ">I", 5, "kind 5"),
        (HEADER_AT, ">I", 0, "no dynamic header"),
        (HEADER_AT + 16, ">Q", 512, "block table at 512"),
        (HEADER_AT + 16, ">Q", 1 << 60, "block table at"),
        (HEADER_AT + 24, ">I", 0x20000, "version 0x20000"),
        (HEADER_AT + 28, ">I", 5, "it needs 6"),
        (HEADER_AT + 28, ">I", 0xFFFFFFFF, "at most"),
        (HEADER_AT + 32, ">I", 0, "blocks of 0"),
        (HEADER_AT + 32, ">I", 3 * MIB, "blocks of"),
        (HEADER_AT + 32, ">I", 1 << 31, "blocks of"),
        (TABLE_AT + 4, ">I", 0, "at 0, within"),
        (TABLE_AT + 4, ">I", 4, "at 2048, within"),
        (TABLE_AT + 4, ">I", SECOND, "within"),
        (TABLE_AT + 8, ">I", FIRST + 4096, "within"),
    ],
)
def test_bad_fields_are_refused_by_name(at, form, value, named):
    with pytest.raises(Invalid, match=named):
        opened(summed(changed(GOOD, at, form, value)))


@pytest.mark.parametrize(
    ("at", "named"),
    [(0, "as a VHD"), (20, "footer whose checksum"), (HEADER_AT + 20, "header whose checksum")],
)
def test_a_changed_byte_of_a_structure_is_refused(at, named):
    with pytest.raises(Invalid, match=named):
        opened(changed(GOOD, at, ">B", GOOD[at] ^ 1))


def given_out(file: bytes, length: int | None = None) -> list[int]:
    """The numbers of the blocks that a stream gives before it fails."""
    stream, got = opened(file, length=length), list[int]()
    blocks = (block[0][0].offset // stream.block for block in stream.blocks())
    with pytest.raises(Unavailable):
        got.extend(blocks)
    return got


def test_a_stream_that_ends_early_is_unavailable_and_its_last_block_is_not_given():
    assert given_out(GOOD[:-1]) == [1, 3]
    assert given_out(GOOD[:-512]) == [1, 3]
    assert given_out(GOOD[: SECOND * 512 + BLOCK + 511]) == [1]
    assert given_out(GOOD[: FIRST * 512 + 100]) == []
    for keep in (0, 100, 512, 1000, 1536, TABLE_AT, TABLE_AT + 23):
        with pytest.raises(Unavailable, match="cut off"):
            opened(GOOD[:keep])


def test_another_end_than_the_files_own_is_unavailable():
    """As when a server says in the middle of a body that it failed."""
    failed = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
    assert given_out(GOOD[:-512] + failed) == [1, 3]
    assert given_out(GOOD + bytes(512)) == [1, 3]
    assert given_out(changed(GOOD, len(GOOD) - 1, ">B", 1)) == [1, 3]
    assert given_out(GOOD[: SECOND * 512 + 4096] + failed) == [1]


def test_a_disk_without_blocks_is_believed_only_with_its_end():
    empty = whole(VhdImage(Memory(bytes(BLOCK), grain=BLOCK), identity=OWN))
    assert applied(opened(empty)) == bytes(BLOCK)
    for file in (empty[:-1], empty[:-512], empty + b"\0"):
        with pytest.raises(Unavailable, match="end with its footer"):
            opened(file)


def test_a_fixed_file_is_read_when_its_length_is_told():
    footer = bytearray(GOOD[:512])
    struct.pack_into(">QQ", footer, 40, *[3 * MIB] * 2)
    struct.pack_into(">I", footer, 60, VhdKind.FIXED)
    struct.pack_into(">I", footer, FOOTER_SUM, checksum(bytes(footer), FOOTER_SUM))
    content = random.Random(1).randbytes(3 * MIB)
    file = content + bytes(footer)
    assert applied(opened(file, length=len(file))) == content
    assert given_out(file[:-1], len(file)) == [0, 1]
    with pytest.raises(Invalid, match="does not begin"):
        opened(file)
    for length, named in ((100, "does not begin"), (512, "cannot have"), (1 << 62, "cannot have")):
        with pytest.raises(Invalid, match=named):
            opened(file, length=length)
    with pytest.raises(Invalid, match="another VHD"):
        applied(opened(content[MIB:] + bytes(footer), length=len(file) - MIB))


def test_a_stream_that_never_ends_is_not_read_for_ever():
    zeros = itertools.repeat(bytes(MIB))
    stream = VhdStream(itertools.chain([GOOD], zeros), what="the VHD")
    with pytest.raises(Invalid, match="goes on for more"):
        list(stream.blocks())


def test_no_header_makes_the_reader_hold_more_than_a_table():
    """A table of an eighth of the longest, with its blocks in an order that needs sorting."""
    count = SIZE_MAX // BLOCK // 8
    head = bytearray(VhdImage(Far(count * BLOCK), identity=OWN).read(0, TABLE_AT))
    struct.pack_into(">I", head, HEADER_AT + 28, 1 << 20)
    head = summed(bytes(head) + bytes(512))[:TABLE_AT]
    places = struct.pack(f">{count}I", *(9000 + 4097 * n for n in reversed(range(count))))
    parts = [head, places.ljust(4 << 20, b"\xff"), bytes(100)]
    tracemalloc.start()
    stream = VhdStream(iter(parts), what="the VHD")
    with pytest.raises(Unavailable, match="cut off"):
        list(stream.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * MIB


SMALL = summed(whole(VhdImage(Memory(disk(1, 70 * 4096), grain=4096), identity=OWN)))


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_corrupted_files_give_bytes_invalid_or_unavailable_and_nothing_else(data):
    """Any fields of footer, header and table, at random and at the edges, with right sums."""
    file = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 1536) | st.integers(2048, 2100)) & ~3
        value = data.draw(
            st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 4, 5, 512, 2**31, UNUSED, BLOCK])
        )
        struct.pack_into(">I", file, at, value)
    fixed = data.draw(st.booleans())
    kept = bytes(file[: data.draw(st.just(len(file)) | st.integers(0, len(file)))])
    try:
        stream = opened(
            summed(kept) if len(kept) > 2048 else kept, length=len(kept) * fixed or None
        )
        assert sum(extent.length for extent in stream.extents()) == stream.size
        for block in stream.blocks():
            begin = block[0][0].offset
            for extent, part in block:
                assert extent.offset == begin
                assert not part or len(part) == extent.length
                begin += extent.length
            assert begin <= stream.size
    except (Invalid, Unavailable):
        pass


def test_what_a_bitmap_leaves_out_of_a_dynamic_file_is_zero():
    file = bytearray(GOOD)
    file[FIRST * 512] = 0b0111_1110
    content = bytearray(CONTENT)
    for sector in (0, 7):
        at = BLOCK + sector * SECTOR
        content[at : at + SECTOR] = bytes(SECTOR)
    assert applied(opened(bytes(file))) == bytes(content)
