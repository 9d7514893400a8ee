"""The little of qcow2 that a cloud needs: read any plain file of it, write a sparse one."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

MAGIC = 0x514649FB
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
COPIED = 1 << 63
COMPRESSED = 1 << 62
OFFSET = 0x00FFFFFFFFFFFE00
HEADER = struct.Struct(">IIQIIQIIQQIIQQQQII")


def is_zero(data: bytes) -> bool:
    """Whether there is nothing but zeros; a comparison is far faster than any other look."""
    return data == bytes(len(data))


class NotQcow2(ValueError):
    """The bytes are not a qcow2 that can be used here."""


def virtual_size(head: bytes) -> int | None:
    """The size of the disk inside, or None when the bytes are no qcow2."""
    if len(head) < 32 or struct.unpack(">I", head[:4])[0] != MAGIC:
        return None
    return int(struct.unpack(">Q", head[24:32])[0])


def data_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that hold data, as (offset, length)."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                return
            at = min(os.lseek(file.fileno(), begin, os.SEEK_HOLE), size)
            yield begin, at - begin


def copy_sparse(source: Path, target: Path, size: int, stopped: Callable[[], bool]) -> None:
    """Copy the data of a file into a new file of `size` bytes, holes kept."""
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.truncate(size)
        for begin, length in data_ranges(source):
            at, end = begin, min(begin + length, size)
            while at < end:
                if stopped():
                    raise InterruptedError
                count = min(end - at, 4 << 20)
                data = os.pread(reader.fileno(), count, at)
                if not is_zero(data):
                    os.pwrite(writer.fileno(), data, at)
                at += count


def to_raw(source: Path, target: Path, size: int | None, stopped: Callable[[], bool]) -> int:
    """Write the disk inside a qcow2 as a raw sparse file of at least `size` bytes."""
    with source.open("rb") as file, target.open("wb") as out:
        disk = _Disk(file)
        length = max(size or 0, disk.size)
        out.truncate(length)
        for offset, data in disk.clusters():
            if stopped():
                raise InterruptedError
            if not is_zero(data):
                os.pwrite(out.fileno(), data[: disk.size - offset], offset)
    return length


class _Disk:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(104).ljust(104, b"\0")
        fields = HEADER.unpack(head)
        if fields[0] != MAGIC or fields[1] not in {2, 3}:
            raise NotQcow2("no qcow2 header")
        version, backing = fields[1], fields[2]
        self._bits, self.size = int(fields[4]), int(fields[5])
        if backing or fields[6] or (version == 3 and fields[12] & ~3):
            raise NotQcow2("backing file, encryption or an unknown feature")
        if not 9 <= self._bits <= 21:
            raise NotQcow2("cluster size out of range")
        self._l1 = self._table(fields[8], fields[7])

    def _table(self, offset: int, count: int) -> tuple[int, ...]:
        self._file.seek(offset)
        raw = self._file.read(8 * count)
        if len(raw) != 8 * count:
            raise NotQcow2("a table is cut off")
        return struct.unpack(f">{count}Q", raw)

    def clusters(self) -> Iterator[tuple[int, bytes]]:
        size = 1 << self._bits
        per_table = size // 8
        for i, l1 in enumerate(self._l1):
            if not l1 & OFFSET:
                continue
            for j, entry in enumerate(self._table(l1 & OFFSET, per_table)):
                at = (i * per_table + j) * size
                if entry and at < self.size and (data := self._cluster(entry, size)):
                    yield at, data

    def _cluster(self, entry: int, size: int) -> bytes | None:
        if entry & COMPRESSED:
            x = 62 - (self._bits - 8)
            offset = entry & ((1 << x) - 1)
            sectors = ((entry & ~(COPIED | COMPRESSED)) >> x) + 1
            self._file.seek(offset)
            raw = self._file.read(sectors * 512 - (offset & 511))
            return zlib.decompressobj(-12).decompress(raw, size)
        if entry & 1 or not entry & OFFSET:
            return None
        self._file.seek(entry & OFFSET)
        return self._file.read(size)


def from_raw(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    """Write a raw file as a qcow2 whose zero clusters are left out."""
    size = source.stat().st_size
    per_table = CLUSTER // 8
    tables = max(1, -(-size // (CLUSTER * per_table)))
    l1_clusters = -(-tables * 8 // CLUSTER)
    l1 = [0] * tables
    with source.open("rb") as reader, target.open("wb") as out:
        end = 1 + l1_clusters  # in clusters: the header and the first-level table
        l2: dict[int, list[int]] = {}
        for begin, length in data_ranges(source):
            first = begin // CLUSTER * CLUSTER
            for at in range(first, begin + length, CLUSTER):
                if stopped():
                    raise InterruptedError
                data = os.pread(reader.fileno(), CLUSTER, at)
                index = at // CLUSTER
                table = l2.setdefault(index // per_table, [0] * per_table)
                if table[index % per_table] or is_zero(data):
                    continue
                os.pwrite(out.fileno(), data.ljust(CLUSTER, b"\0"), end * CLUSTER)
                table[index % per_table] = end * CLUSTER | COPIED
                end += 1
        for number, table in l2.items():
            os.pwrite(out.fileno(), struct.pack(f">{per_table}Q", *table), end * CLUSTER)
            l1[number] = end * CLUSTER | COPIED
            end += 1
        os.pwrite(out.fileno(), struct.pack(f">{tables}Q", *l1), CLUSTER)
        refs_at, table_clusters = _write_refcounts(out, end)
        header = HEADER.pack(
            *(MAGIC, 3, 0, 0, CLUSTER_BITS, size, 0, tables, CLUSTER),
            *(refs_at, table_clusters, 0, 0, 0, 0, 0, 4, 104),
        )
        os.pwrite(out.fileno(), header, 0)


def _write_refcounts(out: BinaryIO, used: int) -> tuple[int, int]:
    """Count every cluster once, the counting blocks and their table included."""
    per_block = CLUSTER // 2
    blocks = 1
    while True:
        table_clusters = -(-blocks * 8 // CLUSTER)
        total = used + blocks + table_clusters
        if total <= blocks * per_block:
            break
        blocks += 1
    counts = struct.pack(">H", 1) * total
    os.ftruncate(out.fileno(), total * CLUSTER)
    os.pwrite(out.fileno(), counts, used * CLUSTER)
    entries = [(used + i) * CLUSTER for i in range(blocks)]
    os.pwrite(out.fileno(), struct.pack(f">{blocks}Q", *entries), (used + blocks) * CLUSTER)
    return (used + blocks) * CLUSTER, table_clusters
