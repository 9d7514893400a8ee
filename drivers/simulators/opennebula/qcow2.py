"""The qcow2 files that backups leave, and a chain of such files as one disk."""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import count, groupby
from pathlib import Path
from typing import BinaryIO

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
_MAGIC = 0x514649FB
_COPIED = 1 << 63
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_ZERO = 1
_HEADER = struct.Struct(">IIQIIQIIQQIIQQQQII")
_PER_TABLE = CLUSTER // 8


class NotQcow2(Exception):
    """The file is no qcow2 image of this kind."""


def write(
    target: Path, size: int, clusters: Iterable[tuple[int, bytes]], *, backing: str = ""
) -> None:
    """A disk of `size` bytes of which (number, bytes) are allocated here, in ascending order.

    Zeros are left out, or stand as zero clusters where a backing file (raw) shows through.
    """
    tables: dict[int, list[int]] = {}
    l1_length = max(-(-size // (CLUSTER * _PER_TABLE)), 1)
    l1_clusters = -(-8 * l1_length // CLUSTER)
    with target.open("wb") as out:
        end = 1 + l1_clusters
        for number, data in clusters:
            zero = not data.strip(b"\0")
            if zero and not backing:
                continue
            table = tables.setdefault(number // _PER_TABLE, [0] * _PER_TABLE)
            if zero:
                table[number % _PER_TABLE] = _ZERO
                continue
            os.pwrite(out.fileno(), data.ljust(CLUSTER, b"\0"), end * CLUSTER)
            table[number % _PER_TABLE] = end * CLUSTER | _COPIED
            end += 1
        l1 = [0] * l1_length
        for index, table in tables.items():
            os.pwrite(out.fileno(), struct.pack(f">{_PER_TABLE}Q", *table), end * CLUSTER)
            l1[index] = end * CLUSTER | _COPIED
            end += 1
        os.pwrite(out.fileno(), struct.pack(f">{l1_length}Q", *l1), CLUSTER)
        refcounts, refcount_clusters = _count(out, end)
        name = backing.encode()
        at = _HEADER.size + 24  # after the header's extensions
        header = _HEADER.pack(
            *(_MAGIC, 3, at if name else 0, len(name), CLUSTER_BITS, size, 0, l1_length, CLUSTER),
            *(refcounts, refcount_clusters, 0, 0, 0, 0, 0, 4, _HEADER.size),
        )
        form = struct.pack(">II8s", 0xE2792ACA, 3, b"raw") if name else b""
        os.pwrite(out.fileno(), (header + form).ljust(at, b"\0") + name, 0)


def _count(out: BinaryIO, used: int) -> tuple[int, int]:
    """Count every cluster once, the counting ones too; where their table is, and its length."""
    blocks = table = 1
    while (total := used + blocks + table) > blocks * (CLUSTER // 2):
        blocks += 1
        table = -(-8 * blocks // CLUSTER)
    os.ftruncate(out.fileno(), total * CLUSTER)
    os.pwrite(out.fileno(), struct.pack(">H", 1) * total, used * CLUSTER)
    places = [(used + number) * CLUSTER for number in range(blocks)]
    os.pwrite(out.fileno(), struct.pack(f">{blocks}Q", *places), (used + blocks) * CLUSTER)
    return (used + blocks) * CLUSTER, table


class Layer:
    """One file of a chain: which clusters it has, None for those of zeros."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self.size, l1 = self._head()
            self.clusters = dict(self._entries(l1))
        except BaseException:
            self._file.close()
            raise

    def _head(self) -> tuple[int, tuple[int, ...]]:
        head = _HEADER.unpack(self._file.read(_HEADER.size).ljust(_HEADER.size, b"\0"))
        if head[0] != _MAGIC or head[4] != CLUSTER_BITS:
            raise NotQcow2("Image is not in qcow2 format")
        return head[5], self._table(head[8], head[7])

    def _entries(self, l1: tuple[int, ...]) -> Iterator[tuple[int, int | None]]:
        for index, first in enumerate(l1):
            if not first & _OFFSET:
                continue
            for within, entry in enumerate(self._table(first & _OFFSET, _PER_TABLE)):
                if entry:
                    place = None if entry & _ZERO else entry & _OFFSET
                    yield index * _PER_TABLE + within, place

    def _table(self, offset: int, entries: int) -> tuple[int, ...]:
        raw = os.pread(self._file.fileno(), 8 * entries, offset)
        if len(raw) != 8 * entries:
            raise NotQcow2("Image is truncated")
        return struct.unpack(f">{entries}Q", raw)

    def read(self, place: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, place)

    def close(self) -> None:
        self._file.close()


class Chain:
    """What a chain of files shows, the newest first; a backing file in a header does not count."""

    readonly = True
    bitmap_name = ""
    bitmap: frozenset[int] | None = None

    def __init__(self, files: Iterable[Path], *, layered: bool) -> None:
        self._layers: list[Layer] = []
        try:
            for path in files:
                self._layers.append(Layer(path))
        except BaseException:
            self.close()
            raise
        self.size = self._layers[0].size
        self.depths: Callable[[int], int] | None = self.depth if layered else None

    def depth(self, number: int) -> int:
        """In which file a cluster is allocated, from 1; 0 in none."""
        for depth, layer in enumerate(self._layers, start=1):
            if number in layer.clusters:
                return depth
        return 0

    def read(self, offset: int, length: int) -> bytes:
        out = b""
        while len(out) < length:
            number, within = divmod(offset + len(out), CLUSTER)
            part = min(CLUSTER - within, length - len(out))
            layer, place = self._place(number)
            out += bytes(part) if place is None else layer.read(place + within, part)
        return out

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What is not zeros."""
        numbers = range(start // CLUSTER, -(-end // CLUSTER))
        held = (number for number in numbers if self._place(number)[1] is not None)
        before = count()
        for _, run in groupby(held, key=lambda number: number - next(before)):
            together = list(run)
            begin = max(together[0] * CLUSTER, start)
            yield begin, min((together[-1] + 1) * CLUSTER, end) - begin

    def _place(self, number: int) -> tuple[Layer, int | None]:
        depth = self.depth(number)
        layer = self._layers[max(depth, 1) - 1]
        return layer, layer.clusters[number] if depth else None

    def write(self, offset: int, data: bytes) -> None:  # noqa: ARG002  # the server's shape
        raise OSError("a backup is not written to")

    def zero(self, offset: int, length: int) -> None:  # noqa: ARG002  # the server's shape
        raise OSError("a backup is not written to")

    def close(self) -> None:
        for layer in self._layers:
            layer.close()
