"""Operations as people see them: steps with their cost, progress, findings, outcome; cancelling."""

from collections.abc import Mapping
from datetime import UTC, datetime

from controlplane.domain.admission import Bounds
from controlplane.domain.errors import Conflict
from controlplane.domain.finding import Finding
from controlplane.domain.ids import ResourceId, TenantName, WorkspaceName
from controlplane.domain.kinds import facts
from controlplane.domain.operation import (
    ENDED,
    Operation,
    OperationKind,
    OperationState,
    Progress,
    Step,
)
from controlplane.domain.resource import Condition, Json, Kind, Resource, ResourceKey, State
from controlplane.services.admission import of_operations
from controlplane.services.ports import Clock
from controlplane.services.record import cancel
from controlplane.services.stored import ReadOnly, known_workspace
from controlplane.services.wish import Caller, Page
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

_STATES = {
    OperationState.QUEUED: State.PENDING,
    OperationState.RUNNING: State.CREATING,
    OperationState.SUCCEEDED: State.ACTIVE,
    OperationState.CANCELLED: State.ACTIVE,
    OperationState.BLOCKED: State.ERROR,
    OperationState.FAILED: State.ERROR,
    OperationState.ROLLED_BACK: State.ERROR,
    OperationState.NEEDS_ATTENTION: State.ERROR,
}
_NOWHERE_TENANT = TenantName("")
_NOWHERE = WorkspaceName("")
_SUBJECTS = {
    OperationKind.VERIFY_SITE: Kind.SITE,
    OperationKind.SWEEP: Kind.SITE,
    OperationKind.RELEASE_ORPHAN: Kind.SITE,
    OperationKind.SCAN: Kind.SITE,
    OperationKind.IMPORT_IMAGE: Kind.IMAGE,
    OperationKind.DELETE_IMAGE: Kind.IMAGE,
    OperationKind.CHECK_VAULT: Kind.VAULT_CHECK,
    OperationKind.VERIFY_POINT: Kind.RECOVERY_POINT,
    OperationKind.DELETE_POINT: Kind.RECOVERY_POINT,
}


class Operations(ReadOnly):
    def __init__(self, *, store: Store, clock: Clock, bounds: Bounds) -> None:
        self._store = store
        self._clock = clock
        self._bounds = bounds

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        with self._store.read() as tx:
            found = tx.operations.by_name(key.tenant, key.workspace, key.name)
            waits = of_operations(tx, [found], self._bounds)
            return shown(tx, found, waits.get(found.id, ""))

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        """Newest first, and without steps and progress."""
        del caller
        with self._store.read() as tx:
            known_workspace(tx, page)
            found = tx.operations.list(
                page.tenant or _NOWHERE_TENANT,
                page.workspace or _NOWHERE,
                limit=page.limit,
                after=page.after,
            )
            waits = of_operations(tx, found, self._bounds)
        return [_resource(each, waits_for=waits.get(each.id, "")) for each in found]

    def act(
        self,
        caller: Caller,
        key: ResourceKey,
        action: str,
        expected: int | None,
        options: Mapping[str, str],
    ) -> Operation | None:
        del action, expected, options
        now = self._clock.now()
        with self._store.begin() as tx:
            operation = tx.operations.by_name(key.tenant, key.workspace, key.name)
            if operation.state in ENDED:
                raise Conflict(
                    f"operation {operation.name} has ended ({operation.state}):"
                    " there is nothing to cancel"
                )
            return cancel(tx, caller, operation, now)


def operation_key(operation: Operation) -> ResourceKey:
    return ResourceKey(
        kind=Kind.OPERATION,
        name=operation.name,
        tenant=operation.tenant,
        workspace=operation.workspace,
    )


def shown(tx: Tx, operation: Operation, waits_for: str = "") -> Resource:
    """An operation with its steps and progress, and what it waits for before it begins."""
    steps = tx.operations.steps(operation.id)
    progress = tx.operations.progress(operation.id)
    return _resource(operation, steps, progress, waits_for)


