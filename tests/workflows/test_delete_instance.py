"""Deleting: everything of an instance goes everywhere; asked again, it goes on.

Each case is a whole story on a Temporal server; together they take a minute.
"""

from itertools import product
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import Conflict, NotFound, Unavailable
from controlplane.domain.ids import OperationId, PointId, ResourceId, derived
from controlplane.domain.instance import Power
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.resource import Kind, State
from controlplane.domain.site import CreateOrder
from drivers.contract import Snapshots, require
from drivers.fake.storage import FakeVolumes
from tests.workflows.faults import CancelsBetweenTries, Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, cancelled, counted, crossing, run, run_and_cancel
from tests.workflows.world import AWAY, HOME, World, content, now
from workflows.delete_instance import DeleteInstance, FinalizeMove

PARTS = content(4)
DISKS, INSTANCE = CreateOrder.DISKS_FIRST, CreateOrder.INSTANCE_FIRST
DELETE: dict[CreateOrder, Steps] = {
    DISKS: counted(
        ["begin", "take_lease", "belongings", "set_power", "wait_power", "remove", "remove"]
    ),
    INSTANCE: counted(["begin", "take_lease", "belongings", "set_power", "wait_power", "remove"]),
}
FINALIZE: Steps = counted(
    [
        "begin",
        "take_lease",
        "retained",
        "set_power",
        "wait_power",
        "remove",
        "remove",
        "forget_point",
    ]
)
TOLD = {DeleteInstance: DELETE, FinalizeMove: FINALIZE}
CASES = [(order, step) for order, steps in DELETE.items() for step in steps]
Case = tuple[CreateOrder, tuple[str, int]]


def asked(world: World) -> Operation:
    """What the service does: the resource is going, the operation is queued."""
    key = world.key(Kind.INSTANCE, "web-1")
    with world.store.begin() as tx:
        tx.resources.mark_deleting(tx.resources.get(key).id, now())
    return world.ask(OperationKind.DELETE_INSTANCE)


def made(tmp_path: Path, order: CreateOrder) -> World:
    world = World.build(tmp_path, home=order)
    world.running_instance(PARTS)
    return world


async def moved(client: Client, tmp_path: Path) -> tuple[World, PointId]:
    """A world whose instance was moved away, and the point that the move copied."""
    world = made(tmp_path, DISKS)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, op.problem
    return world, PointId(derived(op.id, "point"))


