"""Work on sites: a first look, the sweep for what nobody accounts for, and its release."""

from temporalio import workflow

from controlplane.domain.operation import OperationState
from workflows.activities.endings import Outcome
from workflows.activities.planning import PlanActivities
from workflows.activities.sweep import SweepActivities, SweepSite
from workflows.calls import OperationOrder, ask, record, remove
from workflows.ending import concluded
from workflows.saga import Saga


@workflow.defn
class VerifySite:
    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._verify)

    async def _verify(self, saga: Saga, operation: str) -> Outcome:
        del saga
        await ask(PlanActivities.verify_site, operation)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)


@workflow.defn
class SweepSites:
    """Compares what sites hold with what is recorded. It reports and never deletes."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._sweep)

    async def _sweep(self, saga: Saga, operation: str) -> Outcome:
        del saga
        reports: list[dict[str, object]] = []
        for site in await record(SweepActivities.sites_to_sweep, operation):
            swept = await ask(SweepActivities.sweep_site, SweepSite(operation=operation, site=site))
            reports.append(swept.shown())
        return Outcome(
            operation=operation, state=OperationState.SUCCEEDED, result={"sites": reports}
        )


@workflow.defn
class ReleaseOrphan:
    """Deletes one object of a sweep's report because somebody said so, after another look."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._release)

    async def _release(self, saga: Saga, operation: str) -> Outcome:
        del saga
        await remove(SweepActivities.release_orphan, operation)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)
