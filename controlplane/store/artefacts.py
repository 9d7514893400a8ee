"""Everything we made, or meant to make, at a site."""
# ruff: noqa: A002  # `id` is the noun's own word

from collections.abc import Collection
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import Conflict, NotFound, superseded
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, PointId, SiteName
from controlplane.domain.lifecycle import ARTEFACT, advance
from controlplane.store.events import Events
from controlplane.store.rows import Base

EVENT = "artefact"
Found: TypeAlias = list[Artefact]


class _ArtefactRow(Base):
    __tablename__ = "artefacts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    site: Mapped[str] = mapped_column(index=True)
    instance: Mapped[UUID] = mapped_column(index=True)
    operation: Mapped[UUID] = mapped_column(index=True)
    epoch: Mapped[int]
    state: Mapped[str]
    anchor: Mapped[str | None]
    ref: Mapped[str | None]
    size: Mapped[int]
    note: Mapped[str]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    holds: Mapped[UUID | None]


class Artefacts:
    """Intentions and what became of them; each change is an event `artefact`."""

    def __init__(self, session: Session, events: Events) -> None:
        self._session = session
        self._events = events

    def intend(self, artefact: Artefact) -> Artefact:
        """Written before the external create. Known already: the stored one, under this epoch.

        Its anchor stands, and is taken from `artefact` only where none was stored.
        """
        row = self._session.get(_ArtefactRow, artefact.id)
        if row is None:
            row = _to_row(artefact, artefact.created_at or self._events.clock())
            self._session.add(row)
            return self._changed(row)
        known = (row.kind, row.site, row.instance)
        if known != (artefact.kind, artefact.site, artefact.instance):
            raise Conflict(f"artefact {artefact.id} is another thing: {row.kind} at {row.site}")
        if artefact.epoch < row.epoch:
            raise superseded(f"artefact {artefact.id}", presented=artefact.epoch, found=row.epoch)
        if artefact.epoch == row.epoch and (row.anchor or artefact.anchor) == row.anchor:
            return _to_noun(row)
        row.epoch = artefact.epoch
        row.anchor = row.anchor or artefact.anchor
        return self._changed(row)

    def find(self, id: ArtefactId) -> Artefact | None:
        row = self._session.get(_ArtefactRow, id)
        return None if row is None else _to_noun(row)

    def get(self, id: ArtefactId) -> Artefact:
        return _to_noun(self._row(id))

    def set_state(
        self,
        id: ArtefactId,
        state: ArtefactState,
        *,
        ref: str | None = None,
        anchor: str | None = None,
        note: str | None = None,
        expires_at: datetime | None = None,
        holds: PointId | None = None,
    ) -> Artefact:
        """Enters `state`; what is None stays. Expiry and `holds` end with the retention."""
        row = self._row(id)
        row.state = advance(ARTEFACT, ArtefactState(row.state), state)
        row.ref = row.ref if ref is None else ref
        row.anchor = row.anchor if anchor is None else anchor
        row.note = row.note if note is None else note
        if expires_at is not None:
            row.expires_at = expires_at
        elif state is not ArtefactState.RETAINED:
            row.expires_at = None
        if holds is not None:
            row.holds = holds
        elif state is not ArtefactState.RETAINED:
            row.holds = None
        return self._changed(row)

    def restamp(self, id: ArtefactId, operation: OperationId, epoch: int) -> Artefact:
        """A takeover: the artefact belongs to this operation and epoch; a lower one is refused."""
        row = self._row(id)
        if epoch < row.epoch:
            raise superseded(f"artefact {id}", presented=epoch, found=row.epoch)
        row.operation = operation
        row.epoch = epoch
        return self._changed(row)

    def list(
        self,
        instance: InstanceId | None = None,
        site: SiteName | None = None,
        operation: OperationId | None = None,
        states: Collection[ArtefactState] | None = None,
    ) -> Found:
        """All that match, oldest first. What is None is not asked about."""
        query = select(_ArtefactRow)
        if instance is not None:
            query = query.where(_ArtefactRow.instance == instance)
        if site is not None:
            query = query.where(_ArtefactRow.site == site)
        if operation is not None:
            query = query.where(_ArtefactRow.operation == operation)
        if states is not None:
            query = query.where(_ArtefactRow.state.in_([state.value for state in states]))
        rows = self._session.scalars(query.order_by(_ArtefactRow.created_at, _ArtefactRow.id))
        return [_to_noun(row) for row in rows]

    def _row(self, id: ArtefactId) -> _ArtefactRow:
        row = self._session.get(_ArtefactRow, id)
        if row is None:
            raise NotFound(f"there is no artefact {id}")
        return row

    def _changed(self, row: _ArtefactRow) -> Artefact:
        self._session.flush()
        self._events.append(EVENT, row.id)
        return _to_noun(row)


def _to_row(artefact: Artefact, created_at: datetime) -> _ArtefactRow:
    return _ArtefactRow(
        id=artefact.id,
        kind=artefact.kind.value,
        site=artefact.site,
        instance=artefact.instance,
        operation=artefact.operation,
        epoch=artefact.epoch,
        state=ArtefactState.INTENDED.value,
        anchor=artefact.anchor,
        ref=artefact.ref,
        size=artefact.size,
        note=artefact.note,
        expires_at=artefact.expires_at,
        created_at=created_at,
    )


def _to_noun(row: _ArtefactRow) -> Artefact:
    return Artefact(
        id=ArtefactId(row.id),
        kind=ArtefactKind(row.kind),
        site=SiteName(row.site),
        instance=InstanceId(row.instance),
        operation=OperationId(row.operation),
        epoch=row.epoch,
        state=ArtefactState(row.state),
        anchor=row.anchor,
        ref=row.ref,
        size=row.size,
        note=row.note,
        expires_at=row.expires_at,
        created_at=row.created_at,
        holds=None if row.holds is None else PointId(row.holds),
    )
