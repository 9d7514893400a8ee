"""Members of a group with several disks, and what may become of them between one point and the next.

Each case is a whole story on a Temporal server, most of a second.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count, product
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
from pydantic import TypeAdapter
from temporalio.client import Client
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from controlplane.domain.answer import Answer, Seen
from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import MIB, SnapshotSeen, VolumeSpec
from controlplane.domain.errors import Busy, Unavailable, Unsupported
from controlplane.domain.ids import SiteName, derived
from controlplane.domain.instance import DiskPlace, Trait, TraitSeen
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState, StepState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.resource import Kind
from controlplane.domain.site import Capability
from controlplane.planning import grouping
from controlplane.planning.grouping import COPIES, COPIES_AT_A_SITE, Order
from drivers.contract import Driver
from drivers.fake.disk import PAGE, FakeDisk
from drivers.fake.site import FakeVolume
from drivers.fake.storage import FakeSnapshots, FakeTransfers
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import crossing, run, run_and_cancel
from tests.workflows.test_held_attempts import PATIENCE, Held, attempt, held_in, superseded
from tests.workflows.test_mend_operation import mend
from tests.workflows.test_take_points import SIZE, Group, Guest, made
from tests.workflows.world import AWAY, HOME, now
from workflows import options
from workflows.activities import atsite, groups
from workflows.activities.groups import ASKING, Freeze, GroupActivities, Revoke, Shot
from workflows.activities.orders import At, Remove
from workflows.activities.sites import SiteActivities
from workflows.activities.steps import Steps, Work


def held(group: Group, disks: int) -> list[bytes]:
    """What is on every disk of every guest now."""
    return [each.disk(number) for each, number in product(group.guests, range(disks))]


def restored(group: Group, op: Operation, disks: int) -> list[bytes]:
    points = group.points(op)
    return [
        group.restored(points[each.name], number)
        for each, number in product(group.guests, range(disks))
    ]


def read(op: Operation) -> dict[str, int]:
    return {each["instance"]: each["bytesRead"] for each in op.result["points"]}  # type: ignore[attr-defined]


def new_disk(guest: Guest) -> None:
    """One more, attached past us."""
    with guest.site.lock:
        it = guest.site.instances[guest.copy]
        volume = FakeVolume(
            owner=replace(it.owner, artefact=derived(guest.copy, uuid4())),
            epoch=1,
            ref=f"vol-{guest.site.number()}",
            spec=VolumeSpec(name="more", size=SIZE),
            disk=FakeDisk(size=SIZE),
            attached_to=guest.copy,
        )
        it.volumes.append(volume)
        guest.site.strange_volumes[volume.ref] = volume
        it.spec = replace(it.spec, disks=(*it.spec.disks, DiskPlace(size=SIZE)))


# Side by side


@dataclass
class Watched(Interceptor):
    """Which exports stand, and what is going on while each copy begins."""

    sites: dict[str, SiteName] = field(default_factory=dict)
    most: int = 0
    most_at_a_site: int = 0
    preparing: Counter[str] = field(default_factory=Counter)
    most_preparing: int = 0
    beside: set[tuple[str, str]] = field(default_factory=set)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Watching(next, self)

    def begins(self, at: At) -> None:
        self.sites[at.step.replace("copy", "export")] = at.site
        self.most = max(self.most, len(self.sites))
        self.most_at_a_site = max(self.most_at_a_site, *Counter(self.sites.values()).values())


class _Watching(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, told: Watched) -> None:
        super().__init__(next)
        self._told = told

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        told, name = self._told, input.fn.__name__
        if name not in {"prepare_export", "copy_disk", "release_export"}:
            return await super().execute_activity(input)
        at: At = input.args[0] if name == "release_export" else input.args[0].at
        export = at.step.replace("release export", "export").replace("copy", "export")
        member = export.split()[0]
        if name == "prepare_export":
            told.begins(at)
            told.preparing[member] += 1
            told.most_preparing = max(told.most_preparing, told.preparing[member])
        try:
            if name == "copy_disk":
                await asyncio.sleep(0.05)
                told.beside |= {(export, other) for other in told.sites if other != export}
            done = await super().execute_activity(input)
        finally:
            if name == "prepare_export":
                told.preparing[member] -= 1
        if name == "release_export":
            told.sites.pop(export, None)
        return done


async def test_disks_of_a_group_are_copied_side_by_side_within_bounds(
    client: Client, tmp_path: Path
) -> None:
    """Five members with three disks each: more than may go at once, at a site and in all."""
    group = made(tmp_path, (HOME, HOME, HOME, AWAY, AWAY), disks=3)
    before = held(group, 3)
    watched = Watched()
    op = await run(client, group.world, group.ask(), [watched])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert restored(group, op, 3) == before
    assert COPIES_AT_A_SITE < watched.most <= COPIES
    assert 1 < watched.most_at_a_site <= COPIES_AT_A_SITE
    assert watched.most_preparing == 1, "sites make one export of an instance at a time"
    own = {(one, other) for one, other in watched.beside if one.split()[0] == other.split()[0]}
    assert own, "disks of one member go beside each other"
    assert watched.sites == {}
    group.assert_running()
    group.world.close()


BESIDE = [
    *product([("prepare_export", 2), ("copy_disk", 4)], [Fault.AFTER]),
    *product([("prepare_export", 4), ("copy_disk", 2)], [Fault.BEFORE]),
]


@pytest.mark.parametrize(("step", "fault"), BESIDE)
async def test_a_broken_step_beside_others_leaves_nothing(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    group = made(tmp_path, disks=2)
    broken = FaultAt(*step, fault)
    op = await run(client, group.world, group.ask(), [broken])
    assert broken.hit
    assert op.state is OperationState.ROLLED_BACK, op.problem
    group.assert_nothing_stayed()
    group.world.close()


@crossing
@pytest.mark.parametrize("step", [("prepare_export", 3), ("copy_disk", 1), ("copy_disk", 3)])
async def test_a_cancel_beside_other_disks_leaves_nothing(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    group = made(tmp_path, disks=2)
    op = await run_and_cancel(client, group.world, group.ask(), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    group.assert_nothing_stayed()
    group.world.close()


async def test_disks_whose_steps_run_twice_are_the_same(client: Client, tmp_path: Path) -> None:
    """The second taking: marks of the first are there, and go."""
    group = made(tmp_path, disks=2, changes="told")
    assert (await run(client, group.world, group.ask())).state is OperationState.SUCCEEDED
    group.guests[0].write(MIB, b"changed since", 1)
    before = held(group, 2)
    twice = StepsTwice(group.standing)
    op = await run(client, group.world, group.ask(), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.changed == []
    assert restored(group, op, 2) == before
    assert read(op) == {"web-1": PAGE, "web-2": 0}
    group.assert_running()
    group.world.close()


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (("commit_group", 1), Fault.AFTER),
        (("remove", 1), Fault.BEFORE),
    ],
)
async def test_a_broken_taking_costs_the_next_no_more_than_reading_all(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    """Where it came to nothing the marks stand; where it did not, its own do. No snapshot is left."""
    group = made(tmp_path, changes="told")
    assert (await run(client, group.world, group.ask())).state is OperationState.SUCCEEDED
    group.guests[0].write(MIB, b"changed since")
    broken = FaultAt(*step, fault)
    op = await run(client, group.world, group.ask(), [broken])
    assert broken.hit
    kept = {OperationState.ROLLED_BACK: 2, OperationState.SUCCEEDED: 4}[op.state]
    assert len(group.world.vault._records.points()) == kept
    group.guests[1].write(2 * MIB, b"changed later")
    before = held(group, 1)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert restored(group, op, 1) == before
    assert read(op)["web-2"] == PAGE
    standing = [a for a in group.world.artefacts() if a.kind is ArtefactKind.SNAPSHOT]
    left = [a for a in standing if a.state is not ArtefactState.RELEASED]
    assert {a.state for a in left} == {ArtefactState.RETAINED}
    assert all(a.expires_at is not None for a in left)
    group.assert_running()
    group.world.close()


# What may become of a member


async def test_a_disk_that_was_added_is_read_whole_and_the_others_as_ever(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path, changes="told")
    assert (await run(client, group.world, group.ask())).state is OperationState.SUCCEEDED
    first, second = group.guests
    new_disk(first)
    first.write(MIB, b"on the new one", 1)
    before = [first.disk(0), first.disk(1), second.disk()]
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    points = group.points(op)
    ones = [group.restored(points[first.name], number) for number in (0, 1)]
    assert [*ones, group.restored(points[second.name])] == before
    assert read(op) == {"web-1": PAGE, "web-2": 0}
    group.world.close()


async def test_a_disk_in_the_place_of_another_is_not_taken_for_it(
    client: Client, tmp_path: Path
) -> None:
    """What changed on it since is nothing to what the other one held."""
    group = made(tmp_path, disks=2, changes="told")
    assert (await run(client, group.world, group.ask())).state is OperationState.SUCCEEDED
    first = group.guests[0]
    with first.site.lock:
        first.site.instances[first.copy].volumes.reverse()
    before = held(group, 2)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert restored(group, op, 2) == before
    group.world.close()


async def test_a_copy_that_became_the_home_again_is_read_whole(
    client: Client, tmp_path: Path
) -> None:
    """While it was none it was written to, past all that tells changes."""
    group = made(tmp_path, changes="told")
    assert (await run(client, group.world, group.ask())).state is OperationState.SUCCEEDED
    first = group.guests[0]
    other = group.world.ask(OperationKind.STOP, key=group.world.key(Kind.INSTANCE, first.name))
    with group.world.store.begin() as tx:
        epoch = tx.leases.take(first.instance, other.id, now()).epoch
        tx.placements.switch(
            first.instance, operation=other.id, epoch=epoch, site=HOME, copy=first.copy,
            now=now(),
        )  # fmt: skip
        tx.leases.release(first.instance, other.id)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert read(op)["web-1"] > PAGE
    assert read(op)["web-2"] == 0
    group.world.close()


@pytest.mark.parametrize("step", ["plan_points", "take_leases"])
async def test_a_disk_that_comes_between_plan_and_snapshot_fails_them_all(
    client: Client, tmp_path: Path, step: str
) -> None:
    """A point without it would be told as whole."""
    group = made(tmp_path)
    late = FaultAt(step, 1, None, then=lambda: new_disk(group.guests[1]))
    op = await run(client, group.world, group.ask(), [late])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "other disks" in op.problem.message
    assert AWAY in op.problem.message
    group.assert_nothing_stayed()
    group.world.close()


async def test_an_instance_without_disks_is_refused_before_anything_is_done(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    second = group.guests[1]
    with second.site.lock:
        it = second.site.instances[second.copy]
        it.volumes, it.spec = [], replace(it.spec, disks=())
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == Unsupported.code
    assert "web-2" in op.problem.message
    assert [(f.id, f.subject) for f in op.findings if f.severity == "blocker"] == [
        ("SRC07", "web-2")
    ]
    group.world.close()


async def test_a_disk_that_no_snapshot_holds_is_refused_and_what_is_no_disk_is_told(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    first, second = group.guests
    for each, trait in ((first, Trait.DISC), (second, Trait.RAW_DISK)):
        with each.site.lock:
            seen = TraitSeen(trait=trait, words=f"one {trait}")
            each.site.instances[each.copy].traits = (seen,)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert "web-2" in op.problem.message
    assert "one raw disk" in op.problem.message
    assert "web-1" not in op.problem.message
    told = {(f.id, f.subject, str(f.severity)) for f in op.findings if f.severity != "unseen"}
    assert told == {("SRC07", "web-1", "warning"), ("SRC07", "web-2", "blocker")}
    with second.site.lock:
        second.site.instances[second.copy].traits = ()
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert "warning" in {f.severity for f in op.findings}
    group.world.close()


async def test_a_site_without_snapshots_is_a_finding_with_a_code(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    group.world.away.lacking = {Capability.SNAPSHOTS: "no rights"}
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.FAILED
    (finding,) = [f for f in op.findings if f.severity == "blocker"]
    assert (finding.id, finding.subject) == ("SRC05", "web-2")
    assert AWAY in finding.evidence
    assert finding.remedy
    group.world.close()


async def test_a_group_that_would_be_held_for_too_long_is_refused_before_it_is(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = made(tmp_path, (HOME, HOME))
    key = facts(Kind.SITE).key(HOME, None, None)
    with group.world.store.begin() as tx:
        found = tx.resources.get(key)
        tx.resources.set_spec(found.id, {**found.spec, "maxSnapshots": 1}, now=now())
    monkeypatch.setattr(grouping, "LONGEST", timedelta(seconds=1))
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert f"fedctl site limit {HOME} --max-snapshots" in op.problem.message
    group.assert_nothing_stayed()
    group.world.close()


async def test_a_snapshot_that_its_site_could_not_take_is_told_at_once(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after ten minutes in which all members are held."""
    group = made(tmp_path)
    find = FakeSnapshots.find_snapshot

    def broken(self: FakeSnapshots, owner: OwnerTag) -> Answer[SnapshotSeen]:
        answer = find(self, owner)
        if self._site.name == AWAY and isinstance(answer, Seen):
            return Seen(replace(answer.it, ready=False, failed="no space is left"))
        return answer

    monkeypatch.setattr(FakeSnapshots, "find_snapshot", broken)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "no space is left" in op.problem.message
    assert op.problem.step == "web-2 snapshot taken"
    assert group.world.home.snapshots == group.world.away.snapshots == {}
    group.world.close()


