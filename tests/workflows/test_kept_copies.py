"""Moves to where a copy stayed: a return to the old home, a retry; only changes are written.

Each case is one or two whole stories on a Temporal server; together they take a minute.
"""

from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.worker import Interceptor

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import MIB
from controlplane.domain.ids import PointId, derived
from controlplane.domain.instance import Power
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.site import Capability, CreateOrder
from drivers.fake.history import HISTORY
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, in_their_order, run, run_and_cancel
from tests.workflows.test_move_instance import BESIDE, assert_home_as_before, assert_moved
from tests.workflows.world import AWAY, DISK, HOME, World, content

PARTS = content(1)
FIRST, LAST = CreateOrder.DISKS_FIRST, CreateOrder.INSTANCE_FIRST
CHANGED = {3 * MIB: b"written while away" * 300}

STEPS: Steps = counted(
    [
        *("begin", "plan_move", "take_lease", "phase", "set_power", "wait_power", "fence"),
        *("phase", "domain_of", "prepare_export", "copy_disk", "commit_point", "release_export"),
        *("phase", "take_over", "isolate_nics", "wait_instance", "write_changes"),
        *("prepare_export", "prove", "release_export", "unfence", "phase", "verify_fence"),
        *("set_power", "wait_power", "probe_boot"),
        *("switch_home", "connect_nics", "give_up_nics", "finish"),
    ]
)
OURS = STEPS[14:22]
# The others are broken, repeated and cancelled in `test_move_instance` and `test_warm_move`.
NEW = [s for s in OURS if s[0] in {"take_over", "write_changes", "prove", "unfence"}]
BROKEN = [*product(OURS, [Fault.AFTER]), *product(NEW, [Fault.BEFORE])]


async def away(client: Client, tmp_path: Path, home: CreateOrder = LAST) -> World:
    """The instance was moved away and wrote something there."""
    world = World.build(tmp_path, home=home, away=FIRST if home is LAST else LAST)
    world.running_instance(PARTS)
    gone = await run(client, world, world.ask_move())
    assert gone.state is OperationState.SUCCEEDED, gone.problem
    [volume] = [v.ref for v in world.away.instances[copy_of(world)].volumes]
    for at, data in CHANGED.items():
        world.away.write_disk(volume, at, data)
    return world


def copy_of(world: World) -> Any:
    copy = world.placement().copy
    assert copy is not None
    return copy


def old_home(world: World) -> Artefact:
    [kept] = [
        a
        for a in world.artefacts(site=HOME, states={ArtefactState.RETAINED})
        if a.kind is ArtefactKind.INSTANCE
    ]
    return kept


async def back(client: Client, world: World, *faults: Interceptor, **order: object) -> Operation:
    return await run(client, world, world.ask_move(to=HOME, **order), faults)


def assert_back(world: World, old: Artefact) -> None:
    placement = world.placement()
    assert (placement.site, placement.copy) == (HOME, old.id)
    assert world.power_at(world.home, old.id) is Power.ON
    assert world.disk_of(world.home, old.id, {**PARTS, **CHANGED})
    with world.home.lock:
        [it] = world.home.instances.values()
        assert not it.fenced
        assert not any(nic.isolated for nic in it.nics)
        assert it.epoch == placement.epoch
    with world.away.lock:
        assert all(i.power is Power.OFF and i.fenced for i in world.away.instances.values())
    assert {a.state for a in world.artefacts(site=HOME) if a.kind in LASTING} == {
        ArtefactState.ATTACHED
    }
    world.assert_nothing_strange()


LASTING = {ArtefactKind.INSTANCE, ArtefactKind.VOLUME}


def assert_still_away(world: World, old: Artefact) -> None:
    """The home is as it was; the old copy lies there, off, and is not called what it was."""
    placement = world.placement()
    assert placement.site == AWAY
    assert world.power_at(world.away, copy_of(world)) is Power.ON
    assert world.disk_of(world.away, copy_of(world), {**PARTS, **CHANGED})
    with world.home.lock:
        [it] = world.home.instances.values()
        assert it.power is Power.OFF
        assert it.fenced
    states = {a.state for a in world.artefacts(site=HOME) if a.kind in LASTING}
    assert states == {ArtefactState.RETAINED}
    holds = old_home(world).holds
    if holds is not None:  # then its disks are exactly that
        disk = world.vault.open(holds, 0)
        volume = it.volumes[0].ref
        assert world.home.read_disk(volume, 0, DISK) == disk.read(0, DISK)
    world.assert_nothing_strange()


@pytest.mark.parametrize("home", [FIRST, LAST])
async def test_a_return_writes_only_what_changed(
    client: Client, tmp_path: Path, home: CreateOrder
) -> None:
    world = await away(client, tmp_path, home)
    old = old_home(world)
    assert old.holds is not None
    op = await back(client, world)
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert "RET05" in {f.id for f in op.findings}
    assert_back(world, old)
    assert 0 < cast("int", op.result["bytesWritten"]) < MIB
    assert 0 < cast("int", op.result["bytesSent"]) < MIB
    [proof] = cast("list[dict[str, object]]", op.result["proof"])
    assert proof["equal"]
    [left] = [a for a in world.artefacts(site=AWAY) if a.kind is ArtefactKind.INSTANCE]
    assert (left.state, left.holds) == (ArtefactState.RETAINED, derived(op.id, "point"))
    assert HISTORY.overlaps(world.instance) == ()
    world.close()


