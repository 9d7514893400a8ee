"""Points of a group: whole, or nothing of it; broken, repeated and cancelled anywhere.

Each case is a whole story on a Temporal server; together they take a minute.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from threading import Lock
from uuid import UUID, uuid4

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import MIB, VolumeSpec
from controlplane.domain.errors import Busy, Conflict, Unavailable
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, PointId, SiteName, derived
from controlplane.domain.instance import DiskPlace, InstanceSpec, Power, Size
from controlplane.domain.kinds import facts
from controlplane.domain.network import NicSpec
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.placement import Placement
from controlplane.domain.resource import Kind
from controlplane.domain.site import Capability
from controlplane.keys.port import SigningPurpose
from controlplane.services.points import RecoveryPoints
from controlplane.services.vaulting import StoreSigner
from controlplane.services.wish import Page
from controlplane.vault.heads import Head, read_head
from drivers.contract import Instances, Volumes, require
from drivers.fake.disk import PAGE
from drivers.fake.site import FakeSite
from drivers.fake.storage import FakeSnapshots
from tests.workflows.faults import Fault, FaultAt, FirstTriesDie, StepsTwice
from tests.workflows.running import counted, crossing, run, run_and_cancel
from tests.workflows.test_gone_stories import settler, terminated_while
from tests.workflows.test_mend_operation import mend
from tests.workflows.test_points import Clock, forgotten, hold, retain
from tests.workflows.test_warm_move import away_for
from tests.workflows.world import AWAY, CALLER, HOME, SHOP, TENANT, World, content, now
from workflows.activities.groups import GroupActivities
from workflows.activities.steps import Steps
from workflows.take_points import TakePoints

SIZE = 4 * MIB


@dataclass
class Guest:
    """An instance that runs at a site and writes what the test wants."""

    name: str
    instance: InstanceId
    site: FakeSite
    copy: ArtefactId

    def write(self, offset: int, data: bytes, number: int = 0) -> None:
        self.site.write_disk(self._volume(number), offset, data)

    def disk(self, number: int = 0) -> bytes:
        return self.site.read_disk(self._volume(number))

    def _volume(self, number: int) -> str:
        with self.site.lock:
            return self.site.instances[self.copy].volumes[number].ref


def guest(world: World, name: str, at: SiteName, disks: int = 1) -> Guest:
    """Made past the stories, and running."""
    key = world.key(Kind.INSTANCE, name)
    instance = InstanceId(uuid4())
    spec = {
        "skuRef": {"resource": "skus/seca.dxs"},
        "zone": at,
        "bootVolume": {"deviceRef": {"resource": f"block-storages/{name}-boot"}},
    }
    world.put(key, spec, id=instance, status={"powerState": "on"})
    made_by = OperationId(uuid4())
    copy = derived(made_by, "instance")
    tag = OwnerTag(artefact=copy, instance=instance, operation=made_by, epoch=1)

    def on_record(id: ArtefactId, kind: ArtefactKind, ref: str, anchor: str | None = None) -> None:
        with world.store.begin() as tx:
            tx.artefacts.intend(
                Artefact(
                    id=id, kind=kind, site=at, instance=instance, operation=made_by, epoch=1,
                    state=ArtefactState.INTENDED, anchor=anchor, created_at=now(),
                )
            )  # fmt: skip
            tx.artefacts.set_state(id, ArtefactState.ALLOCATED, ref=ref)
            tx.artefacts.set_state(id, ArtefactState.ATTACHED)

    with world.connections.connect(at) as driver:
        places = [DiskPlace(size=SIZE)] * disks
        for number in range(disks if at == HOME else 0):
            volume = derived(made_by, "volume", number)
            disk_tag = replace(tag, artefact=volume)
            volumes = require(driver, Volumes)
            ref = volumes.create_volume(disk_tag, VolumeSpec(name=f"{name}-{number}", size=SIZE))
            while volumes.find_volume(disk_tag).it.state != "ready":  # type: ignore[union-attr]
                continue
            places[number] = DiskPlace(size=SIZE, volume=ref)
            on_record(volume, ArtefactKind.VOLUME, ref)
        instances = require(driver, Instances)
        anchor = instances.reserve(tag)
        wish = InstanceSpec(
            name=name, size=Size(cpus=1, memory=1024 * MIB), disks=tuple(places),
            nics=(NicSpec(network="net-1"),), anchor=anchor,
        )  # fmt: skip
        ref = instances.create(tag, wish)
        on_record(copy, ArtefactKind.INSTANCE, ref, anchor)
        while instances.find(tag, anchor).it.state != "ready":  # type: ignore[union-attr]
            continue
        instances.set_power(tag, Power.ON)
        while instances.find(tag, anchor).it.state != "ready":  # type: ignore[union-attr]
            continue
    with world.store.begin() as tx:
        tx.placements.create(Placement(instance=instance, site=at, copy=copy, epoch=1))
    site = world.home if at == HOME else world.away
    return Guest(name=name, instance=instance, site=site, copy=copy)


@dataclass
class Group:
    world: World
    guests: tuple[Guest, ...]

    def ask(self, **order: object) -> Operation:
        """What `sync` of the protection asks for."""
        key = self.world.key(Kind.PROTECTION, "nightly")
        members = [each.name for each in self.guests]
        if self.world.resource(key) is None:
            self.world.put(key, {"members": members})
        return self.world.ask(OperationKind.TAKE_POINTS, {"members": members, **order}, key=key)

    def heads(self) -> list[Head]:
        signer = StoreSigner(self.world.agent, SigningPurpose.VAULT_HEAD)
        names = sorted(self.world.objects.names("heads"))
        return [read_head(self.world.objects.get(name), signer, what=name) for name in names]

    def points(self, op: Operation) -> dict[str, PointId]:
        found = op.result["points"]
        assert isinstance(found, list)
        return {each["instance"]: PointId(UUID(each["point"])) for each in found}

    def restored(self, point: PointId, number: int = 0) -> bytes:
        with closing(self.world.vault.open(point, number)) as disk:
            return disk.read(0, disk.size)

    def standing(self) -> object:
        with self.world.store.read() as tx:
            protection = tx.resources.find(self.world.key(Kind.PROTECTION, "nightly"))
            return (
                [tx.leases.find(each.instance) for each in self.guests],
                [tx.placements.get(each.instance) for each in self.guests],
                sorted((str(a.id), a.state, a.ref) for a in self.world.artefacts()),
                [
                    (sorted(map(str, site.snapshots)), sorted(map(str, site.exports)))
                    for site in (self.world.home, self.world.away)
                ],
                protection and (protection.state, protection.status),
                sorted(self.world.objects.names("heads")),
                {record.point for record in self.world.vault._records.points()},
            )

    def assert_nothing_stayed(self) -> None:
        """No snapshot, export, point or lease; every guest runs on."""
        assert self.world.vault._records.points() == ()
        assert self.world.vault._records.open_points() == ()
        for site in (self.world.home, self.world.away):
            with site.lock:
                assert site.snapshots == {}
                assert site.exports == {}
        self.assert_running()

    def assert_running(self) -> None:
        with self.world.store.read() as tx:
            assert not any(tx.leases.find(each.instance) for each in self.guests)
        for each in self.guests:
            assert self.world.power_at(each.site, each.copy) is Power.ON
        assert self.world.unaccounted() == []
        assert self.world.overlaps() == ()


PLACES = {"one site": (HOME, HOME), "two sites": (HOME, AWAY)}


def made(
    tmp_path: Path,
    places: tuple[SiteName, ...] = (HOME, AWAY),
    *,
    changes: str = "untold",
    disks: int = 1,
) -> Group:
    world = World.build(tmp_path)
    for site in (HOME, AWAY):
        world.describe(site, changes=changes)
    guests = tuple(guest(world, f"web-{n}", at, disks) for n, at in enumerate(places, start=1))
    for seed, (each, number) in enumerate(product(guests, range(disks))):
        each.write(0, content(seed)[0], number)
        each.write(SIZE - 512, content(seed + 10)[SIZE_END][:512], number)
    return Group(world, guests)


SIZE_END = 20 * MIB

STEPS = counted(
    [
        "begin",
        "plan_points",
        "take_leases",
        "freeze",
        *["wait_frozen"] * 2,
        "judge_spread",
        "release_leases",
        *["prepare_export", "copy_disk", "release_export"] * 2,
        "commit_group",
    ]
)
AFTERWARDS = [*counted(["remove", "remove", "points_taken", "finish"])]
# Members are seen and read side by side.
BESIDE = {(name, n) for name, n in STEPS if (name, 2) in STEPS}
TOLD = {TakePoints: STEPS}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
async def test_the_points_of_a_group_hold_what_its_instances_held(
    client: Client, tmp_path: Path, places: tuple[SiteName, SiteName]
) -> None:
    group = made(tmp_path, places)
    held = [each.disk() for each in group.guests]
    op = await run(client, group.world, group.ask(maxSpreadSeconds=60))
    assert op.state is OperationState.SUCCEEDED, op.problem
    points = group.points(op)
    assert [group.restored(points[each.name]) for each in group.guests] == held
    heads = group.heads()
    assert [head.group and head.group.members for head in heads] == [2, 2]
    assert {head.group and head.group.group for head in heads} == {op.id}
    assert group.world.vault.survey() == ()
    told = group.world.resource(group.world.key(Kind.PROTECTION, "nightly"))
    assert told is not None
    assert told.status["spreadSeconds"] == op.result["spreadSeconds"]
    moments = [head.group.taken for head in heads if head.group]
    apart = max(
        (late.answered - early.asked).total_seconds()
        for early in moments
        for late in moments
        if early != late
    )
    assert op.result["spreadSeconds"] == pytest.approx(apart)
    assert all(m.asked < m.answered for m in moments)
    assert group.world.home.snapshots == group.world.away.snapshots == {}
    group.assert_running()
    group.world.close()


async def test_the_list_of_steps_is_complete(client: Client, tmp_path: Path) -> None:
    group = made(tmp_path)
    watch = FaultAt("none", 0, None)
    await run(client, group.world, group.ask(), [watch])
    assert sorted(counted(watch.calls)) == sorted([*STEPS, *AFTERWARDS])
    told = counted(watch.calls)
    assert [each for each in told if each not in BESIDE] == [
        each for each in (*STEPS, *AFTERWARDS) if each not in BESIDE
    ]
    group.world.close()


# What is read is worth more than an export that does not go.
TIDYING = [*AFTERWARDS[:2], *(step for step in STEPS if step[0] == "release_export")]
# Before its effect a second call of the same step finds what the first one found.
BROKEN = [
    *product([step for step in STEPS if step not in TIDYING], [Fault.AFTER]),
    *product([s for s in STEPS if s[1] == 1 and s not in TIDYING], [Fault.BEFORE]),
]


@pytest.mark.parametrize(("step", "fault"), BROKEN)
async def test_a_broken_step_leaves_nothing(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    group = made(tmp_path)
    broken = FaultAt(*step, fault)
    op = await run(client, group.world, group.ask(), [broken])
    assert broken.hit
    assert op.state in {OperationState.ROLLED_BACK, OperationState.FAILED}, op.problem
    group.assert_nothing_stayed()
    group.world.close()


@pytest.mark.parametrize(("step", "fault"), list(product(TIDYING, list(Fault))))
async def test_what_cannot_be_tidied_is_on_record_and_costs_no_point(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    group = made(tmp_path)
    held = [each.disk() for each in group.guests]
    op = await run(client, group.world, group.ask(), [FaultAt(*step, fault)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    points = group.points(op)
    assert [group.restored(points[each.name]) for each in group.guests] == held
    kept = [a for a in group.world.artefacts() if a.state is ArtefactState.RETAINED]
    assert len(kept) <= 1
    assert all(a.expires_at is not None for a in kept)
    group.assert_running()
    group.world.close()


@pytest.mark.parametrize("fault", list(Fault))
async def test_points_whose_record_cannot_be_written_need_a_person_and_stand(
    client: Client, tmp_path: Path, fault: Fault
) -> None:
    group = made(tmp_path)
    op = await run(client, group.world, group.ask(), [FaultAt("points_taken", 1, fault)])
    assert op.state is OperationState.NEEDS_ATTENTION
    assert len(group.world.vault._records.points()) == 2
    group.assert_running()
    group.world.close()


async def test_a_step_that_runs_twice_changes_nothing(client: Client, tmp_path: Path) -> None:
    group = made(tmp_path)
    twice = StepsTwice(group.standing)
    op = await run(client, group.world, group.ask(), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert sorted(twice.told) == sorted(name for name, _ in (*STEPS, *AFTERWARDS))
    assert twice.changed == []
    group.assert_running()
    group.world.close()


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_step_whose_worker_died_is_done_by_another(
    client: Client, tmp_path: Path, fault: Fault
) -> None:
    group = made(tmp_path)
    held = [each.disk() for each in group.guests]
    op = await run(client, group.world, group.ask(), [FirstTriesDie(fault)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    points = group.points(op)
    assert [group.restored(points[each.name]) for each in group.guests] == held
    assert group.world.home.snapshots == group.world.away.snapshots == {}
    group.assert_running()
    group.world.close()


@crossing
@pytest.mark.parametrize("step", [*(s for s in STEPS[1:-1] if s[1] == 1), ("copy_disk", 2)])
async def test_a_cancel_at_any_step_leaves_nothing(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    group = made(tmp_path)
    op = await run_and_cancel(client, group.world, group.ask(), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    group.assert_nothing_stayed()
    group.world.close()


@crossing
async def test_a_cancel_that_meets_the_commit_leaves_all_or_nothing(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    op = await run_and_cancel(client, group.world, group.ask(), "commit_group", 1)
    if op.state is OperationState.CANCELLED:
        group.assert_nothing_stayed()
    else:
        assert op.state is OperationState.SUCCEEDED, op.problem
        assert len(group.world.vault._records.points()) == 2
        group.assert_running()
    group.world.close()


@crossing
@pytest.mark.parametrize("step", AFTERWARDS[:3])
async def test_a_cancel_after_the_commit_is_too_late(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    group = made(tmp_path)
    op = await run_and_cancel(client, group.world, group.ask(), *step)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert len(group.world.vault._records.points()) == 2
    group.assert_running()
    group.world.close()


async def test_what_could_not_be_undone_is_cleared_when_a_person_asks(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    faults = [FaultAt("commit_group", 1, Fault.BEFORE), FaultAt("forget_point", 1, Fault.BEFORE)]
    op = await run(client, group.world, group.ask(), faults)
    assert op.state is OperationState.NEEDS_ATTENTION
    assert group.world.home.snapshots
    assert group.world.away.snapshots
    look = op.result["lookAt"]
    assert isinstance(look, list)
    assert [line.partition(":")[0] for line in look[:-1]] == [HOME, AWAY]
    assert f"fedctl operation cancel {op.name}" in look[-1]
    mended = await mend(client, group.world, op, [StepsTwice(group.standing)])
    assert mended.state is OperationState.FAILED, mended.problem
    group.assert_nothing_stayed()
    group.world.close()


@crossing
@pytest.mark.parametrize("activity", ["freeze", "copy_disk"])
async def test_a_terminated_story_is_settled_and_cleared(
    client: Client, tmp_path: Path, activity: str
) -> None:
    group = made(tmp_path)
    op = await terminated_while(client, group.world, group.ask(), activity, 1)
    assert op.state is OperationState.RUNNING, "nobody wrote its end down"
    assert [each.id for each in await settler(client, group.world).look()] == [op.id]
    with group.world.store.read() as tx:
        held = tx.leases.held_by(op.id)
        epochs = [tx.placements.get(each.instance).epoch for each in group.guests]
    assert set(held) == ({g.instance for g in group.guests} if activity == "freeze" else set())
    assert epochs == ([3, 3] if activity == "freeze" else [2, 2])
    mended = await mend(client, group.world, op)
    assert mended.state is OperationState.FAILED, mended.problem
    group.assert_nothing_stayed()
    group.world.close()


async def test_points_that_stand_are_not_cleared(client: Client, tmp_path: Path) -> None:
    group = made(tmp_path, changes="told")
    op = await run(client, group.world, group.ask(), [FaultAt("points_taken", 1, Fault.AFTER)])
    assert op.state is OperationState.NEEDS_ATTENTION
    await mend(client, group.world, op)
    assert len(group.world.vault._records.points()) == 2
    assert group.world.vault.survey() == ()
    group.assert_running()
    group.world.close()


async def test_moments_further_apart_than_was_wished_leave_nothing(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    op = await run(client, group.world, group.ask(maxSpreadSeconds=0.000_001))
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "maxSpread" in op.problem.message
    assert op.result["spreadSeconds"] > 0
    group.assert_nothing_stayed()
    group.world.close()


async def test_one_site_that_takes_no_snapshot_leaves_nothing_at_the_other(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    full = Unavailable("the storage takes no snapshot now")
    group.world.away.fail_next("create_snapshot", full, times=100)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "takes no snapshot" in op.problem.message
    group.assert_nothing_stayed()
    group.world.close()


async def test_nobody_asks_before_every_site_is_ready(client: Client, tmp_path: Path) -> None:
    """A site that cannot be reached at first keeps the other's snapshot from being taken early."""
    group = made(tmp_path)
    group.world.away.fail_next("find_snapshot", Unavailable("no route"), times=2)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    with group.world.home.lock:
        called = [name for name, _ in group.world.home.calls]
    assert called.count("create_snapshot") == 1
    assert called.count("find_snapshot") >= 3
    group.world.close()


