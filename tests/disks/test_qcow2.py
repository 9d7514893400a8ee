"""qcow2: our reader and our synthesised files against each other, qemu-img and dissect."""

import io
import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import GIB, KIB, MIB, Extent, ExtentKind
from controlplane.domain.errors import Integrity, Invalid
from drivers.disks.qcow2 import Qcow2Reader
from drivers.disks.qcow2_image import CLUSTER, Qcow2Image
from drivers.disks.raw import RawFile

QEMU = shutil.which("qemu-img")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-img is not installed")


class Memory:
    """Bytes as a source, and as a disk whose zero clusters are holes."""

    def __init__(self, data: bytes, *, grain: int = 0) -> None:
        self.data = data
        self.grain = grain or len(data) or 1
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def extents(self):
        for at in range(0, len(self.data), self.grain):
            part = self.data[at : at + self.grain]
            kind = ExtentKind.DATA if any(part) else ExtentKind.ZERO
            yield Extent(offset=at, length=len(part), kind=kind)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.data)
        return self.data[offset : offset + length]

    def close(self) -> None:
        self.closed = True


def whole(source, step: int = MIB) -> bytes:
    out = io.BytesIO()
    for at in range(0, source.size, step):
        out.write(source.read(at, min(step, source.size - at)))
    return out.getvalue()


def qemu(*args: str | Path) -> str:
    return subprocess.run(
        ["qemu-img", *map(str, args)], check=True, capture_output=True, text=True
    ).stdout


def disk(seed: int, size: int, pieces: int = 6) -> bytes:
    rng = random.Random(seed)
    data = bytearray(size)
    for _ in range(pieces):
        at = rng.randrange(size)
        part = rng.randbytes(rng.choice((1, 700, 70_000, 300_000)))[: size - at]
        data[at : at + len(part)] = part
    return bytes(data)


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(0, 40 * CLUSTER),
    seed=st.integers(0, 1000),
    grain=st.sampled_from([512, 4096, 65536, 100_000]),
    data=st.data(),
)
def test_our_reader_reads_our_files_at_any_range(size, seed, grain, data):
    content = disk(seed, size) if size else b""
    image = Qcow2Image(Memory(content, grain=grain))
    file = whole(image)
    assert len(file) == image.size
    assert len(file) % CLUSTER == 0
    at = data.draw(st.integers(0, len(file)))
    length = data.draw(st.integers(0, len(file) - at))
    assert image.read(at, length) == file[at : at + length]
    reader = Qcow2Reader(Memory(file), what="the image")
    padded = content.ljust(-(-size // 512) * 512, b"\0")
    assert reader.size == image.disk_size == len(padded)
    assert whole(reader) == padded
    assert sum(e.length for e in reader.extents()) == reader.size
    for extent in reader.extents():
        if extent.kind is ExtentKind.ZERO:
            assert not any(padded[extent.offset : extent.offset + extent.length])


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40 * CLUSTER), seed=st.integers(0, 1000), data=st.data())
def test_dissect_reads_our_files(size, seed, data):
    """A reader of others', written for another purpose."""
    dissect = pytest.importorskip(
        "dissect.hypervisor.disk.qcow2", reason="dissect is not installed"
    )
    content = disk(seed, size)
    image = Qcow2Image(Memory(content, grain=CLUSTER))
    opened = dissect.QCow2(io.BytesIO(whole(image))).open()
    assert opened.size == image.disk_size
    at = data.draw(st.integers(0, size))
    opened.seek(at)
    assert opened.read(size - at) == content[at:]


