"""The audit log as rows: appended in the transaction of what it tells of, and never changed."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import Index, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.audit.entries import leaf
from controlplane.audit.export import checkpoint_line, entry_line
from controlplane.audit.merkle import Frontier, leaf_hash
from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Invalid
from controlplane.domain.ids import TenantName
from controlplane.domain.resource import Kind
from controlplane.store.events import Events
from controlplane.store.rows import COUNTED, Base

_BATCH = 500

Page: TypeAlias = list[AuditEntry]


class _EntryRow(Base):
    """`leaf` is the entry's leaf hash, so that an altered row shows."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "tenant", "sequence"),)

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str]
    tenant: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    outcome: Mapped[str]
    operation: Mapped[str]
    request: Mapped[str]
    detail: Mapped[dict[str, str]]
    leaf: Mapped[bytes]


class _TreeRow(Base):
    """The one row that appending needs: how many leaves, and the peaks above them."""

    __tablename__ = "audit_tree"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int]
    peaks: Mapped[bytes]


class _CheckpointRow(Base):
    __tablename__ = "audit_checkpoints"

    number: Mapped[int] = mapped_column(COUNTED, primary_key=True, autoincrement=True)
    size: Mapped[int] = mapped_column(index=True)
    note: Mapped[str]


class Audit:
    """Appends and reads; there is nothing here that changes or deletes."""

    def __init__(self, session: Session, events: Events) -> None:
        self._session = session
        self._events = events

    def append(self, entry: AuditEntry, now: datetime) -> AuditEntry:
        """The entry as the log has it: its sequence is the next, its time `now`."""
        tree = self._session.get(_TreeRow, 1)
        if tree is None:
            tree = _TreeRow(id=1, size=0, peaks=b"")
            self._session.add(tree)
        numbered = replace(entry, sequence=tree.size, at=now)
        hashed = leaf_hash(leaf(numbered))
        grown = Frontier.of(tree.size, tree.peaks).append(hashed)
        tree.size, tree.peaks = grown.size, grown.raw()
        self._session.add(_to_row(numbered, hashed))
        self._session.flush()
        self._events.append(Kind.AUDIT_ENTRY, numbered.sequence)
        return numbered

    def entries(self, tenant: TenantName | None = None, after: int = 0, limit: int = 1000) -> Page:
        """A page behind the log's first `after` entries; go on with the last sequence plus one."""
        query = select(_EntryRow).where(_EntryRow.sequence >= after)
        if tenant is not None:
            query = query.where(_EntryRow.tenant == tenant)
        rows = self._session.scalars(query.order_by(_EntryRow.sequence).limit(limit))
        return [_to_noun(row) for row in rows]

    def checkpoint(self) -> tuple[int, bytes]:
        """How many entries the log has, and the root above them: what is to be signed."""
        tree = self._session.get(_TreeRow, 1)
        frontier = Frontier() if tree is None else Frontier.of(tree.size, tree.peaks)
        return frontier.size, frontier.root()

    def store_checkpoint(self, note: str) -> None:
        """Keeps a signed note; the very same again is fine."""
        lines = note.split("\n")
        if len(lines) < 3 or not lines[1].isdecimal():  # noqa: PLR2004  # origin, size, root
            raise Invalid("a checkpoint that is no signed note cannot be kept")
        size = int(lines[1])
        if size > self.checkpoint()[0]:
            raise Invalid(f"a checkpoint of {size} entries is ahead of the log: sign its own head")
        if note not in self._notes(size):
            self._session.add(_CheckpointRow(size=size, note=note))
            self._session.flush()

    def checkpoints(self) -> tuple[str, ...]:
        """Every signed note, oldest first."""
        rows = select(_CheckpointRow.note).order_by(_CheckpointRow.size, _CheckpointRow.number)
        return tuple(self._session.scalars(rows))

    def export(self) -> Iterator[str]:
        """The log as lines, with each checkpoint behind the last entry that it covers."""
        checkpoints = self._session.execute(
            select(_CheckpointRow.size, _CheckpointRow.note).order_by(
                _CheckpointRow.size, _CheckpointRow.number
            )
        ).all()
        waiting = iter(checkpoints)
        due = next(waiting, None)
        after = 0
        while page := self.entries(after=after, limit=_BATCH):
            for entry in page:
                while due is not None and due.size <= entry.sequence:
                    yield checkpoint_line(due.note)
                    due = next(waiting, None)
                yield entry_line(entry)
            after = page[-1].sequence + 1
            self._session.expunge_all()  # a long log does not gather in memory
        while due is not None:
            yield checkpoint_line(due.note)
            due = next(waiting, None)

    def _notes(self, size: int) -> list[str]:
        found = select(_CheckpointRow.note).where(_CheckpointRow.size == size)
        return list(self._session.scalars(found))


def _to_row(entry: AuditEntry, hashed: bytes) -> _EntryRow:
    return _EntryRow(
        sequence=entry.sequence,
        at=entry.at,
        actor=entry.actor,
        tenant=entry.tenant,
        action=entry.action,
        subject=entry.subject,
        outcome=entry.outcome,
        operation=entry.operation,
        request=entry.request,
        detail=dict(entry.detail),
        leaf=hashed,
    )


def _to_noun(row: _EntryRow) -> AuditEntry:
    return AuditEntry(
        sequence=row.sequence,
        at=row.at,
        actor=row.actor,
        tenant=row.tenant,
        action=row.action,
        subject=row.subject,
        outcome=row.outcome,
        operation=row.operation,
        request=row.request,
        detail=row.detail,
    )
