"""What every accepted change leaves in its transaction: audit entry, operation, outbox row."""

from datetime import datetime, timedelta
from typing import cast
from uuid import uuid4

from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Busy, Conflict
from controlplane.domain.ids import OperationId, ResourceId
from controlplane.domain.kinds import facts_of
from controlplane.domain.operation import (
    DECIDING,
    SWITCHED,
    Decision,
    Operation,
    OperationKind,
    OperationState,
)
from controlplane.domain.resource import Json, Resource, ResourceKey
from controlplane.services.admission import give_up
from controlplane.services.wish import Caller
from controlplane.store.tx import Tx

ACCEPTED = "accepted"


def note(tx: Tx, caller: Caller, verb: str, key: ResourceKey, now: datetime, **detail: str) -> None:
    """One audit entry: who asked for what, of which resource, in which request."""
    append(
        tx,
        AuditEntry(
            sequence=0,
            at=now,
            actor=caller.subject,
            tenant=key.tenant or "",
            action=f"{key.kind}.{verb}",
            subject=facts_of(key).ref(key),
            outcome=ACCEPTED,
            request=caller.request,
            detail=detail,
        ),
    )


def append(tx: Tx, entry: AuditEntry) -> None:
    """The log numbers the entry itself."""
    tx.audit.append(entry, entry.at)


def start(
    tx: Tx,
    caller: Caller,
    kind: OperationKind,
    subject: Resource,
    *,
    now: datetime,
    order: Json | None = None,
    deadline: timedelta | None = None,
) -> Operation:
    """A queued operation on `subject`, in the outbox."""
    return start_bare(
        tx, caller, kind, subject.id, subject.key, now=now, order=order, deadline=deadline
    )


def queue(
    tx: Tx,
    caller: Caller,
    kind: OperationKind,
    subject: Resource,
    *,
    now: datetime,
    order: Json,
    deadline: timedelta,
) -> Operation:
    """As `start`, but not in the outbox: somebody else says when it begins."""
    return _queued(tx, caller, kind, subject.id, subject.key, now, order, deadline)


def start_bare(
    tx: Tx,
    caller: Caller,
    kind: OperationKind,
    subject: ResourceId,
    key: ResourceKey,
    *,
    now: datetime,
    order: Json | None = None,
    deadline: timedelta | None = None,
) -> Operation:
    """As `start`, for a subject that need not be a stored resource."""
    operation = _queued(tx, caller, kind, subject, key, now, order or {}, deadline)
    tx.outbox.add(operation.id, "start", now)
    return operation


def _queued(  # noqa: PLR0917  # what an operation is made of
    tx: Tx,
    caller: Caller,
    kind: OperationKind,
    subject: ResourceId,
    key: ResourceKey,
    now: datetime,
    order: Json,
    deadline: timedelta | None,
) -> Operation:
    subject_name = str(key)
    operation = Operation(
        id=OperationId(uuid4()),
        name=tx.operations.next_name(
            kind, subject_name, tenant=key.tenant, workspace=key.workspace
        ),
        kind=kind,
        state=OperationState.QUEUED,
        subject=subject,
        subject_name=subject_name,
        actor=caller.subject,
        request=caller.request,
        created_at=now,
        tenant=key.tenant,
        workspace=key.workspace,
        order=dict(order),
        deadline=None if deadline is None else now + deadline,
    )
    tx.operations.add(operation)
    return operation


def cancel(tx: Tx, caller: Caller, operation: Operation, now: datetime) -> Operation:
    """Notes the wish to cancel where the story reads it, and nudges the story.

    A move that waits for its turn begins at once, and only to end. An operation that needs
    attention has no story any more: what it could not undo is tried again.
    Conflict once a move has switched: from there it only goes forward.
    """
    attention = operation.state is OperationState.NEEDS_ATTENTION
    if operation.cancel_requested and not attention:
        return operation
    if operation.phase == SWITCHED and not attention:
        raise Conflict(
            f"operation {operation.name} has made the target the home of {operation.subject_name}"
            " already and only goes forward: to return, move it back"
        )
    asked = operation if attention else tx.operations.request_cancel(operation.id)
    if not give_up(tx, operation, now):
        tx.outbox.add(operation.id, "mend" if attention else "cancel", now)
    _told(tx, caller, operation, "cancel", now)
    return asked


def decide(
    tx: Tx, caller: Caller, operation: Operation, decision: Decision, now: datetime
) -> Operation:
    """Notes a decision about a move where the story reads it, and nudges the story.

    Going forward takes an earlier cancel back. Conflict when there is nothing to decide: it does
    not wait for that decision, has switched, or needs attention.
    """
    name = operation.name
    attention = operation.state is OperationState.NEEDS_ATTENTION
    if decision is Decision.FORWARD:
        if operation.decision is decision:
            return operation
        if operation.phase != DECIDING or attention:
            raise Conflict(
                f"operation {name} does not wait for that: a move is sent forward only while its"
                " source cannot return and its target is proven"
            )
        decided = tx.operations.update(operation.id, decision=decision, cancel_requested=False)
    else:
        if operation.phase in {SWITCHED, DECIDING} or attention:
            raise Conflict(f"operation {name} is past its cutover: there is nothing to decide")
        passes = cast("Json", (operation.plan or {}).get("passes") or {})
        if not passes.get("warm"):
            raise Conflict(
                f"operation {name} is not a warm move (yet): a cold one does not wait for a cutover"
            )
        decided = tx.operations.update(operation.id, decision=decision)
    tx.outbox.add(operation.id, "nudge", now)
    _told(tx, caller, operation, decision.value or "resume", now)
    return decided


def _told(tx: Tx, caller: Caller, operation: Operation, what: str, now: datetime) -> None:
    """One audit entry: who told an operation what, in which request."""
    append(
        tx,
        AuditEntry(
            sequence=0,
            at=now,
            actor=caller.subject,
            tenant=operation.tenant or "",
            action=f"operation.{what}",
            subject=operation.subject_name,
            outcome=ACCEPTED,
            operation=operation.name,
            request=caller.request,
        ),
    )


def free(tx: Tx, subject: ResourceId, *, what: str) -> None:
    """Busy, naming the other, while an operation on `subject` has not ended."""
    holder = tx.operations.open_for(subject)
    if holder is not None:
        raise busy_with(holder, what)


def busy_with(holder: Operation, what: str) -> Busy:
    return Busy(
        f"{what} is held by operation {holder.name} ({holder.kind}, {holder.state}):"
        f" wait for it (fedctl operation watch {holder.name}) or cancel it"
    )
