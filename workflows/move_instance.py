"""An instance changes its site: stopped, fenced, copied, proven, accepted, switched."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

from temporalio import workflow
from temporalio.exceptions import ActivityError

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import DiskSource
from controlplane.domain.ids import derived
from controlplane.domain.instance import Manner, Power
from controlplane.domain.operation import OperationState
from controlplane.domain.plan import CheckKind, MovePlan
from workflows.activities.endings import Outcome
from workflows.activities.lookups import LookupActivities
from workflows.activities.orders import At, Export, Fence, Probe, SetPower
from workflows.activities.planning import PlanActivities
from workflows.activities.records import Phase, RecordActivities, Retain, Switch
from workflows.activities.sites import SiteActivities
from workflows.activities.steps import Work
from workflows.activities.transfer import (
    CommitPoint,
    Copied,
    CopyDisk,
    Proof,
    TransferActivities,
)
from workflows.calls import OperationOrder, ask, call, clean, copy, forward, record, undo, wait
from workflows.ending import before, concluded, unstoppable
from workflows.saga import Saga
from workflows.target import DiskBytes, Target


@workflow.defn
class PlanMove:
    """Looks, decides, writes the plan down; touches nothing."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._plan)

    async def _plan(self, saga: Saga, operation: str) -> Outcome:
        del saga
        plan = await ask(PlanActivities.plan_move, operation)
        state = OperationState.BLOCKED if plan is None else OperationState.SUCCEEDED
        return Outcome(operation=operation, state=state)


