"""A sorted file of chunk ids on the local disk: written once, searched with one read."""

import json
import os
import struct
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

from blake3 import blake3

SHORT = 16
"""Bytes of an id that are kept: enough to tell any two apart, and the pack's table has all."""

Row = bytes
"""First half of an id, number of a pack, position in it: rows sort as their ids do."""

_ROW = struct.Struct(f">{SHORT}sII")
_PLACE = struct.Struct(">II")
_BLOCK = 64
_STEP = 32 * _BLOCK  # what is merged together stays in the processor's cache
_TAIL = struct.Struct(">QQ32s16s")
_MAGIC = b"fedctl-segment-1"


def row(identity: bytes, number: int, position: int) -> Row:
    return _ROW.pack(identity[:SHORT], number, position)


def key_of(identity: bytes) -> int:
    return int.from_bytes(identity[:8], "big")


def number_of(told: Row) -> int:
    return int.from_bytes(told[SHORT : SHORT + 4], "big")


class Segment:
    """Where chunks of some packs lie. `packs` tells the number that each has in the rows.

    The first key of each block is kept in memory, 8 bytes for 64 rows; rows are read as asked.
    """

    def __init__(
        self, file: int, path: Path | None, fences: "array[int]", told: Mapping[str, object]
    ) -> None:
        packs, replaces = told["packs"], told["replaces"]
        if not isinstance(packs, dict) or not isinstance(replaces, list):
            raise TypeError
        self.path = path
        self.domain = told["domain"]
        self.count = int(str(told["count"]))
        self.packs: Mapping[int, bytes] = {int(n): bytes.fromhex(p) for n, p in packs.items()}
        self.replaces = frozenset(map(str, replaces))
        self._file = file
        self._fences = fences
        # A search may still read while a merge replaces this: closed when the last one let go.
        self.close = weakref.finalize(self, os.close, file)

    @classmethod
    def open(cls, path: Path) -> Self:
        """ValueError when it is no whole segment."""
        file = os.open(path, os.O_RDONLY)
        try:
            return cls(file, path, *_read(file))
        except (struct.error, KeyError, TypeError) as e:
            os.close(file)
            raise ValueError("a damaged segment of the index") from e
        except BaseException:
            os.close(file)
            raise

    @classmethod
    def write(
        cls, path: Path | None, *, domain: str, packs: Mapping[int, bytes],
        parts: Iterable[Sequence[Row]], replaces: Iterable[str] = (),
    ) -> Self:  # fmt: skip
        """One of the rows in `parts`, which come in order; without a path it goes with us."""
        coming = path.with_suffix(".coming") if path else None
        try:
            with coming.open("w+b") if coming else TemporaryFile() as file:
                fences, told = _written(file, domain, packs, parts, replaces)
                if coming and path:
                    os.fsync(file.fileno())
                    coming.rename(path)
                return cls(os.dup(file.fileno()), path, fences, told)
        except BaseException:
            if coming:
                coming.unlink(missing_ok=True)
            raise

    def find(self, short: bytes, key: int) -> Sequence[tuple[int, int]]:
        """(number of the pack, position) of each row of that id; `key` is `key_of` it."""
        fences = self._fences
        end = bisect_right(fences, key)
        if end == 0:
            return ()
        first = end - 1
        while first and fences[first] == key:
            first -= 1
        start = first * _BLOCK * _ROW.size
        block = os.pread(self._file, (end - first) * _BLOCK * _ROW.size, start)
        at = block.find(short)
        if at < 0:
            return ()
        found: list[tuple[int, int]] = []
        rows = min((end - first) * _BLOCK, self.count - first * _BLOCK) * _ROW.size
        while 0 <= at < rows:
            if at % _ROW.size == 0:
                number, position = _PLACE.unpack_from(block, at + SHORT)
                found.append((number, position))
            at = block.find(short, at + 1)
        return found

    def parts(self) -> Iterator[list[Row]]:
        """All rows in order, some thousand at a time."""
        for first in range(0, self.count, _STEP):
            rows = min(_STEP, self.count - first)
            data = os.pread(self._file, rows * _ROW.size, first * _ROW.size)
            yield list(struct.unpack(f"{_ROW.size}s" * rows, data))

    def remove(self) -> None:
        if self.path:
            self.path.unlink(missing_ok=True)


def merged(segments: Sequence[Segment]) -> Iterator[list[Row]]:
    """The rows of all, in order."""
    feeds = [segment.parts() for segment in segments]
    held = [next(feed, []) for feed in feeds]
    while fullest := [rows[-1] for rows in held if rows]:
        end, out = min(fullest), list[Row]()
        for i, rows in enumerate(held):
            cut = bisect_right(rows, end)
            out += rows[:cut]
            held[i] = rows[cut:] or next(feeds[i], [])
        out.sort()  # joins sorted runs: a few comparisons a row
        yield out


def _read(file: int) -> "tuple[array[int], dict[str, object]]":
    end = os.fstat(file).st_size - _TAIL.size
    fenced, told, digest, magic = _TAIL.unpack(os.pread(file, _TAIL.size, max(end, 0)))
    start = end - told - fenced
    meta = os.pread(file, fenced + told, start) if magic == _MAGIC and start >= 0 else b""
    if blake3(meta).digest() != digest:
        raise ValueError("no segment of the index, or a damaged one")
    fences, text = array("Q"), json.loads(meta[fenced:])
    fences.frombytes(meta[:fenced])
    if (text["count"] * _ROW.size, text["block"]) != (start, _BLOCK):
        raise ValueError("a torn segment of the index, or one of another version")
    return fences, text


def _written(
    file: IO[bytes], domain: str, packs: Mapping[int, bytes], parts: Iterable[Sequence[Row]],
    replaces: Iterable[str],
) -> "tuple[array[int], dict[str, object]]":  # fmt: skip
    count, fences = 0, array("Q")
    for part in parts:
        for first in range(-count % _BLOCK, len(part), _BLOCK):
            fences.append(key_of(part[first]))
        count += len(part)
        file.write(b"".join(part))
    told: dict[str, object] = {
        "domain": domain,
        "count": count,
        "block": _BLOCK,
        "packs": {str(number): pack.hex() for number, pack in packs.items()},
        "replaces": list(replaces),
    }
    text = json.dumps(told).encode()
    meta = fences.tobytes() + text
    file.write(meta)
    file.write(_TAIL.pack(len(meta) - len(text), len(text), blake3(meta).digest(), _MAGIC))
    file.flush()
    return fences, told
