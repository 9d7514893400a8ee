"""An instance changes its site: copied, stopped, fenced, proven, accepted, switched."""

import asyncio
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.ids import PointId, derived
from controlplane.domain.instance import Manner, Power
from controlplane.domain.operation import OperationState
from controlplane.domain.plan import CheckKind, MovePlan
from controlplane.planning.passes import Gate, Next, downtime, next_pass
from workflows.activities.control import AskGate, ControlActivities, Offer
from workflows.activities.endings import Outcome
from workflows.activities.lookups import LookupActivities
from workflows.activities.moving import Proof
from workflows.activities.orders import At, Fence, Probe, SetPower
from workflows.activities.planning import LookAgain, PlanActivities
from workflows.activities.records import Phase, RecordActivities, Retain, Switch
from workflows.activities.sites import SiteActivities
from workflows.activities.steps import Work
from workflows.activities.transfer import TransferActivities
from workflows.calls import (
    OperationOrder,
    ask,
    call,
    forward,
    hurry,
    record,
    remove,
    undo,
    undoing_within,
    wait,
)
from workflows.ending import before, concluded, unstoppable
from workflows.failures import problem_of, stops_without_unwinding
from workflows.options import BEFORE_OFFER, EACH_RETURN, RETURN_AT_LEAST_EVERY
from workflows.saga import Saga, together
from workflows.source import Source, given_up
from workflows.staging import DiskBytes
from workflows.target import POWER_ON, Target, removed


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


class Nudge:
    """Somebody decided something: look at the rows."""

    def __init__(self) -> None:
        self._given = False

    def give(self) -> None:
        self._given = True

    async def within(self, patience: timedelta) -> bool:
        """Whether one came before so long had passed; each wakes once."""
        try:
            await workflow.wait_condition(lambda: self._given, timeout=patience)
        except TimeoutError:
            return False
        self._given = False
        return True


@workflow.defn
class MoveInstance:
    """Cold, warm or direct. Up to the switch everything unwinds; from there it only goes on."""

    def __init__(self) -> None:
        self._nudge = Nudge()

    @workflow.signal
    def nudge(self) -> None:
        """A decision was written down."""
        self._nudge.give()

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
        run = _Run(work, plan, saga, self._nudge)
        try:
            await before(plan.deadline, run.up_to_the_switch())
        except (asyncio.CancelledError, FailureError, TimeoutError) as failure:
            if not run.can_go_forward(failure) or not await unstoppable(run.sent_forward()):
                raise
        await run.switch_and_settle()
        return Outcome(operation=operation, state=OperationState.SUCCEEDED, result=run.result())


