"""Power: started, stopped and restarted; broken, repeated or cancelled, the record tells the truth."""

from itertools import product

import pytest
from temporalio.client import Client

from controlplane.domain.errors import Unavailable
from controlplane.domain.instance import Power
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind, State
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, crossing, run, run_and_cancel
from tests.workflows.world import World, content
from workflows.power_instance import PowerInstance

PARTS = content(3)
_TURN = ["set_power", "wait_power", "power_seen"]
STEPS: dict[OperationKind, Steps] = {
    kind: [
        ("begin", 1),
        ("take_lease", 1),
        ("home", 1),
        *((name, turn) for turn in range(1, turns + 1) for name in _TURN),
    ]
    for kind, turns in {
        OperationKind.START: 1,
        OperationKind.STOP: 1,
        OperationKind.RESTART: 2,
    }.items()
}
TOLD = {PowerInstance: STEPS}
CASES = [(kind, step) for kind, steps in STEPS.items() for step in steps]
Case = tuple[OperationKind, tuple[str, int]]
WANTED = {
    OperationKind.START: Power.ON,
    OperationKind.STOP: Power.OFF,
    OperationKind.RESTART: Power.ON,
}


def asked(world: World, kind: OperationKind) -> Operation:
    world.running_instance(PARTS, on=kind is not OperationKind.START)
    return world.ask(kind, {} if kind is OperationKind.START else {"manner": "graceful"})


def power_of(world: World) -> Power:
    copy = world.placement().copy
    assert copy is not None
    return world.power_at(world.home, copy)


def shown(world: World) -> str:
    instance = world.resource(world.key(Kind.INSTANCE, "web-1"))
    assert instance is not None
    assert instance.state is State.ACTIVE
    return str(instance.status["powerState"])


def assert_powered(world: World, kind: OperationKind) -> None:
    assert power_of(world) is WANTED[kind]
    assert shown(world) == WANTED[kind].value
    world.assert_nothing_strange()


@pytest.mark.parametrize("kind", list(STEPS))
async def test_power_is_as_asked_and_as_shown(
    client: Client, world: World, kind: OperationKind
) -> None:
    watch = FaultAt("none", 0, None)
    op = await run(client, world, asked(world, kind), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_powered(world, kind)
    assert watch.calls == [name for name, _ in (*STEPS[kind], ("finish", 1))]


@pytest.mark.parametrize(("case", "fault"), list(product(CASES, [Fault.BEFORE, Fault.AFTER])))
async def test_after_a_broken_step_the_same_may_be_asked_again(
    client: Client, world: World, case: Case, fault: Fault
) -> None:
    kind, (activity, nth) = case
    broken = FaultAt(activity, nth, fault)
    op = await run(client, world, asked(world, kind), [broken])
    assert broken.hit
    assert op.state in {OperationState.FAILED, OperationState.ROLLED_BACK}
    assert op.problem is not None
    shown(world)
    world.assert_nothing_strange()
    again = await run(client, world, world.ask(kind))
    assert again.state is OperationState.SUCCEEDED, again.problem
    assert_powered(world, kind)


@pytest.mark.parametrize("kind", list(STEPS))
async def test_a_step_that_runs_twice_changes_nothing(
    client: Client, world: World, kind: OperationKind
) -> None:
    twice = StepsTwice(world.standing)
    op = await run(client, world, asked(world, kind), [twice])
    assert twice.told == [name for name, _ in (*STEPS[kind], ("finish", 1))]
    assert twice.changed == []
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_powered(world, kind)


@crossing
@pytest.mark.parametrize("step", STEPS[OperationKind.RESTART])
async def test_a_cancel_leaves_one_copy_and_no_lease(
    client: Client, world: World, step: tuple[str, int]
) -> None:
    op = await run_and_cancel(client, world, asked(world, OperationKind.RESTART), *step)
    ends = {OperationState.CANCELLED}
    if step == STEPS[OperationKind.RESTART][-1]:
        ends.add(OperationState.SUCCEEDED)  # the cancel and the last step's end may cross
    assert op.state in ends, op.problem
    shown(world)
    world.assert_nothing_strange()


async def test_a_site_that_is_away_is_asked_again(client: Client, world: World) -> None:
    world_op = asked(world, OperationKind.STOP)
    world.home.fail_next("set_power", Unavailable("no answer in 20 s"), times=3)
    op = await run(client, world, world_op)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_powered(world, OperationKind.STOP)


async def test_an_answer_that_was_lost_stops_once(client: Client, world: World) -> None:
    world_op = asked(world, OperationKind.STOP)
    world.home.fail_next("set_power", Unavailable("the answer was lost"), before_effect=False)
    op = await run(client, world, world_op)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_powered(world, OperationKind.STOP)


async def test_an_instance_that_was_never_made_cannot_start(client: Client, world: World) -> None:
    key = world.wished_instance(active=True, image=False)
    op = await run(client, world, world.ask(OperationKind.START, key=key))
    assert op.state is not OperationState.SUCCEEDED
    assert op.problem is not None
    assert "has no home" in op.problem.message
