"""A cold move: happy, broken at every step, repeated at every step, cancelled anywhere.

Where steps are counted, to a site that takes disks in only as whole images; `test_beside_move` has
those to a site whose disks are written while the source is read.

Each case is a whole story on a Temporal server; together they take a minute or two.
"""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import BlockReader, ImageSource
from controlplane.domain.errors import NotFound, Unavailable
from controlplane.domain.ids import derived
from controlplane.domain.instance import Power
from controlplane.domain.operation import OperationKind, OperationState
from controlplane.domain.site import CreateOrder
from controlplane.planning import course
from controlplane.vault.vault import Vault
from drivers.fake.driver import FakeInstanceFirstDriver
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, in_their_order, run, run_and_cancel
from tests.workflows.world import AWAY, DISK, HOME, World, content
from workflows import options
from workflows.activities import sites
from workflows.move_instance import MoveInstance, PlanMove

PARTS = content(1)
ORDERS = [
    (CreateOrder.DISKS_FIRST, CreateOrder.INSTANCE_FIRST),
    (CreateOrder.INSTANCE_FIRST, CreateOrder.DISKS_FIRST),
]


def assert_home_as_before(world: World) -> None:
    """The home runs, everything else is retained, and never did two copies run."""
    placement = world.placement()
    assert placement.site == HOME
    assert placement.copy is not None
    assert world.power_at(world.home, placement.copy) is Power.ON
    with world.home.lock:
        assert not world.home.instances[placement.copy].fenced
        assert not world.home.instances[placement.copy].paused
    assert world.disk_of(world.home, placement.copy, PARTS)
    with world.away.lock:
        assert all(i.power is Power.OFF for i in world.away.instances.values())
    states = {a.state for a in world.artefacts(site=AWAY)}
    assert states <= {
        ArtefactState.RETAINED,
        ArtefactState.RELEASED,
    }, states
    world.assert_nothing_strange()


def assert_moved(world: World) -> None:
    placement = world.placement()
    assert placement.site == AWAY
    assert placement.copy is not None
    assert world.power_at(world.away, placement.copy) is Power.ON
    assert world.disk_of(world.away, placement.copy, PARTS)
    with world.away.lock:
        assert not any(nic.isolated for nic in world.away.instances[placement.copy].nics)
    with world.home.lock:
        assert all(i.power is Power.OFF and i.fenced for i in world.home.instances.values())
    world.assert_nothing_strange()


@pytest.mark.parametrize(("home", "away"), ORDERS)
async def test_a_move_brings_every_byte(
    client: Client, tmp_path: Path, home: CreateOrder, away: CreateOrder
) -> None:
    world = World.build(tmp_path, home=home, away=away)
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_moved(world)
    proof = op.result["proof"]
    assert isinstance(proof, list)
    assert [p["equal"] for p in proof] == [True]
    retained = [a for a in world.artefacts(site=HOME) if a.state is ArtefactState.RETAINED]
    assert ArtefactKind.INSTANCE in {a.kind for a in retained}
    assert all(a.expires_at is not None for a in retained)
    world.close()


class Beside(Interceptor):
    """Calls of these activities that do not begin until as many have begun."""

    def __init__(self, parties: int, *names: str) -> None:
        self.barriers = {name: threading.Barrier(parties, timeout=20) for name in names}

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Beside(next, self.barriers)


class _Beside(ActivityInboundInterceptor):
    def __init__(
        self, next: ActivityInboundInterceptor, barriers: dict[str, threading.Barrier]
    ) -> None:
        super().__init__(next)
        self._barriers = barriers

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if barrier := self._barriers.get(input.fn.__name__):
            await asyncio.to_thread(barrier.wait)
        return await super().execute_activity(input)


OTHER_PARTS = {offset + 512: part[::-1] for offset, part in list(PARTS.items())[:-1]}


