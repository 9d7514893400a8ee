"""Builds the worker; production, tests and replay all use it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Interceptor, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from controlplane.domain.errors import FedctlError
from controlplane.domain.operation import OperationKind
from workflows.activities.changes import ChangeActivities
from workflows.activities.control import ControlActivities
from workflows.activities.endings import EndingActivities
from workflows.activities.lookups import LookupActivities
from workflows.activities.planning import PlanActivities
from workflows.activities.records import RecordActivities
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.sweep import SweepActivities
from workflows.activities.transfer import TransferActivities
from workflows.delete_instance import DeleteInstance, FinalizeMove
from workflows.heartbeats import BeatsForSteps
from workflows.images import DeleteImage, ImportImage
from workflows.mend_operation import MendOperation
from workflows.move_instance import MoveInstance, PlanMove
from workflows.options import QUEUE
from workflows.power_instance import PowerInstance
from workflows.provision_instance import ProvisionInstance
from workflows.sites import SweepSites, VerifySite

STORIES: dict[OperationKind, Any] = {
    OperationKind.VERIFY_SITE: VerifySite,
    OperationKind.SWEEP: SweepSites,
    OperationKind.IMPORT_IMAGE: ImportImage,
    OperationKind.DELETE_IMAGE: DeleteImage,
    OperationKind.PROVISION: ProvisionInstance,
    OperationKind.START: PowerInstance,
    OperationKind.STOP: PowerInstance,
    OperationKind.RESTART: PowerInstance,
    OperationKind.DELETE_INSTANCE: DeleteInstance,
    OperationKind.PLAN_MOVE: PlanMove,
    OperationKind.MOVE: MoveInstance,
    OperationKind.FINALIZE: FinalizeMove,
}
WORKFLOWS = (*dict.fromkeys(STORIES.values()), MendOperation)

# Stories themselves run in the sandbox; what they only name or compute with is shared.
RUNNER = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules(
        "controlplane",
        "drivers",
        "pydantic",
        "workflows.activities",
        "workflows.codec",
        "workflows.failures",
        "workflows.options",
    )
)
FAILURES = (FedctlError,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """All activities of a worker."""

    records: RecordActivities
    lookups: LookupActivities
    endings: EndingActivities
    plans: PlanActivities
    sites: SiteActivities
    transfer: TransferActivities
    sweep: SweepActivities
    snapshots: SnapshotActivities
    changes: ChangeActivities
    control: ControlActivities

    def activities(self) -> list[Any]:
        groups = [getattr(self, field.name) for field in fields(self)]
        return [
            method
            for group in groups
            for name in dir(group)
            if not name.startswith("_")
            and hasattr(method := getattr(group, name), "__temporal_activity_definition")
        ]


def build_worker(
    client: Client,
    hands: Hands,
    *,
    queue: str = QUEUE,
    threads: int = 24,
    interceptors: Sequence[Interceptor] = (),
) -> Worker:
    """A worker for stories and activities; at its end running activities get 10 s to stop."""
    return Worker(
        client,
        task_queue=queue,
        workflows=list(WORKFLOWS),
        activities=hands.activities(),
        activity_executor=ThreadPoolExecutor(threads, thread_name_prefix="activity"),
        max_concurrent_activities=threads,
        workflow_runner=RUNNER,
        workflow_failure_exception_types=list(FAILURES),
        interceptors=[*interceptors, BeatsForSteps()],
        # A story that a dead worker had in hand is offered to another after so long.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
        graceful_shutdown_timeout=timedelta(seconds=10),
        max_heartbeat_throttle_interval=timedelta(milliseconds=200),
        default_heartbeat_throttle_interval=timedelta(milliseconds=200),
    )
