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

    `again`: other such places were stored again since, and were read from there.
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
    healing: dict[PointId, set[bytes]] = field(default_factory=dict)
    """Packs that have such places stored again, by the point that reads them there."""
    needed: set[tuple[bytes, int | None]] = field(default_factory=set)
    """Of `damages` those that a point cannot be restored for, as (pack, position)."""
    _others: dict[tuple[bytes, int], bytes | None] = field(default_factory=dict)
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
            healing = self.healing.setdefault(record.point, set())
            for copied in record.disks:
                bad, again = self._disk(copied, healing)
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

    def _disk(self, copied: DiskCopied, healing: set[bytes]) -> tuple[Extents, Extents]:
        if copied.top is None:
            return (), ()
        found = _Found(healing=healing)
        self._page(copied.layout, levels(copied.layout) - 1, 0, copied.top, found)
        return merged(found.bad), merged(found.again)

    def _page(self, layout: Layout, level: int, index: int, ref: Ref, found: "_Found") -> None:
        key = page_key(ref)
        if key in self._clean:
            return
        if self.stopped():
            raise CopyStopped
        shape = Shape(layout=layout)
        span = shape.span(level)
        start = index * FANOUT * span
        everything = (start, min(FANOUT * span, layout.size - start))
        try:
            entries = None if self._hit(ref) else self._entries(shape, level, index, ref)
        except Integrity:
            entries = None
        if entries is None:
            found.bad.append(everything)
            self._need(ref)
            return
        before = len(found.bad), len(found.again)
        for number, entry in enumerate(entries):
            if entry is None:
                continue
            if level:
                self._page(layout, level - 1, index * FANOUT + number, entry, found)
            elif self._hit(entry):
                at = start + number * span
                self._chunk(entry, (at, min(span, layout.size - at)), found)
        if (len(found.bad), len(found.again)) == before:
            self._clean.add(key)

    def _chunk(self, ref: Ref, place: tuple[int, int], found: "_Found") -> None:
        other = self._other(ref)
        if other is None:
            found.bad.append(place)
            self._need(ref)
        else:
            found.again.append(place)
            found.healing.add(other)

    def _entries(self, shape: Shape, level: int, index: int, ref: Ref) -> Entries:
        """Of a page; none of a leaf page none of whose packs is damaged."""
        page = self.blobs.page(ref)
        if not level and self._touched.isdisjoint(packs_of(page)):
            return ()
        return decode(page, level, index, shape.entries(level, index))

    def _hit(self, ref: Ref) -> bool:
        return ref.pack in self._whole or (ref.pack, ref.position) in self._bad

    def _need(self, ref: Ref) -> None:
        self.needed.add((ref.pack, None if ref.pack in self._whole else ref.position))

    def _other(self, ref: Ref) -> bytes | None:
        """The pack that has the chunk stored again, read there once for all points."""
        key = (ref.pack, ref.position)
        if key not in self._others:
            self._others[key] = self.blobs.elsewhere(ref)
        return self._others[key]


@dataclass(slots=True, kw_only=True)
class _Found:
    """Of one disk; `healing` are packs that it is read from in places of damaged ones."""

    healing: set[bytes]
    bad: list[tuple[int, int]] = field(default_factory=list)
    again: list[tuple[int, int]] = field(default_factory=list)


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
