"""What needed attention is tried again when a person asks for it."""

from uuid import uuid4

from temporalio.client import Client

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.instance import Power
from controlplane.domain.operation import Operation, OperationState
from tests.workflows.faults import FaultAt
from tests.workflows.running import run
from tests.workflows.world import AWAY, HOME, World, content
from workflows.calls import OperationOrder
from workflows.mend_operation import MendOperation
from workflows.worker import build_worker

PARTS = content(1)


async def stuck(client: Client, world: World) -> Operation:
    """A move whose target could not be stopped: its site went away during acceptance."""
    world.running_instance(PARTS)
    world.away.guests_boot = False

    def cut_off() -> None:
        world.away.down = True

    checks = [{"kind": "booted", "pattern": "never", "within": 1}]
    watch = FaultAt("wait_power", 2, None, then=cut_off)
    op = await run(client, world, world.ask_move(checks=checks), [watch])
    assert op.state is OperationState.NEEDS_ATTENTION
    return op


async def mend(client: Client, world: World, op: Operation) -> Operation:
    queue = str(uuid4())
    async with build_worker(client, world.hands, queue=queue):
        await client.execute_workflow(
            MendOperation.run,
            OperationOrder(operation=str(op.id)),
            id=f"{op.id}.{uuid4()}",
            task_queue=queue,
        )
    return world.operation(op.id)


async def test_the_source_starts_once_the_target_is_known_to_be_stopped(
    client: Client, world: World
) -> None:
    op = await stuck(client, world)
    world.away.down = False
    done = await mend(client, world, op)
    assert done.state is OperationState.ROLLED_BACK, done.problem
    placement = world.placement()
    assert placement.site == HOME
    assert placement.copy is not None
    assert world.power_at(world.home, placement.copy) is Power.ON
    assert {a.state for a in world.artefacts(site=AWAY)} <= {
        ArtefactState.RETAINED,
        ArtefactState.RELEASED,
    }
    assert world.overlaps() == ()
    assert world.unaccounted() == []
    with world.store.read() as tx:
        assert tx.leases.find(world.instance) is None


async def test_what_cannot_be_mended_goes_on_needing_attention(
    client: Client, world: World
) -> None:
    op = await stuck(client, world)
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