def subject_ref(operation: Operation) -> str:
    """The URN of what the operation works on."""
    kind = _SUBJECTS.get(operation.kind, Kind.INSTANCE)
    name = operation.subject_name.rpartition("/")[2]
    target = facts(kind)
    return target.ref(target.key(name, operation.tenant, operation.workspace))


def _resource(
    operation: Operation,
    steps: tuple[Step, ...] = (),
    progress: tuple[Progress, ...] = (),
    waits_for: str = "",
) -> Resource:
    spec: dict[str, object] = {
        "kind": operation.kind.value,
        "subject": operation.subject_name,
        "subjectRef": subject_ref(operation),
        "actor": operation.actor,
        "request": operation.request,
        "order": operation.order,
    }
    status: dict[str, object] = {
        "operationState": operation.state.value,
        "phase": operation.phase,
        "steps": [_step(step) for step in steps],
        "progress": [_progress(each) for each in progress],
        "findings": [_finding(finding) for finding in operation.findings],
        "result": operation.result,
        "waitsFor": waits_for or operation.result.get("waitsFor", ""),
        "lookAt": operation.result.get("lookAt", []),
        "cancelRequested": operation.cancel_requested,
    }
    if operation.plan_digest:
        spec["planDigest"] = operation.plan_digest
    if operation.deadline is not None:
        spec["deadline"] = stamp(operation.deadline)
    if operation.state in ENDED or operation.state is OperationState.NEEDS_ATTENTION:
        status["outcome"] = operation.state.value
    if operation.problem is not None:
        problem = operation.problem
        status["problem"] = {"code": problem.code, "message": problem.message} | {
            name: text
            for name, text in (("detail", problem.detail), ("step", problem.step))
            if text
        }
    for name, at in (("startedAt", operation.started_at), ("endedAt", operation.ended_at)):
        if at is not None:
            status[name] = stamp(at)
    modified = operation.ended_at or operation.started_at or operation.created_at
    return Resource(
        key=operation_key(operation),
        id=ResourceId(operation.id),
        spec=spec,
        status=status,
        state=_STATES[operation.state],
        conditions=_history(operation),
        version=1,
        status_version=1,
        created_at=operation.created_at,
        modified_at=modified,
    )


def _history(operation: Operation) -> tuple[Condition, ...]:
    entries = [Condition(state=State.PENDING, at=operation.created_at)]
    if operation.started_at is not None:
        entries.append(Condition(state=State.CREATING, at=operation.started_at))
    if operation.ended_at is not None or operation.state is OperationState.NEEDS_ATTENTION:
        entries.append(
            Condition(
                state=_STATES[operation.state],
                at=operation.ended_at or entries[-1].at,
                type="outcome",
                reason=operation.state.value.title().replace("-", ""),
                message=operation.problem.message if operation.problem else "",
            )
        )
    return tuple(reversed(entries))


def _step(step: Step) -> Json:
    entry: dict[str, object] = {
        "name": step.name,
        "state": step.state.value,
        "startedAt": stamp(step.started_at),
        "attempts": step.attempts,
        "providerSeconds": round(step.provider_seconds, 3),
        "copySeconds": round(step.copy_seconds, 3),
        "message": step.message,
    }
    if step.ended_at is not None:
        entry["endedAt"] = stamp(step.ended_at)
        entry["seconds"] = round(step.seconds or 0.0, 3)
        entry["overheadSeconds"] = round(step.overhead, 3)
    return entry


def _progress(progress: Progress) -> Json:
    return {
        "what": progress.what,
        "done": progress.done,
        "total": progress.total,
        "sent": progress.sent,
        "at": stamp(progress.at),
    }


def _finding(finding: Finding) -> Json:
    return {
        "id": finding.id,
        "severity": finding.severity.value,
        "subject": finding.subject,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
    }


def stamp(at: datetime) -> str:
    """A time as every answer writes it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