@needs_qemu
@pytest.mark.parametrize("size", [512, CLUSTER, 33 * CLUSTER + 512, 700 * MIB])
def test_qemu_accepts_our_files(tmp_path, size):
    """Two second-level tables, an odd end; qemu-img checks structure and content."""
    raw, file = tmp_path / "raw", tmp_path / "qcow2"
    with raw.open("wb") as f:
        f.truncate(size)
        for at in {0, size // 2, max(size - 100_000, 0)}:
            f.seek(at)
            f.write(random.Random(at).randbytes(min(100_000, size - at)))
    image = Qcow2Image(RawFile(raw))
    with file.open("wb") as f:
        for at in range(0, image.size, MIB):
            f.write(image.read(at, min(MIB, image.size - at)))
    image.close()
    checked = json.loads(qemu("check", "--output=json", "-f", "qcow2", file))
    assert checked["check-errors"] == 0
    assert not checked.get("leaks")
    qemu("compare", "-f", "raw", "-F", "qcow2", raw, file)


@needs_qemu
@pytest.mark.parametrize(
    ("options", "convert"),
    [
        ("compat=0.10", ()),
        ("compat=1.1", ()),
        ("cluster_size=512", ()),
        ("cluster_size=2M", ()),
        ("compat=0.10", ("-c",)),
        ("compression_type=zlib", ("-c",)),
        ("compression_type=zstd", ("-c",)),
        ("compression_type=zstd,cluster_size=4k", ("-c",)),
        ("preallocation=metadata", ()),
        ("lazy_refcounts=on,refcount_bits=1", ()),
    ],
)
def test_we_read_what_qemu_writes(tmp_path, options, convert):
    raw, file = tmp_path / "raw", tmp_path / "qcow2"
    content = disk(4, 5 * MIB + 512, pieces=12)
    raw.write_bytes(content)
    qemu("convert", "-f", "raw", "-O", "qcow2", *convert, "-o", options, raw, file)
    reader = Qcow2Reader(RawFile(file), what="the image")
    assert whole(reader, 777_777) == content
    seen = list(reader.extents())
    holes = "preallocation" not in options and "2M" not in options
    assert any(e.kind is ExtentKind.ZERO for e in seen) or not holes
    for extent in seen:
        if extent.kind is ExtentKind.ZERO:
            assert not any(content[extent.offset : extent.offset + extent.length])
    reader.close()


@needs_qemu
def test_explicit_zero_clusters_and_snapshots_are_read(tmp_path):
    file = tmp_path / "qcow2"
    raw = tmp_path / "raw"
    raw.write_bytes(b"x" * MIB)
    qemu("convert", "-f", "raw", "-O", "qcow2", raw, file)
    qemu("snapshot", "-c", "kept", file)
    subprocess.run(
        [
            "qemu-io",
            "-f",
            "qcow2",
            "-c",
            "write -z 64k 128k",
            "-c",
            "write -P 7 512k 64k",
            str(file),
        ],
        check=True,
        capture_output=True,
    )
    content = bytearray(b"x" * MIB)
    content[64 * KIB : 192 * KIB] = bytes(128 * KIB)
    content[512 * KIB : 576 * KIB] = b"\7" * 64 * KIB
    reader = Qcow2Reader(RawFile(file), what="the image")
    assert whole(reader) == bytes(content)
    assert Extent(offset=64 * KIB, length=128 * KIB, kind=ExtentKind.ZERO) in list(reader.extents())
    reader.close()


@needs_qemu
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("backing_file={raw},backing_fmt=raw", "backing file"),
        ("data_file={raw}.data", "another file"),
        ("extended_l2=on,cluster_size=128k", "extended L2"),
    ],
)
def test_what_is_not_self_contained_is_refused_by_name(tmp_path, options, named):
    raw, file = tmp_path / "raw", tmp_path / "qcow2"
    raw.write_bytes(bytes(MIB))
    qemu("create", "-f", "qcow2", "-o", options.format(raw=raw), file, "1M")
    with pytest.raises(Invalid, match=named):
        Qcow2Reader(RawFile(file), what="the image")


def changed(file: bytes, at: int, form: str, value: int) -> bytes:
    out = bytearray(file)
    struct.pack_into(form, out, at, value)
    return bytes(out)


GOOD = whole(Qcow2Image(Memory(disk(1, 20 * CLUSTER), grain=CLUSTER)))


@pytest.mark.parametrize(
    ("at", "form", "value", "named"),
    [
        (0, ">I", 0, "not a qcow2"),
        (4, ">I", 4, "version 4"),
        (8, ">Q", 512, "backing file"),
        (20, ">I", 8, "clusters of"),
        (20, ">I", 60, "clusters of"),
        (24, ">Q", 1 << 62, "claims"),
        (24, ">Q", 1 << 40, "first-level entries"),
        (32, ">I", 2, "encrypted"),
        (36, ">I", 0, "first-level entries"),
        (36, ">I", 0xFFFFFFFF, "first-level entries"),
        (40, ">Q", 1 << 60, "first-level table"),
        (40, ">Q", 12345, "first-level table"),
        (72, ">Q", 2, "corrupt"),
        (72, ">Q", 4, "another file"),
        (72, ">Q", 8, "compression"),
        (72, ">Q", 16, "extended L2"),
        (72, ">Q", 1 << 40, "unknown features"),
        (100, ">I", 3, "header of 3"),
    ],
)
def test_bad_header_fields_are_refused_by_name(at, form, value, named):
    source = Memory(changed(GOOD, at, form, value))
    with pytest.raises(Invalid, match=named):
        Qcow2Reader(source, what="the image")
    assert source.closed


