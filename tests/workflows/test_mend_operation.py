"""What needed attention is tried again when a person asks for it."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import product
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Interceptor

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import Integrity
from controlplane.domain.instance import Power
from controlplane.domain.operation import Operation, OperationState
from controlplane.domain.site import Capability
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, replayed, run
from tests.workflows.world import AWAY, HOME, World, content
from workflows import options
from workflows.calls import OperationOrder
from workflows.mend_operation import MendOperation
from workflows.worker import build_worker

PARTS = content(1)
STEPS: Steps = counted(
    [
        "stuck",
        "set_power",
        "wait_power",
        "made_at_target",
        "retain",
        "unfence",
        "set_power",
        "wait_power",
        "finish",
    ]
)
FORWARD: Steps = counted(
    [
        "stuck",
        "switch_home",
        "connect_nics",
        "give_up_nics",
        "made_at_target",
        "retain",
        "finish",
    ]
)
TOLD = {MendOperation: STEPS}


CHECKS = [{"kind": "booted", "pattern": "never", "within": 1}]


async def stuck(client: Client, world: World) -> Operation:
    """A move that failed its acceptance and whose target could not be stopped."""
    world.running_instance(PARTS)
    world.away.guests_boot = False
    # Of a proven target it is tried twice: soon, and then with all patience.
    undos = [FaultAt("set_power", nth, Fault.BEFORE) for nth in (3, 4)]
    op = await run(client, world, world.ask_move(checks=CHECKS), undos)
    assert all(undo.hit for undo in undos)
    assert op.state is OperationState.NEEDS_ATTENTION
    return op


async def cut_off(client: Client, world: World) -> Operation:
    """The same, because the target's site went away during acceptance: hours of tries, skipped."""
    world.running_instance(PARTS)
    world.away.guests_boot = False

    def away() -> None:
        world.away.down = True

    watch = FaultAt("wait_power", 2, None, then=away)
    op = await run(client, world, world.ask_move(checks=CHECKS), [watch])
    assert op.state is OperationState.NEEDS_ATTENTION
    return op


async def mend(
    client: Client, world: World, op: Operation, interceptors: Sequence[Interceptor] = ()
) -> Operation:
    queue = str(uuid4())
    async with build_worker(
        client, world.hands, queue=queue, stories=[MendOperation], interceptors=interceptors
    ):
        handle = await client.start_workflow(
            MendOperation.run,
            OperationOrder(operation=str(op.id)),
            id=f"{op.id}.{uuid4()}",
            task_queue=queue,
        )
        with suppress(WorkflowFailureError):
            await handle.result()
        history = await handle.fetch_history()
    await replayed(MendOperation, history)
    return world.operation(op.id)


def assert_mended(world: World, op: Operation) -> None:
    assert op.state is OperationState.ROLLED_BACK, op.problem
    placement = world.placement()
    assert placement.site == HOME
    assert placement.copy is not None
    assert world.power_at(world.home, placement.copy) is Power.ON
    assert {a.state for a in world.artefacts(site=AWAY)} <= {
        ArtefactState.RETAINED,
        ArtefactState.RELEASED,
    }
    world.assert_nothing_strange()


async def test_the_source_starts_once_the_target_is_known_to_be_stopped(
    client: Client, world: World
) -> None:
    op = await stuck(client, world)
    done = await mend(client, world, op)
    assert_mended(world, done)


async def test_the_list_of_steps_is_complete(client: Client, world: World) -> None:
    op = await stuck(client, world)
    watch = FaultAt("none", 0, None)
    await mend(client, world, op, [watch])
    assert watch.calls == [name for name, _ in STEPS]


@pytest.mark.parametrize(("step", "fault"), list(product(STEPS, list(Fault))))
async def test_a_broken_step_is_mended_by_asking_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    op = await stuck(client, world)
    broken = FaultAt(*step, fault)
    op = await mend(client, world, op, [broken])
    assert broken.hit
    assert world.overlaps() == ()
    if op.state is not OperationState.ROLLED_BACK:
        op = await mend(client, world, op)
    assert_mended(world, op)


