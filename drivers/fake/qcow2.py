"""Reading a qcow2 file into a sparse disk, as a site does that converts what it is given."""

import struct
import zlib

import zstandard

from controlplane.domain.errors import Invalid
from drivers.fake.disk import FakeDisk

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1
_TYPE_AT, _WITH_TYPE = 104, 112


def decoded(file: FakeDisk) -> FakeDisk:
    """The disk in a qcow2 file without backing file, encryption or extended L2 entries."""
    head = file.read(0, min(_HEADER.size, file.size))
    if len(head) < _HEADER.size or head[:4] != _MAGIC:
        raise Invalid("this is not a qcow2 file: say raw, or send another")
    _, _, backing, _, bits, size, crypt, l1_size, l1_at, *_ = _HEADER.unpack(head)
    if backing or crypt:
        raise Invalid("a qcow2 file with a backing file or encryption cannot be staged: flatten it")
    zstd = _packed_as(file)
    cluster = 1 << bits
    per_table = cluster // 8
    disk = FakeDisk(size=size)
    for index, l1 in enumerate(struct.unpack(f">{l1_size}Q", file.read(l1_at, 8 * l1_size))):
        if not (table := l1 & _OFFSET):
            continue
        entries = struct.unpack(f">{per_table}Q", file.read(table, cluster))
        for position, entry in enumerate(entries):
            at = (index * per_table + position) * cluster
            if at < size and (data := _cluster(file, entry, bits, zstd=zstd)):
                disk.write(at, data[: size - at])
    return disk


def _packed_as(file: FakeDisk) -> bool:
    """Whether compressed clusters are zstd."""
    if file.size < _WITH_TYPE:
        return False
    version, length = struct.unpack(">4xI92xI", file.read(0, _TYPE_AT))
    return version > 2 and length >= _WITH_TYPE and file.read(_TYPE_AT, 1) == b"\1"  # noqa: PLR2004


def _cluster(file: FakeDisk, entry: int, bits: int, *, zstd: bool) -> bytes:
    """One cluster's bytes; empty for a hole."""
    cluster = 1 << bits
    if entry & _COMPRESSED:
        shift = 62 - (bits - 8)
        at = entry & ((1 << shift) - 1)
        sectors = ((entry & (_COMPRESSED - 1)) >> shift) + 1
        length = min(sectors * 512 - at % 512, file.size - at)
        packed = file.read(at, length)
        if zstd:
            return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        return zlib.decompressobj(wbits=-12).decompress(packed, cluster)
    at = entry & _OFFSET
    if not at or entry & _ZERO:
        return b""
    return file.read(at, min(cluster, file.size - at))
