"""The vault's records: packs and who holds them, sessions that write, points that stand."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import uuid4

from sqlalchemy import ColumnElement, delete, exists, false, func, insert, select, update
from sqlalchemy.orm import Session as Work

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
from controlplane.store.vault_rows import (
    WHOLE_PACK,
    ClosedRow,
    DamageRow,
    HoldRow,
    LeafRow,
    PackRow,
    PointRow,
    SessionRow,
    copied_json,
    leaf_values,
    to_damage,
    to_leaf,
    to_point,
    to_point_row,
    to_session,
)

_BATCH = 1000  # names in one question

T = TypeVar("T")


class Vault:
    """The vault's port `VaultRecords` inside a transaction; `ports.StoredVault` is the port."""

    def __init__(self, session: Work) -> None:
        self._work = session

    def begin(
        self, *, point: PointId, disk: int, domain: str, attempt: int, layout: Layout
    ) -> Session:
        if self._work.get(ClosedRow, point) is not None:
            raise _superseded(point, disk)
        row = self._session_row(point, disk)
        if row is None:
            row = SessionRow(
                point=point,
                disk=disk,
                domain=domain,
                attempt=attempt,
                token=uuid4().hex,
                size=layout.size,
                chunk=layout.chunk,
            )
            self._work.add(row)
            self._work.flush()
            return to_session(row, {})
        if row.attempt > attempt:
            raise _superseded(point, disk)
        if (row.size, row.domain) != (layout.size, domain):
            raise Conflict(
                f"recovery point {point}, disk {disk} was begun with {row.size} bytes in"
                f" {row.domain}, not {layout.size} in {domain}: begin a new point"
            )
        self._condemn_packs(
            None, PackRow.session == row.number, PackRow.state == PackState.OPEN.value
        )
        row.attempt = attempt
        row.token = uuid4().hex
        self._work.flush()
        leaves = self._work.scalars(select(LeafRow).where(LeafRow.session == row.number))
        return to_session(row, {leaf.leaf: to_leaf(leaf) for leaf in leaves})

    def open_pack(self, new: PackNew) -> None:
        held = self._held(new.session)
        self._work.add(
            PackRow(
                pack=new.pack,
                domain=new.domain,
                state=PackState.OPEN.value,
                session=held.number,
                waits_for=0,
            )
        )
        self._work.flush()

    def seal(self, session: Session, pack: bytes, leaves: Sequence[LeafDone]) -> None:
        held = self._held(session)
        row = self._work.get(PackRow, pack)
        if row is None or row.state != PackState.OPEN.value:
            raise _superseded(session.point, session.disk)
        row.state = PackState.SEALED.value
        done = {leaf.index: leaf_values(held.number, leaf) for leaf in leaves}
        self._uncover(held, done)
        if done:
            self._work.execute(insert(LeafRow), list(done.values()))

    def uncover(self, session: Session, leaves: Collection[int]) -> None:
        held = self._held(session)
        self._uncover(held, leaves)
        held.copied = None

    def finish(self, session: Session, copied: DiskCopied) -> None:
        self._held(session).copied = copied_json(copied)

    def sessions(self, point: PointId) -> tuple[Session, ...]:
        rows = self._work.scalars(
            select(SessionRow).where(SessionRow.point == point).order_by(SessionRow.disk)
        )
        return tuple(to_session(row, {}) for row in rows)

    def session_packs(self, point: PointId) -> Mapping[bytes, PackState]:
        rows = self._work.execute(
            select(PackRow.pack, PackRow.state)
            .join(SessionRow, SessionRow.number == PackRow.session)
            .where(SessionRow.point == point)
        )
        return {row.pack: PackState(row.state) for row in rows}

    def states(self, packs: Collection[bytes]) -> Mapping[bytes, PackState]:
        found: dict[bytes, PackState] = {}
        for some in _batches(packs):
            rows = self._work.execute(
                select(PackRow.pack, PackRow.state).where(PackRow.pack.in_(some))
            )
            found.update({row.pack: PackState(row.state) for row in rows})
        return found

    def verified(self, pack: bytes) -> None:
        row = self._work.get(PackRow, pack)
        if row is None or row.state not in {PackState.SEALED, PackState.VERIFIED}:
            state = "unknown" if row is None else row.state
            raise Conflict(f"pack {pack.hex()} is {state}", reason=CONDEMNED)
        row.state = PackState.VERIFIED.value

    def verified_packs(self, domain: str) -> frozenset[bytes]:
        return frozenset(
            self._work.scalars(
                select(PackRow.pack).where(
                    PackRow.domain == domain, PackRow.state == PackState.VERIFIED.value
                )
            )
        )

    def damage(self, damage: Damage) -> None:
        position = WHOLE_PACK if damage.position is None else damage.position
        if self._work.get(DamageRow, (damage.pack, position)) is None:
            self._work.add(DamageRow(pack=damage.pack, position=position, domain=damage.domain))
            self._work.flush()

    def damaged(self, domain: str) -> frozenset[Damage]:
        rows = self._work.scalars(select(DamageRow).where(DamageRow.domain == domain))
        return frozenset(to_damage(row) for row in rows)

    def mended(self, pack: bytes) -> None:
        self._work.execute(delete(DamageRow).where(DamageRow.pack == pack))

    def last(self, tenant: TenantName, instance: InstanceId) -> PointRecord | None:
        row = self._work.scalars(
            select(PointRow)
            .where(PointRow.tenant == tenant, PointRow.instance == instance)
            .order_by(PointRow.sequence.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else to_point(row)

    def commit(self, record: PointRecord, *, packs: Collection[bytes], attempt: int) -> None:
        later = select(SessionRow.number).where(
            SessionRow.point == record.point, SessionRow.attempt > attempt
        )
        if self._work.get(ClosedRow, record.point) or self._work.scalars(later).first():
            raise _superseded(record.point, None)
        states = self.states(packs)
        for pack in packs:
            if states.get(pack) is not PackState.VERIFIED:
                raise Conflict(
                    f"recovery point {record.point} needs pack {pack.hex()}, which is being"
                    " collected or unproven: copy again",
                    reason=CONDEMNED,
                )
        last = self.last(record.tenant, record.instance)
        if record.sequence != (last.sequence if last else 0) + 1:
            raise Conflict(
                f"another recovery point of instance {record.instance} was committed in between:"
                " commit again",
                reason=RACED,
            )
        self._work.add(to_point_row(record))
        if packs:
            holds = [{"point": record.point, "pack": pack} for pack in set(packs)]
            self._work.execute(insert(HoldRow), holds)
        self._close(record.point)

    def commit_group(self, group: Sequence[Commitment]) -> None:
        """Half of it stands when it raises: the transaction must end with the error."""
        for one in group:
            self.commit(one.record, packs=one.packs, attempt=one.attempt)
            self._work.flush()

    def point(self, point: PointId) -> PointRecord | None:
        row = self._work.get(PointRow, point)
        return None if row is None or row.forgotten else to_point(row)

    def points(self) -> tuple[PointRecord, ...]:
        rows = self._work.scalars(
            select(PointRow)
            .where(PointRow.forgotten == false())
            .order_by(PointRow.committed_at, PointRow.point)
        )
        return tuple(to_point(row) for row in rows)

    def committed(self) -> tuple[int, datetime | None]:
        """How many points are retained, and when the last of them was committed."""
        count, last = self._work.execute(
            select(func.count(), func.max(PointRow.committed_at)).where(
                PointRow.forgotten == false()
            )
        ).one()
        return count, last

    def points_in(self, domain: str) -> tuple[PointRecord, ...]:
        """Every retained point of the domain, oldest first."""
        rows = self._work.scalars(
            select(PointRow)
            .where(PointRow.forgotten == false(), PointRow.domain == domain)
            .order_by(PointRow.committed_at, PointRow.point)
        )
        return tuple(to_point(row) for row in rows)

    def holders(self, packs: Collection[bytes]) -> frozenset[PointId]:
        rows = self._work.scalars(
            select(HoldRow.point).where(HoldRow.pack.in_(set(packs))).distinct()
        )
        return frozenset(PointId(row) for row in rows)

    def hold(self, point: PointId, packs: Collection[bytes]) -> None:
        if self.point(point) is None:
            return
        held = set(self._work.scalars(select(HoldRow.pack).where(HoldRow.point == point)))
        good = [p for p, state in self.states(packs).items() if state is PackState.VERIFIED]
        for pack in set(good) - held:
            self._work.add(HoldRow(point=point, pack=pack))

    def forget(self, point: PointId) -> None:
        row = self._work.get(PointRow, point)
        if row is not None:
            row.forgotten = True
            self._work.execute(delete(HoldRow).where(HoldRow.point == point))

    def abandon(self, point: PointId) -> None:
        self._close(point)

    def condemn(self, at: datetime) -> int:
        undated = (PackRow.state == PackState.CONDEMNED.value, PackRow.condemned_at.is_(None))
        self._condemn_packs(at, *undated)
        return self._condemn_packs(
            at,
            PackRow.state != PackState.CONDEMNED.value,
            PackRow.session.is_(None),
            ~exists().where(HoldRow.pack == PackRow.pack),
        )

    def deletable(self, condemned_before: datetime) -> tuple[bytes, ...]:
        return tuple(
            self._work.scalars(
                select(PackRow.pack)
                .where(
                    PackRow.state == PackState.CONDEMNED.value,
                    PackRow.condemned_at <= condemned_before,
                    ~exists().where(SessionRow.number <= PackRow.waits_for),
                )
                .order_by(PackRow.pack)
            )
        )

    def deleted(self, pack: bytes) -> None:
        self._work.execute(delete(DamageRow).where(DamageRow.pack == pack))
        self._work.execute(delete(PackRow).where(PackRow.pack == pack))

    def known_packs(self) -> frozenset[bytes]:
        return frozenset(self._work.scalars(select(PackRow.pack)))

    def domains(self) -> tuple[str, ...]:
        packs = self._work.scalars(select(PackRow.domain).distinct())
        points = self._work.scalars(
            select(PointRow.domain).where(PointRow.forgotten == false()).distinct()
        )
        return tuple(sorted({*packs, *points}))

    def packs_of(
        self, domain: str, *, after: bytes, limit: int
    ) -> tuple[tuple[bytes, PackState], ...]:
        rows = self._work.execute(
            select(PackRow.pack, PackRow.state)
            .where(PackRow.domain == domain, PackRow.pack > after)
            .order_by(PackRow.pack)
            .limit(limit)
        )
        return tuple((row.pack, PackState(row.state)) for row in rows)

    def adopt(self, record: PointRecord, *, packs: Collection[bytes], retained: bool) -> None:
        if self._work.get(PointRow, record.point) is not None:
            return
        last = self.last(record.tenant, record.instance)
        if last is not None and last.sequence >= record.sequence:
            raise Conflict(f"recovery point {record.point} comes before one on record")
        row = to_point_row(record)
        row.forgotten = not retained
        self._work.add(row)
        for pack in set(packs):
            self._work.merge(
                PackRow(
                    pack=pack,
                    domain=record.domain,
                    state=PackState.VERIFIED.value,
                    session=None,
                    condemned_at=None,
                    waits_for=0,
                )
            )
            if retained:
                self._work.add(HoldRow(point=record.point, pack=pack))
        self._close(record.point)

    def open_points(self) -> tuple[PointId, ...]:
        rows = self._work.scalars(select(SessionRow.point).distinct().order_by(SessionRow.point))
        return tuple(PointId(row) for row in rows)

    def _session_row(self, point: PointId, disk: int) -> SessionRow | None:
        return self._work.scalars(
            select(SessionRow).where(SessionRow.point == point, SessionRow.disk == disk)
        ).one_or_none()

    def _held(self, session: Session) -> SessionRow:
        row = self._session_row(session.point, session.disk)
        if row is None or row.token != session.token:
            raise _superseded(session.point, session.disk)
        return row

    def _uncover(self, held: SessionRow, leaves: Collection[int]) -> None:
        for some in _batches(leaves):
            self._work.execute(
                delete(LeafRow).where(LeafRow.session == held.number, LeafRow.leaf.in_(some))
            )

    def _close(self, point: PointId) -> None:
        """No session of the point is open any more; what they left open is condemned."""
        if self._work.get(ClosedRow, point) is None:
            self._work.add(ClosedRow(point=point))
        mine = select(SessionRow.number).where(SessionRow.point == point)
        self._work.flush()
        left_open = self._work.scalars(
            select(PackRow.pack).where(
                PackRow.session.in_(mine), PackRow.state == PackState.OPEN.value
            )
        ).all()
        self._work.execute(update(PackRow).where(PackRow.session.in_(mine)).values(session=None))
        self._work.execute(delete(SessionRow).where(SessionRow.point == point))
        for some in _batches(left_open):
            self._condemn_packs(None, PackRow.pack.in_(some))

    def _condemn_packs(self, at: datetime | None, *which: ColumnElement[bool]) -> int:
        """To go, once every session that is open now has closed; how many."""
        newest = select(func.coalesce(func.max(SessionRow.number), 0)).scalar_subquery()
        return len(
            self._work.scalars(
                update(PackRow)
                .where(*which)
                .values(
                    state=PackState.CONDEMNED.value,
                    condemned_at=at,
                    session=None,
                    waits_for=newest,
                )
                .returning(PackRow.pack)
            ).all()
        )


def _batches(items: Collection[T]) -> Iterator[list[T]]:
    every = list(items)
    for start in range(0, len(every), _BATCH):
        yield every[start : start + _BATCH]


def _superseded(point: PointId, disk: int | None) -> Conflict:
    which = "" if disk is None else f", disk {disk}"
    return Conflict(
        f"recovery point {point}{which} was taken over by a later attempt, or is closed: this"
        " attempt may not write to it any more",
        reason=SUPERSEDED,
    )
