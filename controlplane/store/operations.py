"""Operations, their steps and how far they are."""
# ruff: noqa: A002  # `id` is the noun's own word

from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TypeAlias, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import Index, false, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import SUPERSEDED, Conflict, Invalid, NotFound
from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import NAME_MAX, OperationId, ResourceId, TenantName, WorkspaceName
from controlplane.domain.lifecycle import OPERATION, advance
from controlplane.domain.operation import (
    ENDED,
    Decision,
    Operation,
    OperationKind,
    OperationState,
    Problem,
    Progress,
    Step,
    StepState,
)
from controlplane.domain.resource import Json, Kind
from controlplane.store.events import Events
from controlplane.store.rows import Base, plain

PROGRESS_APART = timedelta(seconds=1)
_COUNTED = 20  # characters that a name keeps free for its number

Page: TypeAlias = list[Operation]


class Changes(TypedDict, total=False):
    """What may change of an operation once it is written down."""

    state: OperationState
    phase: str
    order: Json
    plan: Json | None
    plan_digest: str
    findings: tuple[Finding, ...]
    result: Json
    problem: Problem | None
    cancel_requested: bool
    decision: Decision
    started_at: datetime | None
    ended_at: datetime | None
    deadline: datetime | None


class OperationRow(Base):
    """`number` is that of the event of its birth: the order of operations."""

    __tablename__ = "operations"
    __table_args__ = (
        Index("uq_operations_name", "tenant", "workspace", "name", unique=True),
        Index("ix_operations_page", "tenant", "workspace", "number"),
        Index(None, "number", unique=True),
        Index(None, "subject", "number"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int]
    name: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    ended: Mapped[bool]
    subject: Mapped[UUID]
    subject_name: Mapped[str]
    actor: Mapped[str]
    request: Mapped[str]
    tenant: Mapped[str]
    workspace: Mapped[str]
    order: Mapped[dict[str, object]]
    phase: Mapped[str]
    plan: Mapped[dict[str, object] | None]
    plan_digest: Mapped[str]
    findings: Mapped[list[dict[str, str]]]
    result: Mapped[dict[str, object]]
    problem: Mapped[dict[str, str] | None]
    cancel_requested: Mapped[bool]
    decision: Mapped[str]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    deadline: Mapped[datetime | None]


class StepRow(Base):
    __tablename__ = "steps"

    operation: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    state: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    attempts: Mapped[int]
    provider_seconds: Mapped[float]
    copy_seconds: Mapped[float]
    message: Mapped[str]
    asked: Mapped[bool] = mapped_column(default=False)


class ProgressRow(Base):
    __tablename__ = "progress"

    operation: Mapped[UUID] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    done: Mapped[int]
    total: Mapped[int]
    sent: Mapped[int]
    at: Mapped[datetime]


class Operations:
    """Reading and changing operations; each change but progress is an event."""

    def __init__(self, session: Session, events: Events) -> None:
        self._session = session
        self._events = events

    def next_name(
        self,
        kind: OperationKind,
        subject_name: str,
        *,
        tenant: TenantName | None = None,
        workspace: WorkspaceName | None = None,
    ) -> str:
        """The first free name of the pattern `move-web-1-<n>` in the workspace."""
        base = f"{kind}-{subject_name.rpartition('/')[2]}"[: NAME_MAX - _COUNTED].rstrip("-.")
        taken = self._session.scalars(
            select(OperationRow.name).where(
                OperationRow.tenant == (tenant or ""),
                OperationRow.workspace == (workspace or ""),
                OperationRow.name > f"{base}-",
                OperationRow.name < f"{base}.",  # "." follows "-"
            )
        )
        numbers = [int(n) for name in taken if (n := name[len(base) + 1 :]).isdecimal()]
        return f"{base}-{max(numbers, default=0) + 1}"

    def add(self, op: Operation) -> None:
        """Writes a new operation down; Conflict when its id or name is taken."""
        taken = self._named(op.tenant, op.workspace, op.name)
        if taken is not None or self._session.get(OperationRow, op.id) is not None:
            raise Conflict(f"there is an operation {op.name!r} already: choose another name")
        number = self._events.append(Kind.OPERATION, op.id).seq
        self._session.add(_to_row(op, number))
        self._session.flush()

    def get(self, id: OperationId) -> Operation:
        return _to_noun(self._row(id))

    def by_name(
        self, tenant: TenantName | None, workspace: WorkspaceName | None, name: str
    ) -> Operation:
        row = self._named(tenant, workspace, name)
        if row is None:
            raise NotFound(f"there is no operation {name!r}: check the name")
        return _to_noun(row)

    def list(
        self,
        tenant: TenantName | None = None,
        workspace: WorkspaceName | None = None,
        *,
        limit: int = 1000,
        after: str = "",
        states: Collection[OperationState] | None = None,
        kind: OperationKind | None = None,
        subject: ResourceId | None = None,
    ) -> Page:
        """A page, newest first. What is None is not asked about.

        `after` is the last operation of the page before: its id, or its name where tenant and
        workspace are given.
        """
        query = select(OperationRow)
        if tenant is not None:
            query = query.where(OperationRow.tenant == tenant)
        if workspace is not None:
            query = query.where(OperationRow.workspace == workspace)
        if states is not None:
            query = query.where(OperationRow.state.in_([state.value for state in states]))
        if kind is not None:
            query = query.where(OperationRow.kind == kind.value)
        if subject is not None:
            query = query.where(OperationRow.subject == subject)
        if after:
            query = query.where(OperationRow.number < self._place(tenant, workspace, after))
        rows = self._session.scalars(query.order_by(OperationRow.number.desc()).limit(limit))
        return [_to_noun(row) for row in rows]

    def open_for(self, subject: ResourceId) -> Operation | None:
        """The newest operation on the subject that has not ended."""
        row = self._session.scalars(
            select(OperationRow)
            .where(OperationRow.subject == subject, OperationRow.ended == false())
            .order_by(OperationRow.number.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else _to_noun(row)

    def update(self, id: OperationId, **changes: Unpack[Changes]) -> Operation:
        """The operation with these fields changed; a state that may not follow is a Conflict."""
        row = self._row(id)
        unknown = changes.keys() - Changes.__annotations__.keys()
        if unknown:
            raise Invalid(f"{', '.join(sorted(unknown))} of an operation cannot be changed")
        advance(
            OPERATION, OperationState(row.state), changes.get("state", OperationState(row.state))
        )
        for name, value in changes.items():
            setattr(row, name, _column(value))
        row.ended = OperationState(row.state) in ENDED
        self._session.flush()
        self._events.append(Kind.OPERATION, row.id)
        return _to_noun(row)

    def request_cancel(self, id: OperationId) -> Operation:
        """Notes the wish; asked again it stays. Conflict once the operation has ended."""
        row = self._row(id)
        if row.ended:
            raise Conflict(f"operation {row.name!r} has ended ({row.state}): nothing to cancel")
        return _to_noun(row) if row.cancel_requested else self.update(id, cancel_requested=True)

    def begin_step(self, id: OperationId, name: str, now: datetime) -> Step:
        """The step runs; begun again it counts an attempt and keeps its start and seconds."""
        self._row(id)
        row = self._session.get(StepRow, (id, name))
        if row is None:
            row = StepRow(
                operation=id,
                name=name,
                position=self._events.append(Kind.OPERATION, id).seq,
                state=StepState.RUNNING.value,
                started_at=now,
                attempts=1,
                provider_seconds=0.0,
                copy_seconds=0.0,
                message="",
            )
            self._session.add(row)
            self._session.flush()
        else:
            row.state = StepState.RUNNING.value
            row.attempts += 1
            row.ended_at = None
            self._events.append(Kind.OPERATION, id)
        return _step(row)

    def claim_step(self, id: OperationId, name: str, attempt: int) -> None:
        """The attempt is the newest of the running step, and none before it may act any more.

        Conflict with reason `superseded` for one that is not, or whose step has ended. What was
        undone is over for attempts to come, too.
        """
        row = self._session.get(StepRow, (id, name))
        if row is None:
            raise NotFound(f"operation {id} has no step {name!r}: it did not begin")
        if row.attempts < attempt and row.state != StepState.UNDONE.value:
            row.attempts, row.state, row.ended_at = attempt, StepState.RUNNING.value, None
            self._events.append(Kind.OPERATION, id)
        elif row.attempts != attempt or row.state != StepState.RUNNING.value:
            raise Conflict(
                f"attempt {attempt} of {name!r} is over: a later one took its place, or it is"
                " undone",
                reason=SUPERSEDED,
            )

    def ask_step(self, id: OperationId, name: str) -> None:
        """The site is about to be asked for the step's effect; that stays known."""
        row = self._session.get(StepRow, (id, name))
        if row is None:
            raise NotFound(f"operation {id} has no step {name!r}: it did not begin")
        row.asked = True

    def was_asked(self, id: OperationId, name: str) -> bool:
        """Whether a site may have been asked for the step's effect."""
        row = self._session.get(StepRow, (id, name))
        return row is not None and row.asked

    def undo_step(self, id: OperationId, name: str, now: datetime) -> None:
        """No attempt of the step may act from now on, also where none was heard of yet."""
        row = self._session.get(StepRow, (id, name))
        if row is None:
            self.begin_step(id, name, now)
            self.end_step(id, name, StepState.UNDONE, now)
        elif row.state != StepState.UNDONE.value:
            row.state, row.ended_at = StepState.UNDONE.value, row.ended_at or now
            self._events.append(Kind.OPERATION, id)

    def end_step(  # noqa: PLR0917  # a step, then what it cost
        self,
        id: OperationId,
        name: str,
        state: StepState,
        now: datetime,
        provider_seconds: float = 0.0,
        copy_seconds: float = 0.0,
        message: str = "",
    ) -> Step:
        """The step ended so; seconds add to those of earlier attempts."""
        row = self._session.get(StepRow, (id, name))
        if row is None:
            raise NotFound(f"operation {id} has begun no step {name!r}")
        row.state = state.value
        row.ended_at = now
        row.provider_seconds += provider_seconds
        row.copy_seconds += copy_seconds
        row.message = message
        self._session.flush()
        self._events.append(Kind.OPERATION, id)
        return _step(row)

    def steps(self, id: OperationId) -> tuple[Step, ...]:
        """In the order in which they first began."""
        rows = self._session.scalars(
            select(StepRow).where(StepRow.operation == id).order_by(StepRow.position)
        )
        return tuple(_step(row) for row in rows)

    def find_step(self, id: OperationId, name: str) -> Step | None:
        """One of them; None where it never began."""
        row = self._session.get(StepRow, (id, name))
        return None if row is None else _step(row)

    def set_progress(self, progress: Progress) -> None:
        """Keeps the newest word of each copy, at most one a second unless it is the last."""
        row = self._session.get(ProgressRow, (progress.operation, progress.what))
        if row is None:
            row = ProgressRow(operation=progress.operation, what=progress.what)
            self._session.add(row)
        elif progress.done != progress.total and progress.at - row.at < PROGRESS_APART:
            return
        row.done, row.total, row.sent = progress.done, progress.total, progress.sent
        row.at = progress.at

    def progress(self, id: OperationId) -> tuple[Progress, ...]:
        rows = self._session.scalars(
            select(ProgressRow).where(ProgressRow.operation == id).order_by(ProgressRow.what)
        )
        return tuple(
            Progress(
                operation=OperationId(row.operation),
                what=row.what,
                done=row.done,
                total=row.total,
                sent=row.sent,
                at=row.at,
            )
            for row in rows
        )

    def _row(self, id: OperationId) -> OperationRow:
        row = self._session.get(OperationRow, id)
        if row is None:
            raise NotFound(f"there is no operation with the id {id}")
        return row

    def _named(
        self, tenant: TenantName | None, workspace: WorkspaceName | None, name: str
    ) -> OperationRow | None:
        return self._session.scalars(
            select(OperationRow).where(
                OperationRow.tenant == (tenant or ""),
                OperationRow.workspace == (workspace or ""),
                OperationRow.name == name,
            )
        ).one_or_none()

    def _place(self, tenant: TenantName | None, workspace: WorkspaceName | None, after: str) -> int:
        row = self._named(tenant, workspace, after)
        if row is None:
            try:
                row = self._session.get(OperationRow, UUID(after))
            except ValueError:
                row = None
        if row is None:
            raise Invalid(f"{after[:160]!r} is not a place in a listing: begin again")
        return row.number


def _column(value: object) -> object:
    """A noun's field as its column keeps it."""
    match value:
        case OperationState() | Decision():
            return value.value
        case Problem():
            return asdict(value)
        case tuple():
            return [_finding(each) for each in value]
        case Mapping():
            return plain(value)
        case _:
            return value


def _finding(finding: Finding) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(finding).items()}


def _to_finding(entry: dict[str, str]) -> Finding:
    return Finding(
        id=entry["id"],
        severity=Severity(entry["severity"]),
        subject=entry["subject"],
        evidence=entry["evidence"],
        remedy=entry["remedy"],
    )


def _to_row(op: Operation, number: int) -> OperationRow:
    return OperationRow(
        id=op.id,
        number=number,
        name=op.name,
        kind=op.kind.value,
        state=op.state.value,
        ended=op.state in ENDED,
        subject=op.subject,
        subject_name=op.subject_name,
        actor=op.actor,
        request=op.request,
        tenant=op.tenant or "",
        workspace=op.workspace or "",
        order=plain(op.order),
        phase=op.phase,
        plan=None if op.plan is None else plain(op.plan),
        plan_digest=op.plan_digest,
        findings=[_finding(each) for each in op.findings],
        result=plain(op.result),
        problem=None if op.problem is None else asdict(op.problem),
        cancel_requested=op.cancel_requested,
        decision=op.decision.value,
        created_at=op.created_at,
        started_at=op.started_at,
        ended_at=op.ended_at,
        deadline=op.deadline,
    )


def _to_noun(row: OperationRow) -> Operation:
    return Operation(
        id=OperationId(row.id),
        name=row.name,
        kind=OperationKind(row.kind),
        state=OperationState(row.state),
        subject=ResourceId(row.subject),
        subject_name=row.subject_name,
        actor=row.actor,
        request=row.request,
        created_at=row.created_at,
        tenant=TenantName(row.tenant) if row.tenant else None,
        workspace=WorkspaceName(row.workspace) if row.workspace else None,
        order=row.order,
        phase=row.phase,
        plan=row.plan,
        plan_digest=row.plan_digest,
        findings=tuple(_to_finding(entry) for entry in row.findings),
        result=row.result,
        problem=None if row.problem is None else Problem(**row.problem),
        cancel_requested=row.cancel_requested,
        decision=Decision(row.decision),
        started_at=row.started_at,
        ended_at=row.ended_at,
        deadline=row.deadline,
    )


def _step(row: StepRow) -> Step:
    return Step(
        operation=OperationId(row.operation),
        name=row.name,
        state=StepState(row.state),
        started_at=row.started_at,
        ended_at=row.ended_at,
        attempts=row.attempts,
        provider_seconds=row.provider_seconds,
        copy_seconds=row.copy_seconds,
        message=row.message,
    )
