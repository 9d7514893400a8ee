"""Recovery points of several instances as of one moment: all of them stand, or nothing stays."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import UUID

from temporalio import workflow

from controlplane.domain.disk import DiskSource, Mark
from controlplane.domain.ids import ArtefactId, derived
from controlplane.domain.operation import OperationState
from controlplane.domain.vault import Moment
from workflows.activities.endings import Outcome
from workflows.activities.group_plans import (
    GroupPlanActivities,
    KeptMark,
    MemberDisk,
    MemberPlan,
    PointsPlan,
)
from workflows.activities.groups import (
    Freeze,
    Frozen,
    GroupActivities,
    Judge,
    Noted,
    Shot,
    TakeLeases,
    Taken,
    WaitFrozen,
)
from workflows.activities.moving import Copied
from workflows.activities.orders import At, Export
from workflows.activities.sites import SiteActivities
from workflows.activities.steps import Work
from workflows.activities.transfer import (
    CommitGroup,
    CopyDisk,
    GroupMember,
    TransferActivities,
)
from workflows.calls import (
    OperationOrder,
    ask,
    at_once,
    copy,
    forward,
    once_more,
    record,
    undo,
    wait,
    wait_held,
)
from workflows.ending import concluded, unstoppable
from workflows.saga import Saga, Undo, together
from workflows.snapshot import Snapshot


@workflow.defn
class TakePoints:
    """Everything up to the commit is undone when it fails; the commit makes all points or none.

    The members' leases are held only while their snapshots are taken: what is copied then is the
    snapshots, so that power and moves need not wait for it.
    """

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._take)

    async def _take(self, saga: Saga, operation: str) -> Outcome:
        plan = await at_once(GroupPlanActivities.plan_points, operation)
        release: Undo = partial(record, GroupActivities.release_leases, operation)
        wish = TakeLeases(operation=operation, members=plan.members)
        works = await saga.step(ask(GroupActivities.take_leases, wish), undo=release)
        members = [
            _Member(work, each, plan.domain, saga)
            for work, each in zip(works, plan.members, strict=True)
        ]
        spread = await _freeze(operation, plan, members, saga)
        await release()
        saga.done_with(release)
        saga.remember(lambda: _forget(members))
        await together(*(each.copy() for each in members))
        await _commit(plan, members)
        saga.switch()
        taken = tuple([await each.taken() for each in members])
        noted = Noted(operation=operation, spread=spread, taken=taken)
        await unstoppable(forward(GroupActivities.points_taken, noted))
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)


async def _freeze(
    operation: str, plan: PointsPlan, members: Sequence["_Member"], saga: Saga
) -> float:
    """Every member has its snapshot, and they are as close together as was wished."""
    of = {each.plan.instance: each for each in members}
    lanes = tuple(
        tuple(of[ask.instance].shot(ask.after) for ask in lane.asks) for lane in plan.order.lanes
    )

    async def take_back() -> None:
        for each in members:
            await each.snapshot.take_back()

    asked: dict[UUID, Frozen] = {}

    async def ask_all() -> None:
        order = Freeze(operation=operation, lanes=lanes)
        frozen = await saga.step(at_once(GroupActivities.freeze, order), undo=take_back)
        asked.update({each.artefact: each for each in frozen})

    await once_more(  # a site may lose what it was asked for; what it did not lose stays
        "2026-12-freeze-again",
        ask_all,
        lambda: together(*(each.seen(asked[each.snapshot.at.artefact]) for each in members)),
    )
    judge = Judge(
        operation=operation,
        moments=tuple(each.moment for each in members),
        max_spread=plan.max_spread,
    )
    return await record(GroupActivities.judge_spread, judge)


async def _commit(plan: PointsPlan, members: Sequence["_Member"]) -> None:
    order = CommitGroup(
        operation=members[0].work.operation,
        domain=plan.domain,
        step="commit points",
        members=tuple(
            GroupMember(
                instance=each.plan.instance,
                point=each.point,
                copied=tuple(each.copied),
                taken=each.moment,
            )
            for each in members
        ),
    )
    await copy(TransferActivities.commit_group, order)


async def _forget(members: Sequence["_Member"]) -> None:
    for each in members:
        await undo(TransferActivities.forget_point, str(each.point))


class _Member:
    """One instance on its way into the vault; `moment` and `copied` once they are known."""

    def __init__(self, work: Work, plan: MemberPlan, domain: str, saga: Saga) -> None:
        self.work = work
        self.plan = plan
        self.point = derived(work.operation, "point", plan.instance)
        self.copied: list[Copied] = []
        self._domain = domain
        self._saga = saga
        self._moment: Moment | None = None
        self.snapshot = Snapshot(self.at("snapshot"))

    def at(self, step: str) -> At:
        """The member's snapshot, for the step of that name."""
        artefact = derived(self.work.operation, "snapshot", self.plan.instance)
        return At(
            work=self.work,
            site=self.plan.site,
            artefact=artefact,
            step=f"{self.plan.name} {step}",
        )

    @property
    def moment(self) -> Moment:
        if self._moment is None:
            raise RuntimeError(f"{self.plan.name} has no snapshot yet")
        return self._moment

    def shot(self, after: timedelta) -> Shot:
        return Shot(at=self.snapshot.at, of=self.plan.copy, after=after)

    async def seen(self, frozen: Frozen) -> None:
        """The snapshot can be read, and its moment is known."""
        wish = WaitFrozen(at=self.at("snapshot taken"), asked=frozen.asked, moment=frozen.moment)
        held = await wait_held(GroupActivities.wait_frozen, wish)
        self.snapshot.mark = Mark(text=held.ref)
        self._moment = held.moment

    async def copy(self) -> None:
        """Every disk, as the snapshot shows it; what was made for that at the site goes again."""
        for disk in self.plan.disks:
            export = self._export(disk)
            release: Undo = partial(
                undo, SiteActivities.release_export, replace(export, step=f"undo: {export.step}")
            )
            read = CopyDisk(
                at=replace(export, step=f"{self.plan.name} copy {disk.index}"),
                point=self.point,
                disk=disk.index,
                domain=self._domain,
                base=self.plan.base,
            )
            self.copied.append(await self._copy_disk(disk, export, read, release))
            done = replace(export, step=f"{self.plan.name} release export {disk.index}")
            await wait(SiteActivities.release_export, done)
            self._saga.done_with(release)

    async def _copy_disk(
        self, disk: MemberDisk, export: At, read: CopyDisk, release: Undo
    ) -> Copied:
        content = DiskSource(volume=disk.volume, snapshot=self.snapshot.at.artefact)
        prepare = Export(at=export, source=content, since=self._since())
        return await once_more(
            "2026-12-take-points",
            lambda: self._saga.step(wait(SiteActivities.prepare_export, prepare), undo=release),
            lambda: copy(TransferActivities.copy_disk, read),
        )

    def _since(self) -> Mark | None:
        """What changed since is enough where all before it is in the base."""
        mark = self.plan.mark
        if mark is None or self.plan.base is None or mark.site != self.plan.site:
            return None
        return Mark(text=mark.ref)

    def _export(self, disk: MemberDisk) -> At:
        artefact = derived(self.work.operation, "source-export", self.plan.instance, disk.index)
        return replace(self.at(f"export {disk.index}"), artefact=ArtefactId(artefact))

    async def taken(self) -> Taken:
        """What stays: the point, and the snapshot where the next one asks what changed since it."""
        old = self.plan.mark
        if old is not None:
            at = At(
                work=self.work,
                site=old.site,
                artefact=old.snapshot,
                step=f"{self.plan.name} mark",
            )
            await unstoppable(Snapshot(at).tidied("remove"))
        mark = None
        if self.plan.tracked and self.snapshot.mark is not None:
            mark = KeptMark(
                snapshot=self.snapshot.at.artefact,
                site=self.plan.site,
                ref=self.snapshot.mark.text,
            )
        else:
            await unstoppable(self.snapshot.tidied("remove"))
        return Taken(
            instance=self.plan.instance,
            name=self.plan.name,
            point=self.point,
            moment=self.moment,
            read=sum(c.bytes_read for c in self.copied),
            new=sum(c.bytes_new for c in self.copied),
            mark=mark,
        )
