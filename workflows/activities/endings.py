"""How operations end: operation, resource, move, lease, served images and audit in one go."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from temporalio import activity

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.ids import InstanceId, ResourceId
from controlplane.domain.operation import (
    ENDED,
    Operation,
    OperationKind,
    OperationState,
    Problem,
    Step,
    StepState,
)
from controlplane.domain.resource import State
from controlplane.planning.attention import look_at
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from workflows.activities.records import BEGINS, LOOK_AT, WAITS_FOR, move_of, operation_id
from workflows.activities.trail import audit
from workflows.failures import translated

_log = logging.getLogger(__name__)
_STAYS_ACTIVE = frozenset(
    {
        OperationKind.SURVEY,
        OperationKind.START,
        OperationKind.STOP,
        OperationKind.RESTART,
        OperationKind.MOVE,
        OperationKind.FINALIZE,
        OperationKind.TAKE_POINTS,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a story ended; `result` is JSON that the operation shows."""

    operation: str
    state: OperationState
    problem: Problem | None = None
    result: dict[str, object] = field(default_factory=dict)


class EndingActivities:
    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    @activity.defn(no_thread_cancel_exception=True)
    def finish(self, outcome: Outcome) -> None:
        """Write the end down: operation, resource, move, lease, served images, audit."""
        with translated("finish"), self._store.begin() as tx:
            conclude(tx, outcome, self._clock())
        problem = outcome.problem
        _log.log(
            logging.WARNING if problem else logging.INFO,
            "operation ends: %s",
            problem.message if problem else outcome.state.value,
            extra={"state": outcome.state.value, "code": problem.code if problem else ""},
        )


def conclude(tx: Tx, outcome: Outcome, now: datetime) -> None:
    """The end of an operation in all rows that it touches; ended already, nothing changes."""
    op = tx.operations.get(operation_id(outcome.operation))
    if op.state in ENDED:
        return
    if op.state is OperationState.QUEUED:
        tx.operations.update(op.id, state=OperationState.RUNNING)
    _leave_no_step_running(tx, op, now)
    before = {key: value for key, value in op.result.items() if key not in {WAITS_FOR, LOOK_AT}}
    op = tx.operations.update(
        op.id,
        state=outcome.state,
        problem=outcome.problem,
        result={**before, **outcome.result, **_attention(tx, op, outcome), **_spent(tx, op, now)},
        ended_at=None if outcome.state is OperationState.NEEDS_ATTENTION else now,
    )
    tx.served.revoke(op.id)
    tx.admissions.forget(op.id)
    _settle(tx, op, outcome, now)
    if outcome.state is not OperationState.NEEDS_ATTENTION:
        tx.leases.release_all(op.id)
    problem = {"problem": outcome.problem.code} if outcome.problem else {}
    audit(tx, op, outcome.state.value, now, **problem)


def _leave_no_step_running(tx: Tx, op: Operation, now: datetime) -> None:
    """A wait that a cancel ended, or a step whose worker died when the story gave it up."""
    for step in tx.operations.steps(op.id):
        if step.state is StepState.RUNNING:
            tx.operations.end_step(op.id, step.name, StepState.UNDONE, now)


def _attention(tx: Tx, op: Operation, outcome: Outcome) -> dict[str, object]:
    if outcome.state is not OperationState.NEEDS_ATTENTION:
        return {}
    instance = InstanceId(op.subject)
    taking = op.kind is OperationKind.TAKE_POINTS  # of several instances, and of none by itself
    made = tx.artefacts.list(operation=op.id) if taking else tx.artefacts.list(instance=instance)
    lines = look_at(op, tx.placements.find(instance), made)
    return {LOOK_AT: list(lines)}


def _spent(tx: Tx, op: Operation, now: datetime) -> dict[str, object]:
    """Where its time went: provider calls and waiting for them, copying, and the rest.

    The rest is what no step covers, and what each step took besides: steps may go side by side.
    """
    steps = tx.operations.steps(op.id)
    whole = (now - (op.started_at or now)).total_seconds()
    provider = sum(step.provider_seconds for step in steps)
    copying = sum(step.copy_seconds for step in steps)
    own = sum(step.overhead for step in steps)
    return {
        "seconds": round(whole, 3),
        "providerSeconds": round(provider, 3),
        "copySeconds": round(copying, 3),
        "overheadSeconds": round(max(whole - _covered(steps), 0.0) + own, 3),
    }


