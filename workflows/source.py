"""The instance as it is before the switch: copied, stopped, fenced, and started again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Protocol, TypeVar
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ActivityError

from controlplane.domain.disk import DiskSource, Mark
from controlplane.domain.errors import NotFound, Unavailable
from controlplane.domain.ids import ArtefactId, derived
from controlplane.domain.instance import Manner, Power
from controlplane.domain.plan import DiskPlan, MovePlan
from controlplane.planning.passes import PassDone, rest
from controlplane.services.freezing import FROZEN
from controlplane.vault.streaming import Streamed
from workflows.activities.lookups import LookupActivities
from workflows.activities.moving import Copied
from workflows.activities.orders import At, Export, Fence, MakeSnapshot, Pause, SetPower
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.steps import Work
from workflows.activities.transfer import CommitPoint, CopyDisk, TransferActivities
from workflows.calls import ask, call, clean, copy, once_more, patiently, record, remove, undo, wait
from workflows.failures import problem_of, reason_of
from workflows.saga import Saga, Undo, together
from workflows.snapshot import Snapshot

T = TypeVar("T")
_STOP, _STOPPED = "stop source", "source stopped"
_STILL_AT_LEAST, _MARGIN = timedelta(minutes=1), 5


class Taker(Protocol):
    """Whoever gets what is copied while it is read, and proves that it has it."""

    async def take(self, saga: Saga, disk: DiskPlan, order: CopyDisk) -> Copied: ...

    async def prove(self, saga: Saga, digests: Sequence[str]) -> None: ...


class Source:
    """`point` is what was copied last and `copied` its disks; `read` and `new` count all bytes.

    `quiesced` tells of a paused source whether its file systems were frozen.
    """

    def __init__(self, work: Work, plan: MovePlan, saga: Saga) -> None:
        self.work = work
        self.plan = plan
        self.point: UUID | None = None
        self.copied: tuple[Copied, ...] = ()
        self.domain = ""
        self.read = self.new = 0
        self.quiesced: bool | None = None
        self.down_since = workflow.now()
        self._saga = saga
        self._passes: list[_Pass] = []
        self._paused = False
        self._snapshot: Snapshot | None = None
        self._before_last: Snapshot | None = None
        self._fenced = self._let_go = False
        self._undos: list[Undo] = []

    def at(self, step: str) -> At:
        return At(work=self.work, site=self.plan.source, artefact=self.plan.copy, step=step)

    @property
    def size(self) -> int:
        return sum(disk.size for disk in self.plan.target.disks)

    # Power

    async def pause(self) -> None:
        """Held still while the last of its changes is read; unwinding lets it go on.

        So does its site, after several times of what that should take: nobody may be left to do it.
        """
        self.down_since = workflow.now()
        self._paused = True
        self.quiesced = await self._step(
            call(SnapshotActivities.pause, Pause(at=self.at("pause source"), within=self._still())),
            undo=self._resume,
        )

    def _still(self) -> timedelta:
        needed = rest(self.plan.passes, self.size, self.passes()) or timedelta()
        return max(_STILL_AT_LEAST, _MARGIN * needed)

    async def stop(self) -> None:
        """Off and fenced; unwinding starts it again, where it ran."""
        if self._paused:
            await call(SnapshotActivities.keep_paused, self.at("source stayed paused"))
        else:
            self.down_since = workflow.now()
        off = SetPower(
            at=self.at(_STOP),
            power=Power.OFF,
            manner=Manner.HARD if self._paused else Manner.GRACEFUL,
            sole=True,
        )
        await self._step(call(SiteActivities.set_power, off), undo=self._restart)
        await wait(SiteActivities.wait_power, replace(off, at=self.at(_STOPPED)))
        await self._step(
            call(SiteActivities.fence, self._fence("fence source")),
            undo=lambda: undo(SiteActivities.unfence, self.at("undo: unfence source")),
        )
        self._fenced = True

    def _fence(self, step: str) -> Fence:
        return Fence(at=self.at(step), level=self.plan.fence)

    async def _restart(self) -> None:
        if not self.plan.was_on:
            return
        on = SetPower(at=self.at("undo: start source"), power=Power.ON, undoes=(_STOP, _STOPPED))
        self._let_go = True
        try:
            await undo(SiteActivities.set_power, on)
        except ActivityError as failure:
            # It was seen to be off, and its site refused to start it.
            self._let_go = problem_of(failure).code == Unavailable.code
            raise
        await undo(SiteActivities.wait_power, on)

    async def _resume(self) -> None:
        self._let_go = True
        await undo(SnapshotActivities.resume, self.at("undo: resume source"))

    @property
    def stays_away(self) -> bool:
        """Whether it is what cannot be undone: stopped and fenced for good, and not let go since.

        Once its site may have started it, its disks may be newer than any copy.
        """
        return self._fenced and not self._let_go and self._saga.stuck_at(self._undos)

    async def stay_off(self) -> None:
        """Off and fenced, before another copy goes on in its place.

        Where its site does not answer, it is as it was seen last: off and fenced, and nobody was
        told to start it. Nothing is done at a frozen site; its survey stops and fences what is no
        home any more. What is gone does not run.
        """
        off = SetPower(at=self.at("forward: source off"), power=Power.OFF, manner=Manner.HARD)
        try:
            await ask(SiteActivities.set_power, off)
            await ask(SiteActivities.fence, self._fence("forward: fence source"))
        except ActivityError as failure:
            silent = problem_of(failure).code in {Unavailable.code, NotFound.code}
            if not silent and reason_of(failure) != FROZEN:
                raise
            workflow.logger.info("the source is gone, or its site does not answer")

    async def _step(self, do: Awaitable[T], *, undo: Undo) -> T:
        self._undos.append(undo)
        return await self._saga.step(do, undo=undo)

    # Copies

    def passes(self) -> tuple[PassDone, ...]:
        """What was measured of the passes so far, as of now."""
        began = [each.began for each in self._passes]
        ended = [*began[1:], workflow.now()]
        return tuple(
            PassDone(
                read=each.read,
                reading=each.reading,
                since=(each.began - before).total_seconds(),
                age=(after - each.began).total_seconds(),
                whole=each.whole,
                bringing=each.bringing,
            )
            for each, before, after in zip(
                self._passes, [began[0], *began] if began else (), ended, strict=False
            )
        )

    def brought(self, took: timedelta) -> None:
        """What the last pass read is at the target, written and proven in so long."""
        self._passes[-1].bringing = took.total_seconds()

    async def copy_running(self, taker: Taker | None = None) -> None:
        """One pass: a snapshot of the running source, and what changed since the one before."""
        number, began = len(self._passes), workflow.now()
        before, self._snapshot = self._snapshot, await self._take(number)
        reading = await self._copy(
            f"pass {number} ",
            derived(self.work.operation, "point", number),
            ("pass", number),
            snapshot=self._snapshot,
            since=before,
            taker=taker,
        )
        whole = workflow.now() - began
        if before is not None:
            await self._drop(before)
        if not self.plan.passes.tracked:
            # No later pass asks for what changed since; and some sites cannot remove it from what
            # is fenced.
            await self._drop(self._snapshot)
            self._snapshot = None
        self._passes.append(
            _Pass(
                began=began,
                read=sum(c.bytes_read for c in self.copied),
                reading=reading,
                whole=whole.total_seconds(),
            )
        )

    async def copy_paused(self) -> None:
        """What changed since the last pass, from a snapshot of the paused source.

        Both snapshots go after the switch: removing them costs downtime, and they slow nothing
        down any more.
        """
        before, self._snapshot = self._snapshot, await self._take(len(self._passes))
        self._before_last = before
        await self._copy("", self._last, (), snapshot=self._snapshot, since=before)

    async def copy_stopped(self) -> None:
        """All of it, or what changed since the last pass."""
        await self._copy("", self._last, (), snapshot=None, since=self._snapshot)

    async def copy_beside(self, taker: Taker) -> None:
        """All of it, into the vault and to whoever takes it, who proves it beside the commit."""
        await self._copy("", self._last, (), snapshot=None, since=None, taker=taker, proven=True)

    async def stream(
        self, disk: DiskPlan, receive: Callable[[At, str], Awaitable[Streamed]]
    ) -> Streamed:
        """What the stopped source has on the disk, given to `receive` and kept nowhere.

        It is told the export, and the name of its step: another one where the site lost the export.
        """
        export = self._export(f"export {disk.index}", disk, ())
        again = replace(export, step=f"release export {disk.index}")
        release: Undo = partial(undo, SiteActivities.release_export, again)
        prepare = Export(at=export, source=DiskSource(volume=disk.volume or ""))
        names = iter((f"stream {disk.index}", f"stream {disk.index} again"))
        done = await once_more(
            "2026-11-export-again",
            lambda: self._step(wait(SiteActivities.prepare_export, prepare), undo=release),
            lambda: receive(export, next(names)),
        )
        self.read += done.bytes_read
        self.new += done.bytes_written
        return done

    @property
    def _last(self) -> UUID:
        return derived(self.work.operation, "point")

    async def release_last(self) -> None:
        """The exports of the last copy go; a source that goes on again goes on without them."""
        await self._release("", ())

    async def _drop(self, snapshot: Snapshot) -> None:
        await remove(SiteActivities.remove, snapshot.removal("remove"))
        self._saga.done_with(snapshot.take_back)

    async def tidy(self) -> None:
        """The last snapshots go, or are written down."""
        for snapshot in (self._before_last, self._snapshot):
            if snapshot is not None:
                await snapshot.tidied("remove")

    async def _take(self, number: int) -> Snapshot:
        at = replace(
            self.at(f"pass {number} snapshot"),
            artefact=derived(self.work.operation, "snapshot", number),
        )
        snapshot = Snapshot(at)
        order = MakeSnapshot(at=at, of=self.plan.copy)
        await self._step(call(SnapshotActivities.create_snapshot, order), undo=snapshot.take_back)
        look = replace(at, step=f"pass {number} snapshot taken")
        seen = await wait(SnapshotActivities.wait_snapshot, look)
        while not seen.ready:  # its site is at it: not one that is away
            seen = await wait(SnapshotActivities.wait_snapshot, look)
        snapshot.mark = Mark(text=seen.ref)
        return snapshot

    async def _copy(
        self,
        label: str,
        point: UUID,
        part: tuple[object, ...],
        *,
        snapshot: Snapshot | None,
        since: Snapshot | None,
        taker: Taker | None = None,
        proven: bool = False,
    ) -> float:
        """Every disk into `point`, and to the taker; seconds spent in reading them."""
        if not self.domain or not workflow.patched("2026-11-domain-once"):
            self.domain = await record(LookupActivities.domain_of, str(self.work.operation))
        copied: dict[int, Copied] = {}
        releases: list[Undo] = []
        reading: list[tuple[datetime, datetime]] = []
        preparing = asyncio.Lock()

        async def one(disk: DiskPlan) -> None:
            export = self._export(f"{label}export {disk.index}", disk, part)
            release: Undo = partial(
                undo,
                SiteActivities.release_export,
                replace(export, step=f"{label}release export {disk.index}"),
            )
            releases.append(release)
            content = DiskSource(
                volume=disk.volume or "", snapshot=snapshot.at.artefact if snapshot else None
            )
            prepare = Export(at=export, source=content, since=since.mark if since else None)
            order = CopyDisk(
                at=replace(export, step=f"{label}copy {disk.index}"),
                point=point,
                disk=disk.index,
                domain=self.domain,
                base=self.point,
            )
            take = partial(copy, TransferActivities.copy_disk)
            if taker is not None:
                take = partial(taker.take, self._saga, disk)
            copied[disk.index], took = await self._copy_disk(
                prepare, order, release, preparing, take, runs=snapshot is not None
            )
            reading.append(took)

        disks = self.plan.target.disks
        if len(disks) > 1 and workflow.patched("2026-12-disks-beside"):
            await together(*(one(disk) for disk in disks))
        else:
            for disk in disks:
                await one(disk)
        done = tuple(copied[disk.index] for disk in disks)
        commit = copy(
            TransferActivities.commit_point,
            CommitPoint(
                work=self.work,
                point=point,
                domain=self.domain,
                step=f"{label}commit copy",
                copied=done,
            ),
        )
        if taker is not None and proven:
            await together(commit, taker.prove(self._saga, [each.digest for each in done]))
        else:
            await commit
        if part:
            await self._release(label, part)
            for release in releases:
                self._saga.done_with(release)
        self._took(point, done)
        return seconds_covered(reading)

    async def _release(self, label: str, part: tuple[object, ...]) -> None:
        for disk in self.plan.target.disks:
            step = f"{label}release export {disk.index}"
            await wait(SiteActivities.release_export, self._export(step, disk, part))

    async def _copy_disk(
        self,
        prepare: Export,
        order: CopyDisk,
        release: Undo,
        preparing: asyncio.Lock,
        take: Callable[[CopyDisk], Awaitable[Copied]],
        *,
        runs: bool,
    ) -> tuple[Copied, tuple[datetime, datetime]]:
        """The copy, and when it was read; sites make one export of an instance at a time."""
        began, rounds = workflow.now(), count()

        async def export() -> None:
            async with preparing:
                await self._step(wait(SiteActivities.prepare_export, prepare), undo=release)

        async def read() -> Copied:
            nonlocal began
            began = workflow.now()
            return await take(replace(order, round=next(rounds)))

        async def reading() -> Copied:
            if not runs or self._paused:
                return await read()
            return await patiently("2026-12-patiently", read)

        copied = await once_more("2026-11-export-again", export, reading)
        return copied, (began, workflow.now())

    def _took(self, point: UUID, copied: Sequence[Copied]) -> None:
        self.point = point
        self.copied = tuple(copied)
        self.read += sum(c.bytes_read for c in copied)
        self.new += sum(c.bytes_new for c in copied)

    def _export(self, step: str, disk: DiskPlan, part: tuple[object, ...]) -> At:
        artefact = derived(self.work.operation, "source-export", disk.index, *part)
        return replace(self.at(step), artefact=ArtefactId(artefact))


def seconds_covered(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """How long any of these was under way."""
    total, end = timedelta(), None
    for first, last in sorted(spans):
        total += max(last - (first if end is None else max(first, end)), timedelta())
        end = last if end is None else max(end, last)
    return total.total_seconds()


class _Pass:
    def __init__(self, *, began: datetime, read: int, reading: float, whole: float) -> None:
        self.began, self.read, self.reading, self.whole = began, read, reading, whole
        self.bringing = 0.0


async def given_up(at: At) -> None:
    """A copy that stays behind keeps no MAC or address from the next one.

    That it did not work is written down with the step; a later move says what is in its way.
    """
    try:
        await clean(SiteActivities.give_up_nics, at)
    except ActivityError:
        workflow.logger.info("the nics of a retained copy were not given up")