@pytest.mark.parametrize(("home", "away"), ORDERS)
async def test_the_disks_of_an_instance_go_side_by_side(
    client: Client, tmp_path: Path, home: CreateOrder, away: CreateOrder
) -> None:
    world = World.build(tmp_path, home=home, away=away, whole_images=True)
    world.running_instance(PARTS, OTHER_PARTS)
    op = await run(client, world, world.ask_move(), [Beside(2, "copy_disk", "publish")])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_moved(world)
    copy = world.placement().copy
    assert copy is not None
    assert world.disk_of(world.away, copy, OTHER_PARTS, 1)
    assert [p["equal"] for p in op.result["proof"]] == [True, True]
    world.close()


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("activity", ["prepare_export", "copy_disk", "publish", "pull_image"])
async def test_a_disk_that_fails_beside_another_leaves_the_home_as_it_was(
    client: Client, tmp_path: Path, activity: str, nth: int
) -> None:
    world = World.build(tmp_path, home=ORDERS[0][0], away=ORDERS[0][1], whole_images=True)
    world.running_instance(PARTS, OTHER_PARTS)
    op = await run(client, world, world.ask_move(), [FaultAt(activity, nth, Fault.AFTER)])
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)
    world.close()


# The activities of a move up to the switch, in order; `test_the_list_of_steps_is_complete` keeps
# it true. The number tells apart calls of the same activity.
COMMON_BEFORE = [
    ("begin", 1),
    ("plan_move", 1),
    ("take_lease", 1),
    ("phase", 1),
    ("set_power", 1),
    ("wait_power", 1),
    ("fence", 1),
    ("phase", 2),
    ("domain_of", 1),
    ("prepare_export", 1),
    ("copy_disk", 1),
    ("commit_point", 1),
    ("release_export", 1),
    ("phase", 3),
    ("publish", 1),
    ("pull_image", 1),
    ("wait_image", 1),
]
INSTANCE = [("create_instance", 1), ("wait_instance", 1)]
PROOF = [("prepare_export", 2), ("prove", 1), ("release_export", 2)]
ACCEPTANCE = [
    ("phase", 4),
    ("verify_fence", 1),
    ("set_power", 2),
    ("wait_power", 2),
    ("probe_boot", 1),
]
STEPS = {
    ORDERS[0]: [*COMMON_BEFORE, *INSTANCE, *PROOF, *ACCEPTANCE],
    ORDERS[1]: [
        *COMMON_BEFORE,
        ("create_volume", 1),
        ("wait_volume", 1),
        *PROOF,
        *INSTANCE,
        *ACCEPTANCE,
    ],
}
# Phases are written down, and the source's export is released, beside what follows.
BESIDE: Steps = [("phase", 2), ("release_export", 1), ("phase", 3), ("phase", 4)]
AFTERWARDS = [
    ("switch_home", 1),
    ("connect_nics", 1),
    ("give_up_nics", 1),
    ("remove", 1),
    ("finish", 1),
]
PLAN: Steps = counted(["begin", "plan_move"])
TOLD = {MoveInstance: STEPS, PlanMove: PLAN}
# What both orders have in common up to the first of their own needs no second case.
CASES = [
    *((ORDERS[0], step) for step in STEPS[ORDERS[0]]),
    *((ORDERS[1], step) for step in STEPS[ORDERS[1]][len(COMMON_BEFORE) :]),
]


def made(tmp_path: Path, order: tuple[CreateOrder, CreateOrder]) -> World:
    world = World.build(tmp_path, home=order[0], away=order[1], whole_images=True)
    world.running_instance(PARTS)
    return world


@pytest.mark.parametrize("order", ORDERS)
async def test_the_list_of_steps_is_complete(
    client: Client, tmp_path: Path, order: tuple[CreateOrder, CreateOrder]
) -> None:
    world = made(tmp_path, order)
    watch = FaultAt("none", 0, None)
    await run(client, world, world.ask_move(), [watch])
    expected = counted([name for name, _ in (*STEPS[order], *AFTERWARDS)])
    assert in_their_order(watch.calls, expected, BESIDE)
    world.close()


