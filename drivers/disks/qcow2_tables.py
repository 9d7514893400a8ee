"""Where the parts of a qcow2 file lie that is made while it is read, and its tables' bytes.

Clusters lie in the order header, refcount table, refcount blocks, first level, second level, data.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable

from controlplane.domain.disk import MIB, SECTOR
from controlplane.domain.errors import Invalid
from drivers.disks.qcow2 import COMPRESSION, COPIED, HEADER_V3, MAGIC

_REFCOUNT_ORDER = 4
# Readers, our own too, take no larger one.
_L1_MAX = 4 * MIB
# The byte that names zstd, and seven that the header's length must be padded with.
_ZSTD = b"\x01" + bytes(7)


class Qcow2Tables:
    """Of a disk of `size` bytes: `used` lists which second-level tables have entries, ascending.

    `data` clusters follow. Invalid when the disk is too long for clusters of that size.
    """

    def __init__(
        self, *, size: int, cluster_bits: int, used: "array[int]", data: int, zstd: bool = False
    ) -> None:
        self.cluster = 1 << cluster_bits
        self.per_table = self.cluster // 8
        self.disk_size = -(-size // SECTOR) * SECTOR
        """The disk's length as the image states it: whole sectors."""
        self._bits, self._zstd, self._used = cluster_bits, zstd, used
        self._refcounts = self.cluster // 2
        self._l1_entries = max(-(-size // (self.cluster * self.per_table)), 1)
        if 8 * self._l1_entries > _L1_MAX:
            raise Invalid(f"a disk of {size} bytes is too long for a qcow2 image")
        l1 = -(-8 * self._l1_entries // self.cluster)
        others = 1 + l1 + len(used) + data
        blocks = table = 1
        while True:
            total = others + blocks + table
            wanted = -(-total // self._refcounts)
            if wanted == blocks and -(-8 * blocks // self.cluster) == table:
                break
            blocks, table = wanted, -(-8 * wanted // self.cluster)
        self._refcount_blocks = 1 + table
        self._l1 = self._refcount_blocks + blocks
        self._l2 = self._l1 + l1
        self.data = self._l2 + len(used)
        """The first data cluster."""
        self.clusters = total
        """All of the file's clusters."""

    def part(
        self,
        number: int,
        *,
        counts: Callable[[int, int], bytes],
        entries: Callable[[int], list[int]],
    ) -> bytes:
        """Cluster `number`, which comes before the data.

        `counts` gives the packed reference counts of data clusters, from one number to another;
        `entries` those of a second-level table, as many as a table has.
        """
        if number >= self._l2:
            return packed(entries(self._used[number - self._l2]))
        if number >= self._l1:
            return self._l1_part(number - self._l1)
        if number >= self._refcount_blocks:
            return self._counts((number - self._refcount_blocks) * self._refcounts, counts)
        if number:
            first = self._refcount_blocks + (number - 1) * self.per_table
            places = range(first, self._l1)[: self.per_table]
            return packed([place * self.cluster for place in places]).ljust(self.cluster, b"\0")
        return self._header()

    def _counts(self, first: int, counts: Callable[[int, int], bytes]) -> bytes:
        end = min(first + self._refcounts, self.clusters)
        tables = max(min(end, self.data) - first, 0)
        after = max(first, self.data)
        data = counts(after - self.data, end - self.data) if after < end else b""
        return (b"\0\1" * tables + data).ljust(self.cluster, b"\0")

    def _header(self) -> bytes:
        fields = struct.pack(
            ">4sIQIIQIIQQIIQ",
            MAGIC, 3, 0, 0, self._bits, self.disk_size, 0,
            self._l1_entries, self._l1 * self.cluster,
            self.cluster, self._refcount_blocks - 1, 0, 0,
        )  # fmt: skip
        needs, more = (COMPRESSION, _ZSTD) if self._zstd else (0, b"")
        fields += struct.pack(">QQQII", needs, 0, 0, _REFCOUNT_ORDER, HEADER_V3 + len(more))
        return (fields + more).ljust(self.cluster, b"\0")

    def _l1_part(self, part: int) -> bytes:
        entries = [0] * self.per_table
        first = part * self.per_table
        at = bisect_right(self._used, first - 1) if first else 0
        while at < len(self._used) and self._used[at] < first + self.per_table:
            entries[self._used[at] - first] = (self._l2 + at) * self.cluster | COPIED
            at += 1
        return packed(entries)


def packed(entries: list[int]) -> bytes:
    return struct.pack(f">{len(entries)}Q", *entries)