async def test_a_snapshot_that_was_asked_for_again_counts_from_the_first_asking(
    client: Client, tmp_path: Path
) -> None:
    """Its answer was lost: it may have been taken at once, so that its moment is less certain."""
    group = made(tmp_path)
    lost = Unavailable("no answer")
    group.world.home.fail_next("create_snapshot", lost, before_effect=False)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    intended = {
        a.instance: a.created_at
        for a in group.world.artefacts(operation=op.id)
        if a.kind is ArtefactKind.SNAPSHOT
    }
    for head in group.heads():
        assert head.group is not None
        assert head.group.taken.asked == intended[head.instance]
    group.world.close()


async def test_a_snapshot_that_its_site_lost_is_asked_for_again(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    held = [each.disk() for each in group.guests]
    group.world.home.settle = group.world.away.settle = 0  # so that both moments were known
    lose = FaultAt("freeze", 1, None, then=group.world.home.snapshots.clear)
    op = await run(client, group.world, group.ask(), [lose])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert lose.calls.count("freeze") == 2
    points = group.points(op)
    assert [group.restored(points[each.name]) for each in group.guests] == held
    seconds = {each["instance"]: each["snapshotSeconds"] for each in op.result["points"]}  # type: ignore[attr-defined]
    assert seconds["web-1"] > seconds["web-2"], "from the first asking to the second answer"
    assert group.world.away.snapshots == {}
    group.assert_running()
    group.world.close()


async def test_a_site_that_is_away_while_disks_are_copied_is_waited_for(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshots stand, and nobody stands still."""
    group, left = made(tmp_path), away_for(monkeypatch, 10)
    held = [each.disk() for each in group.guests]
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert left == [0]
    points = group.points(op)
    assert [group.restored(points[each.name]) for each in group.guests] == held
    group.world.close()


async def test_a_site_without_snapshots_is_refused_before_anything_is_done(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    group.world.away.lacking = {Capability.SNAPSHOTS: "no rights"}
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == "unsupported"
    assert "web-2" in op.problem.message
    with group.world.home.lock:
        assert "create_snapshot" not in {name for name, _ in group.world.home.calls}
    group.assert_nothing_stayed()
    group.world.close()


async def test_an_instance_that_another_operation_holds_is_refused_with_its_name(
    client: Client, tmp_path: Path
) -> None:
    group = made(tmp_path)
    second = group.guests[1]
    other = group.world.ask(OperationKind.STOP, key=group.world.key(Kind.INSTANCE, second.name))
    with group.world.store.begin() as tx:
        tx.leases.take(second.instance, other.id, now())
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code == Busy.code
    assert other.name in op.problem.message
    with group.world.store.begin() as tx:
        assert tx.leases.find(group.guests[0].instance) is None
        tx.leases.release(second.instance, other.id)
    group.assert_nothing_stayed()
    group.world.close()


async def test_nobody_waits_for_the_copies_to_change_an_instance(
    client: Client, tmp_path: Path
) -> None:
    """Its lease is free once its snapshot stands: another operation takes it while disks are read."""
    group = made(tmp_path)
    first = group.guests[0]
    key = group.world.key(Kind.INSTANCE, first.name)
    other = group.world.ask(OperationKind.STOP, key=key)
    epochs: list[int] = []

    def take() -> None:
        with group.world.store.begin() as tx:
            epochs.append(tx.leases.take(first.instance, other.id, now()).epoch)
            tx.leases.release(first.instance, other.id)
        first.write(0, b"written after the snapshot")

    held = first.disk()
    op = await run(
        client, group.world, group.ask(), [FaultAt("prepare_export", 1, None, then=take)]
    )
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert epochs == [3]
    assert group.restored(group.points(op)[first.name]) == held
    group.world.close()


@pytest.mark.parametrize("changes", ["told", "untold"])
async def test_the_next_points_read_what_changed_where_the_source_can_tell(
    client: Client, tmp_path: Path, changes: str
) -> None:
    group = made(tmp_path, changes=changes)
    first = await run(client, group.world, group.ask())
    assert first.state is OperationState.SUCCEEDED, first.problem
    tracked = changes == "told"
    assert len(group.world.home.snapshots) == len(group.world.away.snapshots) == tracked
    group.guests[0].write(MIB, b"changed since")
    held = [each.disk() for each in group.guests]
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    points = group.points(op)
    assert [group.restored(points[each.name]) for each in group.guests] == held
    read = {each["instance"]: each["bytesRead"] for each in op.result["points"]}  # type: ignore[attr-defined]
    new = {each["instance"]: each["bytesNew"] for each in op.result["points"]}  # type: ignore[attr-defined]
    assert (read["web-1"], read["web-2"]) == ((PAGE, 0) if tracked else (3 * PAGE, 2 * PAGE))
    assert (new["web-1"] > 0, new["web-2"]) == (True, 0)
    assert len(group.world.home.snapshots) == len(group.world.away.snapshots) == tracked
    assert len(group.world.vault._records.points()) == 4
    group.assert_running()
    group.world.close()


async def test_retention_keeps_the_newest_points_and_forgets_a_group_as_a_whole(
    client: Client, tmp_path: Path
) -> None:
    built = made(tmp_path)
    # With the vault's records in the database, where retention looks.
    group = Group(built.world.restored(built.world.store), built.guests)
    old, new = [group.points(await run(client, group.world, group.ask())) for _ in range(2)]
    retain(group.world, "last:1")
    cases = RecoveryPoints(store=group.world.store, clock=Clock())
    page = Page(tenant=TENANT, workspace=SHOP)

    def why() -> dict[str, list[str]]:
        shown = cases.list(CALLER, page)
        return {each.key.name: list(each.status["kept"]) for each in shown}  # type: ignore[call-overload]

    assert why()["web-1.1"] == why()["web-2.1"] == []
    assert "the newest of protection nightly" in why()["web-2.2"]
    group.world.instance = group.guests[1].instance
    copy = hold(group.world, old["web-2"])
    assert why()["web-1.1"] == ["web-2.1, of its group, is kept"]
    assert forgotten(group.world) == 0
    with pytest.raises(Conflict, match="the newest of protection nightly"):
        cases.delete(CALLER, group.world.key(Kind.RECOVERY_POINT, "web-1.2"), None)
    shown = cases.get(CALLER, group.world.key(Kind.RECOVERY_POINT, "web-1.1"))
    assert shown.status["group"]["members"] == 2  # type: ignore[index,call-overload]
    with group.world.store.begin() as tx:
        tx.artefacts.set_state(copy, ArtefactState.RELEASED)
    assert forgotten(group.world) == 2
    assert {r.point for r in group.world.vault.points()} == set(new.values())
    group.world.close()


class Shop:
    """Two guests in one story, under a clock that only snapshots move.

    Every tenth of a second the first writes a number, and once that was acknowledged, 10 ms later,
    the second writes that it was. Each snapshot takes `latency`, and stands at the end of it.
    """

    def __init__(self, group: Group, latency: timedelta) -> None:
        self.group, self.latency = group, latency
        self.at = self.began = now()
        self.number = 0
        self._turn = Lock()

    def clock(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()

    def snapshot(self) -> None:
        with self._turn:
            until = self.at + self.latency
            while (due := self.began + (self.number + 1) * EVERY) <= until:
                self.number += 1
                self.at = due
                self.group.guests[0].write(JOURNAL, self.number.to_bytes(8))
                self.at = due + LATER
                if self.at <= until:
                    self.group.guests[1].write(JOURNAL, self.number.to_bytes(8))
            self.at = until


EVERY, LATER, JOURNAL = timedelta(seconds=0.1), timedelta(seconds=0.01), MIB


def shop(group: Group, latency: timedelta, monkeypatch: pytest.MonkeyPatch) -> Shop:
    world, made = group.world, Shop(group, latency)
    steps, connect = Steps(world.store, now), world.connections.connect
    groups = GroupActivities(world.store, steps, connect, made.clock, made.seconds)
    world.hands = replace(world.hands, groups=groups)
    create = FakeSnapshots.create_snapshot

    def slowly(self: FakeSnapshots, owner: OwnerTag, instance: str) -> str:
        made.snapshot()
        return create(self, owner, instance)

    monkeypatch.setattr(FakeSnapshots, "create_snapshot", slowly)
    return made


def journals(group: Group, op: Operation) -> list[int]:
    points = group.points(op)
    disks = [group.restored(points[each.name]) for each in group.guests]
    return [int.from_bytes(disk[JOURNAL : JOURNAL + 8]) for disk in disks]


async def test_at_no_spread_no_guest_knows_of_what_another_does_not_hold(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = made(tmp_path)
    made_by = shop(group, timedelta(seconds=1.005), monkeypatch)
    made_by.snapshot()
    made_by.latency = timedelta()
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert op.result["spreadSeconds"] == 0.0
    first, second = journals(group, op)
    # What the second was to write of the tenth was not due yet.
    assert (first, second) == (10, 9)
    group.world.close()


async def test_what_one_guest_knows_too_early_lies_within_the_spread_that_is_told(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their site takes one snapshot after another, so the later one knows more."""
    group = made(tmp_path, (HOME, HOME))
    key = facts(Kind.SITE).key(HOME, None, None)
    with group.world.store.begin() as tx:
        found = tx.resources.get(key)
        tx.resources.set_spec(found.id, {**found.spec, "maxSnapshots": 1}, now=now())
    shop(group, timedelta(seconds=1), monkeypatch)
    op = await run(client, group.world, group.ask())
    assert op.state is OperationState.SUCCEEDED, op.problem
    first, second = journals(group, op)
    assert second > first
    assert op.result["spreadSeconds"] >= (second - first) * EVERY.total_seconds()
    refused = await run(client, group.world, group.ask(maxSpreadSeconds=0.5))
    assert refused.state is OperationState.ROLLED_BACK
    assert len(group.world.vault._records.points()) == 2
    group.world.close()
