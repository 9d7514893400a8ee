"""What is still to be told to the engine, written in the transaction of the wish itself."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, cast
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.ids import OperationId
from controlplane.store.rows import COUNTED, Base

What: TypeAlias = Literal["start", "cancel", "nudge", "mend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """Tell the engine `what` about the operation; told twice it does no harm."""

    seq: int
    operation: OperationId
    what: What


class OutboxRow(Base):
    __tablename__ = "outbox"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  # SQLAlchemy's own shape

    seq: Mapped[int] = mapped_column(COUNTED, primary_key=True, autoincrement=True)
    operation: Mapped[UUID]
    what: Mapped[str]
    at: Mapped[datetime]


class Outbox:
    """Written with a wish; read, told and crossed out by the dispatcher."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, operation: OperationId, what: What, now: datetime) -> None:
        self._session.add(OutboxRow(operation=operation, what=what, at=now))
        self._session.flush()

    def pending(self, limit: int = 100) -> list[OutboxItem]:
        """The oldest that are not done, in the order in which they were written."""
        rows = self._session.scalars(select(OutboxRow).order_by(OutboxRow.seq).limit(limit))
        return [
            OutboxItem(
                seq=row.seq, operation=OperationId(row.operation), what=cast("What", row.what)
            )
            for row in rows
        ]

    def done(self, seq: int) -> None:
        """It was told; done twice is fine."""
        self._session.execute(delete(OutboxRow).where(OutboxRow.seq == seq))
