"""A qcow2 file of stored zstd frames, made while it is read: nothing is compressed or unpacked.

A frame of one chunk is a zstd cluster of qcow2 (version 3, compression type 1; QEMU reads it from
5.1 on), where the chunk's length is one that clusters can have. Per group of 512 chunks the frames
lie one behind the other, from a cluster's start on, and behind them what was stored plain, each
chunk a cluster. Frames cross clusters, so a cluster is referenced once by each frame that touches
it. What is known of a group is asked for again when it is needed; of the whole disk there stay two
bytes for each cluster.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from threading import Lock

from controlplane.domain.disk import KIB, MIB, SECTOR, FrameReader
from controlplane.domain.errors import Integrity, Unsupported
from drivers.disks.qcow2 import COMPRESSED, COPIED
from drivers.disks.qcow2_tables import Qcow2Tables
from drivers.disks.raw import checked_range

GROUP = 512
_SMALLEST, _LARGEST = 64 * KIB, 2 * MIB
_KEPT = 64


def are_clusters(chunk: int) -> bool:
    """Whether chunks of so many bytes can be clusters."""
    return _SMALLEST <= chunk <= _LARGEST and not chunk & chunk - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """A group's chunks: with frames, where each frame begins and the last ends; stored plain."""

    framed: list[int] = field(default_factory=list)
    begins: list[int]
    plain: list[int] = field(default_factory=list)


class Qcow2ZstdImage:
    """The file's bytes over a disk; it owns the reader. For many threads at a time.

    Unsupported when the reader's chunks are no clusters of qcow2.
    """

    def __init__(self, reader: FrameReader) -> None:
        self._cluster = cluster = reader.chunk
        if not are_clusters(cluster):
            raise Unsupported(
                f"chunks of {cluster} bytes are no clusters of qcow2: serve the plain format"
            )
        self._reader = reader
        self._lock = Lock()
        self._known: OrderedDict[int, _Group] = OrderedDict()
        self._groups, self._starts, self._counts = array("Q"), array("Q"), array("H")
        used = self._map()
        self._tables = Qcow2Tables(
            size=reader.size, cluster_bits=cluster.bit_length() - 1, used=used,
            data=len(self._counts), zstd=True,
        )  # fmt: skip
        if sys.byteorder == "little":
            self._counts.byteswap()

    @property
    def size(self) -> int:
        """The file's length."""
        return self._tables.clusters * self._cluster

    @property
    def disk_size(self) -> int:
        """The disk's length as the image states it: whole sectors."""
        return self._tables.disk_size

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self.size, what="the qcow2 image")
        data = self._tables.data * self._cluster
        parts: list[bytes | memoryview] = []
        end = offset + length
        while offset < end:
            if offset >= data:
                some = self._content(offset - data, end - offset)
            else:
                number, within = divmod(offset, self._cluster)
                part = self._tables.part(number, counts=self._counted, entries=self._entries)
                some = [part[within : within + end - offset]]
            parts += some
            offset += sum(map(len, some))
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._reader.close()

    # -- the map -------------------------------------------------------------------------------

    def _map(self) -> "array[int]":
        """Where each group lies; the second-level tables in use."""
        used = array("Q")
        chunks = -(-self._reader.size // self._cluster)
        for number in range(-(-chunks // GROUP)):
            group = self._group(number)
            if not group.framed and not group.plain:
                continue
            self._groups.append(number)
            self._starts.append(len(self._counts))
            self._counts.extend(self._touched(group.begins))
            self._counts.extend([1] * len(group.plain))
            table = number * GROUP // (self._cluster // 8)
            if not used or used[-1] != table:
                used.append(table)
        return used

    def _touched(self, begins: list[int]) -> list[int]:
        counts = [0] * -(-begins[-1] // self._cluster)
        for begin, end in pairwise(begins):
            for cluster in range(begin // self._cluster, (end - 1) // self._cluster + 1):
                counts[cluster] += 1
        return counts

    def _group(self, number: int) -> _Group:
        with self._lock:
            known = self._known.get(number)
            if known is not None:
                self._known.move_to_end(number)
                return known
        first = number * GROUP
        count = min(GROUP, -(-self._reader.size // self._cluster) - first)
        lengths = self._reader.frames(first, count)
        framed = [(first + i, length) for i, length in enumerate(lengths) if length]
        made = _Group(
            framed=[n for n, _ in framed],
            begins=list(accumulate((length for _, length in framed), initial=0)),
            plain=[first + i for i, length in enumerate(lengths) if length == 0],
        )
        with self._lock:
            self._known[number] = made
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return made

    # -- the bytes -----------------------------------------------------------------------------

    def _counted(self, first: int, end: int) -> bytes:
        return self._counts[first:end].tobytes()

    def _entries(self, table: int) -> list[int]:
        per_table = self._tables.per_table
        entries = [0] * per_table
        shift = 62 - (self._cluster.bit_length() - 1 - 8)
        index = bisect_left(self._groups, table * per_table // GROUP)
        while index < len(self._groups) and self._groups[index] * GROUP < (table + 1) * per_table:
            group = self._group(self._groups[index])
            start = (self._tables.data + self._starts[index]) * self._cluster
            for number, (begin, end) in zip(group.framed, pairwise(group.begins), strict=True):
                sectors = (start + end - 1) // SECTOR - (start + begin) // SECTOR
                entries[number % per_table] = COMPRESSED | sectors << shift | start + begin
            start += self._packed(group)
            for at, number in enumerate(group.plain):
                entries[number % per_table] = COPIED | start + at * self._cluster
            index += 1
        return entries

    def _packed(self, group: _Group) -> int:
        """The bytes that the group's frames take, to the end of their last cluster."""
        return -(-group.begins[-1] // self._cluster) * self._cluster

    def _content(self, offset: int, length: int) -> list[bytes | memoryview]:
        """Some bytes of the data, of one group and one kind."""
        index = bisect_right(self._starts, offset // self._cluster) - 1
        group = self._group(self._groups[index])
        at = offset - self._starts[index] * self._cluster
        if at < group.begins[-1]:
            return self._frames(group, at, min(at + length, group.begins[-1]))
        at -= self._packed(group)
        if at < 0:
            return [bytes(min(length, -at))]
        end = min(at + length, len(group.plain) * self._cluster)
        first, last = at // self._cluster, -(-end // self._cluster)
        parts = self._stored(group.plain[first:last])
        parts = [part.ljust(self._cluster, b"\0") for part in parts]
        return _cut(parts, at - first * self._cluster, last * self._cluster - end)

    def _frames(self, group: _Group, at: int, end: int) -> list[bytes | memoryview]:
        first = bisect_right(group.begins, at) - 1
        last = bisect_right(group.begins, end - 1)
        parts = self._stored(group.framed[first:last])
        for number, part in enumerate(parts, first):
            if len(part) != group.begins[number + 1] - group.begins[number]:
                raise Integrity(
                    f"chunk {group.framed[number]} was found again in a frame of {len(part)} bytes,"
                    " which is not as long as the one that is announced: publish the image again"
                )
        return _cut(parts, at - group.begins[first], group.begins[last] - end)

    def _stored(self, numbers: list[int]) -> list[bytes]:
        return self._reader.read_stored(numbers)


def _cut(parts: list[bytes], before: int, after: int) -> list[bytes | memoryview]:
    """Without so many bytes before and after."""
    cut: list[bytes | memoryview] = list(parts)
    if after:
        cut[-1] = memoryview(cut[-1])[: len(cut[-1]) - after]
    if before:
        cut[0] = memoryview(cut[0])[before:]
    return cut
