"""Work on sites: a first look, surveys, the sweep for what nobody accounts for, its release."""

from temporalio import workflow

from controlplane.domain.operation import OperationState
from workflows.activities.endings import Outcome
from workflows.activities.planning import PlanActivities
from workflows.activities.survey import AtSurvey, SurveyActivities
from workflows.activities.sweep import SweepActivities, SweepSite
from workflows.calls import OperationOrder, ask, call, record, remove, wait
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


@workflow.defn
class SurveySite:
    """Sees what a site holds and makes sure that no copy runs there that is no home.

    Only then is anything else done with a site that was away, or that a restored control plane does
    not know any more. It starts nothing and deletes nothing.
    """

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._survey)

    async def _survey(self, saga: Saga, operation: str) -> Outcome:
        del saga
        found = await ask(SurveyActivities.survey_site, operation)
        for held in found.plan.still:
            order = AtSurvey(operation=operation, site=found.site, held=held)
            await wait(SurveyActivities.still_copy, order)
        freed = [
            held.name
            for held in found.plan.free
            if await call(
                SurveyActivities.free_home,
                AtSurvey(operation=operation, site=found.site, held=held),
            )
        ]
        await record(SurveyActivities.thaw_site, operation)
        return Outcome(
            operation=operation,
            state=OperationState.SUCCEEDED,
            result={"survey": found.shown(tuple(freed))},
        )