@pytest.mark.parametrize(("case", "fault"), list(product(CASES, [Fault.BEFORE, Fault.AFTER])))
async def test_a_broken_step_leaves_the_home_as_it_was(
    client: Client,
    tmp_path: Path,
    case: tuple[tuple[CreateOrder, CreateOrder], tuple[str, int]],
    fault: Fault,
) -> None:
    order, (activity, nth) = case
    world = made(tmp_path, order)
    broken = FaultAt(activity, nth, fault)
    op = await run(client, world, world.ask_move(), [broken])
    assert broken.hit
    assert op.state in {OperationState.ROLLED_BACK, OperationState.FAILED}, op.problem
    assert op.problem is not None
    assert_home_as_before(world)
    world.close()


@pytest.mark.parametrize("patience", [60.0, 0.0])
async def test_a_guest_that_was_asked_to_stop_runs_again_after_its_stop(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """Seen to run while it stops, it would be left off; one that never stops is cut for that."""
    world = made(tmp_path, ORDERS[0])
    world.home.leisure = 3 if patience else 1_000_000
    monkeypatch.setattr(sites, "waited_so_far", lambda: timedelta(seconds=61.0 - patience))
    op = await run(client, world, world.ask_move(), [FaultAt("set_power", 1, Fault.AFTER)])
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)
    with world.home.lock:
        (source,) = world.home.instances.values()
        assert (source.stopping, source.boots) == (0, 2)
    world.close()


async def test_a_guest_that_was_not_asked_to_stop_is_not_cut(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path, ORDERS[0])
    op = await run(client, world, world.ask_move(), [FaultAt("set_power", 1, Fault.BEFORE)])
    assert op.state is OperationState.ROLLED_BACK, op.problem
    with world.home.lock:
        (source,) = world.home.instances.values()
        assert (source.power, source.boots) == (Power.ON, 1)
    world.close()


