"""Vault records in memory: the reference for what the database must do, used by tests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import RLock
from uuid import uuid4

from controlplane.domain.errors import SUPERSEDED, Conflict
from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    CONDEMNED,
    RACED,
    Commitment,
    Damage,
    DiskCopied,
    Layout,
    LeafDone,
    PackNew,
    PackState,
    PointRecord,
    Session,
)

_Key = tuple[PointId, int]


@dataclass(slots=True, kw_only=True)
class _Pack:
    domain: str
    state: PackState
    owner: _Key | None
    condemned_at: datetime | None = None
    waits_for: frozenset[int] = frozenset()


@dataclass(slots=True, kw_only=True)
class _Session:
    number: int
    now: Session
    covered: dict[int, LeafDone] = field(default_factory=dict)


class MemoryRecords:
    """VaultRecords that are lost with the process."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._number = 0
        self._open: dict[_Key, _Session] = {}
        self._closed: set[PointId] = set()
        self._packs: dict[bytes, _Pack] = {}
        self._damages: set[Damage] = set()
        self._points: dict[PointId, tuple[PointRecord, frozenset[bytes]]] = {}
        self._last: dict[tuple[TenantName, InstanceId], PointRecord] = {}

    def begin(
        self, *, point: PointId, disk: int, domain: str, attempt: int, layout: Layout
    ) -> Session:
        with self._lock:
            key = (point, disk)
            if point in self._closed:
                raise _superseded(point, disk)
            token = uuid4().hex
            kept = self._open.get(key)
            if kept is None:
                self._number += 1
                session = Session(
                    point=point, disk=disk, domain=domain, attempt=attempt, token=token,
                    layout=layout,
                )  # fmt: skip
                self._open[key] = _Session(number=self._number, now=session)
                return session
            if kept.now.attempt > attempt:
                raise _superseded(point, disk)
            if kept.now.layout.size != layout.size or kept.now.domain != domain:
                raise Conflict(
                    f"recovery point {point}, disk {disk} was begun with {kept.now.layout.size}"
                    f" bytes in {kept.now.domain}, not {layout.size} in {domain}: begin a new point"
                )
            for pack in self._packs.values():
                if pack.owner == key and pack.state is PackState.OPEN:
                    self._condemn(pack, None)
            kept.now = replace(kept.now, attempt=attempt, token=token)
            return replace(kept.now, covered=dict(kept.covered))

    def open_pack(self, new: PackNew) -> None:
        with self._lock:
            held = self._held(new.session)
            self._packs[new.pack] = _Pack(
                domain=new.domain,
                state=PackState.OPEN,
                owner=(held.now.point, held.now.disk),
            )

    def seal(self, session: Session, pack: bytes, leaves: Sequence[LeafDone]) -> None:
        with self._lock:
            held = self._held(session)
            if self._packs[pack].state is not PackState.OPEN:
                raise _superseded(session.point, session.disk)
            self._packs[pack].state = PackState.SEALED
            held.covered.update({leaf.index: leaf for leaf in leaves})

    def uncover(self, session: Session, leaves: Collection[int]) -> None:
        with self._lock:
            held = self._held(session)
            for leaf in leaves:
                held.covered.pop(leaf, None)
            held.now = replace(held.now, copied=None)

    def finish(self, session: Session, copied: DiskCopied) -> None:
        with self._lock:
            held = self._held(session)
            held.now = replace(held.now, copied=copied)

    def sessions(self, point: PointId) -> tuple[Session, ...]:
        with self._lock:
            return tuple(s.now for (p, _), s in sorted(self._open.items()) if p == point)

    def session_packs(self, point: PointId) -> Mapping[bytes, PackState]:
        with self._lock:
            return {
                name: pack.state
                for name, pack in self._packs.items()
                if pack.owner is not None and pack.owner[0] == point
            }

    def states(self, packs: Collection[bytes]) -> Mapping[bytes, PackState]:
        with self._lock:
            return {name: self._packs[name].state for name in packs if name in self._packs}

    def verified(self, pack: bytes) -> None:
        with self._lock:
            if self._packs[pack].state not in {PackState.SEALED, PackState.VERIFIED}:
                raise Conflict(f"pack {pack.hex()} is {self._packs[pack].state}", reason=CONDEMNED)
            self._packs[pack].state = PackState.VERIFIED

    def verified_packs(self, domain: str) -> frozenset[bytes]:
        with self._lock:
            return frozenset(
                name
                for name, pack in self._packs.items()
                if pack.domain == domain and pack.state is PackState.VERIFIED
            )

    def damage(self, damage: Damage) -> None:
        with self._lock:
            self._damages.add(damage)

    def damaged(self, domain: str) -> frozenset[Damage]:
        with self._lock:
            return frozenset(d for d in self._damages if d.domain == domain)

    def mended(self, pack: bytes) -> None:
        with self._lock:
            self._damages = {d for d in self._damages if d.pack != pack}

    def last(self, tenant: TenantName, instance: InstanceId) -> PointRecord | None:
        with self._lock:
            return self._last.get((tenant, instance))

    def commit(self, record: PointRecord, *, packs: Collection[bytes], attempt: int) -> None:
        one = Commitment(record=record, packs=frozenset(packs), attempt=attempt)
        self._commit([one])

    def commit_group(self, group: Sequence[Commitment]) -> None:
        self._commit(group)

    def _commit(self, group: Sequence[Commitment]) -> None:
        with self._lock:
            whose = {(one.record.tenant, one.record.instance) for one in group}
            for one in group:
                self._may_commit(one)
                if len(whose) != len(group):
                    raise _raced(one.record)
            for one in group:
                record = one.record
                self._last[record.tenant, record.instance] = record
                self._points[record.point] = (record, one.packs)
                self._close(record.point)

    def _may_commit(self, one: Commitment) -> None:
        record = one.record
        mine = [s for (p, _), s in self._open.items() if p == record.point]
        if record.point in self._closed or any(s.now.attempt > one.attempt for s in mine):
            raise _superseded(record.point, None)
        for name in one.packs:
            pack = self._packs.get(name)
            if pack is None or pack.state is not PackState.VERIFIED:
                raise Conflict(
                    f"recovery point {record.point} needs pack {name.hex()}, which is being"
                    " collected or unproven: copy again",
                    reason=CONDEMNED,
                )
        last = self._last.get((record.tenant, record.instance))
        if record.sequence != (last.sequence if last else 0) + 1:
            raise _raced(record)

    def point(self, point: PointId) -> PointRecord | None:
        with self._lock:
            kept = self._points.get(point)
            return kept[0] if kept else None

    def points(self) -> tuple[PointRecord, ...]:
        with self._lock:
            return tuple(record for record, _ in self._points.values())

    def committed(self) -> tuple[int, datetime | None]:
        points = self.points()
        return len(points), max((record.committed_at for record in points), default=None)

    def holders(self, packs: Collection[bytes]) -> frozenset[PointId]:
        with self._lock:
            return frozenset(
                point for point, (_, held) in self._points.items() if held.intersection(packs)
            )

    def hold(self, point: PointId, packs: Collection[bytes]) -> None:
        with self._lock:
            if point in self._points:
                record, held = self._points[point]
                good = {p for p, s in self.states(packs).items() if s is PackState.VERIFIED}
                self._points[point] = (record, held | good)

    def forget(self, point: PointId) -> None:
        with self._lock:
            self._points.pop(point, None)

    def abandon(self, point: PointId) -> None:
        with self._lock:
            self._close(point)

    def condemn(self, at: datetime) -> int:
        with self._lock:
            needed = frozenset[bytes]().union(*(packs for _, packs in self._points.values()))
            count = 0
            for name, pack in self._packs.items():
                free = name not in needed and pack.owner is None
                if free and pack.state is not PackState.CONDEMNED:
                    self._condemn(pack, at)
                    count += 1
                elif pack.condemned_at is None and pack.state is PackState.CONDEMNED:
                    self._condemn(pack, at)
            return count

    def deletable(self, condemned_before: datetime) -> tuple[bytes, ...]:
        with self._lock:
            running = {s.number for s in self._open.values()}
            return tuple(
                name
                for name, pack in self._packs.items()
                if pack.state is PackState.CONDEMNED
                and pack.condemned_at is not None
                and pack.condemned_at <= condemned_before
                and not pack.waits_for & running
            )

    def deleted(self, pack: bytes) -> None:
        with self._lock:
            self._packs.pop(pack, None)
            self._damages = {d for d in self._damages if d.pack != pack}

    def known_packs(self) -> frozenset[bytes]:
        with self._lock:
            return frozenset(self._packs)

    def domains(self) -> tuple[str, ...]:
        with self._lock:
            packs = {pack.domain for pack in self._packs.values()}
            return tuple(sorted(packs | {record.domain for record, _ in self._points.values()}))

    def packs_of(
        self, domain: str, *, after: bytes, limit: int
    ) -> tuple[tuple[bytes, PackState], ...]:
        with self._lock:
            found = sorted(
                (name, pack.state)
                for name, pack in self._packs.items()
                if pack.domain == domain and name > after
            )
            return tuple(found[:limit])

    def adopt(self, record: PointRecord, *, packs: Collection[bytes], retained: bool) -> None:
        with self._lock:
            last = self._last.get((record.tenant, record.instance))
            if last is not None and last.point == record.point:
                return
            if last is not None and last.sequence >= record.sequence:
                raise Conflict(f"recovery point {record.point} comes before one on record")
            self._last[record.tenant, record.instance] = record
            for name in packs:
                self._packs[name] = _Pack(
                    domain=record.domain, state=PackState.VERIFIED, owner=None
                )
            if retained:
                self._points[record.point] = (record, frozenset(packs))
            self._close(record.point)

    def open_points(self) -> tuple[PointId, ...]:
        with self._lock:
            return tuple(dict.fromkeys(point for point, _ in sorted(self._open)))

    def _held(self, session: Session) -> _Session:
        held = self._open.get((session.point, session.disk))
        if held is None or held.now.token != session.token:
            raise _superseded(session.point, session.disk)
        return held

    def _close(self, point: PointId) -> None:
        self._closed.add(point)
        self._open = {k: s for k, s in self._open.items() if k[0] != point}
        for pack in self._packs.values():
            if pack.owner is not None and pack.owner[0] == point:
                pack.owner = None
                if pack.state is PackState.OPEN:
                    self._condemn(pack, None)

    def _condemn(self, pack: _Pack, at: datetime | None) -> None:
        """Without a time yet the next `condemn` gives it one."""
        pack.state = PackState.CONDEMNED
        pack.condemned_at = at
        pack.owner = None
        pack.waits_for = frozenset(s.number for s in self._open.values())


def _raced(record: PointRecord) -> Conflict:
    return Conflict(
        f"another recovery point of instance {record.instance} was committed in between:"
        " commit again",
        reason=RACED,
    )


def _superseded(point: PointId, disk: int | None) -> Conflict:
    which = "" if disk is None else f", disk {disk}"
    return Conflict(
        f"recovery point {point}{which} was taken over by a later attempt, or is closed: this"
        " attempt may not write to it any more",
        reason=SUPERSEDED,
    )
