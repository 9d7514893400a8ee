"""What people decide about a move on its way, read where the story waits for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from temporalio import activity

from controlplane.domain.errors import Conflict
from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import OperationId, SiteName
from controlplane.domain.operation import (
    DECIDING,
    Decision,
    Operation,
    OperationKind,
    OperationState,
    StepState,
)
from controlplane.domain.plan import PassPolicy
from controlplane.planning.passes import COPYING, Gate, Next, gate, in_turn
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from workflows.activities.records import WAITS_FOR, move_of, operation_id
from workflows.failures import translated

CUTOVER = "cutover"
_DOWN = {CUTOVER, "copying", "target", "acceptance"}
_LET_GO = {"stop source", "pause source"}
_COUNTS_FOR = timedelta(minutes=5)
WAITING = "wait for cutover"
DECISION = "wait for a decision"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskGate:
    """`following` is what the measured passes call for; `expected` seconds of downtime."""

    operation: str
    policy: PassPolicy
    following: Next
    expected: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The source cannot return to run at `source`, because `why`; `target` has a proven copy."""

    operation: str
    source: SiteName
    target: SiteName
    why: str


class ControlActivities:
    """`clock` answers aware UTC times; at most `cutovers` warm moves are cut over by themselves."""

    def __init__(self, store: Store, clock: Callable[[], datetime], *, cutovers: int) -> None:
        self._store = store
        self._clock = clock
        self._cutovers = cutovers

    @activity.defn(no_thread_cancel_exception=True)
    def gate(self, order: AskGate) -> Gate:
        """Whether the source may be stopped now; Conflict when its window has passed."""
        now = self._clock()
        with translated("cutover"), self._store.begin() as tx:
            op = tx.operations.get(operation_id(order.operation))
            answer = gate(order.policy, order.following, op.decision, now)
            others = _in_cutover(tx, now, besides=op.id)
            answer = in_turn(answer, op.decision, others, self._cutovers)
            if answer.missed:
                raise Conflict(
                    f"{op.subject_name} was not moved: {answer.why}; plan it again with another",
                    reason="window-missed",
                )
            if order.following is Next.STALLED:
                _add_finding(tx, op)
            self._show(tx, op, answer, order.expected, now)
            if answer.open or answer.why != COPYING:
                _note(tx, op, WAITING, waits=not answer.open, now=now)
            return answer

    @activity.defn(no_thread_cancel_exception=True)
    def offer(self, order: Offer) -> bool:
        """Say that the move can be sent forward; whether somebody decided so."""
        now = self._clock()
        with translated("decision"), self._store.begin() as tx:
            op = tx.operations.get(operation_id(order.operation))
            forward = op.decision is Decision.FORWARD
            waits = (
                f"{op.subject_name} cannot run on {order.source} again, which is tried on"
                f" ({order.why}); its copy on {order.target} is proven: fedctl moves forward"
                " makes it the home"
            )
            shown: dict[str, object] = {WAITS_FOR: "" if forward else waits}
            phase = op.phase if forward else DECIDING
            tx.operations.update(op.id, result={**op.result, **shown}, phase=phase)
            move = move_of(op)
            if move is not None:
                tx.resources.patch_status(move, {**shown, "phase": phase}, now=now)
            _note(tx, op, DECISION, waits=not forward, now=now)
            return forward

    @staticmethod
    def _show(tx: Tx, op: Operation, answer: Gate, expected: float | None, now: datetime) -> None:
        waits = "" if answer.open or answer.why == COPYING else answer.why
        shown: dict[str, object] = {WAITS_FOR: waits}
        if expected is not None:
            shown["announcedDowntime"] = round(expected, 1)
        # In the transaction that counted the others, so that it counts for the next.
        phase = CUTOVER if answer.open else op.phase
        tx.operations.update(op.id, result={**op.result, **shown}, phase=phase)
        move = move_of(op)
        if move is not None:
            tx.resources.patch_status(move, {**shown, "phase": phase}, now=now)


def _in_cutover(tx: Tx, now: datetime, *, besides: OperationId) -> int:
    """Warm moves whose source may be stopped, or is, and that did not switch yet."""
    running = tx.operations.list(states={OperationState.RUNNING})
    return sum(_is_cut_over(tx, each, now) for each in running if each.id != besides)


def _is_cut_over(tx: Tx, op: Operation, now: datetime) -> bool:
    passes = cast("Mapping[str, object]", (op.plan or {}).get("passes") or {})
    if op.phase not in _DOWN or op.kind is not OperationKind.MOVE or not passes.get("warm"):
        return False
    since = [s.started_at for s in tx.operations.steps(op.id) if s.name in _LET_GO]
    # One that takes longer waits for its sites, and competes with nobody.
    return now - min(since) < _COUNTS_FOR if since else op.phase == CUTOVER


def _note(tx: Tx, op: Operation, name: str, *, waits: bool, now: datetime) -> None:
    """Waiting for people or a time is a step, and no overhead of ours."""
    running = [
        step
        for step in tx.operations.steps(op.id)
        if step.name == name and step.state is StepState.RUNNING
    ]
    if waits and not running:
        tx.operations.begin_step(op.id, name, now)
    for step in () if waits else running:
        waited = (now - step.started_at).total_seconds()
        tx.operations.end_step(op.id, name, StepState.OK, now, provider_seconds=waited)


def _add_finding(tx: Tx, op: Operation) -> None:
    finding = Finding(
        id="PTH02",
        severity=Severity.WARNING,
        subject=op.subject_name,
        evidence="the guest changes its disks faster than they are copied: the rest does not get"
        " small enough for the downtime that was wished",
        remedy="cut over all the same (fedctl moves cutover), cancel, or quieten the guest",
    )
    if all(each.id != finding.id for each in op.findings):
        tx.operations.update(op.id, findings=(*op.findings, finding))
