"""qcow2 from stored frames: QEMU, dissect and our own reader find the disk in it, at any pattern."""

import io
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import GIB, KIB, MIB, DiskFormat, ExtentKind, FrameReader
from controlplane.domain.errors import Integrity, Unsupported
from drivers.disks.image import fingerprint, image_file
from drivers.disks.qcow2 import Qcow2Reader
from drivers.disks.qcow2_image import Qcow2Image
from drivers.disks.qcow2_zstd import GROUP, Qcow2ZstdImage
from tests.disks.frames import Frames
from tests.disks.test_qcow2 import Memory, needs_qemu, qemu, whole

PATTERNS = st.lists(
    st.tuples(st.sampled_from("ZZTTRSM"), st.integers(1, 9)), min_size=0, max_size=12
).map(lambda runs: "".join(letter * count for letter, count in runs))


def accepted(frames: Frames, folder: Path) -> None:
    """qemu-img finds no error and no leak, and the same content in both."""
    raw, file = folder / "raw", folder / "qcow2"
    image = Qcow2ZstdImage(frames)
    frames.write_to(raw)
    file.write_bytes(whole(image))
    checked = json.loads(qemu("check", "--output=json", "-f", "qcow2", file))
    assert checked["check-errors"] == 0
    assert not checked.get("leaks")
    assert not checked.get("corruptions")
    about = json.loads(qemu("info", "--output=json", file))
    assert about["format-specific"]["data"]["compression-type"] == "zstd"
    qemu("compare", "-f", "raw", "-F", "qcow2", raw, file)


@needs_qemu
@settings(max_examples=25, deadline=None)
@given(pattern=PATTERNS, less=st.integers(0, 65535), seed=st.integers(0, 99))
def test_qemu_accepts_any_pattern_of_chunks(pattern, less, seed):
    """Four processes an example."""
    with TemporaryDirectory() as folder:
        accepted(Frames(pattern, less=less if pattern else 0, seed=seed), Path(folder))


@needs_qemu
@pytest.mark.parametrize("chunk", [64 * KIB, 256 * KIB, MIB])
@pytest.mark.parametrize("pattern", ["TZMMRRTS", "RTRTRTRT", "Z" * 20 + "R", "Z" * 20 + "T", "ZZZ"])
def test_qemu_accepts_each_size_of_chunks(tmp_path, chunk, pattern):
    accepted(Frames(pattern, chunk=chunk, less=513), tmp_path)


@needs_qemu
def test_tiny_frames_share_a_cluster_and_two_tables_are_used(tmp_path):
    """Hundreds of frames in one cluster, in two groups; data at the very end."""
    pattern = "S" * (GROUP + 5) + "Z" * (8192 - GROUP - 5) + "ZTSR" * 3 + "Z" * 2000 + "R"
    accepted(Frames(pattern, less=512), tmp_path)


@settings(max_examples=50, deadline=None)
@given(pattern=PATTERNS, less=st.integers(0, 65535), data=st.data())
def test_any_range_is_as_in_the_whole_file_and_our_reader_reads_it(pattern, less, data):
    frames = Frames(pattern, less=less if pattern else 0)
    image = Qcow2ZstdImage(frames)
    file = whole(image, 777_777)
    assert len(file) == image.size
    at = data.draw(st.integers(0, len(file)))
    length = data.draw(st.integers(0, len(file) - at))
    assert image.read(at, length) == file[at : at + length]
    reader = Qcow2Reader(Memory(file), what="the image")
    padded = frames.data.ljust(image.disk_size, b"\0")
    assert whole(reader) == padded
    for extent in reader.extents():
        if extent.kind is ExtentKind.ZERO:
            assert not any(padded[extent.offset : extent.offset + extent.length])


@settings(max_examples=20, deadline=None)
@given(pattern=PATTERNS, less=st.integers(0, 65535))
def test_dissect_reads_it(pattern, less):
    dissect = pytest.importorskip(
        "dissect.hypervisor.disk.qcow2", reason="dissect is not installed"
    )
    frames = Frames(pattern, less=less if pattern else 0)
    opened = dissect.QCow2(io.BytesIO(whole(Qcow2ZstdImage(frames)))).open()
    assert opened.read(frames.size) == frames.data


