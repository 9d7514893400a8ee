"""A person looked at what needed attention: what could not be undone or finished is tried again."""

from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.ids import derived
from controlplane.domain.instance import Manner, Power
from controlplane.domain.operation import OperationState
from controlplane.domain.plan import MovePlan
from workflows.activities.adoption import AdoptionActivities, Tag
from workflows.activities.endings import EndingActivities, Outcome
from workflows.activities.lookups import LookupActivities, Stuck
from workflows.activities.orders import At, Remove, SetPower
from workflows.activities.records import RecordActivities, Retain, Switch
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.steps import Work
from workflows.activities.transfer import TransferActivities
from workflows.calls import OperationOrder, call, forward, record
from workflows.failures import problem_of
from workflows.source import given_up

_SCAFFOLDING = frozenset({ArtefactKind.IMAGE, ArtefactKind.SNAPSHOT})


@workflow.defn
class MendOperation:
    """Ends the operation when it works; otherwise it goes on needing attention.

    A move that switched is finished forward. One that did not: its target is stopped before its
    source may start. What an adoption tagged loses its tag. Snapshots and exports of points go;
    points that stand stay, unless it had begun to forget them. Of anything else, what was made is
    on record and goes with the instance.
    """

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        operation = order.operation
        stuck = await record(LookupActivities.stuck, operation)
        if stuck is None:
            return "ended before"
        try:
            outcome = Outcome(operation=operation, state=await self._mend(stuck))
        except ActivityError as failure:
            outcome = Outcome(
                operation=operation,
                state=OperationState.NEEDS_ATTENTION,
                problem=problem_of(failure),
            )
        await forward(EndingActivities.finish, outcome)
        return outcome.state.value

    async def _mend(self, stuck: Stuck) -> OperationState:
        work, plan = stuck.work, stuck.plan
        if stuck.adopting:
            return await self._give_back(stuck)
        if plan is None:
            await self._clear(stuck)
            return OperationState.FAILED
        if stuck.switched:
            await self._finish_forward(work, plan)
            return OperationState.SUCCEEDED
        await self._stop_target(work, plan)
        source = At(work=work, site=plan.source, artefact=plan.copy, step="mend: unfence source")
        await call(SiteActivities.unfence, source)
        if plan.passes.paused:
            await call(SnapshotActivities.resume, replace(source, step="mend: resume source"))
        if plan.was_on:
            on = SetPower(at=replace(source, step="mend: start source"), power=Power.ON)
            await call(SiteActivities.set_power, on)
            await call(
                SiteActivities.wait_power, replace(on, at=replace(source, step="mend: source on"))
            )
        return OperationState.ROLLED_BACK

    async def _finish_forward(self, work: Work, plan: MovePlan) -> None:
        """What comes after the switch; staged images are written down, and go with the old copy."""
        target = _at(work, plan, "mend: connect")
        if not workflow.patched("2026-12-mend-forward"):
            await call(SiteActivities.connect_nics, target)
            return
        again = Switch(work=work, plan=plan, copy=target.artefact)
        await call(RecordActivities.switch_home, again)
        await call(SiteActivities.connect_nics, target)
        source = At(work=work, site=plan.source, artefact=plan.copy, step="mend: retire source")
        await given_up(source)
        for artefact in await record(LookupActivities.made_at_target, work):
            if artefact.kind in _SCAFFOLDING:
                kept = Retain(work=work, artefact=artefact.id, kind=artefact.kind)
                await record(RecordActivities.retain, kept)

    async def _clear(self, stuck: Stuck) -> None:
        """Of the taking of points: what it left at sites, and copies that nobody will commit."""
        for artefact in stuck.scaffolding:
            work = replace(stuck.work, instance=artefact.instance, epoch=artefact.epoch)
            at = At(
                work=work,
                site=artefact.site,
                artefact=artefact.id,
                step=f"mend: remove {artefact.kind} {str(artefact.id)[:8]}",
            )
            await call(SiteActivities.remove, Remove(at=at, kind=artefact.kind))
        for point in stuck.points:
            if stuck.forgotten:  # a part of a group is worth nothing
                await call(TransferActivities.forget_point, str(point))
            else:
                await call(TransferActivities.abandon_point, str(point))

    async def _give_back(self, stuck: Stuck) -> OperationState:
        """Nothing is switched off or deleted: the machine was there before."""
        work = stuck.work
        await record(RecordActivities.unplaced, work)
        for artefact in stuck.adopted:
            step = f"mend: untag {artefact.kind} {artefact.ref}"
            at = At(work=work, site=artefact.site, artefact=artefact.id, step=step)
            tag = Tag(at=at, kind=artefact.kind, ref=artefact.ref or "")
            await call(AdoptionActivities.disown, tag)
        operation = str(work.operation)
        await record(RecordActivities.release_lease, operation)
        await record(AdoptionActivities.forget_record, operation)
        return OperationState.ROLLED_BACK

    async def _stop_target(self, work: Work, plan: MovePlan) -> None:
        off = SetPower(at=_at(work, plan, "mend: target off"), power=Power.OFF, manner=Manner.HARD)
        await call(SiteActivities.set_power, off)
        await call(
            SiteActivities.wait_power, replace(off, at=_at(work, plan, "mend: target stopped"))
        )
        for artefact in await record(LookupActivities.made_at_target, work):
            await record(
                RecordActivities.retain,
                Retain(work=work, artefact=artefact.id, kind=artefact.kind),
            )


def _at(work: Work, plan: MovePlan, step: str) -> At:
    again = plan.target.reuse
    return At(
        work=work,
        site=plan.target.site,
        artefact=again.copy if again is not None else derived(work.operation, "instance"),
        step=step,
    )
