"""Steps of recovery points that are taken together: planned, frozen side by side, judged."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Barrier, BrokenBarrierError
from time import monotonic
from typing import cast
from uuid import UUID

from temporalio import activity

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import RETENTION, ArtefactKind, ArtefactState
from controlplane.domain.errors import Busy, Conflict, FedctlError, Unavailable
from controlplane.domain.ids import ArtefactId, InstanceId
from controlplane.domain.instance import InstanceState
from controlplane.domain.operation import StepState
from controlplane.domain.vault import Moment
from controlplane.planning.digest import as_json
from controlplane.planning.grouping import spread
from controlplane.store.engine import Store
from drivers.contract import Driver, Instances, Snapshots, require
from workflows.activities.atsite import SiteSteps, known, made, taken
from workflows.activities.group_plans import (
    MARKS,
    MOMENTS,
    POINTS,
    KeptMark,
    MemberPlan,
    moments_of,
    seconds_of,
)
from workflows.activities.moving import beating
from workflows.activities.orders import At
from workflows.activities.records import operation_id
from workflows.activities.steps import Meter, Steps, Work
from workflows.connections import Connect
from workflows.failures import NotYet, translated

MARK = "what changes from here on is read by the next recovery point"
SPREAD = "spread"
ASKING, ASKING_AGAIN, COMMIT = "snapshots", "snapshots again", "commit points"
_READY_WITHIN = 90.0
_TAKEN_BACK_WITHIN, _LOOK_EVERY = 120, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeLeases:
    operation: str
    members: tuple[MemberPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A snapshot `at` (its own artefact) of the artefact `of`, asked for `after` the first."""

    at: At
    of: ArtefactId
    after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """`lanes` go side by side; the shots of one, which are at one site, after each other.

    `step` is another one each time that the story asks.
    """

    operation: str
    lanes: tuple[tuple[Shot, ...], ...]
    step: str = ASKING


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """No attempt of these steps counts from now on, whether it ended or runs still."""

    operation: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A snapshot that was asked for; `moment` is None while its site is still at it."""

    artefact: ArtefactId
    asked: datetime
    moment: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFrozen:
    """`of` and `volumes`: the instance that was snapshotted, and the disks that it is to have.

    None: nobody looks whether it has them.
    """

    at: At
    asked: datetime
    moment: Moment | None
    of: ArtefactId | None = None
    volumes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A snapshot that can be read, and when it was taken; None: its site copies for it still."""

    ref: str
    moment: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """`moments`: one a disk."""

    operation: str
    moments: tuple[Moment, ...]
    max_spread: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A member's point that stands, and the snapshot that stays as the mark of the next."""

    instance: InstanceId
    name: str
    point: UUID
    moment: Moment
    read: int
    new: int
    mark: KeptMark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """All of a group is in the vault."""

    operation: str
    spread: float
    taken: tuple[Taken, ...]