async def test_a_site_that_copies_whole_disks_is_waited_for_as_long_as_it_is_seen_to(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first backup takes hours: each wait ends while it is made, and is followed by another."""
    group, find, looks = made(tmp_path), FakeSnapshots.find_snapshot, count()

    def slow(self: FakeSnapshots, owner: OwnerTag) -> Answer[SnapshotSeen]:
        answer = find(self, owner)
        if self._site.name == AWAY and isinstance(answer, Seen) and next(looks) < 6:
            return Seen(replace(answer.it, ready=False, copying=True))
        return answer

    monkeypatch.setattr(FakeSnapshots, "find_snapshot", slow)
    monkeypatch.setattr(atsite, "COPYING_FOR", timedelta())
    waits = FaultAt("wait_frozen", 1000, None)
    op = await run(client, group.world, group.ask(), [waits])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert len(waits.calls) > len(group.guests) + 2
    group.world.close()


@pytest.mark.parametrize("broken", ["release_export", "every call"])
async def test_a_site_that_dies_when_all_is_read_costs_no_point(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """What stays there is on record. Takes the seconds that it is waited for."""
    group = made(tmp_path)
    before = held(group, 1)
    release, delete = FakeTransfers.release_export, FakeSnapshots.delete_snapshot

    def gone(self: FakeTransfers, owner: OwnerTag) -> None:
        if self._site.name == AWAY:
            raise Unavailable("no route to host")
        release(self, owner)

    def gone_too(self: FakeSnapshots, owner: OwnerTag) -> None:
        if self._site.name == AWAY and broken != "release_export":
            raise Unavailable("no route to host")
        delete(self, owner)

    monkeypatch.setattr(FakeTransfers, "release_export", gone)
    monkeypatch.setattr(FakeSnapshots, "delete_snapshot", gone_too)
    monkeypatch.setitem(options.CLEAN, "schedule_to_close_timeout", timedelta(seconds=3))
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert restored(group, op, 1) == before
    with group.world.store.read() as tx:
        kept = tx.artefacts.list(states={ArtefactState.RETAINED})
    assert {a.site for a in kept if a.kind is ArtefactKind.EXPORT} == {AWAY}
    group.world.close()


# What is said of moments


class Clocks:
    """One that snapshots (of that site) move by `latency` and may be set, and one nobody sets."""

    def __init__(self, latency: timedelta, site: SiteName | None = None) -> None:
        self.latency, self.site, self.began = latency, site, now()
        self.passed = self.set_back = timedelta()

    def clock(self) -> datetime:
        return self.began + self.passed - self.set_back

    def steady(self) -> float:
        return self.passed.total_seconds()


def under(group: Group, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    world = group.world
    steps, connect = Steps(world.store, now), world.connections.connect
    groups = GroupActivities(world.store, steps, connect, clocks.clock, clocks.steady)
    world.hands = replace(world.hands, groups=groups)
    create = FakeSnapshots.create_snapshot

    def slowly(self: FakeSnapshots, owner: OwnerTag, instance: str) -> str:
        if clocks.site in {None, self._site.name}:
            clocks.passed += clocks.latency
        return create(self, owner, instance)

    monkeypatch.setattr(FakeSnapshots, "create_snapshot", slowly)


@pytest.mark.parametrize(("disks", "told"), [(1, 0.0), (2, 1.0)])
async def test_the_disks_of_one_member_are_as_far_apart_as_its_snapshot_took(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disks: int, told: float
) -> None:
    group = made(tmp_path, (HOME,), disks=disks)
    under(group, Clocks(timedelta(seconds=1)), monkeypatch)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert op.result["spreadSeconds"] == told
    group.world.close()


@pytest.mark.parametrize("settle", [0, 1])
async def test_a_clock_that_is_set_back_brings_no_two_closer_together(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settle: int
) -> None:
    """Between one snapshot and the next of a site that takes one at a time, by a minute."""
    group = made(tmp_path, (HOME,), disks=2)
    group.world.home.settle = settle
    clocks = Clocks(timedelta(seconds=2))
    under(group, clocks, monkeypatch)
    create = FakeSnapshots.create_snapshot

    def set_back(self: FakeSnapshots, owner: OwnerTag, instance: str) -> str:
        clocks.set_back = timedelta(minutes=1)
        return create(self, owner, instance)

    monkeypatch.setattr(FakeSnapshots, "create_snapshot", set_back)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert op.result["spreadSeconds"] >= 2.0
    group.world.close()


async def test_a_site_that_was_slow_once_is_not_waited_for_for_ever(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would ask late for its sake, lie too far apart by that, and be refused every time.

    Its time passes for both sites: the other begins when this one has its answer.
    """
    group = made(tmp_path)
    clocks = Clocks(timedelta(seconds=0.5), AWAY)
    under(group, clocks, monkeypatch)
    answered, shoot = Event(), GroupActivities._shoot

    def shooting(self: GroupActivities, taker: Any, shot: Shot, *more: Any) -> Any:
        if shot.at.site == HOME:
            assert answered.wait(20)
            answered.clear()
        frozen = shoot(self, taker, shot, *more)
        if shot.at.site == AWAY:
            answered.set()
        return frozen

    monkeypatch.setattr(GroupActivities, "_shoot", shooting)

    def paused(op: Operation) -> timedelta:
        order = TypeAdapter(Order).validate_python(op.plan["order"])  # type: ignore[index]
        return max(ask.after for lane in order.lanes for ask in lane.asks)

    assert (await run(client, group.world, group.ask())).state is OperationState.SUCCEEDED
    clocks.latency = timedelta(seconds=0.01)
    refused = [
        await run(client, group.world, group.ask(maxSpreadSeconds=0.000_000_1)) for _ in range(2)
    ]
    assert [op.state for op in refused] == [OperationState.ROLLED_BACK] * 2
    assert paused(refused[0]) == timedelta(seconds=0.25), "half of what it is known to take"
    assert paused(refused[1]) <= timedelta(seconds=0.01)
    group.world.close()


# Attempts that were given up, and what is left to a person


@dataclass
class Scene:
    """A group whose leases are taken, and the order to ask for its snapshots."""

    group: Group
    op: Operation
    works: dict[str, Work]
    order: Freeze

    def groups(self, by: Held | None = None, place: str = "") -> GroupActivities:
        """Activities that stand still at the second guest's site, if at all."""
        world = self.group.world

        @contextmanager
        def connect(site: SiteName) -> Iterator[Driver]:
            with world.connections.connect(site) as driver:
                if by is not None and site == AWAY:
                    held_in(driver, "create_snapshot", place=place, by=by)
                yield driver

        return GroupActivities(world.store, Steps(world.store, now), connect, now)

    def removed(self) -> None:
        world = self.group.world
        sites = SiteActivities(world.store, Steps(world.store, now), world.connections.connect, now)
        for (shot,) in self.order.lanes:
            gone = Remove(at=replace(shot.at, step="undo"), kind=ArtefactKind.SNAPSHOT)
            attempt(1, sites.remove, gone)

    def snapshots(self) -> int:
        world = self.group.world
        return len(world.home.snapshots) + len(world.away.snapshots)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    group = made(tmp_path)
    op = group.ask()
    works, lanes = {}, []
    with group.world.store.begin() as tx:
        for each in group.guests:
            epoch = tx.leases.take(each.instance, op.id, now()).epoch
            works[each.name] = Work(operation=op.id, instance=each.instance, epoch=epoch)
            at = At(
                work=works[each.name],
                site=HOME if each is group.guests[0] else AWAY,
                artefact=derived(op.id, "snapshot", each.instance),
                step=f"{each.name} snapshot",
            )
            lanes.append((Shot(at=at, of=each.copy, after=timedelta()),))
    order = Freeze(operation=str(op.id), lanes=tuple(lanes))
    yield Scene(group=group, op=op, works=works, order=order)
    group.world.close()


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_attempt_that_wakes_when_its_snapshots_were_taken_back_leaves_none(
    scene: Scene, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the site cannot remove at once what it is still taking."""
    monkeypatch.setattr(groups, "_LOOK_EVERY", 0.01)
    by = Held()
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(attempt, 1, scene.groups(by, place).freeze, scene.order)
        assert by.reached.wait(PATIENCE)
        wish = Revoke(operation=str(scene.op.id), steps=(ASKING,))
        attempt(1, scene.groups().revoke, wish)
        scene.removed()
        taking = Busy("the snapshot is being taken")
        scene.group.world.away.fail_next("delete_snapshot", taking, times=2)
        by.go.set()
        assert superseded(late)
    assert scene.snapshots() == 0
    assert scene.group.world.unaccounted() == []


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_attempt_that_wakes_when_its_successor_is_done_takes_nothing_away(
    scene: Scene, place: str
) -> None:
    by = Held()
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(attempt, 1, scene.groups(by, place).freeze, scene.order)
        assert by.reached.wait(PATIENCE)
        frozen = attempt(2, scene.groups().freeze, scene.order)
        refs = [a.ref for a in scene.group.world.artefacts(operation=scene.op.id)]
        by.go.set()
        assert superseded(late)
    assert len(frozen) == scene.snapshots() == 2
    assert [a.ref for a in scene.group.world.artefacts(operation=scene.op.id)] == refs
    (step,) = [s for s in scene.group.world.steps(scene.op.id) if s.name == ASKING]
    assert (step.state, step.attempts) == (StepState.OK, 2)


async def test_a_group_that_was_half_forgotten_is_forgotten_whole_when_a_person_asks(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    faults = [FaultAt("commit_group", 1, Fault.AFTER), FaultAt("forget_point", 2, Fault.BEFORE)]
    op = await run(client, group.world, group.ask(), faults)
    assert op.state is OperationState.NEEDS_ATTENTION
    assert len(group.world.vault._records.points()) == 1
    mended = await mend(client, group.world, op)
    assert mended.state is OperationState.FAILED, mended.problem
    group.assert_nothing_stayed()
    group.world.close()


async def test_a_site_that_is_away_keeps_no_snapshot_at_another(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went away after all were taken; what it has is on record, and goes by itself."""
    monkeypatch.setitem(options.CLEAN, "schedule_to_close_timeout", timedelta(seconds=3))
    group = made(tmp_path)
    away = group.world.away
    lost = FaultAt("judge_spread", 1, Fault.AFTER, then=lambda: setattr(away, "down", True))
    op = await run(client, group.world, group.ask(), [lost])
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert group.world.home.snapshots == {}
    away.down = False
    (kept,) = [a for a in group.world.artefacts() if a.state is ArtefactState.RETAINED]
    assert kept.site == AWAY
    assert kept.expires_at is not None
    assert group.world.unaccounted() == []
    group.world.close()
