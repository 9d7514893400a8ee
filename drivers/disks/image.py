"""A disk as a file of some image format: what is served, sent, and taken in."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard
from uuid import UUID, uuid5

from controlplane.domain.disk import MIB, SECTOR, BlockReader, DiskFormat, FrameReader
from controlplane.domain.errors import Invalid
from drivers.disks.qcow2 import Qcow2Reader
from drivers.disks.qcow2_image import Qcow2Image
from drivers.disks.qcow2_zstd import Qcow2ZstdImage, are_clusters
from drivers.disks.raw import ByteSource, RawFile
from drivers.disks.vhd_image import VhdImage

_PIECE = 4 * MIB
_HEAD = 64 * 1024
_QCOW2 = b"QFI\xfb"
_VHDS = UUID("0a6cf4f1-53f0-4c39-9a2f-7d1c2c5b8e40")
# Where other kinds of file tell what they are: (offset, bytes, what to call it).
_OTHERS = (
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"conectix", "a VHD image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"%PDF", "a PDF document"),
    (257, b"ustar", "a tar archive (an OVA is one)"),
)
# What a disk shows: a boot signature, or a file system without a partition table.
_DISKS = (
    (510, b"\x55\xaa"),
    (512, b"EFI PART"),
    (1080, b"\x53\xef"),
    (0, b"XFSB"),
    (32769, b"CD001"),
)


def image_file(reader: BlockReader, format: DiskFormat, *, of: str = "") -> ByteSource:  # noqa: A002  # the field's word
    """`reader`'s content as a file of that format; closing it closes the reader.

    A format that gives its files an identity takes it from `of`: the same `of` and content make
    the same bytes. Where a reader has no frames, or none that could be clusters, qcow2 with zstd
    clusters has none of those either: whoever reads the one reads the other.
    """
    match format:
        case DiskFormat.RAW:
            return reader
        case DiskFormat.QCOW2:
            return Qcow2Image(reader)
        case DiskFormat.QCOW2_ZSTD:
            return Qcow2ZstdImage(reader) if _has_clusters(reader) else Qcow2Image(reader)
        case DiskFormat.VHD:
            return VhdImage(reader, identity=uuid5(_VHDS, of))


def served_as(point: str, disk: int) -> str:
    """What a recovery point's disk is called, for `image_file`."""
    return f"recovery point {point}, disk {disk}"


def _has_clusters(reader: BlockReader) -> TypeGuard[FrameReader]:
    return isinstance(reader, FrameReader) and are_clusters(reader.chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A file's length in bytes and its digests (hex)."""

    length: int
    sha256: str
    sha512: str


def fingerprint(image: ByteSource, beat: Callable[[], None] = lambda: None) -> Fingerprint:
    """Read the whole file once; `beat` is called between pieces and may raise to stop.

    Each digest is made in a thread of its own while the next piece is read.
    """
    short, long = hashlib.sha256(), hashlib.sha512()
    under_way: list[Future[None]] = []
    with ThreadPoolExecutor(2, thread_name_prefix="fingerprint") as pool:
        for offset in range(0, image.size, _PIECE):
            piece = image.read(offset, min(_PIECE, image.size - offset))
            wait(under_way)
            under_way = [pool.submit(digest.update, piece) for digest in (short, long)]
            beat()
    return Fingerprint(length=image.size, sha256=short.hexdigest(), sha512=long.hexdigest())


def read_image(path: Path, format: str, *, what: str) -> BlockReader:  # noqa: A002  # the field's word
    """The disk in an image file of `format`: raw, qcow2, or empty to find out.

    Invalid when the file is no such image; where the format was not named, what shows neither a
    boot signature nor a file system is refused too. `what` names the image in messages.
    """
    file = RawFile(path)
    try:
        return _reader(file, format, what)
    except BaseException:
        file.close()
        raise


def _reader(file: RawFile, wished: str, what: str) -> BlockReader:
    head = file.read(0, min(_HEAD, file.size))
    if head.startswith(_QCOW2) and wished in {"", "auto", DiskFormat.QCOW2}:
        return Qcow2Reader(file, what=what)
    if wished == DiskFormat.QCOW2:
        raise Invalid(f"{what} is not a qcow2 image: name its real format, or convert it")
    for offset, magic, name in _OTHERS:
        if head.startswith(magic, offset):
            raise Invalid(
                f"{what} is {name}, not a disk image that fedctl takes: convert it to raw or qcow2"
            )
    if file.size == 0 or file.size % SECTOR:
        raise Invalid(
            f"{what} has {file.size} bytes, which is no whole number of 512-byte sectors:"
            " it is not a raw disk image; convert it to raw or qcow2"
        )
    if wished != DiskFormat.RAW and not any(head.startswith(m, o) for o, m in _DISKS):
        raise Invalid(
            f"{what} shows neither a boot signature nor a file system: it does not look like a"
            " disk image; if it is one, say so with format raw"
        )
    return file
