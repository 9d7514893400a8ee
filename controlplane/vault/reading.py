"""A recovery point's disk as a block reader: random access, decrypted and checked."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Self

from controlplane.domain.disk import MIB, Extent, ExtentKind
from controlplane.domain.errors import Integrity, Invalid
from controlplane.domain.vault import (
    FANOUT,
    DiskCopied,
    Ref,
)
from controlplane.vault.blobs import Blobs
from controlplane.vault.digest import zeros
from controlplane.vault.manifest import Entries, Tree, same

_AHEAD = 2 * MIB
_KEPT = 8 * MIB


class PointReader:
    """Reads one disk of a point. `subject` names instance and disk in what goes wrong.

    Many threads may share it; they wait for each other where they share what is kept, not for the
    store.
    """

    def __init__(self, *, copied: DiskCopied, blobs: Blobs, subject: str) -> None:
        self._copied = copied
        self._layout = copied.layout
        self._blobs = blobs
        self._subject = subject
        self._tree = Tree(pages=blobs, layout=self._layout, top=copied.top)
        self._lock = Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._keep = max(_KEPT // self._layout.chunk, 1)
        self._ahead = max(_AHEAD // self._layout.chunk, 1)
        self._next = -1
        self._closed = False

    @property
    def size(self) -> int:
        return self._copied.size

    @property
    def digest(self) -> str:
        return self._copied.digest

    def extents(self) -> Iterator[Extent]:
        start, kind = 0, ExtentKind.ZERO
        for at, found in self._runs():
            if found is not kind:
                if at > start:
                    yield Extent(offset=start, length=at - start, kind=kind)
                start, kind = at, found
        if self.size > start:
            yield Extent(offset=start, length=self.size - start, kind=kind)

    def changes_since(self, base: Self) -> Iterator[Extent]:
        """The extents whose content differs from `base`'s, in ascending order; the rest is equal.

        Of one chunk size and one length, else Invalid; pages that both share are not read.
        """
        layout = self._layout
        if (layout.size, layout.chunk) != base.shape:
            raise Invalid(f"{self._subject} is not of the disk that it is to be compared with")
        return self._merged(self._differing(base))

    def extents_of(self, leaves: Iterable[int]) -> Iterator[Extent]:
        """What these leaf pages, in ascending order, cover: data and zeros."""
        return self._merged(
            (leaf * FANOUT + i, ref)
            for leaf in leaves
            for i, ref in enumerate(self.leaf_entries(leaf)[: self._layout.leaf_chunks(leaf)])
        )

    def _merged(self, chunks: Iterable[tuple[int, Ref | None]]) -> Iterator[Extent]:
        """Chunks that lie side by side and are of one kind, as one."""
        layout = self._layout
        run: Extent | None = None
        for number, ref in chunks:
            offset, length = number * layout.chunk, layout.chunk_length(number)
            kind = ExtentKind.ZERO if ref is None else ExtentKind.DATA
            if run and run.kind is kind and run.offset + run.length == offset:
                run = Extent(offset=run.offset, length=run.length + length, kind=kind)
                continue
            if run:
                yield run
            run = Extent(offset=offset, length=length, kind=kind)
        if run:
            yield run

    @property
    def shape(self) -> tuple[int, int]:
        """Size and chunk size in bytes."""
        return self._layout.size, self._layout.chunk

    @property
    def chunk(self) -> int:
        """A chunk's length in bytes."""
        return self._layout.chunk

    def frames(self, first: int, count: int) -> list[int | None]:
        """As FrameReader says; Integrity names what is damaged."""
        refs = self._refs(range(first, first + count))
        try:
            lengths = iter(self._blobs.frames([ref for _, ref in refs if ref is not None]))
        except Integrity as e:
            raise self._named(first * self._layout.chunk, str(e)) from e
        found: list[int | None] = [None if ref is None else next(lengths) for _, ref in refs]
        short = self._short - first
        if 0 <= short < count and found[short] is not None:
            found[short] = 0
        return found

    def read_stored(self, chunks: Sequence[int]) -> list[bytes]:
        """As FrameReader says; decrypted, and frames neither decompressed nor rehashed.

        The seal binds each frame to its chunk's id, so what comes is what was read back when the
        point was made, or Integrity.
        """
        refs = self._refs(chunks)
        got = self._blobs.stored([ref for _, ref in refs if ref is not None])
        out: list[bytes] = []
        for (number, _), body in zip(refs, got, strict=True):
            if isinstance(body, Integrity):
                raise self._named(number * self._layout.chunk, str(body)) from body
            out.append(body)
        if self._short in chunks:
            at = self._short * self._layout.chunk
            out[list(chunks).index(self._short)] = self.read(at, self.size - at)
        return out

    def chunks(self, numbers: Sequence[int]) -> list[bytes]:
        """Plain chunks, opened on the caller's thread; none of them may be all zero.

        For threads that share a disk between them: nothing is kept or read ahead.
        """
        refs = self._refs(numbers)
        got = self._blobs.fetch([ref for _, ref in refs if ref is not None], alone=True)
        out: list[bytes] = []
        for (number, _), plain in zip(refs, got, strict=True):
            if isinstance(plain, Integrity):
                raise self._named(number * self._layout.chunk, str(plain)) from plain
            out.append(plain)
        return out

    @property
    def _short(self) -> int:
        """The number of a last chunk that is shorter than the others; -1 without one."""
        return self._layout.chunks - 1 if self.size % self._layout.chunk else -1

    def leaf(self, index: int) -> Ref | None:
        """The reference to leaf page number `index`; None where all of it is zero."""
        with self._lock:
            return self._tree.page_ref(0, index)

    def leaf_entries(self, index: int) -> Entries:
        with self._lock:
            return self._tree.entries(0, index) or (None,) * FANOUT

    def _differing(self, base: Self) -> Iterator[tuple[int, Ref | None]]:
        for leaf in range(self._layout.leaves):
            if same(self.leaf(leaf), base.leaf(leaf)):
                continue
            mine, theirs = self.leaf_entries(leaf), base.leaf_entries(leaf)
            for i in range(self._layout.leaf_chunks(leaf)):
                if not same(mine[i], theirs[i]):
                    yield leaf * FANOUT + i, mine[i]

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Invalid(f"{self._subject} has {self.size} bytes; {offset}+{length} is beyond")
        if not length:
            return b""
        chunk = self._layout.chunk
        first, end = offset // chunk, -(-(offset + length) // chunk)
        chunks = self._chunks(first, end)
        if len(chunks) == 1:
            return chunks[0][offset - first * chunk : offset - first * chunk + length]
        chunks[0] = chunks[0][offset - first * chunk :]
        over = sum(map(len, chunks)) - length
        if over:
            chunks[-1] = chunks[-1][: len(chunks[-1]) - over]
        return b"".join(chunks)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._kept.clear()

    def _runs(self) -> Iterator[tuple[int, ExtentKind]]:
        layout = self._layout
        for leaf in range(layout.leaves):
            with self._lock:
                entries = self._tree.entries(0, leaf)
            if entries is None:
                yield leaf * layout.leaf, ExtentKind.ZERO
                continue
            for i, ref in enumerate(entries):
                kind = ExtentKind.ZERO if ref is None else ExtentKind.DATA
                yield leaf * layout.leaf + i * layout.chunk, kind

    def _chunks(self, first: int, end: int) -> list[bytes]:
        with self._lock:
            self._check_open()
            found = {n: self._kept[n] for n in range(first, end) if n in self._kept}
            for n in found:
                self._kept.move_to_end(n)
            missing = [n for n in range(first, end) if n not in found]
            # A reader that goes forward gets the following chunks fetched along.
            if missing and self._next == first:
                stop = min(max(end, first + self._ahead), self._layout.chunks)
                missing += [n for n in range(end, stop) if n not in self._kept]
            self._next = end
        if missing:
            found |= self._fetch(missing, end)
        return [found[n] for n in range(first, end)]

    def _check_open(self) -> None:
        if self._closed:
            raise Invalid(f"{self._subject}: the reader is closed")

    def _refs(self, numbers: Sequence[int]) -> list[tuple[int, Ref | None]]:
        found: list[tuple[int, Ref | None]] = []
        try:
            for ref in self._tree.chunks(numbers):
                found.append((numbers[len(found)], ref))
        except Integrity as e:
            leaf = numbers[len(found)] // FANOUT * self._layout.leaf
            raise self._named(leaf, f"the manifest page there: {e}") from e
        return found

    def _fetch(self, numbers: list[int], end: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        wanted: list[tuple[int, Ref]] = []
        for n in numbers:
            try:
                [(_, ref)] = self._refs([n])
            except Integrity:
                if n >= end:
                    continue
                raise
            if ref is None:
                found[n] = zeros(self._layout.chunk_length(n))
            else:
                wanted.append((n, ref))
        got = self._blobs.fetch([ref for _, ref in wanted])
        kept: dict[int, bytes] = {}
        for (n, _), plain in zip(wanted, got, strict=True):
            if not isinstance(plain, Integrity):
                kept[n] = plain
            elif n < end:
                raise self._named(n * self._layout.chunk, str(plain)) from plain
        with self._lock:
            self._check_open()
            self._kept |= kept
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        return found | kept

    def _named(self, offset: int, what: str) -> Integrity:
        return Integrity(
            f"{self._subject}, offset {offset}: stored data is damaged: {what}; take a new"
            " recovery point, which stores it again, or use another copy"
        )
