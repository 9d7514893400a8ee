"""A disk streamed from its reader into a writer, with the digest of all that it holds.

Three threads: while one reads, another hashes and the third writes, and whoever is ahead waits, so
that there are never more than three strides of bytes under way. What is zero is written as zero: a
new disk is not known to be empty. `Reached` says how far everything is written and durable: who
goes on from there ends with the same digest.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from time import monotonic

from controlplane.domain.disk import GIB, MIB, BlockReader, BlockWriter, read_each
from controlplane.domain.errors import Integrity, Invalid
from controlplane.domain.vault import BLOCK
from controlplane.vault.digest import (
    block_digest,
    is_zero,
    join,
    root_digest,
    spans,
    zero_digest,
)
from controlplane.vault.durable import Durable
from controlplane.vault.nouns import CopyProgress, CopyStopped
from controlplane.vault.stride import Stride

SPAN = 32 * MIB
_WORKERS = 3
_MOST = 2 * MIB  # more falls out of the processor's caches between reading, hashing and writing
_POLL, _HEED = 0.2, 0.05
_GAP = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The first `spans` of a disk (32 MiB each) are at the target, durable, and were hashed.

    `peaks` are the digests of the whole subtrees over them, the largest first, in hex; `read` and
    `written` count bytes, zeros aside.
    """

    spans: int = 0
    peaks: tuple[str, ...] = ()
    read: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """Bytes of all attempts together, and the digest of the whole length of the source."""

    size: int
    digest: str
    bytes_read: int
    bytes_written: int


