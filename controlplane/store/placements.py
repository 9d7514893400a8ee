"""Where instances are at home, and the leases that allow to change it."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import SUPERSEDED, Busy, Conflict, NotFound, superseded
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, SiteName
from controlplane.domain.placement import Home, Lease, Placement
from controlplane.domain.resource import Kind
from controlplane.store.events import Events
from controlplane.store.operations import Operations
from controlplane.store.rows import Base


class _PlacementRow(Base):
    """`switched_by` and `switched_under` name the operation and epoch of the last switch."""

    __tablename__ = "placements"

    instance: Mapped[UUID] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(index=True)
    copy: Mapped[UUID | None]
    epoch: Mapped[int]
    switched_at: Mapped[datetime | None]
    switched_by: Mapped[UUID | None]
    switched_under: Mapped[int | None]


class _LeaseRow(Base):
    __tablename__ = "leases"

    instance: Mapped[UUID] = mapped_column(primary_key=True)
    operation: Mapped[UUID] = mapped_column(index=True)
    epoch: Mapped[int]
    taken_at: Mapped[datetime]


class Leases:
    """Who may change which instance. A lease ends by `release` alone, never by a clock."""

    def __init__(self, session: Session, operations: Operations) -> None:
        self._session = session
        self._operations = operations

    def take(self, instance: InstanceId, operation: OperationId, now: datetime) -> Lease:
        """The lease under a new epoch, or the one that the operation holds already.

        Busy names the operation that holds it.
        """
        return self.take_all((instance,), operation, now)[0]

    def take_all(
        self, instances: Iterable[InstanceId], operation: OperationId, now: datetime
    ) -> tuple[Lease, ...]:
        """All these leases or, when one is held by another operation, none."""
        wanted = tuple(instances)
        for instance in wanted:  # every refusal comes before the first change
            _placement(self._session, instance)
            held = self._session.get(_LeaseRow, instance)
            if held is not None and held.operation != operation:
                raise self._busy(instance, OperationId(held.operation))
        return tuple(self._taken(instance, operation, now) for instance in wanted)

    def find(self, instance: InstanceId) -> Lease | None:
        row = self._session.get(_LeaseRow, instance)
        return None if row is None else _lease(row)

    def check(self, instance: InstanceId, operation: OperationId, epoch: int) -> Lease:
        """The lease, if the operation holds it at this epoch; else `superseded`."""
        row = self._session.get(_LeaseRow, instance)
        if row is None or (row.operation != operation and row.epoch == epoch):
            raise Conflict(
                f"operation {operation} does not hold instance {instance} any more",
                reason=SUPERSEDED,
            )
        if row.operation != operation or row.epoch != epoch:
            raise superseded(f"instance {instance}", presented=epoch, found=row.epoch)
        return _lease(row)

    def release(self, instance: InstanceId, operation: OperationId) -> None:
        """The operation does not hold it any more; another's lease stays."""
        row = self._session.get(_LeaseRow, instance)
        if row is not None and row.operation == operation:
            self._session.delete(row)
            self._session.flush()

    def release_all(self, operation: OperationId) -> None:
        """The operation holds no instance any more."""
        held = self._session.scalars(select(_LeaseRow).where(_LeaseRow.operation == operation))
        for row in held.all():
            self._session.delete(row)
        self._session.flush()

    def held_by(self, operation: OperationId) -> tuple[InstanceId, ...]:
        rows = self._session.scalars(
            select(_LeaseRow.instance)
            .where(_LeaseRow.operation == operation)
            .order_by(_LeaseRow.instance)
        )
        return tuple(InstanceId(row) for row in rows)

    def _taken(self, instance: InstanceId, operation: OperationId, now: datetime) -> Lease:
        row = self._session.get(_LeaseRow, instance)
        if row is None:
            placement = _placement(self._session, instance)
            placement.epoch += 1
            row = _LeaseRow(
                instance=instance, operation=operation, epoch=placement.epoch, taken_at=now
            )
            self._session.add(row)
            self._session.flush()
        return _lease(row)

    def _busy(self, instance: InstanceId, holder: OperationId) -> Busy:
        try:
            other = self._operations.get(holder)
        except NotFound:
            return Busy(f"instance {instance} is held by the operation with the id {holder}: wait")
        return Busy(
            f"instance {other.subject_name} is held by operation {other.name!r}:"
            " wait for its end or cancel it"
        )


