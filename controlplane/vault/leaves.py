"""Which chunks of each leaf page must be read, by what the source says of its extents."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from controlplane.domain.disk import BlockReader, ExtentKind
from controlplane.domain.vault import (
    Layout,
)
from controlplane.vault.digest import checked_extents

_UNSET, _ZERO, _SAME, _READ = range(4)
_KIND = {ExtentKind.ZERO: _ZERO, ExtentKind.UNCHANGED: _SAME, ExtentKind.DATA: _READ}


@dataclass(slots=True, kw_only=True)
class LeafWork:
    """One leaf page to be made; chunk numbers are relative to the leaf."""

    index: int
    kinds: bytearray = field(repr=False)

    @property
    def all_same(self) -> bool:
        return self.kinds.count(_SAME) == len(self.kinds)

    def same(self) -> list[int]:
        return [i for i, kind in enumerate(self.kinds) if kind == _SAME]

    def reread(self, chunk: int) -> None:
        """The chunk cannot be taken over from the base after all."""
        self.kinds[chunk] = _READ

    def runs(self) -> Iterator[tuple[int, int]]:
        """(first, end) of each run of chunks to read."""
        return self._runs(_READ)

    def holes(self) -> Iterator[tuple[int, int]]:
        """(first, end) of each run of chunks that are zero by the extents."""
        return self._runs(_ZERO)

    def _runs(self, kind: int) -> Iterator[tuple[int, int]]:
        at = self.kinds.find(kind)
        while at >= 0:
            end = at
            while end < len(self.kinds) and self.kinds[end] == kind:
                end += 1
            yield at, end
            at = self.kinds.find(kind, end)


def leaf_works(reader: BlockReader, layout: Layout) -> Iterator[LeafWork]:
    """Every leaf that is not zero by its extents, in order."""
    work: LeafWork | None = None
    for start, end, extent in checked_extents(reader):
        kind = _KIND[extent]
        at = start
        while at < end:
            index = at // layout.leaf
            leaf_end = index * layout.leaf + layout.leaf_length(index)
            if work is not None and work.index != index:
                yield work
                work = None
            part_end = min(end, leaf_end)
            whole = at == index * layout.leaf and part_end == leaf_end
            if kind == _ZERO and work is None and whole:
                at = part_end  # large holes are crossed without a thought
                continue
            if work is None:
                work = LeafWork(index=index, kinds=bytearray(layout.leaf_chunks(index)))
            _mark(
                work.kinds, kind, at - index * layout.leaf, part_end - index * layout.leaf, layout
            )
            at = part_end
    if work is not None:
        yield work


def _mark(kinds: bytearray, kind: int, start: int, end: int, layout: Layout) -> None:
    """A chunk that two kinds share must be read."""
    first, last = start // layout.chunk, -(-end // layout.chunk)
    middle, middle_end = first + 1, last - 1
    if middle < middle_end:
        kinds[middle:middle_end] = bytes([kind]) * (middle_end - middle)
    for edge in {first, last - 1}:
        kinds[edge] = kind if kinds[edge] in {_UNSET, kind} else _READ
