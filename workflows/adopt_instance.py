"""A machine that a site has already comes under management; nothing of it changes but its tag."""

from functools import partial

from temporalio import workflow

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.ids import ArtefactId, SiteName, derived
from controlplane.domain.operation import OperationState
from workflows.activities.adoption import AdoptionActivities, ReadBack, Tag
from workflows.activities.endings import Outcome
from workflows.activities.orders import At
from workflows.activities.records import Placed, PowerSeen, RecordActivities
from workflows.activities.steps import Work
from workflows.calls import OperationOrder, ask, call, record, undo, wait
from workflows.ending import concluded
from workflows.saga import Saga


@workflow.defn
class ScanSite:
    """Lists what a site has beside ours."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._scan)

    async def _scan(self, saga: Saga, operation: str) -> Outcome:
        del saga
        await ask(AdoptionActivities.scan_site, operation)
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)


@workflow.defn
class AdoptInstance:
    """Reserved on record, tagged, read back, at home. Undone, no tag and no record is left."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._adopt)

    async def _adopt(self, saga: Saga, operation: str) -> Outcome:
        stranger = await ask(AdoptionActivities.look_at_stranger, operation)
        await saga.step(
            record(AdoptionActivities.reserve_record, stranger),
            undo=lambda: record(AdoptionActivities.forget_record, operation),
        )
        work = await saga.step(
            ask(RecordActivities.take_lease, operation),
            undo=lambda: record(RecordActivities.release_lease, operation),
        )
        for number, volume in enumerate(stranger.volumes):
            artefact = ArtefactId(derived(work.operation, "volume", number))
            what = f"tag volume {number}"
            await _tag(saga, work, stranger.site, artefact, ArtefactKind.VOLUME, volume, what)
        copy = ArtefactId(derived(work.operation, "instance"))
        ref = stranger.found.seen.ref
        await _tag(saga, work, stranger.site, copy, ArtefactKind.INSTANCE, ref, "tag instance")
        at = At(work=work, site=stranger.site, artefact=copy, step="read back")
        seen = await wait(AdoptionActivities.read_back, ReadBack(at=at, found=stranger.found))
        if seen.power is not None:
            await record(RecordActivities.power_seen, PowerSeen(work=work, power=seen.power))
        await saga.step(
            record(RecordActivities.placed, Placed(work=work, copy=copy)),
            undo=lambda: record(RecordActivities.unplaced, work),
        )
        saga.switch()
        return Outcome(
            operation=operation,
            state=OperationState.SUCCEEDED,
            result={"site": stranger.site, "ref": ref},
        )


async def _tag(  # noqa: PLR0917  # what a tag is made of
    saga: Saga,
    work: Work,
    site: SiteName,
    artefact: ArtefactId,
    kind: ArtefactKind,
    ref: str,
    step: str,
) -> None:
    def order(step: str) -> Tag:
        return Tag(at=At(work=work, site=site, artefact=artefact, step=step), kind=kind, ref=ref)

    await saga.step(
        call(AdoptionActivities.adopt, order(step)),
        undo=partial(undo, AdoptionActivities.disown, order(f"undo: {step}")),
    )
