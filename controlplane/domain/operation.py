"""One durable piece of work: its steps, progress and outcome."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from controlplane.domain.finding import Finding
from controlplane.domain.ids import OperationId, ResourceId, TenantName, WorkspaceName
from controlplane.domain.resource import Json


class OperationKind(StrEnum):
    VERIFY_SITE = "verify-site"
    IMPORT_IMAGE = "import-image"
    DELETE_IMAGE = "delete-image"
    PROVISION = "provision"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    DELETE_INSTANCE = "delete-instance"
    PLAN_MOVE = "plan-move"
    MOVE = "move"
    FINALIZE = "finalize"
    SURVEY = "survey"
    SWEEP = "sweep"
    RELEASE_ORPHAN = "release-orphan"
    SCAN = "scan"
    ADOPT = "adopt"
    CHECK_VAULT = "check-vault"
    VERIFY_POINT = "verify-point"
    DELETE_POINT = "delete-point"
    TAKE_POINTS = "take-points"


class OperationState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    BLOCKED = "blocked"
    ROLLED_BACK = "rolled-back"
    CANCELLED = "cancelled"
    NEEDS_ATTENTION = "needs-attention"


class Decision(StrEnum):
    """What a person decided about a move on its way; the story reads it where it waits."""

    NONE = ""
    HOLD = "hold"
    CUTOVER = "cutover"
    FORWARD = "forward"


ENDED = frozenset(
    {
        OperationState.SUCCEEDED,
        OperationState.FAILED,
        OperationState.BLOCKED,
        OperationState.ROLLED_BACK,
        OperationState.CANCELLED,
    }
)


SWITCHED = "switched"
"""The phase of a move from the moment that its target is the home."""
DECIDING = "deciding"
"""The phase of a move whose source cannot return while its target is proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an operation did not succeed: an error's code, its texts, and the step it came from."""

    code: str
    message: str
    detail: str = ""
    step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`order` holds what the wish asked for; `result` what came of it. Both are JSON.

    `tenant` and `workspace` are None for work on a site. `subject` is the resource's id and
    `subject_name` what people call it (`shop/web-1`). `deadline` unwinds a move that has not
    switched by then.
    """

    id: OperationId
    name: str
    kind: OperationKind
    state: OperationState
    subject: ResourceId
    subject_name: str
    actor: str
    request: str
    created_at: datetime
    tenant: TenantName | None = None
    workspace: WorkspaceName | None = None
    order: Json = field(default_factory=dict)
    phase: str = ""
    plan: Json | None = None
    plan_digest: str = ""
    findings: tuple[Finding, ...] = ()
    result: Json = field(default_factory=dict)
    problem: Problem | None = None
    cancel_requested: bool = False
    decision: Decision = Decision.NONE
    started_at: datetime | None = None
    ended_at: datetime | None = None
    deadline: datetime | None = None


class StepState(StrEnum):
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step as it went; its seconds in provider calls (waiting included) and in copying."""

    operation: OperationId
    name: str
    state: StepState
    started_at: datetime
    ended_at: datetime | None = None
    attempts: int = 1
    provider_seconds: float = 0.0
    copy_seconds: float = 0.0
    message: str = ""

    @property
    def seconds(self) -> float | None:
        """From begin to end; None while it runs."""
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else None

    @property
    def overhead(self) -> float:
        """What remains of it is our own; 0 while it runs."""
        return max((self.seconds or 0.0) - self.provider_seconds - self.copy_seconds, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a copy is, in bytes of the disk (`done` of `total`), and bytes sent so far."""

    operation: OperationId
    what: str
    done: int
    total: int
    sent: int
    at: datetime