class Placements:
    """Homes of instances; each change but a raised epoch is an event."""

    def __init__(self, session: Session, leases: Leases, events: Events) -> None:
        self._session = session
        self._leases = leases
        self._events = events

    def find(self, instance: InstanceId) -> Placement | None:
        row = self._session.get(_PlacementRow, instance)
        return None if row is None else _to_noun(row)

    def get(self, instance: InstanceId) -> Placement:
        return _to_noun(_placement(self._session, instance))

    def create(self, placement: Placement) -> None:
        if self._session.get(_PlacementRow, placement.instance) is not None:
            raise Conflict(f"instance {placement.instance} has a home already")
        row = _PlacementRow(
            instance=placement.instance,
            site=placement.site,
            copy=placement.copy,
            epoch=placement.epoch,
            switched_at=placement.switched_at,
        )
        self._session.add(row)
        self._changed(row)

    def switch(
        self,
        instance: InstanceId,
        *,
        operation: OperationId,
        epoch: int,
        site: SiteName,
        copy: ArtefactId,
        now: datetime,
    ) -> Placement:
        """The new home. `superseded` without the lease at this epoch; done already: same answer."""
        row = _placement(self._session, instance)
        if (row.switched_by, row.switched_under) == (operation, epoch):
            if (row.site, row.copy) == (site, copy):
                return _to_noun(row)
            raise Conflict(
                f"operation {operation} has switched instance {instance} to {row.site} under epoch"
                f" {epoch} already: a second switch needs an operation of its own"
            )
        self._leases.check(instance, operation, epoch)
        row.site = site
        row.copy = copy
        row.switched_at = now
        row.switched_by = operation
        row.switched_under = epoch
        return self._changed(row)

    def adopt(self, home: Home) -> bool:
        """Whether `home` is newer than the place on record, which it is from now on.

        For records that were restored: no lease is asked for, nothing else may be running.
        """
        row = self._session.get(_PlacementRow, home.instance)
        if row is None:
            row = _PlacementRow(instance=home.instance, site=home.site, epoch=home.epoch)
            self._session.add(row)
        elif (row.switched_under or 0) >= home.epoch or row.copy == home.copy:
            return False
        row.site = home.site
        row.copy = home.copy
        row.epoch = max(row.epoch, home.epoch)
        row.switched_at = home.since
        row.switched_by = home.operation
        row.switched_under = home.epoch
        self._changed(row)
        return True

    def raise_epoch(self, instance: InstanceId, epoch: int) -> bool:
        """Whether `epoch`, which an object carries, is higher than was known; it counts now."""
        row = _placement(self._session, instance)
        if row.epoch >= epoch:
            return False
        row.epoch = epoch
        self._changed(row)
        return True

    def set_copy(
        self,
        instance: InstanceId,
        operation: OperationId,
        epoch: int,
        copy: ArtefactId,
        now: datetime,  # noqa: ARG002  # every change of a home is told its time
    ) -> Placement:
        """The artefact that is the instance, once provisioned; needs the lease as a switch."""
        self._leases.check(instance, operation, epoch)
        row = _placement(self._session, instance)
        if row.copy == copy:
            return _to_noun(row)
        row.copy = copy
        return self._changed(row)

    def list_by_site(self, site: SiteName) -> list[Placement]:
        """Every instance whose home is there."""
        rows = self._session.scalars(
            select(_PlacementRow).where(_PlacementRow.site == site).order_by(_PlacementRow.instance)
        )
        return [_to_noun(row) for row in rows]

    def delete(self, instance: InstanceId) -> None:
        """The instance has no home any more; deleted already is fine."""
        row = self._session.get(_PlacementRow, instance)
        if row is not None:
            self._session.delete(row)
            self._session.flush()
            self._events.append(Kind.PLACEMENT, instance)

    def _changed(self, row: _PlacementRow) -> Placement:
        self._session.flush()
        self._events.append(Kind.PLACEMENT, row.instance)
        return _to_noun(row)


def _placement(session: Session, instance: InstanceId) -> _PlacementRow:
    row = session.get(_PlacementRow, instance)
    if row is None:
        raise NotFound(f"instance {instance} has no home")
    return row


def _lease(row: _LeaseRow) -> Lease:
    return Lease(
        instance=InstanceId(row.instance),
        operation=OperationId(row.operation),
        epoch=row.epoch,
        taken_at=row.taken_at,
    )


def _to_noun(row: _PlacementRow) -> Placement:
    return Placement(
        instance=InstanceId(row.instance),
        site=SiteName(row.site),
        copy=None if row.copy is None else ArtefactId(row.copy),
        epoch=row.epoch,
        switched_at=row.switched_at,
    )
