"""Manifests: copy-on-write trees of pages with 512 entries, stored as blobs in packs.

Level 0 refers to chunks, each higher level to pages below. An entry that is all zero is None. Pages
are content-addressed, so an unchanged subtree of an earlier point is referred to, not stored again.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Generic, Protocol, TypeVar

from controlplane.domain.errors import Integrity
from controlplane.domain.vault import (
    FANOUT,
    Layout,
    Ref,
)
from controlplane.vault.digest import join, zero_digest

_HEAD = struct.Struct(">4sBQHH")
_ENTRY = struct.Struct(">HI32s32s")
_MAGIC = b"fpg1"
_ZERO = b"\xff\xff"
_PAGES, _OUTLINES = 256, 8192

K = TypeVar("K")
V = TypeVar("V")
Entries = tuple[Ref | None, ...]
_Page = tuple[bytes, int, int]


def encode(level: int, index: int, entries: Sequence[Ref | None]) -> bytes:
    """Page number `index` of `level`; each pack is named once."""
    packs: dict[bytes, int] = {}
    body = [
        _ZERO
        if ref is None
        else _ENTRY.pack(packs.setdefault(ref.pack, len(packs)), ref.position, ref.id, ref.digest)
        for ref in entries
    ]
    return b"".join([_HEAD.pack(_MAGIC, level, index, len(packs), len(entries)), *packs, *body])


def decode(page: bytes, level: int, index: int, count: int) -> Entries:
    magic, found_level, found_index, pack_count, found = _HEAD.unpack_from(page)
    if (magic, found_level, found_index, found) != (_MAGIC, level, index, count):
        raise Integrity(f"manifest page {index} of level {level} is another page than it should be")
    at = _HEAD.size
    packs = [page[at + 32 * i : at + 32 * i + 32] for i in range(pack_count)]
    at += 32 * pack_count
    entries: list[Ref | None] = []
    for _ in range(count):
        if page[at : at + 2] == _ZERO:
            entries.append(None)
            at += 2
            continue
        pack, position, identity, digest = _ENTRY.unpack_from(page, at)
        entries.append(Ref(pack=packs[pack], position=position, id=identity, digest=digest))
        at += _ENTRY.size
    return tuple(entries)


def same(one: Ref | None, other: Ref | None) -> bool:
    """Whether both refer to equal content, wherever it is stored."""
    return (one and one.digest) == (other and other.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The packs that a page's entries lie in, and how many entries are not zero."""

    packs: tuple[bytes, ...]
    entries: int


