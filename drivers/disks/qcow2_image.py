"""A plain qcow2 file that is made while it is read.

Its length and every byte follow from the disk's extents, so any range of it can be served at any
time; many threads may read it where they may read its disk. Data clusters keep the disk's order.
"""

from array import array
from bisect import bisect_right

from controlplane.domain.disk import KIB, BlockReader, ExtentKind
from drivers.disks.qcow2 import COPIED
from drivers.disks.qcow2_tables import Qcow2Tables
from drivers.disks.raw import checked_range

CLUSTER_BITS = 16
CLUSTER = 64 * KIB
_L2_ENTRIES = CLUSTER // 8


class Qcow2Image:
    """The file's bytes over a disk; it owns the reader."""

    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        # Runs of data clusters: first cluster of each, and how many came before it.
        self._first, self._before = array("Q"), array("Q")
        self._count = 0
        self._used = array("Q")
        self._map()
        self._tables = Qcow2Tables(
            size=reader.size, cluster_bits=CLUSTER_BITS, used=self._used, data=self._count
        )

    @property
    def size(self) -> int:
        """The file's length."""
        return self._tables.clusters * CLUSTER

    @property
    def disk_size(self) -> int:
        """The disk's length as the image states it: whole sectors."""
        return self._tables.disk_size

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self.size, what="the qcow2 image")
        data = self._tables.data * CLUSTER
        parts: list[bytes] = []
        end = offset + length
        while offset < end:
            if offset >= data:
                part = self._content(offset - data, end - offset)
            else:
                number, within = divmod(offset, CLUSTER)
                cluster = self._tables.part(number, counts=_ones, entries=self._entries)
                part = cluster[within : within + end - offset]
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
            if self._used and self._used[-1] == table:
                table += 1
            self._used.extend(range(table, (last - 1) // _L2_ENTRIES + 1))

    def _entries(self, table: int) -> list[int]:
        first = table * _L2_ENTRIES
        end = first + _L2_ENTRIES
        entries = [0] * _L2_ENTRIES
        run = max(bisect_right(self._first, first) - 1, 0)
        while run < len(self._first) and self._first[run] < end:
            start, length = self._first[run], self._length(run)
            for number in range(max(start, first), min(start + length, end)):
                place = self._tables.data + self._before[run] + number - start
                entries[number - first] = place * CLUSTER | COPIED
            run += 1
        return entries

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


def _ones(first: int, end: int) -> bytes:
    return b"\0\1" * (end - first)
