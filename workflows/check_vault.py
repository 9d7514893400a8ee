"""The vault is checked: what it holds against what is on record, read as deep as was asked."""

from temporalio import workflow

from controlplane.domain.operation import OperationState
from workflows.activities.checks import CheckActivities
from workflows.activities.endings import Outcome
from workflows.calls import OperationOrder, copy
from workflows.ending import concluded
from workflows.saga import Saga


@workflow.defn
class CheckVault:
    """Repairs and deletes nothing; that it found damage is no failure of the check."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._check)

    async def _check(self, saga: Saga, operation: str) -> Outcome:
        del saga
        found = await copy(CheckActivities.examine_vault, operation)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED, result=found)