class GroupActivities(SiteSteps):
    """All of a group at once, and what is kept of it.

    `steady` are seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        store: Store,
        steps: Steps,
        connect: Connect,
        clock: Callable[[], datetime],
        steady: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(store, steps, connect, clock)
        self._steady = steady
        self._watches: dict[UUID, _Watch] = {}

    @activity.defn(no_thread_cancel_exception=True)
    def take_leases(self, wish: TakeLeases) -> tuple[Work, ...]:
        """All members are ours while their snapshots are taken, or none; Busy names who holds."""
        op_id = operation_id(wish.operation)
        with self._steps.step(op_id, "leases"), self._store.begin() as tx:
            leases = tx.leases.take_all([m.instance for m in wish.members], op_id, self._clock())
            for member in wish.members:
                if tx.placements.get(member.instance).copy != member.copy:
                    raise Conflict(
                        f"instance {member.name} has left {member.site} since its points were"
                        " planned: ask again"
                    )
            return tuple(
                Work(operation=op_id, instance=m.instance, epoch=lease.epoch)
                for m, lease in zip(wish.members, leases, strict=True)
            )

    @activity.defn(no_thread_cancel_exception=True)
    def release_leases(self, operation: str) -> None:
        """From here on others may do with the members what they like: the snapshots stand."""
        with translated("release leases"), self._store.begin() as tx:
            tx.leases.release_all(operation_id(operation))
        self._watches.pop(operation_id(operation), None)

    @activity.defn(no_thread_cancel_exception=True)
    def freeze(self, wish: Freeze) -> tuple[Frozen, ...]:
        """Log in everywhere, and only when all are ready ask for every snapshot.

        A snapshot that an earlier attempt may have asked for counts from that asking on, so that
        nothing is said to be closer together than it is. An attempt that was given up asks for
        none once another began or the step was revoked.
        """
        op_id = operation_id(wish.operation)
        with self._steps.step(op_id, wish.step, sole=True) as meter:
            watch = self._watches.setdefault(op_id, _Watch(self._clock, self._steady))
            asking = _Asking(
                step=wish.step,
                meter=meter,
                watch=watch,
                gate=_Gate(len(wish.lanes)),
                told=self._told(op_id),
                before={s.at.artefact: self._earlier(s.at) for lane in wish.lanes for s in lane},
            )
            with meter.calling(), beating(), _lanes(len(wish.lanes)) as pool:
                going = [pool.submit(self._lane, lane, asking) for lane in wish.lanes]
                answers = [each.exception() or each.result() for each in going]
            frozen = [each for answer in answers if isinstance(answer, list) for each in answer]
            self._remember(op_id, {each.artefact: each.moment for each in frozen})
            _raise_first(answers)
            return tuple(frozen)

    @activity.defn(no_thread_cancel_exception=True)
    def revoke(self, wish: Revoke) -> None:
        """Before what they did is undone: an attempt that was given up may go on running."""
        with translated("undo"):
            self._steps.revoke(operation_id(wish.operation), *wish.steps)

    def _earlier(self, at: At) -> datetime | None:
        """Since when an earlier attempt may have asked; the intention is on record from here on."""
        known = self._on_record(at)
        intended = self._intend(at, ArtefactKind.SNAPSHOT)
        return intended.created_at if known else None

    def _lane(self, lane: Sequence[Shot], asking: "_Asking") -> list[Frozen]:
        done: list[Frozen] = []
        with asking.gate.entering(), self._connect(lane[0].at.site) as driver:
            taker = require(driver, Snapshots)
            # A look logs in, and what it costs comes before the moment.
            looks = [taker.find_snapshot(each.at.work.tag(each.at.artefact)) for each in lane]
            asking.gate.wait()
            for shot, look in zip(lane, looks, strict=True):
                asking.gate.until(shot.after)
                # What a site has lost since is taken anew.
                moment = asking.told.get(shot.at.artefact) if isinstance(look, Seen) else None
                done.append(self._shoot(taker, shot, asking, moment))
        return done

    def _shoot(
        self, taker: Snapshots, shot: Shot, asking: "_Asking", moment: Moment | None
    ) -> Frozen:
        at = shot.at
        tag = at.work.tag(at.artefact)
        with self._store.read() as tx:
            instance = tx.artefacts.get(shot.of).ref
        self._steps.claim(at.work.operation, asking.step, asking.meter)
        asked = asking.before[at.artefact] or asking.watch.earliest()
        ref = taker.create_snapshot(tag, instance or "")
        answer = taker.find_snapshot(tag)
        answered = asking.watch.latest()
        self._still_wanted(taker, at, asking)
        self._became(at, ArtefactState.ALLOCATED, ref=ref)
        if moment is None and isinstance(answer, Seen) and answer.it.ready:
            moment = Moment(asked=asked, answered=answered)
        return Frozen(artefact=at.artefact, asked=asked, moment=moment)

    def _still_wanted(self, taker: Snapshots, at: At, asking: "_Asking") -> None:
        """What was asked for while its step was revoked goes: nobody else knows of it."""
        operation = at.work.operation
        try:
            self._steps.claim(operation, asking.step, asking.meter)
        except Conflict:
            with self._store.read() as tx:
                step = tx.operations.find_step(operation, asking.step)
            if step is not None and step.state is StepState.UNDONE:
                self._taken_back(taker, at, asking.gate)
            raise

    @staticmethod
    def _taken_back(taker: Snapshots, at: At, gate: "_Gate") -> None:
        """What its site is still taking goes when it is there; the sweep finds what does not go."""
        tag = at.work.tag(at.artefact)
        for _ in range(_TAKEN_BACK_WITHIN):
            with suppress(Busy, Unavailable):
                taker.delete_snapshot(tag)
                if isinstance(taker.find_snapshot(tag), Absent):
                    return
            gate.rest(_LOOK_EVERY)

    @activity.defn(no_thread_cancel_exception=True)
    def wait_frozen(self, wish: WaitFrozen) -> Held:
        """The snapshot, once disks can be read from it: by then its moment has passed."""
        at = wish.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                answer = require(driver, Snapshots).find_snapshot(at.work.tag(at.artefact))
                watch = self._watches.get(at.work.operation)
                now = watch.latest() if watch is not None else self._clock()
                seen = taken(made(driver, answer, f"snapshot at {at.site}"), at)
                if wish.of is not None and seen.ready:
                    self._same_disks(driver, at, wish.of, wish.volumes)
            if not seen.ready:
                return Held(ref=seen.ref, moment=None)
            self._became(at, ArtefactState.ALLOCATED, ref=seen.ref)
            told = self._told(at.work.operation).get(at.artefact)
            moment = wish.moment or told
            if moment is None:
                moment = Moment(asked=wish.asked, answered=max(now, wish.asked))
            self._remember(at.work.operation, {at.artefact: moment})
            return Held(ref=seen.ref, moment=moment)

    def _same_disks(self, driver: Driver, at: At, of: ArtefactId, volumes: frozenset[str]) -> None:
        """Conflict when a disk came or went since the plan: a point would lack it silently."""
        with self._store.read() as tx:
            home = tx.artefacts.get(of)
        answer = require(driver, Instances).find(home.owner, home.anchor)
        seen = known(answer, f"the instance at {at.site}")
        found = frozenset(disk.volume for disk in seen.disks)
        if found == volumes:
            return
        if seen.state is InstanceState.WORKING:
            raise NotYet(f"{at.site} is changing the instance")
        other = ", ".join(sorted(found ^ volumes))
        raise Conflict(
            f"the instance at {at.site} got other disks while its snapshot was taken ({other}): ask"
            " again"
        )

    @activity.defn(no_thread_cancel_exception=True)
    def judge_spread(self, wish: Judge) -> float:
        """Seconds that the moments lie apart at most; Conflict when more than was wished."""
        op_id = operation_id(wish.operation)
        with self._steps.step(op_id, SPREAD) as meter:
            found = spread(wish.moments)
            meter.message = f"at most {found.total_seconds():.3f} s apart"
            with self._store.begin() as tx:
                op = tx.operations.get(op_id)
                result = {**op.result, "spreadSeconds": found.total_seconds()}
                tx.operations.update(op_id, result=result)
            if wish.max_spread is not None and found > wish.max_spread:
                raise Conflict(
                    f"the snapshots may lie {found.total_seconds():.3f} s apart, and"
                    f" {wish.max_spread.total_seconds():g} s were wished at most: none of them"
                    " stays; allow a larger maxSpread, or take fewer instances together",
                    reason=SPREAD,
                )
            return found.total_seconds()

    @activity.defn(no_thread_cancel_exception=True)
    def points_taken(self, wish: Noted) -> None:
        """What stands now is shown, and what stays at the sites is on record as retained."""
        op_id = operation_id(wish.operation)
        now = self._clock()
        points = [_shown(each) for each in wish.taken]
        with self._steps.step(op_id, "record points"), self._store.begin() as tx:
            op = tx.operations.get(op_id)
            for each in wish.taken:
                if each.mark is not None:
                    tx.artefacts.set_state(
                        each.mark.snapshot, ArtefactState.RETAINED, note=MARK,
                        expires_at=now + RETENTION,
                    )  # fmt: skip
            marks = {str(t.instance): as_json(t.mark) for t in wish.taken if t.mark is not None}
            shown: dict[str, object] = {
                "newestPointAt": min(t.moment.asked for t in wish.taken).isoformat(),
                "spreadSeconds": wish.spread,
                POINTS: [{k: v for k, v in p.items() if k != "instanceId"} for p in points],
            }
            kept = {**shown, POINTS: points, MARKS: marks}
            tx.operations.update(op_id, result={**op.result, **kept})
            tx.resources.patch_status(op.subject, shown, now=now)

    # What was seen of moments outlives an attempt that died.

    def _remember(self, operation: UUID, moments: Mapping[ArtefactId, Moment | None]) -> None:
        """None: what was known of it does not hold any more."""
        with self._store.begin() as tx:
            op = tx.operations.get(operation_id(str(operation)))
            known = dict(cast("dict[str, object]", op.result.get(MOMENTS) or {}))
            for artefact, moment in moments.items():
                known.pop(str(artefact), None)
                if moment is not None:
                    both = [moment.asked.isoformat(), moment.answered.isoformat()]
                    known[str(artefact)] = both
            tx.operations.update(op.id, result={**op.result, MOMENTS: known})

    def _told(self, operation: UUID) -> dict[ArtefactId, Moment]:
        with self._store.read() as tx:
            return moments_of(tx.operations.get(operation_id(str(operation))))


class _Watch:
    """Times as bounds: one clock may be set while the other runs on, and both are believed."""

    def __init__(self, clock: Callable[[], datetime], steady: Callable[[], float]) -> None:
        self._clock, self._steady = clock, steady
        self._began, self._since = clock(), steady()

    def earliest(self) -> datetime:
        return min(self._clock(), self._steadily())

    def latest(self) -> datetime:
        return max(self._clock(), self._steadily())

    def _steadily(self) -> datetime:
        return self._began + timedelta(seconds=self._steady() - self._since)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """What the lanes of one attempt share; `told` and `before` are by snapshot."""

    step: str
    meter: Meter
    watch: _Watch
    gate: "_Gate"
    told: Mapping[ArtefactId, Moment]
    before: Mapping[ArtefactId, datetime | None]


class _Gate:
    """Nobody passes before all are there; one that fails before lets nobody pass."""

    def __init__(self, lanes: int) -> None:
        self._began = 0.0
        self._barrier = Barrier(lanes, action=self._begin)
        self._never = threading.Event()

    def _begin(self) -> None:
        self._began = monotonic()

    @contextmanager
    def entering(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._barrier.abort()
            raise

    def wait(self) -> None:
        self._barrier.wait(_READY_WITHIN)

    def until(self, after: timedelta) -> None:
        self.rest(max(self._began + after.total_seconds() - monotonic(), 0.0))

    def rest(self, seconds: float) -> None:
        self._never.wait(seconds)


@contextmanager
def _lanes(count: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(count, thread_name_prefix="freeze") as pool:
        yield pool


def _raise_first(answers: Sequence[object]) -> None:
    """The failure that is worth telling: one that a repeat does not mend comes first."""
    failed = [each for each in answers if isinstance(each, BaseException)]
    told = [each for each in failed if not isinstance(each, BrokenBarrierError)]
    final = [each for each in told if isinstance(each, FedctlError) and not each.retryable]
    for failure in (*final, *told):
        raise failure
    if failed:
        raise Busy("not every site was ready to take its snapshot in time: ask again")


def _shown(taken: Taken) -> dict[str, object]:
    moment = taken.moment
    return {
        "instance": taken.name,
        "instanceId": str(taken.instance),
        "point": str(taken.point),
        "asked": moment.asked.isoformat(),
        "answered": moment.answered.isoformat(),
        "snapshotSeconds": round(seconds_of(moment), 3),
        "bytesRead": taken.read,
        "bytesNew": taken.new,
    }
