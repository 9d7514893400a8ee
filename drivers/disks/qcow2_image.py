"""A plain qcow2 file that is made while it is read.

Its length and every byte follow from the disk's extents, so any range of it can be served at any
time. Clusters lie in the order header, refcount table, refcount blocks, first level, second level,
data; data clusters keep the disk's order.
"""

import struct
from array import array
from bisect import bisect_right

from controlplane.domain.disk import KIB, SECTOR, BlockReader, ExtentKind
from controlplane.domain.errors import Invalid
from drivers.disks.qcow2 import COPIED, HEADER_V3, MAGIC
from drivers.disks.raw import checked_range

CLUSTER_BITS = 16
CLUSTER = 64 * KIB
_L2_ENTRIES = CLUSTER // 8
_REFCOUNTS = CLUSTER // 2
_REFCOUNT_ORDER = 4
_SIZE_MAX = CLUSTER * _L2_ENTRIES * _L2_ENTRIES * 64
_ONE = struct.pack(">H", 1)


class Qcow2Image:
    """The file's bytes over a disk; it owns the reader."""

    def __init__(self, reader: BlockReader) -> None:
        if reader.size > _SIZE_MAX:
            raise Invalid(f"a disk of {reader.size} bytes is too long for a qcow2 image")
        self._reader = reader
        # Runs of data clusters: first cluster of each, and how many came before it.
        self._first, self._before = array("Q"), array("Q")
        self._count = 0
        self._tables = array("Q")
        self._map()
        self._l1_entries = max(-(-reader.size // (CLUSTER * _L2_ENTRIES)), 1)
        self._place()

    @property
    def size(self) -> int:
        """The file's length."""
        return self._clusters * CLUSTER

    @property
    def disk_size(self) -> int:
        """The disk's length as the image states it: whole sectors."""
        return -(-self._reader.size // SECTOR) * SECTOR

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self.size, what="the qcow2 image")
        parts: list[bytes] = []
        end = offset + length
        while offset < end:
            if offset >= self._data * CLUSTER:
                part = self._content(offset - self._data * CLUSTER, end - offset)
            else:
                number, within = divmod(offset, CLUSTER)
                part = self._metadata(number)[within : within + end - offset]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._reader.close()

    def _map(self) -> None:
        covered = 0
        for extent in self._reader.extents():
            if extent.kind is ExtentKind.ZERO:
                continue
            first = max(extent.offset // CLUSTER, covered)
            last = -(-(extent.offset + extent.length) // CLUSTER)
            if first >= last:
                continue
            if not self._count or first != covered:
                self._first.append(first)
                self._before.append(self._count)
            self._count += last - first
            covered = last
            table = first // _L2_ENTRIES
            if self._tables and self._tables[-1] == table:
                table += 1
            self._tables.extend(range(table, (last - 1) // _L2_ENTRIES + 1))

    def _place(self) -> None:
        l1 = -(-8 * self._l1_entries // CLUSTER)
        others = 1 + l1 + len(self._tables) + self._count
        blocks = table = 1
        while True:
            total = others + blocks + table
            wanted = -(-total // _REFCOUNTS)
            if wanted == blocks and -(-8 * blocks // CLUSTER) == table:
                break
            blocks, table = wanted, -(-8 * wanted // CLUSTER)
        self._refcount_table, self._refcount_blocks = 1, 1 + table
        self._l1 = self._refcount_blocks + blocks
        self._l2 = self._l1 + l1
        self._data = self._l2 + len(self._tables)
        self._clusters = total

    def _metadata(self, number: int) -> bytes:
        if number >= self._l2:
            return self._l2_table(number - self._l2)
        if number >= self._l1:
            return self._l1_part(number - self._l1)
        if number >= self._refcount_blocks:
            first = (number - self._refcount_blocks) * _REFCOUNTS
            used = min(_REFCOUNTS, self._clusters - first)
            return (_ONE * used).ljust(CLUSTER, b"\0")
        if number >= self._refcount_table:
            first = (number - self._refcount_table) * _L2_ENTRIES
            places = range(self._refcount_blocks + first, self._l1)[:_L2_ENTRIES]
            return _packed([place * CLUSTER for place in places])
        return self._header()

    def _header(self) -> bytes:
        fields = struct.pack(
            ">4sIQIIQIIQQIIQ",
            MAGIC, 3, 0, 0, CLUSTER_BITS, self.disk_size, 0, self._l1_entries, self._l1 * CLUSTER,
            self._refcount_table * CLUSTER, self._refcount_blocks - self._refcount_table, 0, 0,
        )  # fmt: skip
        fields += struct.pack(">QQQII", 0, 0, 0, _REFCOUNT_ORDER, HEADER_V3)
        return fields.ljust(CLUSTER, b"\0")

    def _l1_part(self, part: int) -> bytes:
        entries = [0] * _L2_ENTRIES
        first = part * _L2_ENTRIES
        at = bisect_right(self._tables, first - 1) if first else 0
        while at < len(self._tables) and self._tables[at] < first + _L2_ENTRIES:
            entries[self._tables[at] - first] = (self._l2 + at) * CLUSTER | COPIED
            at += 1
        return _packed(entries)

    def _l2_table(self, which: int) -> bytes:
        first = self._tables[which] * _L2_ENTRIES
        end = first + _L2_ENTRIES
        entries = [0] * _L2_ENTRIES
        run = max(bisect_right(self._first, first) - 1, 0)
        while run < len(self._first) and self._first[run] < end:
            start, length = self._first[run], self._length(run)
            for number in range(max(start, first), min(start + length, end)):
                place = self._data + self._before[run] + number - start
                entries[number - first] = place * CLUSTER | COPIED
            run += 1
        return _packed(entries)

    def _length(self, run: int) -> int:
        following = self._before[run + 1] if run + 1 < len(self._before) else self._count
        return following - self._before[run]

    def _content(self, offset: int, length: int) -> bytes:
        """Bytes of data clusters within one run, zeros after the disk's end."""
        number, within = divmod(offset, CLUSTER)
        run = bisect_right(self._before, number) - 1
        left = (self._before[run] + self._length(run) - number) * CLUSTER - within
        start = (self._first[run] + number - self._before[run]) * CLUSTER + within
        wanted = min(length, left)
        there = max(min(wanted, self._reader.size - start), 0)
        data = self._reader.read(start, there) if there else b""
        return data if there == wanted else data + bytes(wanted - there)


def _packed(entries: list[int]) -> bytes:
    return struct.pack(f">{len(entries)}Q", *entries).ljust(CLUSTER, b"\0")
