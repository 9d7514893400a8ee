"""Recovery points: one is read as a whole and compared, one is forgotten."""

from temporalio import workflow

from controlplane.domain.operation import OperationState
from workflows.activities.checks import CheckActivities
from workflows.activities.endings import Outcome
from workflows.calls import OperationOrder, copy, remove
from workflows.ending import concluded
from workflows.saga import Saga


@workflow.defn
class VerifyPoint:
    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._verify)

    async def _verify(self, saga: Saga, operation: str) -> Outcome:
        del saga
        found = await copy(CheckActivities.verify_point, operation)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED, result=found)


@workflow.defn
class DeletePoint:
    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._delete)

    async def _delete(self, saga: Saga, operation: str) -> Outcome:
        del saga
        await remove(CheckActivities.delete_point, operation)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)
