"""Builds the workers of a process; production, tests and replay all use it.

Steps that move bytes have queues and threads of their own, so that no number of copies keeps a
switch, a fence or a heartbeat waiting; and the last copies of a cutover have theirs, so that no
running source's copy keeps a stopped one down.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Interceptor, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from controlplane.domain.errors import FedctlError
from controlplane.domain.operation import OperationKind
from workflows.activities.adoption import AdoptionActivities
from workflows.activities.changes import ChangeActivities
from workflows.activities.checks import CheckActivities
from workflows.activities.control import ControlActivities
from workflows.activities.endings import EndingActivities
from workflows.activities.group_plans import GroupPlanActivities
from workflows.activities.groups import GroupActivities
from workflows.activities.lookups import LookupActivities
from workflows.activities.planning import PlanActivities
from workflows.activities.records import RecordActivities
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.straight import StraightActivities
from workflows.activities.survey import SurveyActivities
from workflows.activities.sweep import SweepActivities
from workflows.activities.transfer import TransferActivities
from workflows.adopt_instance import AdoptInstance, ScanSite
from workflows.check_vault import CheckVault
from workflows.delete_instance import DeleteInstance, FinalizeMove
from workflows.heartbeats import BeatsForSteps
from workflows.images import DeleteImage, ImportImage
from workflows.mend_operation import MendOperation
from workflows.move_instance import MoveInstance, PlanMove
from workflows.options import COPIES, CUTOVER, QUEUE
from workflows.points import DeletePoint, VerifyPoint
from workflows.power_instance import PowerInstance
from workflows.provision_instance import ProvisionInstance
from workflows.sites import ReleaseOrphan, SurveySite, SweepSites, VerifySite
from workflows.take_points import TakePoints

STORIES: dict[OperationKind, Any] = {
    OperationKind.VERIFY_SITE: VerifySite,
    OperationKind.SURVEY: SurveySite,
    OperationKind.SWEEP: SweepSites,
    OperationKind.RELEASE_ORPHAN: ReleaseOrphan,
    OperationKind.SCAN: ScanSite,
    OperationKind.ADOPT: AdoptInstance,
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
    OperationKind.CHECK_VAULT: CheckVault,
    OperationKind.VERIFY_POINT: VerifyPoint,
    OperationKind.DELETE_POINT: DeletePoint,
    OperationKind.TAKE_POINTS: TakePoints,
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
    survey: SurveyActivities
    sweep: SweepActivities
    snapshots: SnapshotActivities
    changes: ChangeActivities
    control: ControlActivities
    adoption: AdoptionActivities
    checks: CheckActivities
    straight: StraightActivities
    groups: GroupActivities
    group_plans: GroupPlanActivities

    def activities(self) -> list[Any]:
        groups = [getattr(self, field.name) for field in fields(self)]
        return [
            method
            for group in groups
            for name in dir(group)
            if not name.startswith("_")
            and hasattr(method := getattr(group, name), "__temporal_activity_definition")
        ]


@asynccontextmanager
async def build_worker(
    client: Client,
    hands: Hands,
    *,
    queue: str = QUEUE,
    stories: Sequence[type] = WORKFLOWS,
    threads: int = 64,
    copies: int = 16,
    interceptors: Sequence[Interceptor] = (),
) -> AsyncIterator[None]:
    """Works at `stories` while the block runs; at its end running activities get 10 s to stop.

    `threads` steps at a time that are no copies, `copies` from running sources and as many of
    cutovers.
    """
    beating = [*interceptors, BeatsForSteps()]
    workers = [
        # It takes copies, too: those that were asked for before they had a queue of their own.
        _worker(client, hands, queue, threads=threads, stories=stories, interceptors=beating),
        _worker(client, hands, queue + COPIES, threads=copies, interceptors=beating),
        _worker(client, hands, queue + CUTOVER, threads=copies, interceptors=beating),
    ]
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        try:
            yield
        finally:
            await asyncio.gather(*(worker.shutdown() for worker in workers))


def _worker(
    client: Client,
    hands: Hands,
    queue: str,
    *,
    threads: int,
    interceptors: Sequence[Interceptor],
    stories: Sequence[type] = (),
) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=stories,
        activities=hands.activities(),
        activity_executor=ThreadPoolExecutor(threads, thread_name_prefix=queue),
        max_concurrent_activities=threads,
        workflow_runner=RUNNER,
        workflow_failure_exception_types=list(FAILURES),
        interceptors=interceptors,
        # A story that a dead worker had in hand is offered to another after so long.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
        graceful_shutdown_timeout=timedelta(seconds=10),
        max_heartbeat_throttle_interval=timedelta(milliseconds=200),
        default_heartbeat_throttle_interval=timedelta(milliseconds=200),
    )
