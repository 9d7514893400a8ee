"""Images: an uploaded file becomes a recovery point; a deleted one is forgotten."""

from temporalio import workflow

from controlplane.domain.operation import OperationState
from workflows.activities.endings import Outcome
from workflows.activities.lookups import LookupActivities
from workflows.activities.transfer import TransferActivities
from workflows.calls import OperationOrder, copy, record, remove, undo
from workflows.ending import concluded, unstoppable
from workflows.saga import Saga


@workflow.defn
class ImportImage:
    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._import)

    async def _import(self, saga: Saga, operation: str) -> Outcome:
        point = await record(LookupActivities.subject_of, operation)
        copied = await saga.step(
            copy(TransferActivities.import_image, operation),
            undo=lambda: self._discard(operation, point),
        )
        saga.switch()
        await unstoppable(undo(TransferActivities.discard_upload, operation))
        return Outcome(
            operation=operation,
            state=OperationState.SUCCEEDED,
            result={"sizeBytes": copied.size, "digest": copied.digest},
        )

    async def _discard(self, operation: str, point: str) -> None:
        await undo(TransferActivities.forget_point, point)
        await undo(TransferActivities.discard_upload, operation)


@workflow.defn
class DeleteImage:
    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._delete)

    async def _delete(self, saga: Saga, operation: str) -> Outcome:
        del saga
        point = await record(LookupActivities.subject_of, operation)
        await remove(TransferActivities.forget_point, point)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)
