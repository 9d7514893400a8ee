"""Recovery points of several instances as of one moment: all of them stand, or nothing stays."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import DiskSource, Mark
from controlplane.domain.ids import ArtefactId, SiteName, derived
from controlplane.domain.operation import OperationState
from controlplane.domain.vault import Moment
from controlplane.planning.grouping import may_copy
from workflows.activities.endings import Outcome
from workflows.activities.group_plans import (
    GroupPlanActivities,
    KeptMark,
    MemberDisk,
    MemberPlan,
    PointsPlan,
)
from workflows.activities.groups import (
    ASKING,
    ASKING_AGAIN,
    COMMIT,
    Freeze,
    Frozen,
    GroupActivities,
    Judge,
    Noted,
    Revoke,
    Shot,
    TakeLeases,
    Taken,
    WaitFrozen,
)
from workflows.activities.moving import Copied
from workflows.activities.orders import At, Export
from workflows.activities.records import RecordActivities, Retain
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
    clean,
    copy,
    forward,
    once_more,
    patiently,
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
        turns = _Turns(plan)
        members = [
            _Member(work, each, plan.domain, saga, turns)
            for work, each in zip(works, plan.members, strict=True)
        ]
        spread = await _freeze(operation, plan, members, saga)
        await release()
        saga.done_with(release)
        begun: list[str] = []
        saga.remember(lambda: _forget(operation, members, begun))
        await together(*(each.copy() for each in members))
        begun.append(COMMIT)
        await _commit(plan, members)
        saga.switch()
        await unstoppable(_all([each.tidied for each in members]))
        taken = tuple(each.taken() for each in members)
        noted = Noted(operation=operation, spread=spread, taken=taken)
        await unstoppable(forward(GroupActivities.points_taken, noted))
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)


def _beside() -> bool:
    """Whether members and disks need not wait for each other; they did in earlier stories."""
    return workflow.patched("2026-12-group-beside")


async def _all(parts: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Each to its end, side by side: a site that is away keeps nobody else waiting."""
    if _beside():
        await together(*(part() for part in parts))
    else:
        for part in parts:
            await part()


async def _freeze(
    operation: str, plan: PointsPlan, members: Sequence["_Member"], saga: Saga
) -> float:
    """Every member has its snapshot, and they are as close together as was wished."""
    of = {each.plan.instance: each for each in members}
    lanes = tuple(
        tuple(of[ask.instance].shot(ask.after) for ask in lane.asks) for lane in plan.order.lanes
    )
    asked: dict[UUID, Frozen] = {}
    names = iter((ASKING, ASKING_AGAIN))
    begun: list[str] = []

    async def take_back() -> None:
        if _beside():
            await undo(GroupActivities.revoke, Revoke(operation=operation, steps=tuple(begun)))
        await _all([each.snapshot.take_back for each in members])

    async def ask_all() -> None:
        begun.append(next(names))
        order = Freeze(operation=operation, lanes=lanes, step=begun[-1])
        frozen = await saga.step(at_once(GroupActivities.freeze, order), undo=take_back)
        asked.update({each.artefact: each for each in frozen})

    await once_more(  # a site may lose what it was asked for; what it did not lose stays
        "2026-12-freeze-again",
        ask_all,
        lambda: together(*(each.seen(asked[each.snapshot.at.artefact]) for each in members)),
    )
    judge = Judge(
        operation=operation,
        moments=tuple(each.moment for each in members for _ in each.plan.disks),
        max_spread=plan.max_spread,
    )
    return await record(GroupActivities.judge_spread, judge)


async def _commit(plan: PointsPlan, members: Sequence["_Member"]) -> None:
    order = CommitGroup(
        operation=members[0].work.operation,
        domain=plan.domain,
        step=COMMIT,
        members=tuple(
            GroupMember(
                instance=each.plan.instance,
                point=each.point,
                copied=tuple(sorted(each.copied, key=lambda copied: copied.disk)),
                taken=each.moment,
            )
            for each in members
        ),
    )
    await copy(TransferActivities.commit_group, order)


async def _forget(operation: str, members: Sequence["_Member"], begun: Sequence[str]) -> None:
    """All of them: a part of a group is worth nothing, whoever has to go on with this."""
    if begun and _beside():
        await undo(GroupActivities.revoke, Revoke(operation=operation, steps=tuple(begun)))
    for each in members:
        await undo(TransferActivities.forget_point, str(each.point))


class _Turns:
    """Disks of a group wait for each other where too many would be copied at a time."""

    def __init__(self, plan: PointsPlan) -> None:
        self._plan = plan
        self._going: list[SiteName] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, site: SiteName) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._free(site))
            self._going.append(site)
        try:
            yield
        finally:
            self._going.remove(site)
            async with self._changed:
                self._changed.notify_all()

    def _free(self, site: SiteName) -> bool:
        most, at_a_site = self._plan.copies, self._plan.copies_at_a_site
        return may_copy(site, self._going, most=most, at_a_site=at_a_site)


