"""How far a check is: the bytes that the store gave it, of about so many that it will ask for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock

from controlplane.domain.disk import KIB
from controlplane.domain.vault import FANOUT, PointRecord
from controlplane.vault.pack import Pack
from controlplane.vault.ports import ObjectStore, Upload

_ENTRY = 70  # bytes of a page for each chunk
_TABLE = 1 / (1 * KIB)  # bytes of a table for each of the pack's, with chunks of the usual size
_OPENING = 1 * KIB
_FIRM = 0.05  # so much of a guess stays what it was until as much was seen


class CountedObjects:
    """An object store that tells of each read how many bytes it gave."""

    def __init__(self, objects: ObjectStore, got: Callable[[int], None]) -> None:
        self._objects = objects
        self._got = got

    def upload(self, name: str) -> Upload:
        return self._objects.upload(name)

    def put(self, name: str, data: bytes) -> None:
        self._objects.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = self._objects.get(name, offset, length)
        self._got(len(data))
        return data

    def size(self, name: str) -> int:
        return self._objects.size(name)

    def names(self, folder: str) -> Iterator[str]:
        return self._objects.names(folder)

    def delete(self, name: str) -> None:
        self._objects.delete(name)

    def sweep(self, before: datetime) -> int:
        return self._objects.sweep(before)


@dataclass(slots=True, kw_only=True)
class _Part:
    """Some of the work. `guess` is of all of it, `behind` of what was done, for which `read` is so.

    `got` is with what is under way.
    """

    guess: float = 0
    behind: float = 0
    read: float = 0
    got: int = 0

    def total(self) -> float:
        """What was read, and the guess of the rest set right by that."""
        firm = self.guess * _FIRM
        right = (self.read + firm) / (self.behind + firm) if firm else 1.0
        return max(self.read + max(self.guess - self.behind, 0) * right, self.got)


@dataclass(slots=True, kw_only=True)
class Forecast:
    """`share` of all blobs are to be read. Told of what is read by any thread.

    Manifests, packs and the rest (heads, segments of the index) are done in turns: `got` counts
    for what was begun last.
    """

    share: float
    _pages: _Part = field(default_factory=_Part)
    _packs: _Part = field(default_factory=_Part)
    _rest: _Part = field(default_factory=_Part)
    _now: _Part = field(default_factory=_Part)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._now = self._rest

    def got(self, length: int) -> None:
        with self._lock:
            self._now.got += length

    def expect_points(self, points: Iterable[PointRecord]) -> None:
        for record in points:
            self._pages.guess += _pages_of(record)

    def expect_pack(self, size: int, *, blobs: bool) -> None:
        """`blobs`: of this one blobs are to be read as well."""
        self._packs.guess += self._pack(size, blobs=blobs)
        self._rest.guess += size * _TABLE  # segments say what tables do

    def walking(self) -> None:
        self._now = self._pages

    def walked(self, record: PointRecord) -> None:
        self._pages.behind += _pages_of(record)
        self._pages.read = self._pages.got

    def looking(self) -> None:
        self._now = self._packs

    def looked(self, pack: Pack, which: range, *, blobs: bool) -> None:
        """Its table was read, and these blobs."""
        stored = [blob.stored for blob in pack.blobs]
        with self._lock:
            self._packs.behind += self._pack(pack.size, blobs=blobs)
            self._packs.read += _OPENING + pack.size - sum(stored)
            self._packs.read += sum(stored[which.start : which.stop])

    def rest(self) -> None:
        self._now = self._rest

    def seen(self) -> tuple[int, int]:
        """Bytes that were read, and about how many it will have been."""
        with self._lock:
            parts = (self._pages, self._packs, self._rest)
            return sum(part.got for part in parts), round(sum(part.total() for part in parts))

    def _pack(self, size: int, *, blobs: bool) -> float:
        table = min(_OPENING + size * _TABLE, size)
        return min(table + size * self.share, size) if blobs else table


def _pages_of(record: PointRecord) -> float:
    """A first point's pages are all its own; a later one shares those of leaves that it left."""
    chunks = 0
    for disk in record.disks:
        fresh = -(-disk.bytes_new // disk.chunk) * FANOUT
        chunks += disk.chunks if record.sequence == 1 else min(disk.chunks, fresh)
    return float(chunks * _ENTRY)