@workflow.defn
class MoveInstance:
    """The cold move. Before the switch everything unwinds; from there it only goes forward."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._move)

    async def _move(self, saga: Saga, operation: str) -> Outcome:
        plan = await ask(PlanActivities.plan_move, operation)
        if plan is None:
            return Outcome(operation=operation, state=OperationState.BLOCKED)
        work = await saga.step(
            ask(RecordActivities.take_lease, operation),
            undo=lambda: record(RecordActivities.release_lease, operation),
        )
        run = _Run(work, plan, saga)
        await before(plan.deadline, run.up_to_the_switch())
        await run.switch_and_settle()
        return Outcome(operation=operation, state=OperationState.SUCCEEDED, result=run.result())


class _Run:
    def __init__(self, work: Work, plan: MovePlan, saga: Saga) -> None:
        self.work = work
        self.plan = plan
        self.saga = saga
        self.copied: list[Copied] = []
        self.target: Target | None = None
        self.domain = ""
        self.down_since = workflow.now()
        self.downtime = timedelta()

    async def up_to_the_switch(self) -> None:
        await self._phase("cutover")
        await self._stop_source()
        await self._phase("copying")
        await self._copy_disks()
        await self._phase("target")
        target = self._build_target()
        await target.make(self.saga)
        await self._phase("acceptance")
        await self._accept(target)

    async def switch_and_settle(self) -> None:
        target = self._build_target()
        await unstoppable(
            forward(
                RecordActivities.switch_home,
                Switch(work=self.work, plan=self.plan, copy=target.instance.artefact),
            )
        )
        self.saga.switch()
        await unstoppable(forward(SiteActivities.connect_nics, target.at("connect", "instance")))
        if self.plan.was_on:
            self.downtime = workflow.now() - self.down_since
        await unstoppable(_given_up(self._source("retire source")))
        await unstoppable(target.remove_images())

    def result(self) -> dict[str, object]:
        proofs: list[Proof] = self.target.proofs if self.target else []
        return {
            "method": "cold",
            "bytesRead": sum(c.bytes_read for c in self.copied),
            "bytesSent": sum(c.bytes_new for c in self.copied),
            "bytesWritten": sum(p.bytes_read for p in proofs),
            "downtimeSeconds": round(self.downtime.total_seconds(), 3),
            "proof": [
                {
                    "disk": p.disk,
                    "sourceDigest": p.expected,
                    "targetDigest": p.found,
                    "equal": p.expected == p.found,
                }
                for p in proofs
            ],
        }

    def _source(self, step: str) -> At:
        return At(work=self.work, site=self.plan.source, artefact=self.plan.copy, step=step)

    async def _phase(self, name: str) -> None:
        await record(RecordActivities.phase, Phase(operation=str(self.work.operation), phase=name))

    async def _stop_source(self) -> None:
        self.down_since = workflow.now()
        off = SetPower(at=self._source("stop source"), power=Power.OFF)
        await self.saga.step(call(SiteActivities.set_power, off), undo=self._restart_source)
        await wait(SiteActivities.wait_power, replace(off, at=self._source("source stopped")))
        await self.saga.step(
            call(
                SiteActivities.fence,
                Fence(at=self._source("fence source"), level=self.plan.fence),
            ),
            undo=lambda: undo(SiteActivities.unfence, self._source("undo: unfence source")),
        )

    async def _restart_source(self) -> None:
        if not self.plan.was_on:
            return
        on = SetPower(at=self._source("undo: start source"), power=Power.ON)
        await undo(SiteActivities.set_power, on)
        await undo(SiteActivities.wait_power, on)

    async def _copy_disks(self) -> None:
        point = derived(self.work.operation, "point")
        domain = await record(LookupActivities.domain_of, str(self.work.operation))
        for disk in self.plan.target.disks:
            release = self._export(f"release export {disk.index}", disk.index)
            await self.saga.step(
                wait(
                    SiteActivities.prepare_export,
                    Export(
                        at=self._export(f"export {disk.index}", disk.index),
                        source=DiskSource(volume=disk.volume or ""),
                    ),
                ),
                undo=partial(undo, SiteActivities.release_export, release),
            )
            self.copied.append(
                await copy(
                    TransferActivities.copy_disk,
                    CopyDisk(
                        at=self._export(f"copy {disk.index}", disk.index),
                        point=point,
                        disk=disk.index,
                        domain=domain,
                    ),
                )
            )
        await copy(
            TransferActivities.commit_point,
            CommitPoint(
                work=self.work,
                point=point,
                domain=domain,
                step="commit copy",
                copied=tuple(self.copied),
            ),
        )
        for disk in self.plan.target.disks:
            await wait(
                SiteActivities.release_export,
                self._export(f"release export {disk.index}", disk.index),
            )
        self.domain = domain

    def _export(self, step: str, index: int) -> At:
        return At(
            work=self.work,
            site=self.plan.source,
            artefact=derived(self.work.operation, "source-export", index),
            step=step,
        )

    def _build_target(self) -> Target:
        if self.target is None:
            self.target = Target(
                self.work,
                self.plan.target,
                tuple(
                    DiskBytes(
                        point=derived(self.work.operation, "point"),
                        disk=index,
                        domain=self.domain,
                        digest=copied.digest,
                    )
                    for index, copied in enumerate(self.copied)
                ),
                self._retain,
                isolated=True,
            )
        return self.target

    async def _retain(self, kind: ArtefactKind, at: At) -> None:
        """Nothing copied is destroyed by unwinding: it is stopped, cut off and written down."""
        if kind is ArtefactKind.INSTANCE:
            off = SetPower(
                at=At(work=at.work, site=at.site, artefact=at.artefact, step="undo: target off"),
                power=Power.OFF,
                manner=Manner.HARD,
            )
            await undo(SiteActivities.set_power, off)
            await undo(SiteActivities.wait_power, off)
            await _given_up(replace(at, step="undo: target nics"))
        await record(
            RecordActivities.retain, Retain(work=self.work, artefact=at.artefact, kind=kind)
        )

    async def _accept(self, target: Target) -> None:
        if not self.plan.was_on:
            return
        await call(
            SiteActivities.verify_fence,
            Fence(at=self._source("verify fence"), level=self.plan.fence),
        )
        on = SetPower(at=target.at("power on isolated", "instance"), power=Power.ON)
        await self.saga.step(call(SiteActivities.set_power, on), undo=target.power_off)
        await wait(SiteActivities.wait_power, replace(on, at=target.at("target runs", "instance")))
        for index, check in enumerate(self.plan.checks):
            if check.kind is CheckKind.BOOTED:
                await wait(
                    SiteActivities.probe_boot,
                    Probe(
                        at=target.at(f"check {index} booted", "instance"),
                        pattern=check.pattern,
                        within=check.within,
                    ),
                )


async def _given_up(at: At) -> None:
    """A copy that stays behind keeps no MAC or address from the next one.

    That it did not work is written down with the step; a later move says what is in its way.
    """
    try:
        await clean(SiteActivities.give_up_nics, at)
    except ActivityError:
        workflow.logger.info("the nics of a retained copy were not given up")