class _Member:
    """One instance on its way into the vault; `moment` and `copied` once they are known."""

    def __init__(
        self, work: Work, plan: MemberPlan, domain: str, saga: Saga, turns: _Turns
    ) -> None:
        self.work = work
        self.plan = plan
        self.point = derived(work.operation, "point", plan.instance)
        self.copied: list[Copied] = []
        self._domain = domain
        self._saga = saga
        self._turns = turns
        self._preparing = asyncio.Lock()
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
        wish = WaitFrozen(
            at=self.at("snapshot taken"),
            asked=frozen.asked,
            moment=frozen.moment,
            of=self.plan.copy,
            volumes=frozenset(disk.volume for disk in self.plan.disks),
        )
        held = await wait_held(GroupActivities.wait_frozen, wish)
        while held.moment is None:  # its site is at it: not one that is away
            held = await wait_held(GroupActivities.wait_frozen, wish)
        self.snapshot.mark = Mark(text=held.ref)
        self._moment = held.moment

    async def copy(self) -> None:
        """Every disk, as the snapshot shows it; what was made for that at the site goes again."""
        if _beside():
            await together(*(self._in_turn(disk) for disk in self.plan.disks))
            return
        for disk in self.plan.disks:
            await self._copy(disk)

    async def _in_turn(self, disk: MemberDisk) -> None:
        async with self._turns.turn(self.plan.site):
            await self._copy(disk)

    async def _copy(self, disk: MemberDisk) -> None:
        export = self._export(disk)
        release: Undo = partial(
            undo, SiteActivities.release_export, replace(export, step=f"undo: {export.step}")
        )
        read = CopyDisk(
            at=replace(export, step=f"{self.plan.name} copy {disk.index}"),
            point=self.point,
            disk=disk.index,
            domain=self._domain,
            base=self.plan.base if disk.based else None,
        )
        rounds = count()

        def again() -> Awaitable[Copied]:
            return copy(TransferActivities.copy_disk, replace(read, round=next(rounds)))

        content = DiskSource(volume=disk.volume, snapshot=self.snapshot.at.artefact)
        prepare = Export(at=export, source=content, since=self._since(disk))
        self.copied.append(
            await once_more(
                "2026-12-take-points",
                lambda: self._prepare(prepare, release),
                lambda: patiently("2026-12-patiently", again),
            )
        )
        done = replace(export, step=f"{self.plan.name} release export {disk.index}")
        if workflow.patched("2026-12-group-let-go"):
            await self._let_go(done)
        else:
            await wait(SiteActivities.release_export, done)
        self._saga.done_with(release)

    async def _let_go(self, export: At) -> None:
        """All of it is read: a site that is away now keeps what is there, and costs no point."""
        try:
            await clean(SiteActivities.release_export, export)
        except ActivityError as failure:
            if is_cancelled_exception(failure):
                raise
            kept = Retain(work=export.work, artefact=export.artefact, kind=ArtefactKind.EXPORT)
            await record(RecordActivities.retain, kept)

    async def _prepare(self, prepare: Export, release: Undo) -> None:
        """Sites make one export of an instance at a time."""
        async with self._preparing:
            await self._saga.step(wait(SiteActivities.prepare_export, prepare), undo=release)

    def _since(self, disk: MemberDisk) -> Mark | None:
        """What changed since is enough where all before it is in the base."""
        mark = self.plan.mark
        if mark is None or self.plan.base is None or mark.site != self.plan.site or not disk.told:
            return None
        return Mark(text=mark.ref)

    def _export(self, disk: MemberDisk) -> At:
        artefact = derived(self.work.operation, "source-export", self.plan.instance, disk.index)
        return replace(self.at(f"export {disk.index}"), artefact=ArtefactId(artefact))

    async def tidied(self) -> None:
        """Snapshots go, but for the one that tells the next points what changed since."""
        old = self.plan.mark
        if old is not None:
            at = At(
                work=self.work,
                site=old.site,
                artefact=old.snapshot,
                step=f"{self.plan.name} mark",
            )
            await unstoppable(Snapshot(at).tidied("remove"))
        if not self._stays:
            await unstoppable(self.snapshot.tidied("remove"))

    @property
    def _stays(self) -> bool:
        return self.plan.tracked and self.snapshot.mark is not None

    def taken(self) -> Taken:
        """What stays: the point, and the snapshot where the next one asks what changed since it."""
        mark = None
        if self._stays and self.snapshot.mark is not None:
            mark = KeptMark(
                snapshot=self.snapshot.at.artefact,
                site=self.plan.site,
                ref=self.snapshot.mark.text,
            )
        return Taken(
            instance=self.plan.instance,
            name=self.plan.name,
            point=self.point,
            moment=self.moment,
            read=sum(c.bytes_read for c in self.copied),
            new=sum(c.bytes_new for c in self.copied),
            mark=mark,
        )
