"""Moves that wait for their turn, and those that have it."""

from collections.abc import Collection
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.admission import Admission
from controlplane.domain.ids import OperationId, ResourceId, SiteName, TenantName
from controlplane.domain.operation import OperationState
from controlplane.store.operations import OperationRow
from controlplane.store.rows import Base
from controlplane.store.settings import Settings

Line: TypeAlias = list[Admission]
_UNDER_WAY = (OperationState.QUEUED.value, OperationState.RUNNING.value)


class _AdmissionRow(Base):
    __tablename__ = "admissions"

    operation: Mapped[UUID] = mapped_column(primary_key=True)
    move: Mapped[UUID]
    tenant: Mapped[str]
    source: Mapped[str]
    target: Mapped[str]
    turn: Mapped[int]
    admitted_at: Mapped[datetime | None]


class Admissions:
    """One a move until it ends or needs attention: then it takes no place any more."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings

    @property
    def reached(self) -> int:
        """The highest turn that ever began."""
        return self._settings.turn

    def add(self, admission: Admission) -> None:
        source, target = admission.sites
        self._session.add(
            _AdmissionRow(
                operation=admission.operation,
                move=admission.move,
                tenant=admission.tenant,
                source=source,
                target=target,
                turn=admission.turn,
            )
        )
        self._session.flush()

    def list(self) -> Line:
        """All of them, those that wait in their order."""
        rows = self._session.scalars(
            select(_AdmissionRow)
            .join(OperationRow, OperationRow.id == _AdmissionRow.operation)
            .where(OperationRow.state.in_(_UNDER_WAY))
            .order_by(_AdmissionRow.turn, OperationRow.number)
        )
        return [_to_noun(row) for row in rows]

    def waits(self, operation: OperationId) -> bool:
        row = self._session.get(_AdmissionRow, operation)
        return row is not None and row.admitted_at is None

    def counted(self) -> tuple[int, int]:
        """How many there are, and how many of them were admitted; cheap."""
        there, admitted = self._session.execute(
            select(func.count(), func.count(_AdmissionRow.admitted_at)).select_from(_AdmissionRow)
        ).one()
        return there, admitted

    def admit(self, operations: Collection[OperationId], now: datetime) -> None:
        """They have their turn from now on."""
        these = _AdmissionRow.operation.in_(operations)
        turn = self._session.scalar(select(func.max(_AdmissionRow.turn)).where(these))
        self._session.execute(update(_AdmissionRow).where(these).values(admitted_at=now))
        self._settings.turn = max(self._settings.turn, turn or 0)

    def forget(self, operation: OperationId) -> None:
        """It takes no place any more; forgotten already is fine."""
        self._session.execute(delete(_AdmissionRow).where(_AdmissionRow.operation == operation))


def _to_noun(row: _AdmissionRow) -> Admission:
    return Admission(
        operation=OperationId(row.operation),
        move=ResourceId(row.move),
        tenant=TenantName(row.tenant),
        sites=(SiteName(row.source), SiteName(row.target)),
        turn=row.turn,
        admitted=row.admitted_at is not None,
    )
