"""One domain's chunk index on the local disk: sorted segments, merged as they get many.

Four segments of about one size become one, of large ones eight, so that an entry is written again a
few times in all and a search looks into some ten files. A file is whole or thrown away; a lost one
costs time.
"""

import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from controlplane.vault.segment import SHORT, Row, Segment, key_of, merged, number_of, row

_SMALL = 16384
_LARGE_TIER = 4  # from a million rows on

Found = tuple[bytes, int]
Entries = Sequence[tuple[bytes, int]]
"""(id, position) of the chunks of one pack."""


class Folder:
    """Where a process keeps its segments; none when another process is there, or it cannot be."""

    def __init__(self, path: Path | None) -> None:
        self.path = None
        self._lock: int | None = None
        if path is None:
            return
        with suppress(OSError):
            if not path.is_dir():
                path.unlink(missing_ok=True)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path = path

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Cache:
    """Searched by any number of threads; changed by one at a time, which its owner sees to."""

    def __init__(self, folder: Path | None, domain: str) -> None:
        self._folder = folder
        self._domain = domain
        self._prefix = blake3(domain.encode()).hexdigest()[:32]
        self._segments: tuple[Segment, ...] = ()
        if folder is not None:
            self._segments = tuple(_whole(folder, self._prefix, domain))
        self._packs = {n: pack for s in self._segments for n, pack in s.packs.items()}
        self._next = max(self._packs, default=0) + 1

    def close(self) -> None:
        for segment in self._segments:
            segment.close()

    def packs(self) -> frozenset[bytes]:
        """Those whose chunks can be found."""
        return frozenset(self._packs.values())

    def find(self, identity: bytes, wrong: Collection[Found]) -> Found | None:
        """Where a chunk of that id lies, but in none of the places that are `wrong`."""
        short, key = identity[:SHORT], key_of(identity)
        for segment in self._segments:
            for number, position in segment.find(short, key):
                pack = self._packs.get(number)
                if pack is not None and (pack, position) not in wrong:
                    return pack, position
        return None

    def add(self, packs: Mapping[bytes, Entries]) -> None:
        """Know these packs; where the local disk has no room they stay unknown."""
        numbers = {pack: self._next + i for i, pack in enumerate(packs)}
        rows = [row(i, numbers[pack], at) for pack, found in packs.items() for i, at in found]
        rows.sort()
        named = {number: pack for pack, number in numbers.items()}
        with suppress(OSError):
            made = self._write(named, [rows], ())
            self._next += len(packs)
            self._packs.update(named)
            self._segments = (made, *self._segments)
            self._merge_where_many()

    def drop(self, gone: Collection[bytes]) -> None:
        """Find nothing in these packs any more."""
        numbers = [n for n, pack in self._packs.items() if pack in gone]
        if not numbers:
            return
        for number in numbers:
            del self._packs[number]
        for segment in self._segments:
            if 2 * sum(n in self._packs for n in segment.packs) < len(segment.packs):
                with suppress(OSError):
                    self._merge((segment,))

    def _merge_where_many(self) -> None:
        tiers: dict[int, list[Segment]] = {}
        for segment in self._segments:
            tiers.setdefault(_tier(segment.count), []).append(segment)
        for tier, alike in sorted(tiers.items()):
            if len(alike) >= (4 if tier < _LARGE_TIER else 8):
                self._merge(alike)
                self._merge_where_many()
                return

    def _merge(self, old: Sequence[Segment]) -> None:
        told = {n: pack for segment in old for n, pack in segment.packs.items()}
        packs = {n: pack for n, pack in told.items() if n in self._packs}
        parts = merged(old)
        if len(packs) < len(told):
            parts = _only(parts, packs.__contains__)
        made = [self._write(packs, parts, [s.path.name for s in old if s.path])] if packs else []
        self._segments = (*made, *(s for s in self._segments if s not in old))
        for segment in old:
            segment.remove()

    def _write(
        self, packs: Mapping[int, bytes], parts: Iterator[list[Row]] | list[list[Row]],
        replaces: Collection[str],
    ) -> Segment:  # fmt: skip
        name = f"{self._prefix}-{os.urandom(8).hex()}.segment"
        return Segment.write(
            self._folder / name if self._folder else None,
            domain=self._domain, packs=packs, parts=parts, replaces=replaces,
        )  # fmt: skip


def _tier(count: int) -> int:
    """Segments of one tier differ in size by less than four times."""
    return ((count // _SMALL).bit_length() + 1) // 2


def _only(parts: Iterator[list[Row]], wanted: Callable[[int], bool]) -> Iterator[list[Row]]:
    for part in parts:
        yield [told for told in part if wanted(number_of(told))]


def _whole(folder: Path, prefix: str, domain: str) -> Iterator[Segment]:
    """The segments there; what a crash left beside them is removed."""
    found: list[Segment] = []
    for path in folder.glob(f"{prefix}-*"):
        try:
            segment = Segment.open(path)
        except (OSError, ValueError):
            with suppress(OSError):
                path.unlink()
            continue
        if segment.domain == domain:
            found.append(segment)
    replaced = frozenset[str]().union(*(segment.replaces for segment in found))
    for segment in found:
        if segment.path and segment.path.name in replaced:
            segment.remove()
        else:
            yield segment