def _covered(steps: Sequence[Step]) -> float:
    """Seconds in which at least one step was under way."""
    seconds, until = 0.0, None
    for step in sorted(steps, key=lambda each: each.started_at):
        if step.ended_at is None:
            continue
        since = step.started_at if until is None else max(step.started_at, until)
        seconds += max((step.ended_at - since).total_seconds(), 0.0)
        until = step.ended_at if until is None else max(step.ended_at, until)
    return seconds


def _settle(tx: Tx, op: Operation, outcome: Outcome, now: datetime) -> None:
    """What the end of an operation means for its subject, and for the move that asked for it."""
    succeeded = outcome.state is OperationState.SUCCEEDED
    resource = tx.resources.find_id(op.subject)
    move = move_of(op)
    if resource is not None:
        message = outcome.problem.message if outcome.problem else ""
        if op.kind in {OperationKind.DELETE_INSTANCE, OperationKind.DELETE_IMAGE} and succeeded:
            tx.placements.delete(InstanceId(op.subject))
            tx.resources.remove(op.subject, now)
        elif op.kind in BEGINS or not succeeded:
            keep = succeeded or op.kind in _STAYS_ACTIVE or op.kind is OperationKind.PLAN_MOVE
            state = State.ACTIVE if keep else State.ERROR
            if not succeeded and op.kind is OperationKind.PLAN_MOVE:
                state = resource.state
            reason = "" if succeeded else _reason(op, outcome)
            if resource.state is State.PENDING:  # it ended before it began
                tx.resources.set_state(op.subject, State.CREATING, now=now)
            tx.resources.set_state(
                op.subject, state, now=now,
                type="" if succeeded else op.kind.value, reason=reason, message=message,
            )  # fmt: skip
    if move is not None:
        _settle_move(tx, op, outcome, move, now)


def _settle_move(tx: Tx, op: Operation, outcome: Outcome, move: ResourceId, now: datetime) -> None:
    retained = [
        {
            "kind": a.kind.value,
            "site": a.site,
            "sizeBytes": a.size,
            "expiresAt": a.expires_at.isoformat() if a.expires_at else None,
            "note": a.note,
        }
        for a in tx.artefacts.list(instance=InstanceId(op.subject))
        if a.state is ArtefactState.RETAINED
    ]
    phase = {
        OperationKind.PLAN_MOVE: "planned"
        if outcome.state is OperationState.SUCCEEDED
        else "blocked",
        OperationKind.FINALIZE: "finalized",
    }.get(op.kind, "done" if outcome.state is OperationState.SUCCEEDED else outcome.state.value)
    changes: dict[str, object] = {"phase": phase, "retained": retained, "operation": op.name}
    if op.kind is OperationKind.MOVE:
        changes[WAITS_FOR] = ""
        changes["proof"] = outcome.result.get("proof", [])
        changes["downtimeSeconds"] = outcome.result.get("downtimeSeconds")
    if outcome.problem is not None:
        changes["problem"] = {
            "code": outcome.problem.code,
            "message": outcome.problem.message,
            "detail": outcome.problem.detail,
            "step": outcome.problem.step,
        }
    resource = tx.resources.by_id(move)
    tx.resources.patch_status(resource.id, changes, now=now)
    good = outcome.state in {OperationState.SUCCEEDED, OperationState.BLOCKED}
    if resource.state is State.PENDING:
        tx.resources.set_state(resource.id, State.CREATING, now=now)
    tx.resources.set_state(
        resource.id,
        State.ACTIVE if good else State.ERROR,
        now=now,
        type="" if good else op.kind.value,
        reason="" if good else _reason(op, outcome),
        message=outcome.problem.message if outcome.problem else "",
    )


def _reason(op: Operation, outcome: Outcome) -> str:
    """A condition's reason in SECA's grammar: `MoveRolledBack`."""
    words = f"{op.kind}-{outcome.state}".split("-")
    return "".join(word.capitalize() for word in words)