@pytest.mark.parametrize("order", ORDERS)
async def test_a_step_that_runs_twice_changes_nothing(
    client: Client, tmp_path: Path, order: tuple[CreateOrder, CreateOrder]
) -> None:
    world = made(tmp_path, order)
    twice = StepsTwice(world.standing)
    op = await run(client, world, world.ask_move(), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert sorted(twice.told) == sorted(name for name, _ in (*STEPS[order], *AFTERWARDS))
    assert twice.changed == []
    assert_moved(world)
    world.close()


@pytest.mark.parametrize(
    ("step", "fault"),
    [(AFTERWARDS[0], Fault.AFTER), *product(AFTERWARDS[1:4], [Fault.BEFORE, Fault.AFTER])],
)
async def test_a_fault_after_the_switch_never_goes_back(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    world = made(tmp_path, ORDERS[0])
    op = await run(client, world, world.ask_move(), [FaultAt(*step, fault)])
    assert op.state in {OperationState.SUCCEEDED, OperationState.NEEDS_ATTENTION}
    placement = world.placement()
    assert placement.site == AWAY
    assert placement.copy is not None
    assert world.power_at(world.away, placement.copy) is Power.ON
    with world.home.lock:
        assert all(i.power is Power.OFF and i.fenced for i in world.home.instances.values())
    assert world.overlaps() == ()
    world.close()


@crossing
@pytest.mark.parametrize("step", STEPS[ORDERS[1]][1:])
async def test_a_cancel_at_any_step_unwinds(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = made(tmp_path, ORDERS[1])
    op = await run_and_cancel(client, world, world.ask_move(), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    assert_home_as_before(world)
    world.close()


@pytest.mark.parametrize("step", AFTERWARDS[:4])
async def test_a_cancel_after_the_switch_is_too_late(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = made(tmp_path, ORDERS[0])
    op = await run_and_cancel(client, world, world.ask_move(), *step)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    world.close()


async def test_a_plan_touches_nothing(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move(OperationKind.PLAN_MOVE))
    assert op.state is OperationState.SUCCEEDED
    assert op.plan_digest
    assert world.away.is_empty()
    assert_home_as_before(world)


@pytest.mark.parametrize(("step", "fault"), list(product(PLAN, list(Fault))))
async def test_a_broken_plan_touches_nothing_and_can_be_made_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    world.running_instance(PARTS)
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask_move(OperationKind.PLAN_MOVE), [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    assert world.away.is_empty()
    assert_home_as_before(world)


@crossing
@pytest.mark.parametrize("step", PLAN)
async def test_a_cancelled_plan_touches_nothing(
    client: Client, world: World, step: tuple[str, int]
) -> None:
    world.running_instance(PARTS)
    op = await run_and_cancel(client, world, world.ask_move(OperationKind.PLAN_MOVE), *step)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}, op.problem
    assert world.away.is_empty()
    assert_home_as_before(world)


async def test_a_blocked_move_touches_nothing(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move(sku="enormous"))
    assert op.state is OperationState.BLOCKED
    assert [f.id for f in op.findings if f.severity == "blocker"] == ["TGT03"]
    assert world.away.is_empty()
    assert_home_as_before(world)


async def test_a_disk_larger_than_the_target_allows_blocks_the_move(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(FakeInstanceFirstDriver.limits, disk_max=DISK // 2)
    monkeypatch.setattr(FakeInstanceFirstDriver, "limits", small)
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.BLOCKED
    [blocker] = [f for f in op.findings if f.severity == "blocker"]
    assert blocker.id == "TGT04"
    assert str(AWAY) in blocker.evidence
    assert blocker.remedy
    assert world.away.is_empty()
    assert_home_as_before(world)


async def test_a_failed_acceptance_check_rolls_back(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    checks = [{"kind": "booted", "pattern": "never printed", "within": 2}]
    op = await run(client, world, world.ask_move(checks=checks))
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "never printed" in op.problem.message
    assert_home_as_before(world)


async def test_a_missed_deadline_rolls_back(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the real server: the one that skips time now and then waits for ever over many tries."""
    monkeypatch.setattr(course, "PROVIDER_CALLS_SECONDS", 1.0)
    monkeypatch.setattr(course, "ASSUMED_RATE", 2**30)
    world.running_instance(PARTS)
    world.away.guests_boot = False
    op = await run(client, world, world.ask_move(deadlineSeconds=4))
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert op.problem is not None
    assert op.problem.code == "deadline"
    assert_home_as_before(world)


async def test_a_flipped_byte_at_the_target_fails_the_move(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path, ORDERS[0])

    def flip() -> None:
        with world.away.lock:
            volume = next(iter(world.away.volumes.values()))
            byte = volume.disk.read(21 * 1024 * 1024, 1)
            volume.disk.write(21 * 1024 * 1024, bytes([byte[0] ^ 1]))

    op = await run(client, world, world.ask_move(), [FaultAt("wait_instance", 1, None, then=flip)])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code == "integrity"
    assert_home_as_before(world)
    world.close()


@pytest.mark.usefixtures("impatient")
async def test_a_target_that_cannot_be_stopped_keeps_the_source_stopped(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two running copies are worse than none: a person must look."""
    world.running_instance(PARTS)
    world.away.guests_boot = False

    def cut_off() -> None:
        world.away.down = True
        monkeypatch.setitem(options.WAIT, "schedule_to_close_timeout", timedelta(seconds=6))

    checks = [{"kind": "booted", "pattern": "never", "within": 1}]
    op = await run(
        client,
        world,
        world.ask_move(checks=checks),
        [FaultAt("wait_power", 2, None, then=cut_off)],
    )
    assert op.state is OperationState.NEEDS_ATTENTION
    assert world.overlaps() == ()
    copy = world.placement().copy
    assert copy is not None
    assert world.power_at(world.home, copy) is Power.OFF
    home, away, *_, then = cast("list[str]", op.result["lookAt"])
    assert home.startswith(f"{HOME}: instance ")
    assert "must not run while another copy may" in home
    assert away.startswith(f"{AWAY}: instance ")
    assert "see that it is off" in away
    assert then.startswith(f"then fedctl moves retry {op.subject_name}: ")


def test_artefact_ids_are_the_same_whenever_a_step_runs() -> None:
    op = uuid4()
    assert derived(op, "volume", 0) == derived(op, "volume", 0)
    assert derived(op, "volume", 0) != derived(op, "volume", 1)


@pytest.mark.parametrize("breaks", [1, 2, 3])
async def test_an_image_that_a_site_did_not_get_is_tried_again(
    client: Client, tmp_path: Path, breaks: int
) -> None:
    """As when the image gateway dies in the middle; after the third time the move goes back."""
    world = World.build(tmp_path, whole_images=True)
    world.running_instance(PARTS)
    left = iter(range(breaks))

    def breaking(source: ImageSource) -> Iterator[bytes]:
        whole = iter(world.fetch(source))
        yield next(iter(whole))
        if next(left, None) is not None:
            raise ConnectionResetError("the gateway is gone")
        yield from whole

    world.away.fetch = breaking
    op = await run(client, world, world.ask_move())
    images = [a for a in world.artefacts(site=AWAY) if a.kind is ArtefactKind.IMAGE]
    names = [s.name for s in world.steps(op.id) if s.name.startswith("remove failed image")]
    if breaks == 3:
        assert op.state is OperationState.ROLLED_BACK
        assert op.problem is not None
        assert "the gateway is gone" in op.problem.message
        assert_home_as_before(world)
        assert len(names) == 2
    else:
        assert op.state is OperationState.SUCCEEDED, op.problem
        assert_moved(world)
        assert {a.state for a in images} == {ArtefactState.RELEASED}
        assert len(names) == breaks
    assert len(images) == min(breaks + 1, 3)
    world.close()


class Lost:
    """A disk that cannot be read any more, and why."""

    def __init__(self, reader: BlockReader, error: Exception) -> None:
        self._error = error
        self.size, self.extents, self.close = reader.size, reader.extents, reader.close

    def read(self, offset: int, length: int) -> bytes:
        raise self._error


@pytest.mark.parametrize("whole_images", [True, False])
async def test_an_export_that_is_lost_after_a_try_of_its_copy_is_prepared_once_more(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, whole_images: bool
) -> None:
    """The copy begins anew and counts its tries anew, and is not called older for that."""
    errors = iter([Unavailable("away"), Unavailable("away"), NotFound("the export is gone")])
    copy = Vault.copy

    def breaking(self: Vault, reader: BlockReader, **more: Any) -> Any:
        error = next(errors, None)
        return copy(self, reader if error is None else Lost(reader, error), **more)

    monkeypatch.setattr(Vault, "copy", breaking)
    world = World.build(tmp_path, whole_images=whole_images)
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert next(errors, None) is None
    assert_moved(world)
    world.close()


@pytest.mark.parametrize(
    ("order", "creates"),
    [
        (ORDERS[0], "create_instance"),
        (ORDERS[1], "create_instance"),
        (ORDERS[1], "create_volume"),
    ],
)
async def test_what_never_came_to_be_is_not_kept_on_record(
    client: Client, tmp_path: Path, order: tuple[CreateOrder, CreateOrder], creates: str
) -> None:
    """A site that dies right after it said yes may have made nothing."""
    world = made(tmp_path, order)

    def forget() -> None:
        with world.away.lock:
            for volume in world.away.volumes.values():
                volume.attached_to = None
            if creates == "create_instance":
                world.away.instances.clear()
            if creates == "create_volume" or order[1] is CreateOrder.INSTANCE_FIRST:
                world.away.volumes.clear()

    op = await run(client, world, world.ask_move(), [FaultAt(creates, 1, None, then=forget)])
    assert op.state is OperationState.ROLLED_BACK, op.problem
    kind = ArtefactKind(creates.removeprefix("create_"))
    assert [a.state for a in world.artefacts(site=AWAY) if a.kind is kind] == [
        ArtefactState.RELEASED
    ]
    assert_home_as_before(world)
    world.close()