def test_a_dirty_image_is_read():
    reader = Qcow2Reader(Memory(changed(GOOD, 72, ">Q", 1)), what="the image")
    assert whole(reader) == disk(1, 20 * CLUSTER)


def test_a_file_that_was_cut_off_is_never_read_as_zeros():
    for keep in (len(GOOD) - 1, len(GOOD) - CLUSTER, len(GOOD) // 2, 4 * CLUSTER, 80, 10):
        with pytest.raises((Invalid, Integrity)):
            whole(Qcow2Reader(Memory(GOOD[:keep]), what="the image"))


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_corrupted_files_give_bytes_invalid_or_integrity_and_nothing_else(data):
    """Any fields of header, tables and compressed entries, at random and at the edges."""
    file = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 120) | st.integers(0, 5 * CLUSTER - 8)) & ~3
        value = data.draw(
            st.integers(0, 2**64 - 1)
            | st.sampled_from([0, 1, 2**63, 2**62, 2**64 - 1, CLUSTER, CLUSTER | 1 << 62, 2**31])
        )
        struct.pack_into(">Q", file, at, value)
    try:
        reader = Qcow2Reader(Memory(bytes(file)), what="the image")
        assert sum(e.length for e in reader.extents()) == reader.size
        end = min(reader.size, 64 * MIB)
        for at in range(0, end, MIB):
            assert len(reader.read(at, min(MIB, end - at))) == min(MIB, end - at)
    except (Invalid, Integrity):
        pass


@needs_qemu
@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_corrupted_compressed_files_do_no_harm_either(tmp_path, kind):
    raw, path = tmp_path / "raw", tmp_path / "qcow2"
    text = b"".join(b"%d lines\n" % n for n in range(60_000))
    raw.write_bytes(text.ljust(MIB, b"\0"))
    qemu("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", f"compression_type={kind}", raw, path)
    good = path.read_bytes()
    rng = random.Random(kind)
    harmless = 0
    for _ in range(300):
        file = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            file[rng.randrange(len(file))] = rng.randrange(256)
        try:
            reader = Qcow2Reader(Memory(bytes(file)), what="the image")
            if reader.size <= 64 * MIB:
                whole(reader)
            harmless += 1
        except (Invalid, Integrity):
            pass
    assert 0 < harmless < 300


class Sparse:
    """A long disk with a few bytes here and there."""

    def __init__(self, size: int, *places: int) -> None:
        self.size = size
        self.places = places

    def extents(self):
        at = 0
        for place in self.places:
            if place > at:
                yield Extent(offset=at, length=place - at, kind=ExtentKind.ZERO)
            yield Extent(offset=place, length=10, kind=ExtentKind.DATA)
            at = place + 10
        if at < self.size:
            yield Extent(offset=at, length=self.size - at, kind=ExtentKind.ZERO)

    def read(self, offset, length):
        assert offset in self.places
        return b"0123456789".ljust(length, b"\0")

    def close(self):
        pass


def test_tables_that_are_used_twice_or_lie_outside_are_damage():
    metadata = whole(Qcow2Image(Sparse(600 * MIB, 0, 512 * MIB)))
    (l1,) = struct.unpack_from(">Q", metadata, 40)
    (first,) = struct.unpack_from(">Q", metadata, l1)
    for value in (first, 1 << 50, first + 512):
        with pytest.raises(Integrity, match="second-level table"):
            Qcow2Reader(Memory(changed(metadata, l1 + 8, ">Q", value)), what="the image")


def test_a_huge_disk_has_a_small_map():
    far = 40 * 1024 * GIB
    image = Qcow2Image(Sparse(64 * 1024 * GIB, far))
    assert image.size < 3 * MIB
    reader = Qcow2Reader(image, what="the image")
    assert reader.read(far - 1, 12) == b"\x000123456789\0"
    assert len(list(reader.extents())) == 3