async def test_a_warm_return_follows_from_the_old_copy(client: Client, tmp_path: Path) -> None:
    world = await away(client, tmp_path)
    world.describe(AWAY, changes="told")
    old = old_home(world)
    op = await back(client, world, method="warm")
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_back(world, old)
    assert cast("int", op.result["bytesWritten"]) < MIB
    world.close()


async def test_the_list_of_steps_is_complete(client: Client, tmp_path: Path) -> None:
    world = await away(client, tmp_path)
    watch = FaultAt("none", 0, None)
    await back(client, world, watch)
    assert in_their_order(watch.calls, STEPS, BESIDE)
    world.close()


@pytest.mark.parametrize(("step", "fault"), BROKEN)
async def test_a_broken_step_keeps_the_home_and_tells_of_the_copy(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    world = await away(client, tmp_path)
    old = old_home(world)
    broken = FaultAt(*step, fault)
    op = await back(client, world, broken)
    assert broken.hit
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_still_away(world, old)
    world.close()


async def test_a_step_that_runs_twice_changes_nothing(client: Client, tmp_path: Path) -> None:
    world = await away(client, tmp_path)
    old = old_home(world)
    twice = StepsTwice(world.standing)
    op = await back(client, world, twice)
    assert sorted(counted(twice.told)) == sorted(STEPS)
    assert twice.changed == []
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_back(world, old)
    world.close()


@crossing
@pytest.mark.parametrize("step", NEW)
async def test_a_cancel_at_any_step_keeps_the_home(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = await away(client, tmp_path)
    old = old_home(world)
    op = await run_and_cancel(client, world, world.ask_move(to=HOME), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    assert_still_away(world, old)
    world.close()


async def test_a_copy_that_somebody_wrote_to_is_noticed_and_then_not_used(
    client: Client, tmp_path: Path
) -> None:
    world = await away(client, tmp_path)
    old = old_home(world)
    [volume] = [v.ref for v in world.home.instances[old.id].volumes]
    world.home.write_disk(volume, 40 * MIB, b"not ours")
    op = await back(client, world)
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code == "integrity"
    assert old_home(world).holds is None
    assert "hold no whole state" in old_home(world).note
    again = await back(client, world)
    assert again.state is OperationState.SUCCEEDED, (again.problem, again.findings)
    assert "RET06" in {f.id for f in again.findings}
    assert world.placement().copy != old.id
    assert world.disk_of(world.home, copy_of(world), {**PARTS, **CHANGED})
    world.close()


async def test_a_site_without_random_write_gets_a_full_import(
    client: Client, tmp_path: Path
) -> None:
    world = await away(client, tmp_path)
    world.home.lacking = {Capability.DISK_IMPORT: "not here"}
    op = await back(client, world)
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    [told] = [f for f in op.findings if f.id == "RET06"]
    assert "whole images" in told.evidence
    assert cast("int", op.result["bytesWritten"]) >= DISK
    world.close()


async def test_a_copy_that_is_gone_since_the_plan_stops_the_move(
    client: Client, tmp_path: Path
) -> None:
    world = await away(client, tmp_path)

    def finalized() -> None:
        with world.store.begin() as tx:
            for kept in world.artefacts(site=HOME, states={ArtefactState.RETAINED}):
                tx.artefacts.set_state(kept.id, ArtefactState.RELEASED)

    op = await back(client, world, FaultAt("plan_move", 1, None, then=finalized))
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "new plan" in op.problem.message
    assert world.power_at(world.away, copy_of(world)) is Power.ON
    world.close()


@pytest.mark.parametrize("away_order", [FIRST, LAST])
async def test_a_retry_goes_on_from_the_copy_of_the_earlier_attempt(
    client: Client, tmp_path: Path, away_order: CreateOrder
) -> None:
    world = World.build(tmp_path, home=LAST if away_order is FIRST else FIRST, away=away_order)
    world.running_instance(PARTS)
    first = await run(client, world, world.ask_move(), [FaultAt("probe_boot", 1, Fault.BEFORE)])
    assert first.state is OperationState.ROLLED_BACK
    assert_home_as_before(world)
    again = await run(client, world, world.ask_move())
    assert again.state is OperationState.SUCCEEDED, (again.problem, again.findings)
    [told] = [f for f in again.findings if f.id == "RET05"]
    assert "earlier attempt" in told.evidence
    assert again.result["bytesWritten"] == 0
    assert again.result["bytesSent"] == 0
    assert_moved(world)
    with world.away.lock:
        assert len(world.away.instances) == 1
    world.close()


async def test_the_point_of_an_old_home_goes_when_the_copy_does(
    client: Client, tmp_path: Path
) -> None:
    world = await away(client, tmp_path)
    old = old_home(world)
    assert old.holds is not None
    assert old.expires_at is not None
    early = await expire(client, world, before=True)
    assert early.result["released"] == 0
    assert world.vault.stands(PointId(old.holds))
    assert old_home(world).id == old.id
    late = await expire(client, world, before=False)
    assert cast("int", late.result["released"]) >= 1
    assert not world.vault.stands(PointId(old.holds))
    world.close()


async def expire(client: Client, world: World, *, before: bool) -> Operation:
    """What housekeeping asks for when something has expired by then."""
    expiry = old_home(world).expires_at
    assert expiry is not None
    until = expiry.replace(year=expiry.year - 1) if before else expiry
    order = {"expiredAt": until.isoformat()}
    return await run(client, world, world.ask(OperationKind.FINALIZE, order))