def outline(page: bytes) -> Outline:
    """Told by the page's head and length, without looking at its entries."""
    _, _, _, packs, count = _HEAD.unpack_from(page)
    body = len(page) - _HEAD.size - 32 * packs - len(_ZERO) * count
    return Outline(packs=packs_of(page), entries=body // (_ENTRY.size - len(_ZERO)))


def packs_of(page: bytes) -> tuple[bytes, ...]:
    """The packs that a page's entries lie in, without looking at the entries."""
    count = _HEAD.unpack_from(page)[3]
    return tuple(page[_HEAD.size + 32 * i : _HEAD.size + 32 * i + 32] for i in range(count))


def levels(layout: Layout) -> int:
    """How many levels of pages; the topmost has one page."""
    count, width = 1, layout.leaves
    while width > 1:
        width = -(-width // FANOUT)
        count += 1
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Where the pages of a layout are."""

    layout: Layout

    def span(self, level: int) -> int:
        """Bytes that one entry of a page of `level` covers."""
        return self.layout.chunk * int(FANOUT**level)

    def entries(self, level: int, index: int) -> int:
        total = -(-self.layout.size // self.span(level))
        return min(FANOUT, total - index * FANOUT)

    def digest(self, level: int, index: int, entries: Sequence[Ref | None]) -> bytes:
        """The content digest of everything that the page covers."""
        span = self.span(level)
        first = index * FANOUT
        return join(
            [
                zero_digest(min(span, self.layout.size - (first + i) * span))
                if ref is None
                else ref.digest
                for i, ref in enumerate(entries)
            ]
        )


class Recent(Generic[K, V]):
    """The last `most` that were used. For many threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def keep(self, key: K, value: V) -> None:
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


class KeptPages:
    """What was read lately of pages, of any tree: entries by id and place, outlines by id."""

    def __init__(self) -> None:
        self.entries: Recent[_Page, Entries] = Recent(_PAGES)
        self.outlines: Recent[bytes, Outline] = Recent(_OUTLINES)


class Pages(Protocol):
    """Fetches the plain bytes of a page blob; Integrity when damaged."""

    kept: KeptPages

    def page(self, ref: Ref) -> bytes: ...


class Tree:
    """Reading one disk's manifest."""

    def __init__(self, *, pages: Pages, layout: Layout, top: Ref | None) -> None:
        self._pages = pages
        self._shape = Shape(layout=layout)
        self._layout = layout
        self._top = top
        self._levels = levels(layout)

    def page_ref(self, level: int, index: int) -> Ref | None:
        """The reference to a page; None where all of it is zero."""
        if level >= self._levels - 1:
            return self._top
        parent = self.entries(level + 1, index // FANOUT)
        return parent[index % FANOUT] if parent else None

    def entries(self, level: int, index: int) -> Entries | None:
        """The entries of a page; None where all of it is zero."""
        ref = self.page_ref(level, index)
        if ref is None:
            return None
        entries = self._pages.kept.entries.get((ref.id, level, index))
        if entries is None:
            count = self._shape.entries(level, index)
            entries = decode(self._pages.page(ref), level, index, count)
            self._pages.kept.entries.keep((ref.id, level, index), entries)
        return entries

    def made(self, ref: Ref, level: int, index: int, entries: Sequence[Ref | None]) -> None:
        """A page that was just stored: whoever reads the point next need not fetch it."""
        self._pages.kept.entries.keep((ref.id, level, index), tuple(entries))

    def outline(self, ref: Ref) -> Outline:
        """Of the page that is referred to."""
        known = self._pages.kept.outlines.get(ref.id)
        if known is None:
            known = outline(self._pages.page(ref))
            self._pages.kept.outlines.keep(ref.id, known)
        return known

    def chunk(self, number: int) -> Ref | None:
        entries = self.entries(0, number // FANOUT)
        return entries[number % FANOUT] if entries else None

    def chunks(self, numbers: Iterable[int]) -> Iterator[Ref | None]:
        """As `chunk` for each; a page that several lie in is looked up once."""
        leaf, entries = -1, None
        for number in numbers:
            if number // FANOUT != leaf:
                leaf = number // FANOUT
                entries = self.entries(0, leaf)
            yield entries[number % FANOUT] if entries else None

    def refs(self) -> Iterator[Ref]:
        """Every reference of the disk: pages and chunks."""
        if self._top is not None:
            yield self._top
            yield from self._below(self._levels - 1, 0)

    def packs(self) -> frozenset[bytes]:
        """Every pack that the disk needs; of leaf pages only the list of packs is read."""
        if self._top is None:
            return frozenset()
        found = {self._top.pack}
        below = [(self._levels - 1, 0, self._top)]
        while below:
            level, index, ref = below.pop()
            page = self._pages.page(ref)
            found.update(packs_of(page))
            if level:
                entries = decode(page, level, index, self._shape.entries(level, index))
                below += [
                    (level - 1, index * FANOUT + i, entry)
                    for i, entry in enumerate(entries)
                    if entry is not None
                ]
        return frozenset(found)

    def _below(self, level: int, index: int) -> Iterator[Ref]:
        for i, ref in enumerate(self.entries(level, index) or ()):
            if ref is not None:
                yield ref
                if level:
                    yield from self._below(level - 1, index * FANOUT + i)
