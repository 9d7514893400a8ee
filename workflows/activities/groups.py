"""Steps of recovery points that are taken together: planned, frozen side by side, judged."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Barrier, BrokenBarrierError
from time import monotonic
from typing import cast
from uuid import UUID

from temporalio import activity

from controlplane.domain.answer import Seen
from controlplane.domain.artefact import RETENTION, ArtefactKind, ArtefactState
from controlplane.domain.errors import Busy, Conflict, FedctlError
from controlplane.domain.ids import ArtefactId, InstanceId
from controlplane.domain.vault import Moment
from controlplane.planning.digest import as_json
from controlplane.planning.grouping import spread
from drivers.contract import Snapshots, require
from workflows.activities.atsite import SiteSteps, made
from workflows.activities.group_plans import MARKS, POINTS, KeptMark, MemberPlan
from workflows.activities.moving import beating
from workflows.activities.orders import At
from workflows.activities.records import operation_id
from workflows.activities.steps import Work
from workflows.failures import NotYet, translated

MARK = "what changes from here on is read by the next recovery point"
SPREAD = "spread"
MOMENTS = "moments"
_READY_WITHIN = 90.0


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
    """`lanes` go side by side; the shots of one, which are at one site, after each other."""

    operation: str
    lanes: tuple[tuple[Shot, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A snapshot that was asked for; `moment` is None while its site is still at it."""

    artefact: ArtefactId
    asked: datetime
    moment: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFrozen:
    at: At
    asked: datetime
    moment: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A snapshot that can be read, and when it was taken."""

    ref: str
    moment: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
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
    """All of a group at once, and what is kept of it."""

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

    @activity.defn(no_thread_cancel_exception=True)
    def freeze(self, wish: Freeze) -> tuple[Frozen, ...]:
        """Log in everywhere, and only when all are ready ask for every snapshot.

        A snapshot that an earlier attempt may have asked for counts from that asking on, so that
        nothing is said to be closer together than it is.
        """
        op_id = operation_id(wish.operation)
        with self._steps.step(op_id, "snapshots") as meter:
            told = self._told(op_id)
            before = {
                shot.at.artefact: self._earlier(shot.at) for lane in wish.lanes for shot in lane
            }
            gate = _Gate(len(wish.lanes))
            with meter.calling(), beating(), _lanes(len(wish.lanes)) as pool:
                going = [pool.submit(self._lane, lane, gate, before, told) for lane in wish.lanes]
                answers = [each.exception() or each.result() for each in going]
            frozen = [each for answer in answers if isinstance(answer, list) for each in answer]
            self._remember(op_id, {each.artefact: each.moment for each in frozen})
            _raise_first(answers)
            return tuple(frozen)

    def _earlier(self, at: At) -> datetime | None:
        """Since when an earlier attempt may have asked; the intention is on record from here on."""
        known = self._on_record(at)
        intended = self._intend(at, ArtefactKind.SNAPSHOT)
        return intended.created_at if known else None

    def _lane(
        self,
        lane: Sequence[Shot],
        gate: "_Gate",
        before: Mapping[ArtefactId, datetime | None],
        told: Mapping[ArtefactId, Moment],
    ) -> list[Frozen]:
        done: list[Frozen] = []
        with gate.entering(), self._connect(lane[0].at.site) as driver:
            taker = require(driver, Snapshots)
            # A look logs in, and what it costs comes before the moment.
            looks = [taker.find_snapshot(each.at.work.tag(each.at.artefact)) for each in lane]
            gate.wait()
            for shot, look in zip(lane, looks, strict=True):
                gate.until(shot.after)
                artefact = shot.at.artefact
                # What a site has lost since is taken anew.
                moment = told.get(artefact) if isinstance(look, Seen) else None
                done.append(self._shoot(taker, shot, before[artefact], moment))
        return done

    def _shoot(
        self,
        taker: Snapshots,
        shot: Shot,
        before: datetime | None,
        moment: Moment | None,
    ) -> Frozen:
        at = shot.at
        tag = at.work.tag(at.artefact)
        with self._store.read() as tx:
            instance = tx.artefacts.get(shot.of).ref
        asked = before or self._clock()
        ref = taker.create_snapshot(tag, instance or "")
        answer = taker.find_snapshot(tag)
        answered = self._clock()
        self._became(at, ArtefactState.ALLOCATED, ref=ref)
        if moment is None and isinstance(answer, Seen) and answer.it.ready:
            moment = Moment(asked=asked, answered=answered)
        return Frozen(artefact=at.artefact, asked=asked, moment=moment)

    @activity.defn(no_thread_cancel_exception=True)
    def wait_frozen(self, wish: WaitFrozen) -> Held:
        """The snapshot, once disks can be read from it: by then its moment has passed."""
        at = wish.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                answer = require(driver, Snapshots).find_snapshot(at.work.tag(at.artefact))
                now = self._clock()
            seen = made(driver, answer, f"snapshot at {at.site}")
            if not seen.ready:
                raise NotYet(f"{at.site} is taking the snapshot")
            self._became(at, ArtefactState.ALLOCATED, ref=seen.ref)
            told = self._told(at.work.operation).get(at.artefact)
            moment = wish.moment or told or Moment(asked=wish.asked, answered=now)
            self._remember(at.work.operation, {at.artefact: moment})
            return Held(ref=seen.ref, moment=moment)

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
            op = tx.operations.get(operation_id(str(operation)))
        known = cast("dict[str, list[str]]", op.result.get(MOMENTS) or {})
        return {
            ArtefactId(UUID(artefact)): Moment(
                asked=datetime.fromisoformat(asked), answered=datetime.fromisoformat(answered)
            )
            for artefact, (asked, answered) in known.items()
        }


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
        self._never.wait(max(self._began + after.total_seconds() - monotonic(), 0.0))


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
        "snapshotSeconds": round((moment.answered - moment.asked).total_seconds(), 3),
        "bytesRead": taken.read,
        "bytesNew": taken.new,
    }
