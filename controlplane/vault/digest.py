"""The digest tree of a disk's content, the same whatever way the disk was stored.

Leaves are BLAKE3 of each 64 KiB block, joined as in RFC 9162; leaf, node and root are kept apart by
BLAKE3 derivation contexts. The root binds the length.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

from blake3 import blake3

from controlplane.domain.disk import BlockReader, ExtentKind, is_forward, read_each
from controlplane.domain.errors import Integrity, Invalid
from controlplane.domain.vault import (
    BLOCK,
)
from controlplane.vault.cores import CORES
from controlplane.vault.nouns import (
    BATCH,
    CopyProgress,
    CopyStopped,
)
from controlplane.vault.stride import Stride

_LEAF = "fedctl 2026-11 disk digest: block"
_NODE = "fedctl 2026-11 disk digest: node"
_ROOT = "fedctl 2026-11 disk digest: disk"
_SPAN = 32 * 1024 * 1024
_WORKERS = CORES
_POLL = 0.2
ZEROS = bytes(BATCH)


def is_zero(data: bytes, offset: int, length: int) -> bool:
    """Whether those bytes (at most 4 MiB) are all zero, at the speed of memcmp."""
    return data.startswith(ZEROS if length == BATCH else zeros(length), offset)


@lru_cache(maxsize=64)
def zeros(length: int) -> bytes:
    """That many zero bytes (at most 4 MiB), kept for the next who asks."""
    return ZEROS[:length]


def block_digest(block: bytes | memoryview) -> bytes:
    return blake3(block, derive_key_context=_LEAF).digest()


def join(nodes: Sequence[bytes]) -> bytes:
    """The Merkle root over subtrees of equal power-of-two size, the last maybe smaller."""
    if not nodes:
        return block_digest(b"")
    level = list(nodes)
    while len(level) > 1:
        joined = [
            blake3(level[i] + level[i + 1], derive_key_context=_NODE).digest()
            for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            joined.append(level[-1])
        level = joined
    return level[0]


def content_digest(data: bytes | memoryview) -> bytes:
    """The subtree over `data`, which starts at a multiple of its rounded-up power of two."""
    if len(data) <= BLOCK:
        return block_digest(data)
    view = memoryview(data)
    return join([block_digest(view[i : i + BLOCK]) for i in range(0, len(data), BLOCK)])


@lru_cache(maxsize=256)
def zero_digest(length: int) -> bytes:
    """`content_digest` of that many zero bytes, without having them."""
    if length <= BLOCK:
        return block_digest(bytes(length))
    blocks = -(-length // BLOCK)
    left = BLOCK * (1 << ((blocks - 1).bit_length() - 1))
    return join([zero_digest(left), zero_digest(length - left)])


def root_digest(tree: bytes, size: int) -> str:
    return blake3(size.to_bytes(8, "big") + tree, derive_key_context=_ROOT).hexdigest()


def digest(
    reader: BlockReader,
    *,
    length: int,
    progress: Callable[[CopyProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> str:
    """The digest of the first `length` bytes; Integrity says where a byte after them is not zero.

    A thread a core; extents that say zero cost nothing. CopyStopped when cancelled.
    """
    if reader.size < length:
        raise Integrity(f"the disk has {reader.size} bytes, fewer than the {length} to compare")
    return _Digest(reader, length, progress, cancelled).run()


class _Digest:
    def __init__(
        self,
        reader: BlockReader,
        length: int,
        progress: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._reader = reader
        self._length = length
        self._progress = progress
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stride = Stride()
        self._spans = spans(reader, _SPAN)
        self._nodes: dict[int, bytes] = {}
        self._done = 0
        self._read = 0

    def run(self) -> str:
        threads = 1 if is_forward(self._reader) else _WORKERS
        with ThreadPoolExecutor(threads, thread_name_prefix="digest") as pool:
            pending = {pool.submit(self._work) for _ in range(threads)}
            try:
                while pending:
                    done, pending = wait(pending, timeout=_POLL)
                    for future in done:
                        future.result()
                    if self._cancelled():
                        raise CopyStopped
                    self._progress(self._seen())
            finally:
                self._stop.set()
        nodes = [
            self._nodes.get(i) or zero_digest(min(_SPAN, self._length - i * _SPAN))
            for i in range(-(-self._length // _SPAN))
        ]
        return root_digest(join(nodes), self._length)

    def _seen(self) -> CopyProgress:
        return CopyProgress(
            total=self._reader.size, done=self._done, read=self._read, fresh=0, stored=0
        )

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                span = next(self._spans, None)
            if span is None:
                return
            self._span(*span)

    def _span(self, start: int, end: int, runs: list[tuple[int, int]]) -> None:
        wanted = min(end, self._length) - start
        blocks = [zero_digest(min(BLOCK, wanted - i)) for i in range(0, max(wanted, 0), BLOCK)]
        for group in self._stride.groups(runs):
            with self._lock:
                if self._stop.is_set():
                    return
                with self._stride.taken(sum(length for _, length in group)):
                    read = read_each(self._reader, group)
            for (at, _), data in zip(group, read, strict=True):
                self._read += len(data)
                self._hash(data, at, start, blocks)
        if blocks:
            self._nodes[start // _SPAN] = join(blocks)
        self._done = max(self._done, end)

    def _hash(self, data: bytes, at: int, start: int, blocks: list[bytes]) -> None:
        view = memoryview(data)
        for i in range(0, len(data), BLOCK):
            keep = min(BLOCK, len(data) - i, max(self._length - at - i, 0))
            rest = min(BLOCK, len(data) - i) - keep
            if rest and not is_zero(data, i + keep, rest):
                dirty = next(n for n in range(i + keep, len(data)) if data[n])
                raise Integrity(
                    f"the disk is longer than the {self._length} bytes it should have, and byte"
                    f" {at + dirty} beyond them is not zero"
                )
            if keep and not is_zero(data, i, keep):
                blocks[(at + i - start) // BLOCK] = block_digest(view[i : i + keep])


def spans(reader: BlockReader, span: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """(start, end, runs that must be read, block-aligned) of each span that is not all zero."""
    current, runs = -1, list[tuple[int, int]]()
    for start, end, kind in checked_extents(reader):
        if kind is ExtentKind.ZERO:
            continue
        at = start - start % BLOCK
        while at < end:
            number = at // span
            if number != current:
                if runs:
                    yield current * span, min((current + 1) * span, reader.size), runs
                current, runs = number, []
            limit = (number + 1) * span
            last = min(-(-min(end, limit) // BLOCK) * BLOCK, reader.size)
            first = max(at, runs[-1][1]) if runs else at
            if first < last:
                runs.append((first, last))
            at = limit
    if runs:
        yield current * span, min((current + 1) * span, reader.size), runs


def checked_extents(reader: BlockReader) -> Iterator[tuple[int, int, ExtentKind]]:
    """(start, end, kind); Invalid when a reader breaks its promise of order and completeness."""
    at = 0
    for extent in reader.extents():
        if extent.offset != at or extent.length <= 0 or extent.offset + extent.length > reader.size:
            raise Invalid(
                f"the source describes {extent.length} bytes at {extent.offset} where byte {at} of"
                f" {reader.size} comes next: its block map cannot be used"
            )
        at += extent.length
        yield extent.offset, at, extent.kind
    if at != reader.size:
        raise Invalid(f"the source's block map ends at byte {at} of {reader.size}")