def stream(
    reader: BlockReader,
    writer: BlockWriter,
    *,
    progress: Callable[[CopyProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    reached: Callable[[Reached], None] = lambda _: None,
    since: Reached | None = None,
) -> Streamed:
    """All of `reader` into `writer`, whose bytes beyond it become zero; durable on return.

    `reached` is told now and then, from another thread, one at a time; an attempt that goes on
    `since` then must read and write the same disks. Invalid when the writer's disk is shorter.
    CopyStopped when cancelled: whatever was not reached is in no known state.
    """
    if writer.size < reader.size:
        raise Invalid(
            f"the target's disk has {writer.size} bytes, fewer than the {reader.size} of the source"
        )
    return _Stream(reader, writer, progress, cancelled, reached, since or Reached()).run()


@dataclass(slots=True, kw_only=True)
class _Range:
    """`count` spans from number `index` on; `owed` tasks until all of it is written.

    `blocks` are the digests of its blocks; none where all is zero.
    """

    index: int
    count: int = 1
    blocks: list[bytes] = field(default_factory=list)
    owed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """`parts` (offset, length) to read and write, `holes` (first, end) to zero."""

    of: _Range
    parts: list[tuple[int, int]] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)


class _Tree:
    """The Merkle tree over spans that come in their order: the tops of its whole subtrees."""

    def __init__(self, count: int, peaks: list[bytes]) -> None:
        self.count = count
        self.peaks = peaks

    def add(self, node: bytes) -> None:
        count = self.count
        while count & 1:
            node = join([self.peaks.pop(), node])
            count >>= 1
        self.peaks.append(node)
        self.count += 1

    def top(self) -> bytes:
        if not self.peaks:
            return join([])
        top = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            top = join([peak, top])
        return top


class _Stream:
    def __init__(  # noqa: PLR0917  # what `stream` was told
        self,
        reader: BlockReader,
        writer: BlockWriter,
        progress: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
        reached: Callable[[Reached], None],
        since: Reached,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._size = reader.size
        self._progress = progress
        self._cancelled = cancelled
        self._reached = reached
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._stride, self._zeroing = Stride(most=_MOST), Stride(most=GIB)
        self._tree = _Tree(since.spans, [bytes.fromhex(peak) for peak in since.peaks])
        self._ready: dict[int, tuple[_Range, bytes]] = {}
        self._read, self._written = since.read, since.written
        self._done = min(since.spans * SPAN, self._size)
        self._make_durable = Durable(
            writer,
            writing=self._writing,
            counting=self._counting,
            here=self._here,
            reached=reached,
        )
        self._whole, self._begun = False, 0
        self._tasks = self._cut()

    def run(self) -> Streamed:
        told = 0.0
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="stream") as pool:
            pending = {pool.submit(self._work) for _ in range(_WORKERS)}
            try:
                while pending:
                    done, pending = wait(pending, timeout=_HEED)
                    for future in done:
                        future.result()
                    if monotonic() - told >= _POLL:
                        self._progress(self._seen())
                        told = monotonic()
                    if self._cancelled():
                        self._stop.set()
            finally:
                self._stop.set()
        if not self._whole or self._begun:
            raise CopyStopped
        self._writer.finish()
        self._reached(self._here())
        self._progress(self._seen())
        return Streamed(
            size=self._size,
            digest=root_digest(self._tree.top(), self._size),
            bytes_read=self._read,
            bytes_written=self._written,
        )

    @property
    def _spans(self) -> int:
        return -(-self._size // SPAN)

    def _seen(self) -> CopyProgress:
        return CopyProgress(
            total=self._size, done=self._done, read=self._read, fresh=self._written, stored=0
        )

    # What there is to do, in the disk's order

    def _cut(self) -> Iterator[_Task]:
        at = self._tree.count
        for start, end, runs in spans(self._reader, SPAN):
            index = start // SPAN
            if index < at:
                continue
            yield from self._gap(at, index)
            yield from self._data(index, start, end, runs)
            at = index + 1
        yield from self._gap(at, self._spans)
        if self._writer.size > self._size:
            beyond = [(self._size, self._writer.size)]
            yield _Task(of=_Range(index=self._spans, count=0), holes=beyond)

    def _gap(self, first: int, end: int) -> Iterator[_Task]:
        for index in range(first, end, _GAP):
            count = min(_GAP, end - index)
            hole = (index * SPAN, min((index + count) * SPAN, self._size))
            yield _Task(of=_Range(index=index, count=count), holes=[hole])

    def _data(
        self, index: int, start: int, end: int, runs: list[tuple[int, int]]
    ) -> Iterator[_Task]:
        blocks = [zero_digest(min(BLOCK, end - at)) for at in range(start, end, BLOCK)]
        of = _Range(index=index, blocks=blocks)
        holes = _between(start, end, runs)
        for parts in self._stride.groups(runs):
            with self._counting:
                of.owed += 1
            yield _Task(of=of, parts=parts, holes=holes)
            holes = []
        self._settle(of)

    # Doing it

    def _work(self) -> None:
        try:
            while self._next():
                self._make_durable()
        except BaseException:
            self._stop.set()
            raise

    def _next(self) -> bool:
        """One task; false when there is none, or when it was stopped before the task was done."""
        with self._reading:
            if self._stop.is_set():
                return False
            task = next(self._tasks, None)
            if task is None:
                self._whole = True
                return False
            with self._counting:
                self._begun += 1
            with self._stride.taken(sum(length for _, length in task.parts)):
                read = read_each(self._reader, task.parts)
        for (offset, length), data in zip(task.parts, read, strict=True):
            if len(data) != length:
                raise Integrity(
                    f"the source gave {len(data)} bytes at {offset} instead of {length}"
                )
            self._bring(task.of, offset, data)
        for first, end in task.holes:
            if not self._zero(first, end):
                return False
        self._settle(task.of)
        with self._counting:
            self._begun -= 1
        return True

    def _bring(self, of: _Range, offset: int, data: bytes) -> None:
        runs = list(self._hashed(of, offset, data))
        written = sum(end - first for first, end, zero in runs if not zero)
        with self._writing, self._stride.taken(written):
            for first, end, zero in runs:
                if zero:
                    self._writer.zero(offset + first, end - first)
                else:
                    whole = end - first == len(data)
                    self._writer.write(offset + first, data if whole else data[first:end])
        with self._counting:
            self._read += len(data)
            self._written += written
            self._done += len(data)

    @staticmethod
    def _hashed(of: _Range, offset: int, data: bytes) -> Iterator[tuple[int, int, bool]]:
        """(first, end, whether it is all zero) of each run of blocks, whose digests are noted."""
        view = memoryview(data)
        block = offset // BLOCK - of.index * (SPAN // BLOCK)
        began, before = 0, is_zero(data, 0, min(BLOCK, len(data)))
        for at in range(0, len(data), BLOCK):
            end = min(at + BLOCK, len(data))
            zero = is_zero(data, at, end - at)
            if not zero:
                of.blocks[block + at // BLOCK] = block_digest(view[at:end])
            if zero is not before:
                yield began, at, before
                began, before = at, zero
        yield began, len(data), before

    def _zero(self, first: int, end: int) -> bool:
        at = first
        while at < end:
            with self._writing:
                if self._stop.is_set():
                    return False
                length = min(self._zeroing.length, end - at)
                with self._zeroing.taken(length):
                    self._writer.zero(at, length)
            at += length
            with self._counting:
                self._done = min(self._done + length, self._size)
        return True

    def _settle(self, of: _Range) -> None:
        """One task of it is done; with the last of them it takes its place in the tree."""
        with self._counting:
            of.owed -= 1
            if of.owed:
                return
        top = join(of.blocks) if of.blocks else b""
        with self._counting:
            self._ready[of.index] = of, top
            while (next_one := self._ready.pop(self._tree.count, None)) is not None:
                ready, node = next_one
                for index in range(ready.index, ready.index + ready.count):
                    length = min(SPAN, self._size - index * SPAN)
                    self._tree.add(node or zero_digest(length))

    def _here(self) -> Reached:
        return Reached(
            spans=self._tree.count,
            peaks=tuple(peak.hex() for peak in self._tree.peaks),
            read=self._read,
            written=self._written,
        )


def _between(start: int, end: int, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What the runs leave out of start to end."""
    edges = [start, *(edge for run in runs for edge in run), end]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