async def test_a_snapshot_that_stayed_goes_before_the_volume_that_it_is_of(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at OpenStack, which deletes no volume that has one."""
    world = made(tmp_path, DISKS)
    home = world.placement().copy
    assert home is not None
    snapshot = derived(home, "snapshot")
    tag = OwnerTag(
        artefact=snapshot, instance=world.instance, operation=OperationId(uuid4()), epoch=1
    )
    with world.connections.connect(HOME) as driver:
        ref = require(driver, Snapshots).create_snapshot(tag, world.home.instances[home].ref)
    with world.store.begin() as tx:
        tx.artefacts.intend(
            Artefact(
                id=snapshot, kind=ArtefactKind.SNAPSHOT, site=HOME, instance=world.instance,
                operation=tag.operation, epoch=1, state=ArtefactState.INTENDED, created_at=now(),
            )
        )  # fmt: skip
        tx.artefacts.set_state(snapshot, ArtefactState.RETAINED, ref=ref)
    delete = FakeVolumes.delete_volume

    def picky(self: FakeVolumes, owner: OwnerTag) -> None:
        if world.home.snapshots:
            raise Conflict("the volume has snapshots: delete them first")
        delete(self, owner)

    monkeypatch.setattr(FakeVolumes, "delete_volume", picky)
    op = await run(client, world, asked(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_gone(world)
    world.close()


def assert_gone(world: World) -> None:
    assert world.home.is_empty()
    assert world.away.is_empty()
    assert world.resource(world.key(Kind.INSTANCE, "web-1")) is None
    assert {a.state for a in world.artefacts()} <= {ArtefactState.RELEASED}
    with world.store.read() as tx:
        assert tx.placements.find(world.instance) is None
    world.assert_nothing_strange()


@pytest.mark.parametrize("order", list(CreateOrder))
async def test_a_running_instance_goes_with_its_disks(
    client: Client, tmp_path: Path, order: CreateOrder
) -> None:
    world = made(tmp_path, order)
    watch = FaultAt("none", 0, None)
    op = await run(client, world, asked(world), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_gone(world)
    assert watch.calls == [name for name, _ in (*DELETE[order], ("finish", 1))]
    world.close()


@pytest.mark.parametrize(("case", "fault"), list(product(CASES, [Fault.BEFORE, Fault.AFTER])))
async def test_after_a_broken_step_asking_again_finishes(
    client: Client, tmp_path: Path, case: Case, fault: Fault
) -> None:
    order, (activity, nth) = case
    world = made(tmp_path, order)
    broken = FaultAt(activity, nth, fault)
    op = await run(client, world, asked(world), [broken])
    assert broken.hit
    assert op.state in {OperationState.FAILED, OperationState.ROLLED_BACK}
    assert op.problem is not None
    left = world.resource(world.key(Kind.INSTANCE, "web-1"))
    assert left is not None
    assert left.state is State.ERROR
    world.assert_nothing_strange()
    again = await run(client, world, asked(world))
    assert again.state is OperationState.SUCCEEDED, again.problem
    assert_gone(world)
    world.close()


@pytest.mark.parametrize("order", list(CreateOrder))
async def test_a_step_that_runs_twice_changes_nothing(
    client: Client, tmp_path: Path, order: CreateOrder
) -> None:
    world = made(tmp_path, order)
    twice = StepsTwice(world.standing)
    op = await run(client, world, asked(world), [twice])
    assert twice.told == [name for name, _ in (*DELETE[order], ("finish", 1))]
    assert twice.changed == []
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_gone(world)
    world.close()


@crossing
@pytest.mark.parametrize("step", DELETE[DISKS])
async def test_a_cancelled_deletion_can_be_asked_for_again(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = made(tmp_path, DISKS)
    op = await run_and_cancel(client, world, asked(world), *step)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}, op.problem
    world.assert_nothing_strange(going=True)
    if op.state is OperationState.CANCELLED:
        again = await run(client, world, asked(world))
        assert again.state is OperationState.SUCCEEDED, again.problem
    assert_gone(world)
    world.close()


async def test_a_moved_instance_goes_at_both_sites_with_its_point(
    client: Client, tmp_path: Path
) -> None:
    world, point = await moved(client, tmp_path)
    op = await run(client, world, asked(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_gone(world)
    with pytest.raises(NotFound):
        world.vault.open(point, 0)
    world.close()


async def test_an_instance_that_was_never_made_can_be_deleted(client: Client, world: World) -> None:
    world.wished_instance(active=False, image=False)
    op = await run(client, world, asked(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_gone(world)


async def test_a_site_that_is_away_delays_a_deletion(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path, DISKS)
    op = asked(world)

    def away() -> None:
        world.home.stale_for(3)

    op = await run(client, world, op, [FaultAt("wait_power", 1, None, then=away)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_gone(world)
    world.close()


async def test_a_deletion_that_waits_for_its_next_try_can_be_cancelled(
    client: Client, tmp_path: Path
) -> None:
    """The server itself ends an activity between two tries, with a payload of its own."""
    world = made(tmp_path, DISKS)
    world.home.fail_next("delete", Unavailable("no answer in 20 s"), times=99)
    op = asked(world)
    told = CancelsBetweenTries("remove", lambda: cancelled(client, world, op))
    ended = await run(client, world, op, [told])
    assert ended.state is OperationState.CANCELLED, ended.problem
    world.assert_nothing_strange()
    world.close()


# Finalizing a move: only what it retained goes.


def assert_finalized(world: World, point: PointId) -> None:
    placement = world.placement()
    assert placement.site == AWAY
    assert placement.copy is not None
    assert world.power_at(world.away, placement.copy) is Power.ON
    assert world.disk_of(world.away, placement.copy, PARTS)
    assert world.home.is_empty()
    assert {a.state for a in world.artefacts(site=HOME)} == {ArtefactState.RELEASED}
    with pytest.raises(NotFound):
        world.vault.open(point, 0)
    world.assert_nothing_strange()


def move_of(world: World) -> dict[str, object]:
    with world.store.read() as tx:
        [op] = [
            o
            for o in tx.operations.list(subject=ResourceId(world.instance), limit=100)
            if o.kind is OperationKind.MOVE
        ]
    return {"move": op.order["move"]}


async def test_finalizing_releases_the_old_home_alone(client: Client, tmp_path: Path) -> None:
    world, point = await moved(client, tmp_path)
    watch = FaultAt("none", 0, None)
    op = await run(client, world, world.ask(OperationKind.FINALIZE, move_of(world)), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_finalized(world, point)
    assert watch.calls == [name for name, _ in (*FINALIZE, ("finish", 1))]
    assert op.result["released"]
    with world.store.read() as tx:
        move = tx.resources.by_id(ResourceId(UUID(str(op.order["move"]))))
    assert move.status["phase"] == "finalized"
    assert move.status["retained"] == []
    world.close()


@pytest.mark.parametrize(("step", "fault"), list(product(FINALIZE, list(Fault))))
async def test_a_broken_step_of_finalizing_is_finished_by_asking_again(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    world, point = await moved(client, tmp_path)
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask(OperationKind.FINALIZE, move_of(world)), [broken])
    assert broken.hit
    assert op.state in {OperationState.FAILED, OperationState.ROLLED_BACK}
    op = await run(client, world, world.ask(OperationKind.FINALIZE, move_of(world)))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_finalized(world, point)
    world.close()


async def test_a_step_of_finalizing_that_runs_twice_changes_nothing(
    client: Client, tmp_path: Path
) -> None:
    world, point = await moved(client, tmp_path)
    twice = StepsTwice(world.standing)
    op = await run(client, world, world.ask(OperationKind.FINALIZE, move_of(world)), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*FINALIZE, ("finish", 1))]
    assert twice.changed == []
    assert_finalized(world, point)
    world.close()


@crossing
@pytest.mark.parametrize("step", [FINALIZE[3], FINALIZE[5]])
async def test_a_cancelled_finalizing_can_be_asked_for_again(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world, point = await moved(client, tmp_path)
    finalize = world.ask(OperationKind.FINALIZE, move_of(world))
    op = await run_and_cancel(client, world, finalize, *step)
    assert op.state is OperationState.CANCELLED, op.problem
    world.assert_nothing_strange(going=True)
    op = await run(client, world, world.ask(OperationKind.FINALIZE, move_of(world)))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_finalized(world, point)
    world.close()
