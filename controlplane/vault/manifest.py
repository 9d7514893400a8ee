"""Manifests: copy-on-write trees of pages with 512 entries, stored as blobs in packs.

Level 0 refers to chunks, each higher level to pages below. An entry that is all zero is None. Pages
are content-addressed, so an unchanged subtree of an earlier point is referred to, not stored again.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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
_PAGES = 32

Entries = tuple[Ref | None, ...]


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


class Pages(Protocol):
    """Fetches the plain bytes of a page blob; Integrity when damaged."""

    def page(self, ref: Ref) -> bytes: ...


class Tree:
    """Reading one disk's manifest; keeps a few pages."""

    def __init__(self, *, pages: Pages, layout: Layout, top: Ref | None) -> None:
        self._pages = pages
        self._shape = Shape(layout=layout)
        self._layout = layout
        self._top = top
        self._levels = levels(layout)
        self._kept: OrderedDict[tuple[int, int], Entries] = OrderedDict()

    def page_ref(self, level: int, index: int) -> Ref | None:
        """The reference to a page; None where all of it is zero."""
        if level >= self._levels - 1:
            return self._top
        parent = self.entries(level + 1, index // FANOUT)
        return parent[index % FANOUT] if parent else None

    def entries(self, level: int, index: int) -> Entries | None:
        """The entries of a page; None where all of it is zero."""
        key = (level, index)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        ref = self.page_ref(level, index)
        if ref is None:
            return None
        count = self._shape.entries(level, index)
        entries = decode(self._pages.page(ref), level, index, count)
        self._kept[key] = entries
        while len(self._kept) > _PAGES:
            self._kept.popitem(last=False)
        return entries

    def chunk(self, number: int) -> Ref | None:
        entries = self.entries(0, number // FANOUT)
        return entries[number % FANOUT] if entries else None

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
