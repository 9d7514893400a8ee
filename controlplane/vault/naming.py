"""Which places of which disks are damaged: from bad blobs to instances, disks and offsets."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from controlplane.domain.errors import Integrity
from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import FANOUT, Damage, DiskCopied, Layout, PointRecord, Ref
from controlplane.vault.blobs import Blobs
from controlplane.vault.index import ChunkIndex
from controlplane.vault.manifest import Entries, Shape, decode, levels, packs_of
from controlplane.vault.nouns import CopyStopped

Extents = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """(offset, length) of what of a disk is damaged, alike in all these points.

    `again`: other such places were stored again since, and are read from there.
    """

    tenant: TenantName
    instance: InstanceId
    disk: int
    extents: Extents
    again: Extents
    points: tuple[PointId, ...]


@dataclass(slots=True, kw_only=True)
class Naming:
    """Of one domain; subtrees of manifests that hold no damage are read once for all points."""

    damages: Collection[Damage]
    blobs: Blobs
    index: ChunkIndex
    domain: str
    stopped: Callable[[], bool]
    healing: set[bytes] = field(default_factory=set)
    """Packs that have such places stored again, of all points so far."""
    _clean: set[bytes] = field(default_factory=set)
    _whole: set[bytes] = field(default_factory=set)
    _bad: set[tuple[bytes, int]] = field(default_factory=set)
    _touched: set[bytes] = field(default_factory=set)

    def run(self, points: Iterable[PointRecord]) -> list[Affected]:
        self._whole = {d.pack for d in self.damages if d.position is None}
        self._bad = {(d.pack, d.position) for d in self.damages if d.position is not None}
        self._touched = {d.pack for d in self.damages}
        self.index.refresh(self.domain)
        found: dict[tuple[TenantName, InstanceId, int, Extents, Extents], list[PointId]] = {}
        for record in points:
            for copied in record.disks:
                bad, again = self._disk(copied)
                if bad or again:
                    key = (record.tenant, record.instance, copied.disk, bad, again)
                    found.setdefault(key, []).append(record.point)
        return [
            Affected(
                tenant=tenant, instance=instance, disk=disk, extents=bad, again=again,
                points=tuple(at),
            )
            for (tenant, instance, disk, bad, again), at in found.items()
        ]  # fmt: skip

    def _disk(self, copied: DiskCopied) -> tuple[Extents, Extents]:
        if copied.top is None:
            return (), ()
        bad: list[tuple[int, int]] = []
        again: list[tuple[int, int]] = []
        self._page(copied.layout, levels(copied.layout) - 1, 0, copied.top, bad, again)
        return merged(bad), merged(again)

    def _page(  # noqa: PLR0917  # where in the tree, and the two lists it adds to
        self, layout: Layout, level: int, index: int, ref: Ref,
        bad: list[tuple[int, int]], again: list[tuple[int, int]],
    ) -> None:  # fmt: skip
        key = page_key(ref)
        if key in self._clean:
            return
        if self.stopped():
            raise CopyStopped
        shape = Shape(layout=layout)
        span = shape.span(level)
        start = index * FANOUT * span
        everything = (start, min(FANOUT * span, layout.size - start))
        if self._hit(ref):
            bad.append(everything)
            return
        try:
            entries = self._entries(shape, level, index, ref)
        except Integrity:
            bad.append(everything)
            return
        before = len(bad), len(again)
        for number, entry in enumerate(entries):
            if entry is None:
                continue
            if level:
                self._page(layout, level - 1, index * FANOUT + number, entry, bad, again)
            elif self._hit(entry):
                at = start + number * span
                place = (at, min(span, layout.size - at))
                (again if self._stored_again(entry) else bad).append(place)
        if (len(bad), len(again)) == before:
            self._clean.add(key)

    def _entries(self, shape: Shape, level: int, index: int, ref: Ref) -> Entries:
        """Of a page; none of a leaf page none of whose packs is damaged."""
        page = self.blobs.page(ref)
        if not level and self._touched.isdisjoint(packs_of(page)):
            return ()
        return decode(page, level, index, shape.entries(level, index))

    def _hit(self, ref: Ref) -> bool:
        return ref.pack in self._whole or (ref.pack, ref.position) in self._bad

    def _stored_again(self, ref: Ref) -> bool:
        place = self.index.find(self.domain, [ref.id]).get(ref.id)
        if place is None or place == (ref.pack, ref.position):
            return False
        self.healing.add(place[0])
        return True


def page_key(ref: Ref) -> bytes:
    """Short, and no other page's: pack ids are random."""
    return ref.pack[:12] + ref.position.to_bytes(4, "big")


def merged(places: Iterable[tuple[int, int]]) -> Extents:
    """Ascending places, neighbours joined."""
    out: list[tuple[int, int]] = []
    for offset, length in places:
        if out and out[-1][0] + out[-1][1] == offset:
            out[-1] = (out[-1][0], out[-1][1] + length)
        else:
            out.append((offset, length))
    return tuple(out)