def test_it_is_no_larger_than_the_plain_one_and_as_small_as_its_frames():
    frames = Frames("TTTTTTTTTTTTTTTTRRRRTTTT" * 20)
    image = Qcow2ZstdImage(frames)
    stored = sum(len(s) for s in frames.stored if s)
    assert image.size < stored + 8 * frames.chunk
    assert image.size < Qcow2Image(frames).size


def test_a_large_disk_is_laid_out_without_its_bytes():
    """Groups without data cost nothing but being asked for."""

    class Vast(Frames):
        def frames(self, first, count):
            return [40_000 if n % 100_000 == 7 else None for n in range(first, first + count)]

        def read_stored(self, chunks):
            return [bytes([n % 251]) * 40_000 for n in chunks]

    vast = Vast("T")
    vast.size = 64 * GIB
    image = Qcow2ZstdImage(vast)
    assert image.disk_size == 64 * GIB
    assert image.size < 64 * MIB
    assert image.read(image.size - 65536, 40_000) == bytes([1_000_007 % 251]) * 40_000


def test_what_is_no_cluster_is_refused_and_served_plain():
    assert isinstance(Frames("Z"), FrameReader)
    for chunk in (32 * KIB, 96 * KIB, 4 * MIB):
        frames = Frames("TZR", chunk=chunk)
        with pytest.raises(Unsupported, match="no clusters of qcow2"):
            Qcow2ZstdImage(frames)
        assert whole(image_file(frames, DiskFormat.QCOW2_ZSTD)) == whole(Qcow2Image(frames))
    frameless = Memory(b"x" * 512)
    assert whole(image_file(frameless, DiskFormat.QCOW2_ZSTD)) == whole(Qcow2Image(frameless))


def test_another_frame_than_was_announced_is_not_served():
    """The same chunk, found in another pack, packed by another version of zstd."""
    frames = Frames("TT")
    image = Qcow2ZstdImage(frames)
    frames.stored[1] = frames.stored[1] + b"\0"
    with pytest.raises(Integrity, match="publish"):
        image.read(0, image.size)


@needs_qemu
@pytest.mark.parametrize("format", [DiskFormat.QCOW2, DiskFormat.QCOW2_ZSTD, DiskFormat.VHD])
def test_converting_any_of_them_gives_the_disk(tmp_path, format):
    frames = Frames("TZRRMSZZZTRZZZZZT", less=13 * 512)
    file, out = tmp_path / "file", tmp_path / "out"
    image = image_file(frames, format, of="point 5, disk 0")
    again = fingerprint(image_file(frames, format, of="point 5, disk 0"))
    file.write_bytes(whole(image))
    assert fingerprint(image) == again
    kind = "vpc" if format is DiskFormat.VHD else "qcow2"
    qemu("convert", "-f", kind, "-O", "raw", file, out)
    assert out.read_bytes() == frames.data


@needs_qemu
def test_qemu_writes_to_a_copy_of_it(tmp_path):
    """Counts of references that were wrong would show when clusters are taken and let go."""
    frames = Frames("TZMMRRTSTTTT" * 4)
    file, raw = tmp_path / "file", tmp_path / "raw"
    file.write_bytes(whole(Qcow2ZstdImage(frames)))
    raw.write_bytes(frames.data)
    for path, kind in ((file, "qcow2"), (raw, "raw")):
        words = ["-f", kind, "-c", "write -P 7 100k 900k", "-c", "write -P 9 2M 64k", str(path)]
        subprocess.run(["qemu-io", *words], check=True, capture_output=True)
    checked = json.loads(qemu("check", "--output=json", file))
    assert checked["check-errors"] == 0
    assert not checked.get("leaks")
    qemu("compare", "-f", "raw", "-F", "qcow2", raw, file)