async def test_a_step_that_runs_twice_changes_nothing(client: Client, world: World) -> None:
    op = await stuck(client, world)
    twice = StepsTwice(world.standing)
    op = await mend(client, world, op, [twice])
    assert twice.told == [name for name, _ in STEPS]
    assert twice.changed == []
    assert_mended(world, op)


@pytest.mark.timeout(180)  # seconds of tries in vain, at each of several steps
async def test_what_cannot_be_mended_goes_on_needing_attention(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hasty:
        for patient in (options.CALL, options.UNDO, options.WAIT):
            hasty.setitem(patient, "schedule_to_close_timeout", timedelta(seconds=6))
        hasty.setattr(options, "BEFORE_OFFER", timedelta(seconds=3))
        op = await cut_off(client, world)
        done = await mend(client, world, op)
    assert done.state is OperationState.NEEDS_ATTENTION
    copy = world.placement().copy
    assert copy is not None
    assert world.power_at(world.home, copy) is Power.OFF
    with world.store.read() as tx:
        assert tx.leases.find(world.instance) is not None
    world.away.down = False
    assert (await mend(client, world, op)).state is OperationState.ROLLED_BACK


async def test_mending_what_has_ended_changes_nothing(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move())
    assert (await mend(client, world, op)).state is OperationState.SUCCEEDED


async def switched(client: Client, world: World, step: str, fault: Fault) -> Operation:
    """A move that came to a halt after its switch, with an image at the target still."""
    world.away.lacking = {Capability.DISK_IMPORT: "not here"}
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move(), [FaultAt(step, 1, fault)])
    assert op.state is OperationState.NEEDS_ATTENTION, op.problem
    return op


def assert_finished(world: World, op: Operation) -> None:
    """As if nothing had been in its way; but what was staged goes later, with the old copy."""
    assert op.state is OperationState.SUCCEEDED, op.problem
    placement = world.placement()
    assert placement.site == AWAY
    assert placement.copy is not None
    assert world.power_at(world.away, placement.copy) is Power.ON
    with world.away.lock:
        assert not any(nic.isolated for nic in world.away.instances[placement.copy].nics)
    with world.home.lock:
        assert all(i.power is Power.OFF and i.fenced for i in world.home.instances.values())
    assert [home.copy for home in world.homes.newest()] == [placement.copy]
    assert {a.state for a in world.artefacts()} == {
        ArtefactState.ATTACHED,
        ArtefactState.RETAINED,
        ArtefactState.RELEASED,
    }
    world.assert_nothing_strange()


async def test_the_list_of_steps_after_the_switch_is_complete(client: Client, world: World) -> None:
    op = await switched(client, world, "connect_nics", Fault.BEFORE)
    watch = FaultAt("none", 0, None)
    await mend(client, world, op, [watch])
    assert watch.calls == [name for name, _ in FORWARD]


@pytest.mark.parametrize(("step", "fault"), list(product(FORWARD[1:-1], list(Fault))))
async def test_a_broken_step_after_the_switch_is_mended_by_asking_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    op = await switched(client, world, "connect_nics", Fault.BEFORE)
    broken = FaultAt(*step, fault)
    op = await mend(client, world, op, [broken])
    assert broken.hit
    if op.state is not OperationState.SUCCEEDED:
        op = await mend(client, world, op)
    assert_finished(world, op)


async def test_a_step_after_the_switch_that_runs_twice_changes_nothing(
    client: Client, world: World
) -> None:
    op = await switched(client, world, "connect_nics", Fault.BEFORE)
    twice = StepsTwice(world.standing)
    op = await mend(client, world, op, [twice])
    assert twice.told == [name for name, _ in FORWARD]
    assert twice.changed == []
    assert_finished(world, op)


async def test_a_switch_whose_record_did_not_reach_the_store_is_finished(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(home: object) -> None:
        raise Integrity("the store does not take it")

    with monkeypatch.context() as broken:
        broken.setattr(world.homes, "put", refused)
        op = await switched(client, world, "none", Fault.AFTER)
    assert op.problem is not None
    assert op.problem.code == "integrity"
    assert world.placement().site == AWAY
    assert list(world.homes.newest()) == []
    assert_finished(world, await mend(client, world, op))
