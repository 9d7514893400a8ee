"""The little of qcow2 that a cloud needs: the disk in a file of it, and a sparse file written."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from drivers.simulators.qcow2 import Qcow2
from drivers.simulators.sparse import data_ranges, is_zero

MAGIC = 0x514649FB
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
COPIED = 1 << 63
HEADER = struct.Struct(">IIQIIQIIQQIIQQQQII")


def virtual_size(head: bytes) -> int | None:
    """The size of the disk inside, or None when the bytes are no qcow2."""
    if len(head) < 32 or struct.unpack(">I", head[:4])[0] != MAGIC:
        return None
    return int(struct.unpack(">Q", head[24:32])[0])


def copy_sparse(source: Path, target: Path, size: int, stopped: Callable[[], bool]) -> None:
    """Copy the data of a file into a new file of `size` bytes, holes kept."""
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.truncate(size)
        for begin, length in data_ranges(reader.fileno()):
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
        disk = Qcow2(file)
        length = max(size or 0, disk.size)
        out.truncate(length)
        for offset, data in disk.clusters():
            if stopped():
                raise InterruptedError
            if not is_zero(data):
                os.pwrite(out.fileno(), data, offset)
    return length


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
        for begin, length in data_ranges(reader.fileno()):
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
