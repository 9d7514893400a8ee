"""A new instance at a site: from an image in the vault to a powered-off machine."""

from temporalio import workflow

from controlplane.domain.operation import OperationState
from workflows.activities.endings import Outcome
from workflows.activities.lookups import LookupActivities
from workflows.activities.planning import PlanActivities
from workflows.activities.records import Placed, RecordActivities
from workflows.calls import OperationOrder, ask, record
from workflows.ending import concluded, unstoppable
from workflows.saga import Saga
from workflows.staging import DiskBytes
from workflows.target import Target, removed


@workflow.defn
class ProvisionInstance:
    """Everything it made is removed again when it fails; the image stays in the vault."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._provision)

    async def _provision(self, saga: Saga, operation: str) -> Outcome:
        plan = await ask(PlanActivities.plan_provision, operation)
        work = await saga.step(
            ask(RecordActivities.take_lease, operation),
            undo=lambda: record(RecordActivities.release_lease, operation),
        )
        domain = await record(LookupActivities.image_domain_of, operation)
        target = Target(
            work,
            plan.target,
            tuple(
                None if disk.point is None else DiskBytes(point=disk.point, disk=0, domain=domain)
                for disk in plan.target.disks
            ),
            removed,
            isolated=False,
        )
        await target.make(saga)
        await saga.step(
            record(RecordActivities.placed, Placed(work=work, copy=target.instance.artefact)),
            undo=lambda: record(RecordActivities.unplaced, work),
        )
        saga.switch()
        await unstoppable(target.remove_images())
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)
