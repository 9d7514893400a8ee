"""One sequence numbers every committed change, so that a reader can go on where it was."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.store.rows import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something of this kind changed: a resource's kind, `operation`, `placement`, `audit-entry`.

    Numbers grow in the order of commits and leave no gap. For an audit entry `id` is its leaf
    number as text; for all others the id of what changed.
    """

    seq: int
    kind: str
    id: str
    at: datetime


class _SequencerRow(Base):
    __tablename__ = "sequencer"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last: Mapped[int]


class _EventRow(Base):
    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    subject: Mapped[str]
    at: Mapped[datetime]


_NEXT = update(_SequencerRow).values(last=_SequencerRow.last + 1).returning(_SequencerRow.last)
_APPEND = insert(_EventRow)


class Events:
    """The journal of changes. Repositories append; API streams read."""

    def __init__(self, session: Session, clock: Callable[[], datetime]) -> None:
        self._session = session
        self.clock = clock

    def append(self, kind: str, subject: UUID | int) -> Event:
        connection = self._session.connection()  # each step appends thrice: no unit of work
        number = connection.execute(_NEXT).scalar_one()
        event = Event(seq=number, kind=kind, id=str(subject), at=self.clock())
        row = {"seq": number, "kind": kind, "subject": event.id, "at": event.at}
        connection.execute(_APPEND, row)
        return event

    def after(self, cursor: int, limit: int = 1000) -> list[Event]:
        """The events numbered above `cursor`, in order."""
        rows = self._session.scalars(
            select(_EventRow).where(_EventRow.seq > cursor).order_by(_EventRow.seq).limit(limit)
        )
        return [Event(seq=row.seq, kind=row.kind, id=row.subject, at=row.at) for row in rows]

    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._session.scalars(select(_SequencerRow.last)).one()

    def prune(self, keep: int) -> None:
        """Forgets all but the newest `keep`; whoever stood before them must read anew."""
        self._session.execute(delete(_EventRow).where(_EventRow.seq <= self.last() - keep))

    def begin(self) -> None:
        """Sets the sequence to its start, unless it has begun."""
        if self._session.get(_SequencerRow, 1) is None:
            self._session.add(_SequencerRow(id=1, last=0))
