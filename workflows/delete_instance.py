"""An instance goes, with everything of it at every site; or only what a move retained."""

from temporalio import workflow

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.instance import Manner, Power
from controlplane.domain.operation import OperationState
from workflows.activities.endings import Outcome
from workflows.activities.lookups import Belongings, LookupActivities
from workflows.activities.orders import Remove, SetPower
from workflows.activities.records import RecordActivities
from workflows.activities.sites import SiteActivities
from workflows.activities.steps import Work
from workflows.activities.transfer import TransferActivities
from workflows.calls import OperationOrder, ask, call, record, remove, wait
from workflows.ending import concluded
from workflows.saga import Saga, settled


@workflow.defn
class DeleteInstance:
    """Powered off, removed, forgotten. What fails on the way can be asked for again."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._delete)

    async def _delete(self, saga: Saga, operation: str) -> Outcome:
        work = await _leased(saga, operation)
        belongings = await record(LookupActivities.belongings, operation)
        await _remove(work, belongings)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)


@workflow.defn
class FinalizeMove:
    """Releases what earlier moves of an instance retained: old homes and kept copies."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._finalize)

    async def _finalize(self, saga: Saga, operation: str) -> Outcome:
        work = await _leased(saga, operation)
        retained = await record(LookupActivities.retained, operation)
        await _remove(work, retained)
        return Outcome(
            operation=operation,
            state=OperationState.SUCCEEDED,
            result={"released": len(retained.artefacts)},
        )


async def _leased(saga: Saga, operation: str) -> Work:
    return await saga.step(
        ask(RecordActivities.take_lease, operation),
        undo=lambda: record(RecordActivities.release_lease, operation),
    )


async def _remove(work: Work, belongings: Belongings) -> None:
    """Instances before snapshots before volumes: what uses a thing goes before it."""
    for artefact in belongings.artefacts:
        at = belongings.at(work, artefact)
        if artefact.kind is ArtefactKind.INSTANCE:
            off = SetPower(at=at, power=Power.OFF, manner=Manner.HARD)
            await settled(call(SiteActivities.set_power, off))
            await wait(SiteActivities.wait_power, off)
        await remove(SiteActivities.remove, Remove(at=at, kind=artefact.kind))
    for point in belongings.points:
        await remove(TransferActivities.forget_point, str(point))
