"""Which stored blobs retained points refer to, whose they are, and what that comes to."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from controlplane.domain.ids import InstanceId, TenantName
from controlplane.domain.vault import PackState, PointRecord, Ref
from controlplane.vault.pack import Pack
from controlplane.vault.sealing import PAGE

_NOBODY = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the retained points of one workload, of a tenant or of all come to, in bytes.

    `logical`: the lengths of their disks. `referenced`: the data in them, a chunk once for each
    disk that refers to it, the last of a disk as a whole one. `unique`: the plain data that is
    stored for them, each stored chunk once; a chunk that is stored in two places counts twice.
    `stored`: what these chunks and the pages of their manifests take in packs. `exclusive`: the
    part of `stored` that no other workload refers to. `freed`: packs that nobody else needs, which
    is what collection deletes when these points are forgotten; the rest of `exclusive` becomes
    waste in packs that others need. `next_new` and `next_stored`: what the newest point of each
    brought, plain and stored: the best guess of what one more costs.
    """

    workloads: int = 0
    points: int = 0
    logical: int = 0
    referenced: int = 0
    unique: int = 0
    stored: int = 0
    exclusive: int = 0
    freed: int = 0
    next_new: int = 0
    next_stored: int = 0

    @property
    def ratio(self) -> float | None:
        """Data that a stored byte stands for: `referenced` to `stored`; None where none is."""
        return self.referenced / self.stored if self.stored else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """An instance, or an image of a tenant (`images` is the domain's workspace then)."""

    tenant: TenantName
    domain: str
    instance: InstanceId


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The whole vault. `packs` and `pack_bytes` are by state, without those to be deleted.

    `waste`: bytes of blobs in packs that no retained point refers to, among them what running
    copies stored and did not commit yet. `damaged` counts blobs and whole packs that keep a
    retained point from being restored.
    """

    total: Usage
    tenants: dict[TenantName, Usage] = field(default_factory=dict)
    workloads: dict[Workload, Usage] = field(default_factory=dict)
    packs: dict[PackState, int] = field(default_factory=dict)
    pack_bytes: dict[PackState, int] = field(default_factory=dict)
    waste: int = 0
    damaged: int = 0


class Census:
    """Of one dedup domain. In memory are two bytes for each blob that is referred to.

    A blob is not marked with a workload but with the set of all that refer to it: there are few
    such sets, so that sums by set tell exactly what each workload uses and has for itself.
    """

    def __init__(self) -> None:
        self._sets: list[frozenset[InstanceId]] = [frozenset()]
        self._numbers: dict[frozenset[InstanceId], int] = {self._sets[0]: _NOBODY}
        self._with: dict[tuple[int, InstanceId], int] = {}
        self._marks: dict[bytes, array[int]] = {}
        self._unique: Counter[int] = Counter()
        self._stored: Counter[int] = Counter()
        self._alone: Counter[InstanceId] = Counter()
        self._held = 0

    def refer(self, instance: InstanceId, ref: Ref) -> None:
        """`instance` refers to this blob; the pack's table was seen to hold it."""
        marks = self._marks.get(ref.pack)
        if marks is None:
            marks = self._marks[ref.pack] = array("H")
        if ref.position >= len(marks):
            marks.frombytes(bytes((ref.position + 1 - len(marks)) * marks.itemsize))
        before = marks[ref.position]
        after = self._with.get((before, instance))
        if after is None:
            after = self._joined(before, instance)
        if after != before:
            try:
                marks[ref.position] = after
            except OverflowError:  # more sets than two bytes can number
                wider = self._marks[ref.pack] = array("I", marks)
                wider[ref.position] = after

    def count(self, pack: Pack) -> int:
        """Adds up what the pack holds, once all was referred to; its bytes that nobody needs."""
        marks = self._marks.get(pack.id, array("H"))
        present: set[int] = set()
        waste = 0
        for position, blob in enumerate(pack.blobs):
            mark = marks[position] if position < len(marks) else _NOBODY
            if mark == _NOBODY:
                waste += blob.stored
                continue
            present.add(mark)
            self._stored[mark] += blob.stored
            if not blob.codec & PAGE:
                self._unique[mark] += blob.plain
        users = frozenset[InstanceId]().union(*(self._sets[mark] for mark in present))
        if users:
            self._held += pack.size
        if len(users) == 1:
            self._alone[next(iter(users))] += pack.size
        return waste

    def whole(self, parts: Iterable[Usage]) -> Usage:
        """Of all workloads of the domain, whose usages these are; what they share counts once."""
        stored = self._stored.total()
        return replace(
            added(parts),
            unique=self._unique.total(),
            stored=stored,
            exclusive=stored,
            freed=self._held,
        )

    def usage(self, instance: InstanceId, points: Iterable[PointRecord]) -> Usage:
        """Of one workload and its retained points."""
        mine = [number for number, users in enumerate(self._sets) if instance in users]
        alone = self._numbers.get(frozenset({instance}))
        of_points = referred(points)
        return Usage(
            workloads=1,
            points=of_points.points,
            logical=of_points.logical,
            referenced=of_points.referenced,
            unique=sum(self._unique[number] for number in mine),
            stored=sum(self._stored[number] for number in mine),
            exclusive=0 if alone is None else self._stored[alone],
            freed=self._alone[instance],
            next_new=of_points.next_new,
            next_stored=of_points.next_stored,
        )

    def _joined(self, before: int, instance: InstanceId) -> int:
        users = self._sets[before] | {instance}
        number = self._numbers.setdefault(users, len(self._sets))
        if number == len(self._sets):
            self._sets.append(users)
        self._with[before, instance] = number
        return number


def referred(points: Iterable[PointRecord]) -> Usage:
    """As much of one workload's usage as its records tell."""
    kept = sorted(points, key=lambda record: record.sequence)
    disks = [disk for record in kept for disk in record.disks]
    newest = kept[-1].disks if kept else ()
    return Usage(
        points=len(kept),
        logical=sum(disk.size for disk in disks),
        referenced=sum(min(disk.chunks * disk.chunk, disk.size) for disk in disks),
        next_new=sum(disk.bytes_new for disk in newest),
        next_stored=sum(disk.bytes_stored for disk in newest),
    )


def added(parts: Iterable[Usage]) -> Usage:
    """The sum of usages that share nothing: of several domains, or of several tenants."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(asdict(part))
    return Usage(**total)
