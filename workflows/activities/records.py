"""Steps on our own rows: beginnings, leases, the switch, endings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from temporalio import activity

from controlplane.domain.artefact import RETENTION, Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import SUPERSEDED, Conflict
from controlplane.domain.ids import (
    ArtefactId,
    InstanceId,
    OperationId,
    PointId,
    ResourceId,
    SiteName,
)
from controlplane.domain.instance import Power
from controlplane.domain.operation import (
    ENDED,
    SWITCHED,
    Operation,
    OperationKind,
    OperationState,
)
from controlplane.domain.placement import Home, Placement
from controlplane.domain.plan import MovePlan
from controlplane.domain.resource import State
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from controlplane.vault.homes import Homes
from workflows.activities.steps import Steps, Work
from workflows.activities.trail import audit
from workflows.failures import CANCELLED, translated

IMAGES = "@images"
WAITS_FOR = "waitsFor"
"""Under this name an operation's result says what it waits for from people."""
LOOK_AT = "lookAt"
"""And under this what they must look at when it needs attention."""
OLD_HOME = "the old home, stopped and fenced"
_CHANGED = "was being brought up to date: its disks hold no whole state, and are written anew"

BEGINS: Mapping[OperationKind, State] = {
    OperationKind.VERIFY_SITE: State.UPDATING,
    OperationKind.SURVEY: State.UPDATING,
    OperationKind.IMPORT_IMAGE: State.CREATING,
    OperationKind.PROVISION: State.CREATING,
    OperationKind.ADOPT: State.CREATING,
    OperationKind.START: State.UPDATING,
    OperationKind.STOP: State.UPDATING,
    OperationKind.RESTART: State.UPDATING,
    OperationKind.MOVE: State.UPDATING,
    OperationKind.FINALIZE: State.UPDATING,
    OperationKind.CHECK_VAULT: State.UPDATING,
    OperationKind.TAKE_POINTS: State.UPDATING,
}
_IN_USE = frozenset(ArtefactState) - {ArtefactState.INTENDED, ArtefactState.RELEASED}
_OF_A_MOVE = frozenset({OperationKind.PLAN_MOVE, OperationKind.MOVE, OperationKind.FINALIZE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    operation: str
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retain:
    """An artefact that stays where it is and is written down.

    `holds` is the recovery point that an instance's disks equal. `changed`: it was an old copy, of
    which some was written over.
    """

    work: Work
    artefact: ArtefactId
    kind: ArtefactKind
    holds: PointId | None = None
    changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """The retained `copy`, whose disks equal `base`, belongs to this operation from now on."""

    work: Work
    copy: ArtefactId
    base: PointId


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """The one transaction that makes `copy` at the plan's target the home.

    `holds` is the recovery point that the old home's disks equal.
    """

    work: Work
    plan: MovePlan
    copy: ArtefactId
    holds: PointId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A provisioned instance: `copy` is its home from now on."""

    work: Work
    copy: ArtefactId


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSeen:
    work: Work
    power: Power


def operation_id(text: str) -> OperationId:
    return OperationId(UUID(text))


class RecordActivities:
    def __init__(
        self, store: Store, steps: Steps, homes: Homes, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._homes = homes
        self._steps = steps
        self._clock = clock

    @activity.defn(no_thread_cancel_exception=True)
    def begin(self, operation: str) -> None:
        """Running from now on; a second beginning changes nothing. Conflict once it has ended."""
        now = self._clock()
        with translated("begin"), self._store.begin() as tx:
            op = tx.operations.get(operation_id(operation))
            if op.state in ENDED:
                raise Conflict(f"operation {op.name} has ended ({op.state})", reason=SUPERSEDED)
            if op.state is not OperationState.QUEUED:
                return
            if op.cancel_requested:
                raise Conflict("cancelled before it began", reason=CANCELLED)
            tx.operations.update(op.id, state=OperationState.RUNNING, started_at=now)
            state = BEGINS.get(op.kind)
            if state is not None:
                _enter(tx, op, state, now)
            move = move_of(op)
            if move is not None:
                tx.resources.patch_status(move, {"operation": op.name, "phase": "begun"}, now=now)
            audit(tx, op, "began", now)

    @activity.defn(no_thread_cancel_exception=True)
    def take_lease(self, operation: str) -> Work:
        """The right to change the instance's home or power; Busy names who holds it."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "lease"), self._store.begin() as tx:
            op = tx.operations.get(op_id)
            instance = InstanceId(op.subject)
            if op.kind is OperationKind.DELETE_INSTANCE:
                _give_place(tx, op, instance)
            lease = tx.leases.take(instance, op_id, self._clock())
            return Work(operation=op_id, instance=instance, epoch=lease.epoch)

    @activity.defn(no_thread_cancel_exception=True)
    def release_lease(self, operation: str) -> None:
        with translated("undo: lease"), self._store.begin() as tx:
            op = tx.operations.get(operation_id(operation))
            tx.leases.release(InstanceId(op.subject), op.id)

    @activity.defn(no_thread_cancel_exception=True)
    def phase(self, order: Phase) -> None:
        with translated("phase"), self._store.begin() as tx:
            op = tx.operations.update(operation_id(order.operation), phase=order.phase)
            move = move_of(op)
            if move is not None:
                tx.resources.patch_status(move, {"phase": order.phase}, now=self._clock())

    @activity.defn(no_thread_cancel_exception=True)
    def retain(self, order: Retain) -> None:
        """Written down as retained: nothing copied is destroyed by unwinding."""
        now = self._clock()
        with translated("retain"), self._store.begin() as tx:
            artefact = tx.artefacts.find(order.artefact)
            if artefact is None or artefact.state is ArtefactState.RELEASED:
                return
            kept = [artefact.id]
            if order.kind is ArtefactKind.INSTANCE:
                # A copy that was taken over came with its volumes.
                kept += [v.id for v in _volumes_beside(tx, artefact) if v.state in _IN_USE]
            for each in kept:
                tx.artefacts.set_state(
                    each,
                    ArtefactState.RETAINED,
                    note=_CHANGED if order.changed else "kept when its operation unwound",
                    expires_at=now + RETENTION,
                    holds=order.holds if each == artefact.id else None,
                )
            op = tx.operations.get(order.work.operation)
            audit(tx, op, "retained", now, artefact=str(order.artefact), kind=order.kind)

    @activity.defn(no_thread_cancel_exception=True)
    def take_over(self, order: TakeOver) -> None:
        """What stayed of an earlier move is this operation's; from here nobody may rely on it.

        Conflict when it is not what the plan saw. Doing it twice does it once.
        """
        work = order.work
        with self._steps.step(work.operation, "take over copy"), self._store.begin() as tx:
            tx.leases.check(work.instance, work.operation, work.epoch)
            copy = tx.artefacts.get(order.copy)
            if copy.operation == work.operation and copy.state is ArtefactState.ALLOCATED:
                return
            home = tx.placements.get(work.instance).copy
            if (
                copy.state is not ArtefactState.RETAINED
                or copy.instance != work.instance
                or copy.id == home
                or copy.holds != order.base
            ):
                raise Conflict(
                    f"the copy kept at {copy.site} is not what the plan saw: make a new plan"
                )
            for each in (*_volumes_beside(tx, copy), copy):
                if each.state is ArtefactState.RETAINED:
                    tx.artefacts.restamp(each.id, work.operation, work.epoch)
                    tx.artefacts.set_state(each.id, ArtefactState.ALLOCATED, note="")
            op = tx.operations.get(work.operation)
            audit(tx, op, "taken-over", self._clock(), artefact=str(copy.id), site=copy.site)

    @activity.defn(no_thread_cancel_exception=True)
    def placed(self, order: Placed) -> None:
        """The end of provisioning: the instance has a home."""
        now = self._clock()
        work = order.work
        with self._steps.step(work.operation, "record home"):
            with self._store.begin() as tx:
                op = tx.operations.get(work.operation)
                placement = tx.placements.set_copy(
                    work.instance, work.operation, work.epoch, order.copy, now
                )
                for artefact in tx.artefacts.list(operation=work.operation):
                    if artefact.kind in {ArtefactKind.INSTANCE, ArtefactKind.VOLUME}:
                        tx.artefacts.set_state(artefact.id, ArtefactState.ATTACHED)
            self._homes.put(_home(op, work, placement, op.created_at))

    @activity.defn(no_thread_cancel_exception=True)
    def unplaced(self, work: Work) -> None:
        """The undo of `placed`: a place without a copy, so that it can be provisioned again."""
        with translated("record no home"), self._store.begin() as tx:
            tx.leases.check(work.instance, work.operation, work.epoch)
            for artefact in tx.artefacts.list(operation=work.operation):
                if artefact.state is ArtefactState.ATTACHED:
                    tx.artefacts.set_state(artefact.id, ArtefactState.RETAINED)
            placement = tx.placements.get(work.instance)
            if placement.copy is not None:
                tx.placements.delete(work.instance)
                tx.placements.create(replace(placement, copy=None))

    @activity.defn(no_thread_cancel_exception=True)
    def power_seen(self, order: PowerSeen) -> None:
        now = self._clock()
        with translated("record power"), self._store.begin() as tx:
            tx.leases.check(order.work.instance, order.work.operation, order.work.epoch)
            _show_power(tx, order.work.instance, order.power, now)

    @activity.defn(no_thread_cancel_exception=True)
    def switch_home(self, order: Switch) -> None:
        """Home, epoch and phase change together, or not at all. Doing it twice does it once.

        Then the store is told, before anything else happens: a control plane that is restored from
        before this moment finds it there.
        """
        work = order.work
        with self._steps.step(work.operation, "switch"):
            with self._store.begin() as tx:
                op = tx.operations.get(work.operation)
                if tx.placements.get(work.instance).copy != order.copy:
                    self._switch(tx, op, order)
                placement = tx.placements.get(work.instance)
            self._homes.put(_home(op, work, placement, placement.switched_at or op.created_at))

    def _switch(self, tx: Tx, op: Operation, order: Switch) -> None:
        now = self._clock()
        work, plan = order.work, order.plan
        placement = tx.placements.get(work.instance)
        if op.cancel_requested:
            raise Conflict("cancelled before the switch", reason=CANCELLED)
        tx.placements.switch(
            work.instance,
            operation=work.operation,
            epoch=work.epoch,
            site=plan.target.site,
            copy=order.copy,
            now=now,
        )
        instance = tx.resources.by_id(op.subject)
        tx.resources.set_spec(op.subject, {**instance.spec, "zone": plan.target.site}, now=now)
        for artefact in tx.artefacts.list(instance=work.instance):
            if artefact.operation == work.operation and artefact.site == plan.target.site:
                if artefact.kind in {ArtefactKind.INSTANCE, ArtefactKind.VOLUME}:
                    tx.artefacts.set_state(artefact.id, ArtefactState.ATTACHED)
            elif artefact.state is ArtefactState.ATTACHED:
                tx.artefacts.set_state(
                    artefact.id,
                    ArtefactState.RETAINED,
                    note=OLD_HOME,
                    expires_at=now + plan.retain,
                    holds=order.holds if artefact.id == placement.copy else None,
                )
        tx.operations.update(work.operation, phase=SWITCHED)
        move = move_of(op)
        if move is not None:
            tx.resources.patch_status(move, {"phase": SWITCHED}, now=now)
        audit(
            tx,
            op,
            "switched",
            now,
            site=plan.target.site,
            epoch=str(work.epoch),
            plan=op.plan_digest,
        )


def _home(op: Operation, work: Work, placement: Placement, since: datetime) -> Home:
    if op.tenant is None or placement.copy is None:
        raise Conflict(f"operation {op.name} has given {op.subject_name} no home")
    return Home(
        tenant=op.tenant,
        instance=work.instance,
        epoch=work.epoch,
        site=placement.site,
        copy=placement.copy,
        operation=work.operation,
        since=since,
    )


def _volumes_beside(tx: Tx, copy: Artefact) -> list[Artefact]:
    """The volumes that were made at the same site for the same copy."""
    return [
        a
        for a in tx.artefacts.list(operation=copy.operation, site=copy.site)
        if a.kind is ArtefactKind.VOLUME
    ]


def _give_place(tx: Tx, op: Operation, instance: InstanceId) -> None:
    """An instance that was never provisioned can be deleted, too: leases need a place."""
    if tx.placements.find(instance) is None:
        zone = tx.resources.by_id(op.subject).spec["zone"]
        tx.placements.create(
            Placement(instance=instance, site=SiteName(str(zone)), copy=None, epoch=0)
        )


def _enter(tx: Tx, op: Operation, state: State, now: datetime) -> None:
    resource = tx.resources.find_id(op.subject)
    if resource is None or resource.state is state or resource.state is State.DELETING:
        return
    if resource.state is State.PENDING and state is State.UPDATING:
        state = State.CREATING
    tx.resources.set_state(op.subject, state, now=now)


def move_of(op: Operation) -> ResourceId | None:
    if op.kind not in _OF_A_MOVE:
        return None
    text = op.order.get("move")
    if not isinstance(text, str):
        return None
    return ResourceId(UUID(text))


def _show_power(tx: Tx, instance: InstanceId, power: Power, now: datetime) -> None:
    resource = tx.resources.find_id(ResourceId(instance))
    if resource is not None and resource.status.get("powerState") != power.value:
        tx.resources.patch_status(
            resource.id,
            {"powerState": power.value, "powerStateSince": now.isoformat()},
            now=now,
        )