class _Run:
    def __init__(self, work: Work, plan: MovePlan, saga: Saga, nudge: Nudge) -> None:
        self.work = work
        self.plan = plan
        self.saga = saga
        self.nudge = nudge
        self.source = Source(work, plan, saga)
        self.target: Target | None = None
        self.downtime = timedelta()
        self.before_last: UUID | None = None
        self.arrived = False

    async def up_to_the_switch(self) -> None:
        if self.plan.passes.direct:
            await self._go_straight()
            return
        if self.plan.passes.beside and not self.plan.passes.warm:
            await self._go_beside()
            return
        if self.plan.passes.warm:
            await self._copy_while_it_runs()
            hurry()
            await self._look_again()
        await self._phase("cutover")
        base = self.before_last = self.source.point
        if workflow.patched("2026-12-cutover-beside"):
            await self._cut_over(base)
            self.arrived = True
            await together(self._phase("acceptance"), self._accept(self._target()))
            return
        if self.plan.passes.paused:
            # Its change list would die with its process.
            await self.source.pause()
            if workflow.patched("2026-11-stop-beside-writing"):
                await self.source.copy_paused()
                await together(self._phase("target"), self._stop_copied(), self._bring_last(base))
                self.arrived = True
                await together(self._phase("acceptance"), self._accept(self._target()))
                return
            await self.source.copy_paused()
            await self.source.release_last()
            await self.source.stop()
        else:
            await self.source.stop()
            await self._phase("copying")
            await self.source.copy_stopped()
            await self.source.release_last()
        await self._phase("target")
        await self._bring_last(base)
        self.arrived = True
        await self._phase("acceptance")
        await self._accept(self._target())

    async def _go_straight(self) -> None:
        """What can fail without the source's bytes does so while it runs: the target is made."""
        target = self._target()
        await self._phase("target")
        await target.make(self.saga)
        await self._phase("cutover")
        await self.source.stop()
        await together(self._phase("copying"), self._stream(target))
        self.arrived = True
        await together(self._phase("acceptance"), self._accept(target))

    async def _stream(self, target: Target) -> None:
        streamed = [
            await self.source.stream(disk, partial(target.receive, self.saga, disk))
            for disk in self.plan.target.disks
        ]
        digests = [each.digest for each in streamed]
        await together(self.source.release_last(), target.prove(self.saga, digests))

    async def _go_beside(self) -> None:
        """The target stands before its source stops, and takes what is read for the vault."""
        target = self._target()
        await self._phase("target")
        await target.make(self.saga)
        await self._look_again()
        await self._phase("cutover")
        await self.source.stop()
        await together(self._phase("copying"), self.source.copy_beside(target))
        target.holds = PointId(self._point)
        self.arrived = True
        release = self.source.release_last()
        await together(self._phase("acceptance"), release, self._accept(target))

    async def _cut_over(self, base: UUID | None) -> None:
        """The source is off, and its last bytes are at the target and proven.

        All of it is downtime: what needs nothing of one another goes side by side.
        """
        if self.plan.passes.paused:
            # Its change list would die with its process.
            await self.source.pause()
            await self.source.copy_paused()
            still = self._stop_copied()
        else:
            await self.source.stop()
            await together(self._phase("copying"), self.source.copy_stopped())
            still = self.source.release_last()
        bring = self._bring(self._target(), "last ", base, last=True)
        await together(self._phase("target"), still, bring)

    async def _look_again(self) -> None:
        """Hours may have passed since the preflight: nothing is stopped if its answer changed."""
        if workflow.patched("2026-12-preflight-again"):
            again = LookAgain(
                operation=str(self.work.operation),
                plan=self.plan,
                made=self.target is not None and self.target.made,
            )
            await call(PlanActivities.look_again, again)

    async def _stop_copied(self) -> None:
        """The paused source, whose last changes were read, is off and fenced for good."""
        await self.source.stop()
        await self.source.release_last()

    async def _bring_last(self, base: UUID | None) -> None:
        await self._bring(self._target(), "last ", base)

    async def _copy_while_it_runs(self) -> None:
        """Passes until the rest fits the budget and nobody objects to the cutover."""
        if self.plan.passes.beside:
            await self._copy_first_beside()
        else:
            await self._phase("full-copy")
            await self.source.copy_running()
            if self.plan.passes.seeded:
                await self._phase("target")
                await self._target().make(self.saga)
        await self._phase("changes")
        while not (gate := await self._gate()).open:
            if self._following() is not Next.PASS:
                await self._phase("waiting")
                if await self.nudge.within(gate.look_again) or gate.turn:
                    continue
                await self._phase("changes")
            await self._pass()

    async def _copy_first_beside(self) -> None:
        target = self._target()
        await self._phase("target")
        await target.make(self.saga)
        await self._phase("full-copy")
        await self.source.copy_running(target)
        await target.prove(self.saga, [each.digest for each in self.source.copied])
        target.holds = PointId(self._point)

    async def _pass(self) -> None:
        base, number = self.source.point, len(self.source.passes())
        await self.source.copy_running()
        if self.plan.passes.seeded:
            began = workflow.now()
            await self._bring(self._target(), f"pass {number} ", base)
            self.source.brought(workflow.now() - began)
        await remove(TransferActivities.forget_point, str(base))

    async def _bring(
        self, target: Target, label: str, base: UUID | None, *, last: bool = False
    ) -> None:
        """What was just copied, into the target."""
        if target.made and base is not None and self.source.point is not None:
            await target.follow(self.saga, label, base, self.source.point, last=last)
        else:
            await target.make(self.saga)

    def _following(self) -> Next:
        return next_pass(self.plan.passes, self.source.size, self.source.passes())

    async def _gate(self) -> Gate:
        passes = self.plan.passes
        expected = downtime(passes, self.source.size, self.source.passes())
        return await record(
            ControlActivities.gate,
            AskGate(
                operation=str(self.work.operation),
                policy=passes,
                following=self._following(),
                expected=None if expected is None else expected.total_seconds(),
            ),
        )

    def can_go_forward(self, failure: BaseException) -> bool:
        """Whether the stopped source is at the target, byte for byte, when the move fails."""
        return (
            self.arrived
            and not stops_without_unwinding(failure)
            and workflow.patched("2026-11-forward")
        )

    async def sent_forward(self) -> bool:
        """Unwind; whether somebody sent the move on because its source cannot return.

        False once all is undone, or something else than the source's return is in the way.
        """
        patience, pause, nudged, why = BEFORE_OFFER, EACH_RETURN, False, ""
        while True:
            if not nudged:
                with undoing_within(patience):
                    await self.saga.unwind()
                patience = EACH_RETURN
            if self.saga.overtaken or not self.source.stays_away:
                return False
            offer = Offer(
                operation=str(self.work.operation),
                source=self.plan.source,
                target=self.plan.target.site,
                why=why or self.saga.left,
            )
            if await record(ControlActivities.offer, offer):
                try:
                    await self._forward()
                except ActivityError as failure:
                    why = f"and going forward failed: {problem_of(failure).message}"
                else:
                    return True
            nudged = await self.nudge.within(pause)
            # Days of waiting must fit into one history.
            pause = min(2 * pause, RETURN_AT_LEAST_EVERY)

    async def _forward(self) -> None:
        """The proven copy runs again, isolated; its source stays off."""
        target = self._target()
        await self._phase("forward")
        await self.source.stay_off()
        await call(SiteActivities.isolate_nics, target.at("forward: isolate target", "instance"))
        if self.plan.target.reuse is not None:
            await call(SiteActivities.unfence, target.at("forward: unfence copy", "instance"))
        if self.plan.was_on:
            on = SetPower(at=target.at("forward: target on", "instance"), power=Power.ON)
            await self.saga.step(call(SiteActivities.set_power, on), undo=target.power_off)
            runs = replace(on, at=target.at("forward: target runs", "instance"))
            await wait(SiteActivities.wait_power, runs)

    async def switch_and_settle(self) -> None:
        target = self._target()
        switch = Switch(
            work=self.work,
            plan=self.plan,
            copy=target.instance.artefact,
            holds=None if self.source.point is None else PointId(self.source.point),
        )
        try:
            await unstoppable(forward(RecordActivities.switch_home, switch))
        except ActivityError as failure:
            if await self._has_switched(failure):
                self.saga.switch()
            raise
        self.saga.switch()
        await unstoppable(forward(SiteActivities.connect_nics, target.at("connect", "instance")))
        if self.plan.was_on:
            self.downtime = workflow.now() - self.source.down_since
        await unstoppable(given_up(self.source.at("retire source")))
        await unstoppable(self.source.tidy())
        if not self.plan.passes.early:
            await unstoppable(target.remove_images())
        if self.before_last is not None:
            point = str(self.before_last)
            await unstoppable(forward(TransferActivities.forget_point, point))

    async def _has_switched(self, failure: ActivityError) -> bool:
        """Whether the switch failed after its transaction: nobody stops what is the home now."""
        if stops_without_unwinding(failure) or not workflow.patched("2026-12-has-switched"):
            return False
        operation = str(self.work.operation)
        return await unstoppable(forward(LookupActivities.has_switched, operation))

    def result(self) -> dict[str, object]:
        proofs: list[Proof] = self.target.proofs if self.target else []
        warm = self.plan.passes.warm
        return {
            "method": self.plan.passes.method.value,
            "bytesRead": self.source.read,
            "bytesSent": self.source.new,
            "bytesWritten": self.target.written if self.target else 0,
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
            **({} if self.source.quiesced is None else {"quiesced": self.source.quiesced}),
            **({"passes": [asdict(each) for each in self.source.passes()]} if warm else {}),
        }

    @property
    def _point(self) -> UUID:
        """What was copied last, or will be."""
        return self.source.point or derived(self.work.operation, "point")

    async def _phase(self, name: str) -> None:
        await record(RecordActivities.phase, Phase(operation=str(self.work.operation), phase=name))

    def _target(self) -> Target:
        """Made from the point that is the newest when it is first asked for."""
        if self.target is None:
            sources: tuple[DiskBytes | None, ...] = tuple(
                DiskBytes(
                    point=self._point,
                    disk=index,
                    domain=self.source.domain,
                    digest=copied.digest,
                )
                for index, copied in enumerate(self.source.copied)
            )
            if self.plan.passes.early:
                sources = tuple(None for _ in self.plan.target.disks)
            self.target = Target(self.work, self.plan.target, sources, self._retain, isolated=True)
        return self.target

    async def _retain(self, kind: ArtefactKind, at: At) -> None:
        """Nothing copied is destroyed by unwinding: it is stopped, cut off and written down.

        What was made empty, and never written to, goes.
        """
        made = self.target
        if made is not None and made.empty and self.plan.passes.beside:
            await removed(kind, at)
            return
        if kind is ArtefactKind.INSTANCE:
            off = SetPower(
                at=At(work=at.work, site=at.site, artefact=at.artefact, step="undo: target off"),
                power=Power.OFF,
                manner=Manner.HARD,
            )
            await undo(SiteActivities.set_power, off)
            await undo(SiteActivities.wait_power, off)
            await given_up(replace(at, step="undo: target nics"))
        instance = kind is ArtefactKind.INSTANCE
        holds = self.target.holds if instance and self.target is not None else None
        await record(
            RecordActivities.retain,
            Retain(
                work=self.work,
                artefact=at.artefact,
                kind=kind,
                holds=holds,
                changed=instance and self.plan.target.reuse is not None and holds is None,
            ),
        )

    async def _accept(self, target: Target) -> None:
        await together(target.let_go(self.saga), self._verify_fence())
        if not self.plan.was_on:
            return
        on = SetPower(at=target.at(POWER_ON, "instance"), power=Power.ON, sole=True)
        await self.saga.step(call(SiteActivities.set_power, on), undo=target.power_off)
        runs = replace(on, at=target.at("target runs", "instance"))
        probes = [
            Probe(
                at=target.at(f"check {index} booted", "instance"),
                pattern=check.pattern,
                within=check.within,
            )
            for index, check in enumerate(self.plan.checks)
            if check.kind is CheckKind.BOOTED
        ]
        if self.plan.passes.paused and workflow.patched("2026-11-stop-beside-writing"):
            looks = (wait(SiteActivities.probe_boot, probe) for probe in probes)
            await together(wait(SiteActivities.wait_power, runs), *looks)
            return
        await wait(SiteActivities.wait_power, runs)
        for probe in probes:
            await wait(SiteActivities.probe_boot, probe)

    async def _verify_fence(self) -> None:
        if self.plan.was_on:
            fence = Fence(at=self.source.at("verify fence"), level=self.plan.fence)
            await call(SiteActivities.verify_fence, fence)
