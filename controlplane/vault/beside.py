"""A target's disk that becomes what a copy reads, while the same bytes go into the vault.

Leaf by leaf: one is there when its data and its holes were given to the writer, and durable once
the writer finished after that. What the copy did not read itself, because an earlier attempt or an
earlier point has it in the vault, is brought from there at the end.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from controlplane.domain.disk import GIB, Extent
from controlplane.domain.errors import Invalid
from controlplane.domain.vault import Layout
from controlplane.vault.bringing import bring
from controlplane.vault.durable import Durable
from controlplane.vault.leaves import LeafWork
from controlplane.vault.nouns import Into, Written
from controlplane.vault.reading import PointReader
from controlplane.vault.stride import Stride

_RANGES = 256  # what a heartbeat carries; what is left out is brought from the vault
_HOLE = 32


class Beside:
    """Used by the threads of one copy, until `stop` is set; then `complete`, by one thread."""

    def __init__(self, into: Into, layout: Layout) -> None:
        if into.writer.size < layout.size:
            raise Invalid(
                f"the target's disk has {into.writer.size} bytes, fewer than the {layout.size} of"
                " the source"
            )
        self._writer = into.writer
        self._reached = into.reached
        self._layout = layout
        self.stop = threading.Event()
        self._writing, self._counting = threading.Lock(), threading.Lock()
        self._there = bytearray(layout.leaves)
        for first, end in into.since.ranges:
            self._mark(first // layout.leaf, -(-end // layout.leaf))
        self._bytes = into.since.bytes
        self._holes: deque[tuple[int, int]] = deque()
        self._zeroing, self._stride = Stride(most=GIB), Stride()
        self._make_durable = Durable(
            into.writer,
            writing=self._writing,
            counting=self._counting,
            here=self._here,
            reached=into.reached,
        )

    def chunks(self, offset: int, data: bytes, zero: Sequence[bool]) -> None:
        """What was read from `offset` on, by chunks, each with whether it is all zero."""
        written, at = 0, 0
        with self._writing:
            for is_zero, run in groupby(zero):
                end = min(at + sum(self._layout.chunk for _ in run), len(data))
                if is_zero:
                    self._writer.zero(offset + at, end - at)
                else:
                    part = data if end - at == len(data) else data[at:end]
                    with self._stride.taken(len(part)):
                        self._writer.write(offset + at, part)
                    written += end - at
                at = end
        with self._counting:
            self._bytes += written

    def leaf(self, work: LeafWork) -> None:
        """All of it that was to be read was given to `chunks`."""
        begin, chunk = work.index * self._layout.leaf, self._layout.chunk
        for first, end in work.holes():
            last = min(begin + end * chunk, self._layout.size)
            if not self._zero(begin + first * chunk, last):
                return
        if not work.same():
            with self._counting:
                self._mark(work.index, work.index + 1)
        self._make_durable()

    def gap(self, first: int, end: int) -> None:
        """These leaves are zero by the extents: whoever has time for it zeroes them."""
        for at in range(first, end, _HOLE):
            self._holes.append((at, min(at + _HOLE, end)))

    def fill_gaps(self) -> None:
        """Zero what leaves were passed over so far."""
        while True:
            try:
                first, end = self._holes.popleft()
            except IndexError:
                return
            last = min(end * self._layout.leaf, self._layout.size)
            if not self._zero(first * self._layout.leaf, last):
                return
            with self._counting:
                self._mark(first, end)
            self._make_durable()

    def complete(
        self,
        disk: PointReader,
        *,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Whatever is not there yet comes from what was copied; durable on return.

        `progress` is told how many bytes of how many came so. CopyStopped when cancelled, Integrity
        when the vault's own is damaged.
        """
        missing = (i for i, there in enumerate(self._there) if not there)
        owed: tuple[Extent, ...] = tuple(disk.extents_of(missing))
        beyond = self._writer.size - self._layout.size
        if beyond:
            self._writer.zero(self._layout.size, beyond)
        before = self._bytes

        def told(done: int, total: int) -> None:
            self._bytes = before + done
            progress(done, total)

        bring(disk, owed, self._writer, progress=told, cancelled=cancelled)
        self._mark(0, len(self._there))
        self._reached(self._here())

    def _mark(self, first: int, end: int) -> None:
        self._there[first:end] = b"\1" * (end - first)

    def _zero(self, first: int, end: int) -> bool:
        """False when it was stopped on the way."""
        at = first
        while at < end:
            with self._writing:
                if self.stop.is_set():
                    return False
                length = min(self._zeroing.length, end - at)
                with self._zeroing.taken(length):
                    self._writer.zero(at, length)
            at += length
        return True

    def _here(self) -> Written:
        ranges = list(self._ranges())[:_RANGES]
        return Written(ranges=tuple(ranges), bytes=self._bytes)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        leaf, at = self._layout.leaf, self._there.find(1)
        while at >= 0:
            end = self._there.find(0, at)
            end = len(self._there) if end < 0 else end
            yield at * leaf, min(end * leaf, self._layout.size)
            at = self._there.find(1, end)
