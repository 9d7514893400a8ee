"""Reading qcow2 images (versions 2 and 3) over any byte source, as a disk.

Everything in the file is taken for hostile: what is not plain data of one self-contained image is
refused by name, and no field makes us read, allocate or loop beyond what the file's size allows.
"""

import struct
import sys
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import zstandard

from controlplane.domain.disk import GIB, MIB, SECTOR, Extent, ExtentKind
from controlplane.domain.errors import Integrity, Invalid
from drivers.disks.raw import ByteSource, checked_range

MAGIC = b"QFI\xfb"
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO_FLAG = 1
OFFSET = 0x00FF_FFFF_FFFF_FE00
HEADER_V2, HEADER_V3 = 72, 104
_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _DATA_FILE, COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_READABLE = _DIRTY | COMPRESSION
_SIZE_MAX = 256 * 1024 * GIB
_L1_MAX = 4 * MIB
_CLUSTER_BITS = range(9, 22)
_L2_KEPT = 16 * MIB
_PLAIN_KEPT = 4 * MIB
_READ_MAX = 8 * MIB
_WINDOW = 8 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What of a header a reader needs."""

    cluster_bits: int
    size: int
    l1_offset: int
    l1_entries: int
    zstd: bool
    version: int

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits


def read_header(source: ByteSource, *, what: str) -> Header:
    """The header, or Invalid that names what of it cannot be used."""
    head = source.read(0, min(HEADER_V3 + 8, source.size))
    if len(head) < HEADER_V2 or head[:4] != MAGIC:
        raise Invalid(f"{what} is not a qcow2 image")
    (_, version, backing, _, bits, size, crypt, l1_entries, l1_offset, _, _, _, _) = (
        _FIXED.unpack_from(head)
    )
    zstd = False
    if version not in {2, 3}:
        raise Invalid(f"{what} is qcow2 of version {version}; only 2 and 3 can be read")
    if version > 2:  # noqa: PLR2004  # the format's own number
        zstd = _v3(head, what)
    if backing:
        raise Invalid(f"{what} needs a backing file: give a self-contained image")
    if crypt:
        raise Invalid(f"{what} is encrypted inside: give a plain image")
    if bits not in _CLUSTER_BITS:
        raise Invalid(f"{what} has clusters of 2^{bits} bytes; 2^9 to 2^21 are possible")
    if size > _SIZE_MAX:
        raise Invalid(f"{what} claims {size} bytes; at most {_SIZE_MAX} can be read")
    cluster = 1 << bits
    needed = -(-size // (cluster * (cluster // 8)))
    if not needed <= l1_entries <= _L1_MAX:
        raise Invalid(f"{what} has {l1_entries} first-level entries, it needs {needed}")
    if size and (l1_offset % cluster or not 0 < l1_offset <= source.size - 8 * needed):
        raise Invalid(f"{what} has its first-level table at {l1_offset}, which cannot be")
    return Header(
        cluster_bits=bits, size=size, l1_offset=l1_offset, l1_entries=needed, zstd=zstd,
        version=version,
    )  # fmt: skip


def _v3(head: bytes, what: str) -> bool:
    """Whether compressed clusters are zstd."""
    if len(head) < HEADER_V3:
        raise Invalid(f"{what} is cut off within its header")
    incompatible, _, _, _, length = _V3.unpack_from(head, HEADER_V2)
    if incompatible & _CORRUPT:
        raise Invalid(f"{what} is marked as corrupt: repair it first")
    if incompatible & _DATA_FILE:
        raise Invalid(f"{what} keeps its data in another file: give a self-contained image")
    if incompatible & _EXTENDED_L2:
        raise Invalid(f"{what} uses extended L2 entries, which cannot be read")
    if incompatible & ~_READABLE:
        raise Invalid(f"{what} uses unknown features ({incompatible & ~_READABLE:#x})")
    if length < HEADER_V3 or length % 8:
        raise Invalid(f"{what} has a header of {length} bytes, which cannot be")
    kind = head[HEADER_V3] if length > HEADER_V3 and len(head) > HEADER_V3 else 0
    if kind > 1 or bool(kind) != bool(incompatible & COMPRESSION):
        raise Invalid(f"{what} uses compression of kind {kind}, which cannot be read")
    return bool(kind)


class Qcow2Reader:
    """A block reader over a qcow2 image. It owns `source`; `what` names the image in messages."""

    def __init__(self, source: ByteSource, *, what: str) -> None:
        self._source = source
        self._what = what
        try:
            self._header = read_header(source, what=what)
            self._l1 = self._table(self._header.l1_offset, self._header.l1_entries)
            self._check_l1()
        except BaseException:
            source.close()
            raise
        self._l2: OrderedDict[int, array[int]] = OrderedDict()
        self._plain: OrderedDict[int, bytes] = OrderedDict()

    @property
    def size(self) -> int:
        return self._header.size

    def extents(self) -> Iterator[Extent]:
        start, kind = 0, ExtentKind.ZERO
        for at, found in self._runs():
            if found is not kind:
                if at > start:
                    yield Extent(offset=start, length=at - start, kind=kind)
                start, kind = at, found
        if self.size > start:
            yield Extent(offset=start, length=self.size - start, kind=kind)

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self.size, what=self._what)
        parts: list[bytes] = []
        while length:
            part = self._piece(offset, length)
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._l2.clear()
        self._plain.clear()
        self._source.close()

    def _runs(self) -> Iterator[tuple[int, ExtentKind]]:
        """(where a run begins, its kind); neighbours may be of one kind."""
        cluster = self._header.cluster
        span = cluster * (cluster // 8)
        for index, entry in enumerate(self._l1):
            at = index * span
            if not entry & OFFSET:
                yield at, ExtentKind.ZERO
                continue
            count = min(cluster // 8, -(-(self.size - at) // cluster))
            for zero, run in groupby(self._second(index)[:count], _is_zero):
                yield at, ExtentKind.ZERO if zero else ExtentKind.DATA
                at += cluster * sum(1 for _ in run)

    def _piece(self, offset: int, length: int) -> bytes:
        """Some bytes from `offset` on, at least one and at most `length`."""
        cluster = self._header.cluster
        number, within = divmod(offset, cluster)
        entry = self._entry(number)
        here = min(length, cluster - within)
        if entry & COMPRESSED:
            return self._compressed(number, entry)[within : within + here]
        if _is_zero(entry):
            return bytes(here)
        host = self._host(number, entry)
        while here < length and here < _READ_MAX:
            following = self._entry(number + 1)
            if following & COMPRESSED or _is_zero(following):
                break
            number += 1
            if self._host(number, following) != host + within + here:
                break
            here += min(cluster, length - here)
        return self._source.read(host + within, here)

    def _host(self, number: int, entry: int) -> int:
        """Where a plain cluster lies; the part of it that the disk uses must be in the file."""
        cluster = self._header.cluster
        host = entry & OFFSET
        used = min(cluster, self.size - number * cluster)
        if host % cluster or host + used > self._source.size:
            raise self._broken(number, f"points to byte {host} of {self._source.size}")
        return host

    def _compressed(self, number: int, entry: int) -> bytes:
        kept = self._plain.get(number)
        if kept is not None:
            self._plain.move_to_end(number)
            return kept
        cluster = self._header.cluster
        shift = 62 - (self._header.cluster_bits - 8)
        start = entry & ((1 << shift) - 1)
        sectors = ((entry & (COMPRESSED - 1)) >> shift) + 1
        length = min(sectors * SECTOR - start % SECTOR, self._source.size - start)
        if length <= 0:
            raise self._broken(number, f"points to byte {start} of {self._source.size}")
        packed = self._source.read(start, length)
        plain = _unpack_zstd(packed, cluster) if self._header.zstd else _inflate(packed, cluster)
        if len(plain) != cluster:
            raise self._broken(number, "does not decompress")
        self._plain[number] = plain
        while len(self._plain) * cluster > _PLAIN_KEPT and len(self._plain) > 1:
            self._plain.popitem(last=False)
        return plain

    def _entry(self, number: int) -> int:
        per_table = self._header.cluster // 8
        index, within = divmod(number, per_table)
        if not self._l1[index] & OFFSET:
            return 0
        return self._second(index)[within]

    def _second(self, index: int) -> "array[int]":
        kept = self._l2.get(index)
        if kept is not None:
            self._l2.move_to_end(index)
            return kept
        cluster = self._header.cluster
        table = self._table(self._l1[index] & OFFSET, cluster // 8)
        self._l2[index] = table
        while len(self._l2) * cluster > _L2_KEPT and len(self._l2) > 1:
            self._l2.popitem(last=False)
        return table

    def _check_l1(self) -> None:
        """No table twice: so all tables together are no larger than the file."""
        cluster = self._header.cluster
        seen: set[int] = set()
        for entry in self._l1:
            at = entry & OFFSET
            if not at:
                continue
            if at in seen or at % cluster or at > self._source.size - cluster:
                raise Integrity(
                    f"{self._what} is damaged: its second-level table at {at} cannot be"
                )
            seen.add(at)

    def _table(self, offset: int, entries: int) -> "array[int]":
        table = array("Q", self._source.read(offset, 8 * entries))
        if sys.byteorder == "little":
            table.byteswap()
        return table

    def _broken(self, number: int, how: str) -> Integrity:
        at = number * self._header.cluster
        return Integrity(f"{self._what} is damaged: the cluster of disk offset {at} {how}")


def _is_zero(entry: int) -> bool:
    if entry & COMPRESSED:
        return False
    return bool(entry & ZERO_FLAG) or not entry & OFFSET


def _inflate(packed: bytes, cluster: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, cluster)
    except zlib.error:
        return b""


def _unpack_zstd(packed: bytes, cluster: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(packed) as stream:
            return stream.read(cluster)
    except zstandard.ZstdError:
        return b""
