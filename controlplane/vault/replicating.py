"""Bringing a second store up to the first: at any moment what it shows there can be read."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from random import SystemRandom
from uuid import UUID

from controlplane.domain.errors import Denied, FedctlError, Integrity, NotFound
from controlplane.domain.ids import PointId
from controlplane.domain.vault import PackState, PointRecord
from controlplane.vault.blobs import Blobs
from controlplane.vault.departed import Departed
from controlplane.vault.heads import root_hash, root_name
from controlplane.vault.manifest import Tree
from controlplane.vault.mending import Mending
from controlplane.vault.nouns import Replicated
from controlplane.vault.pack import domain_of, pack_name, pack_of
from controlplane.vault.ports import KeyDocuments, Keys, ObjectStore, Signer, VaultRecords
from controlplane.vault.published import checked_segment, segment_prefix
from controlplane.vault.sealing import open_object
from controlplane.vault.soundness import SIGNED, sound_document, sound_pack
from controlplane.vault.whole import same, send
from controlplane.vault.wrapped import KEYS, tenants_first

_PACKS, _INDEX, _POINTS = "packs", "index", "points"
_OTHERS = 4  # small objects to each pack that is read again
# What refers to something comes after it; so it is listed before it.
_ORDER = (KEYS, _PACKS, _INDEX, _POINTS, *SIGNED)


@dataclass(slots=True, kw_only=True)
class _Tally:
    copied: int = 0
    bytes: int = 0
    removed: int = 0
    kept: int = 0
    why_kept: str = ""
    mended: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicating:
    """One round. `signers` are those of the folders whose documents are signed."""

    records: VaultRecords
    objects: ObjectStore
    replica: ObjectStore
    keys: Keys
    signers: Mapping[str, Signer]
    wrapped: KeyDocuments | None
    departed: Departed
    mending: Mending
    blobs: Callable[[str], Blobs]
    stopped: Callable[[], bool]
    again: int
    tally: _Tally = field(default_factory=_Tally)
    domains: dict[str, str] = field(default_factory=dict)

    def run(self) -> Replicated:
        gone = frozenset(self.departed.names())
        self._follow(gone)
        here = {folder: self._listed(self.objects, folder) for folder in reversed(_ORDER)}
        there = {folder: self._listed(self.replica, folder) for folder in _ORDER}
        points = {record.point: record for record in self.records.points()}
        self.domains.update((segment_prefix(r.domain), r.domain) for r in points.values())
        self._put_back_keys(there[KEYS] - here[KEYS])
        for folder in _ORDER:
            for name in self._to_copy(folder, here, there, points):
                if self.stopped():
                    break
                if self._copied(name):
                    there[folder].add(name)
        self._mend_damaged(points.values())
        for folder in _ORDER:
            for name in self._to_put_back(folder, here, there, points):
                if not self.stopped() and name not in gone:
                    self._put_back(name)
        self._look_again(here, there)
        behind = [r for r in points.values() if root_name(r.point, r.root) not in there[_POINTS]]
        tally = self.tally
        return Replicated(
            copied=tally.copied,
            bytes=tally.bytes,
            removed=tally.removed,
            kept=tally.kept,
            why_kept=tally.why_kept,
            mended=tuple(tally.mended),
            renewed=tuple(tally.renewed),
            troubles=tuple(tally.troubles),
            behind=len(behind),
            oldest=min((record.committed_at for record in behind), default=None),
        )

    def _listed(self, objects: ObjectStore, folder: str) -> set[str]:
        return set(objects.names(folder))

    def _follow(self, gone: Collection[str]) -> None:
        """Deletes what was deleted on record: first what refers to other things."""
        for name in sorted(gone, key=lambda name: name.startswith(f"{_PACKS}/")):
            if self.stopped():
                return
            try:
                self.departed.proven(name)
                self._not_needed(name)
            except NotFound:
                continue  # another process followed
            except Integrity as e:
                self.tally.troubles.append(str(e))
                continue
            whole = name.startswith(f"{_POINTS}/")  # of a point, whatever its root is
            under = list(self.replica.names(name)) if whole else [name]
            try:
                for each in under:
                    self.replica.delete(each)
            except Denied as e:
                self.tally.kept += 1
                self.tally.why_kept = str(e)
                continue
            self.tally.removed += len(under)
            self.departed.drop(name)

    def _not_needed(self, name: str) -> None:
        """What is on record as needed was not deleted on record, whatever the store shows."""
        folder = name.partition("/")[0]
        if folder == _PACKS:
            pack = pack_of(name)
            needed = self.records.states([pack]).get(pack, PackState.CONDEMNED)
            if needed is not PackState.CONDEMNED:
                raise Integrity(f"{name} is said to be deleted and is on record as {needed}")
        elif folder == _POINTS:
            if self.records.point(_point_of(name)) is not None:
                raise Integrity(f"{name} is said to be deleted and is on record")
        elif folder != _INDEX:
            raise Integrity(f"{name} is said to be deleted, and nothing of its kind ever is")

    def _to_copy(
        self, folder: str, here: Mapping[str, set[str]], there: Mapping[str, set[str]],
        points: Mapping[PointId, PointRecord],
    ) -> Iterator[str]:  # fmt: skip
        missing = tenants_first(here[folder] - there[folder])
        if folder == _PACKS:
            yield from self._verified(missing)
        elif folder == _POINTS:
            absent = self._absent(points, there[_PACKS]) if missing else frozenset()
            for name in missing:
                record = points.get(_point_of(name))
                if record is not None and self._whole_there(record, absent):
                    yield name
        elif folder in self.signers or folder not in SIGNED:
            yield from missing

    def _to_put_back(
        self, folder: str, here: Mapping[str, set[str]], there: Mapping[str, set[str]],
        points: Mapping[PointId, PointRecord],
    ) -> Iterator[str]:  # fmt: skip
        """What only the replica has, and is on record or signed: the first store lost it."""
        lost = sorted(there[folder] - here[folder])
        if folder == _PACKS:
            yield from self._verified(lost)
        elif folder == _POINTS:
            needed = {root_name(record.point, record.root) for record in points.values()}
            yield from (name for name in lost if name in needed)
        elif folder in self.signers:
            yield from lost

    def put_back_keys(self) -> tuple[str, ...]:
        """Those that only the replica has, and nothing else."""
        there, here = (self._listed(each, KEYS) for each in (self.replica, self.objects))
        self._put_back_keys(there - here)
        return tuple(self.tally.mended)

    def _put_back_keys(self, lost: Collection[str]) -> None:
        """Before any is used: of a domain that shows none a new one would be made."""
        for name in tenants_first(lost) if self.wrapped is not None else ():
            if not self.stopped():
                self._put_back(name)

    def _verified(self, names: Collection[str]) -> Iterator[str]:
        """Packs that the vault relies upon; names that are none of ours are no concern."""
        packs: dict[bytes, str] = {}
        for name in names:
            try:
                packs[pack_of(name)] = name
            except Integrity:
                continue
        states = self.records.states(packs)
        yield from (n for pack, n in packs.items() if states.get(pack) is PackState.VERIFIED)

    def _absent(
        self, points: Mapping[PointId, PointRecord], there: Collection[str]
    ) -> frozenset[bytes]:
        """Packs that the vault relies upon and the replica lacks still."""
        domains = {record.domain for record in points.values()}
        every = frozenset[bytes]().union(*map(self.records.verified_packs, domains))
        return frozenset(pack for pack in every if pack_name(pack) not in there)

    def _whole_there(self, record: PointRecord, absent: frozenset[bytes]) -> bool:
        if not absent:
            return True
        pages = self.blobs(record.domain)
        try:
            for disk in record.disks:
                if Tree(pages=pages, layout=disk.layout, top=disk.top).packs() & absent:
                    return False
        except Integrity as e:
            self.tally.troubles.append(f"recovery point {record.point}: {e}")
            return False
        return True

    def _copied(self, name: str) -> bool:
        """Whether the object is at the replica now, sound and read back."""
        try:
            data = self.objects.get(name)
            if not self.check(name, data):
                return False
        except NotFound:
            return False  # it was deleted since it was listed
        except Integrity as e:
            self.tally.troubles.append(str(e))
            return False
        send(self.replica, name, data)
        if not same(self.replica, name, data) and not self._sound_there(name):
            trouble = f"{name} did not read back from the replica as written"
            try:
                self.replica.delete(name)
            except Denied as e:
                trouble = f"{trouble}, which keeps it: {e}"
            self.tally.troubles.append(trouble)
            return False
        self.tally.copied += 1
        self.tally.bytes += len(data)
        return True

    def _sound_there(self, name: str) -> bool:
        """Of small objects two sealings may exist, each as good as the other."""
        try:
            return self.check(name, self.replica.get(name))
        except (Integrity, NotFound):
            return False

    def _mend_damaged(self, points: Collection[PointRecord]) -> None:
        for domain in {record.domain for record in points}:
            damaged = {pack_name(damage.pack) for damage in self.records.damaged(domain)}
            for name in self._verified(damaged):
                if self.stopped():
                    return
                try:
                    self.mending.mend(domain, pack_of(name))
                except (Integrity, NotFound) as e:
                    self.tally.troubles.append(
                        f"{name} is damaged, and the replica has no sound copy of it: {e}"
                    )
                except FedctlError as e:
                    self.tally.troubles.append(f"{name} is damaged and could not be mended: {e}")
                else:
                    self.tally.mended.append(name)

    def _look_again(self, here: Mapping[str, set[str]], there: Mapping[str, set[str]]) -> None:
        """A few objects of each kind, drawn by lot, so that the replica does not rot unseen."""
        for folder in (KEYS, _PACKS, _INDEX, _POINTS, *self.signers):
            both = sorted(here[folder] & there[folder])
            most = self.again if folder == _PACKS else self.again * _OTHERS
            for name in SystemRandom().sample(both, min(most, len(both))):
                if self.stopped():
                    return
                try:
                    self.check(name, self.replica.get(name))
                except NotFound:
                    continue
                except Integrity as e:
                    self._renew(name, e)

    def _renew(self, name: str, damage: Integrity) -> None:
        try:
            sound = self.check(name, self.objects.get(name))
        except (Integrity, NotFound):
            sound = False
        if not sound:
            self.tally.troubles.append(f"{damage}; the replica's and the store's")
            return
        try:
            self.replica.delete(name)
        except Denied as e:
            self.tally.troubles.append(f"{damage}; the replica's, which it keeps: {e}")
            return
        if self._copied(name):
            self.tally.renewed.append(name)

    def _put_back(self, name: str) -> None:
        try:
            self.mending.lost(name, self.check)
        except (Integrity, NotFound) as e:
            self.tally.troubles.append(str(e))
        else:
            self.tally.mended.append(name)

    def check(self, name: str, data: bytes) -> bool:
        """Whether it is for us to copy; Integrity when it is not what it should be."""
        folder = name.partition("/")[0]
        if folder == _PACKS:
            sound_pack(self.keys, self._known(domain_of(data), name), name, data)
        elif folder in SIGNED:
            sound_document(self.signers, name, data)
        elif folder == KEYS:
            self._is_key(name, data)
        else:
            domain = self._domain(name)
            if domain is None:
                return False
            if folder == _INDEX:
                checked_segment(self.keys(domain), name, data)
                return True
            body = open_object(self.keys(domain), name, data)
            root = name.rpartition("/")[2]
            if root_hash(self.keys(domain).id_key, body) != root:
                raise Integrity(f"{name} is not the root that its name tells")
        return True

    def _known(self, domain: str, pack: str) -> str:
        """Of one that is none of ours keys would be made when they are asked for."""
        if domain not in self.domains.values():
            self.domains.update((segment_prefix(each), each) for each in self.records.domains())
            if domain not in self.domains.values():
                raise Integrity(
                    f"{pack} tells of the domain {domain[:80]!r}, which is none of ours"
                )
        return domain

    def _is_key(self, name: str, data: bytes) -> None:
        if self.wrapped is None:
            _is_json(name, data)
        else:
            self.wrapped.check(name, data)

    def _domain(self, name: str) -> str | None:
        """Of a root or a segment of the index; None when no retained point is of it."""
        if name.startswith(f"{_POINTS}/"):
            record = self.records.point(_point_of(name))
            return record.domain if record else None
        return self.domains.get(name.rpartition("/")[0])


def _point_of(name: str) -> PointId:
    """Of `points/<point>` and what is under it; the nil point for a name that has none."""
    try:
        return PointId(UUID(name.split("/")[1]))
    except ValueError:
        return PointId(UUID(int=0))


def _is_json(name: str, data: bytes) -> None:
    try:
        json.loads(data)
    except ValueError as e:
        raise Integrity(f"{name} is no wrapped key") from e
