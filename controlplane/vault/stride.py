"""How much to read at once: what comes in an eighth of a second, so that a stop is soon heeded."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic

from controlplane.domain.disk import KIB
from controlplane.vault.nouns import BATCH

PARTS = 64
_SPELL = 0.125
_LEAST = 64 * KIB
_FIRST = 16 * _LEAST


class Stride:
    """`length` is in bytes, from 64 KiB to `most` (4 MiB). Used by any number of threads."""

    def __init__(self, most: int | None = None) -> None:
        self.length = _FIRST
        self._most = BATCH if most is None else most

    def groups(self, runs: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """The runs (first, end) as parts (first, length), in groups of a stride at most."""
        group: list[tuple[int, int]] = []
        room = self.length
        for first, end in runs:
            at = first
            while at < end:
                part = min(end - at, room)
                group.append((at, part))
                at, room = at + part, room - part
                if not room or len(group) == PARTS:
                    yield group
                    group, room = [], self.length
        if group:
            yield group

    @contextmanager
    def taken(self, length: int) -> Iterator[None]:
        """Around the reading or writing of so many bytes: measures it for the next."""
        began = monotonic()
        yield
        took = monotonic() - began
        if took > 2 * _SPELL:
            self.length = max(self.length // 2, _LEAST)
        elif took < _SPELL and 2 * length > self.length:
            self.length = min(self.length * 2, self._most)
