"""What stories need to know of our own rows before they act."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter
from temporalio import activity

from controlplane.domain.artefact import RETENTION, Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import Conflict
from controlplane.domain.ids import (
    ArtefactId,
    InstanceId,
    OperationId,
    ResourceId,
    SiteName,
    derived,
)
from controlplane.domain.instance import Manner
from controlplane.domain.operation import SWITCHED, OperationKind, OperationState, StepState
from controlplane.domain.plan import MovePlan
from controlplane.keys.port import domain_owner
from controlplane.services.points import points_of_move, retention_of
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from workflows.activities.groups import COMMIT
from workflows.activities.orders import At
from workflows.activities.records import IMAGES, operation_id
from workflows.activities.steps import Work
from workflows.failures import translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where an instance is, and what its operation asks of it."""

    site: SiteName
    copy: ArtefactId
    kind: OperationKind
    manner: Manner

    def at(self, work: Work, step: str) -> At:
        return At(work=work, site=self.site, artefact=self.copy, step=step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Belongings:
    """Objects of an instance in the order in which they may go, and its recovery points.

    `moves` tells which operation copied which point.
    """

    artefacts: tuple[Artefact, ...]
    points: tuple[UUID, ...] = ()
    moves: dict[UUID, OperationId] = field(default_factory=dict)

    def at(self, work: Work, artefact: Artefact) -> At:
        step = f"remove {artefact.kind} at {artefact.site} {str(artefact.id)[:8]}"
        return At(work=work, site=artefact.site, artefact=artefact.id, step=step)


_GOING = (
    ArtefactKind.EXPORT,
    ArtefactKind.INSTANCE,
    ArtefactKind.SNAPSHOT,  # some sites delete no volume that has any
    ArtefactKind.VOLUME,
    ArtefactKind.IMAGE,
    ArtefactKind.NIC,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """An operation that needs attention; `plan` is None unless it is a move with a lease.

    `adopted` are what an adoption that holds its lease may have tagged, the machine first.
    `scaffolding` is what the taking of points left at sites, and `points` those that it may not
    have committed; `forgotten`: of those that it had, it began to forget all.
    """

    work: Work
    plan: MovePlan | None
    switched: bool
    adopting: bool = False
    adopted: tuple[Artefact, ...] = ()
    scaffolding: tuple[Artefact, ...] = ()
    points: tuple[UUID, ...] = ()
    forgotten: bool = False


_MOVE_PLAN = TypeAdapter(MovePlan)
# A mark of points that stand is retained, and goes by itself.
_LEFT = frozenset(ArtefactState) - {ArtefactState.RETAINED, ArtefactState.RELEASED}


class LookupActivities:
    def __init__(self, store: Store) -> None:
        self._store = store

    @activity.defn(no_thread_cancel_exception=True)
    def stuck(self, operation: str) -> Stuck | None:
        """What a mending story begins from; None when the operation has ended."""
        with translated("stuck"), self._store.read() as tx:
            op = tx.operations.get(operation_id(operation))
            if op.state is not OperationState.NEEDS_ATTENTION:
                return None
            instance = InstanceId(op.subject)
            lease = tx.leases.find(instance)
            held = lease is not None and lease.operation == op.id
            plan = _MOVE_PLAN.validate_python(op.plan) if op.kind is OperationKind.MOVE else None
            adopting = op.kind is OperationKind.ADOPT and held
            tagged = tx.artefacts.list(operation=op.id) if adopting else []
            taking = op.kind is OperationKind.TAKE_POINTS
            left = tx.artefacts.list(operation=op.id) if taking else []
            committing = tx.operations.find_step(op.id, COMMIT) if taking else None
            return Stuck(
                work=Work(
                    operation=op.id,
                    instance=instance,
                    epoch=lease.epoch if lease is not None and held else 0,
                ),
                plan=plan if held else None,
                switched=op.phase == SWITCHED,
                adopting=adopting,
                adopted=tuple(sorted(tagged, key=lambda a: _GOING.index(a.kind))),
                scaffolding=tuple(
                    sorted(
                        (a for a in left if a.state in _LEFT), key=lambda a: _GOING.index(a.kind)
                    )
                ),
                points=tuple({derived(op.id, "point", a.instance): None for a in left}),
                forgotten=committing is not None and committing.state is StepState.UNDONE,
            )

    @activity.defn(no_thread_cancel_exception=True)
    def has_switched(self, operation: str) -> bool:
        """Whether a move has made its target the home: what it did is never undone then."""
        with translated("switched"), self._store.read() as tx:
            return tx.operations.get(operation_id(operation)).phase == SWITCHED

    @activity.defn(no_thread_cancel_exception=True)
    def made_at_target(self, work: Work) -> list[Artefact]:
        """What a move made and did not release, exports aside."""
        with translated("made"), self._store.read() as tx:
            return [
                a
                for a in tx.artefacts.list(operation=work.operation)
                if a.state is not ArtefactState.RELEASED and a.kind is not ArtefactKind.EXPORT
            ]

    @activity.defn(no_thread_cancel_exception=True)
    def domain_of(self, operation: str) -> str:
        """The dedup domain of the operation's workspace."""
        with translated("domain"), self._store.read() as tx:
            op = tx.operations.get(operation_id(operation))
            return domain_owner(op.tenant or "", op.workspace or IMAGES)

    @activity.defn(no_thread_cancel_exception=True)
    def image_domain_of(self, operation: str) -> str:
        """The dedup domain of the images of the operation's tenant."""
        with translated("domain"), self._store.read() as tx:
            op = tx.operations.get(operation_id(operation))
            return domain_owner(op.tenant or "", IMAGES)

    @activity.defn(no_thread_cancel_exception=True)
    def subject_of(self, operation: str) -> str:
        with translated("subject"), self._store.read() as tx:
            return str(tx.operations.get(operation_id(operation)).subject)

    @activity.defn(no_thread_cancel_exception=True)
    def home(self, work: Work) -> Home:
        """Where the instance is; Conflict when it was never provisioned."""
        with translated("home"), self._store.read() as tx:
            op = tx.operations.get(work.operation)
            placement = tx.placements.get(work.instance)
            if placement.copy is None:
                raise Conflict(f"{op.subject_name} was never provisioned: create it anew")
            return Home(
                site=placement.site,
                copy=placement.copy,
                kind=op.kind,
                manner=Manner(str(op.order.get("manner", Manner.GRACEFUL))),
            )

    @activity.defn(no_thread_cancel_exception=True)
    def belongings(self, operation: str) -> Belongings:
        """Everything of the instance at every site, and its recovery points."""
        with translated("belongings"), self._store.read() as tx:
            op = tx.operations.get(operation_id(operation))
            return _belongings(tx, InstanceId(op.subject), frozenset(ArtefactState))

    @activity.defn(no_thread_cancel_exception=True)
    def retained(self, operation: str) -> Belongings:
        """What earlier moves retained, and the recovery points they copied.

        Where retention is set for the workspace, that alone says which points go, and none does
        here. Of an operation that housekeeping began, only what had expired by then.
        """
        with translated("retained"), self._store.read() as tx:
            op = tx.operations.get(operation_id(operation))
            kept = _belongings(tx, InstanceId(op.subject), frozenset({ArtefactState.RETAINED}))
            if retention_of(tx, op.tenant, op.workspace) is not None:
                kept = replace(kept, points=())
            until = op.order.get("expiredAt")
            if until is None:
                return kept
            return _expired(tx, kept, datetime.fromisoformat(str(until)))


def _expired(tx: Tx, kept: Belongings, until: datetime) -> Belongings:
    """What had expired by then; a point goes with the last copy that equals it.

    Of a move that stopped it is kept for a retry, as long as its copies are.
    """
    gone = tuple(a for a in kept.artefacts if a.expires_at is not None and a.expires_at <= until)
    needed = {a.holds for a in kept.artefacts if a not in gone}

    def free(point: UUID) -> bool:
        move = tx.operations.get(kept.moves[point])
        over = move.state is OperationState.SUCCEEDED or (
            move.ended_at is not None and move.ended_at + RETENTION <= until
        )
        return over and point not in needed

    return replace(kept, artefacts=gone, points=tuple(p for p in kept.points if free(p)))


def _belongings(tx: Tx, instance: InstanceId, states: frozenset[ArtefactState]) -> Belongings:
    found = [
        a
        for a in tx.artefacts.list(instance=instance)
        if a.state in states and a.state is not ArtefactState.RELEASED
    ]
    moves = {
        point: op.id
        for op in tx.operations.list(subject=ResourceId(instance), limit=1000)
        if op.kind is OperationKind.MOVE
        for point in points_of_move(tx, op.id)
    }
    return Belongings(
        artefacts=tuple(sorted(found, key=lambda a: _GOING.index(a.kind))),
        points=tuple(moves),
        moves=moves,
    )
