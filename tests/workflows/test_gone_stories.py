"""A story that is gone leaves a lease and a row that says it runs: both are settled."""

import asyncio
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError

from controlplane.domain.errors import SUPERSEDED
from controlplane.domain.ids import InstanceId
from controlplane.domain.operation import Operation, OperationState
from tests.workflows.faults import FaultAt
from tests.workflows.running import crossing
from tests.workflows.test_mend_operation import PARTS, assert_mended, mend
from tests.workflows.world import World, now
from workflows.calls import OperationOrder
from workflows.settling import Settler
from workflows.worker import STORIES, build_worker


async def terminated(client: Client, world: World, activity: str, nth: int) -> Operation:
    """A move whose story is terminated while the nth call of `activity` is ending."""
    world.running_instance(PARTS)
    return await terminated_while(client, world, world.ask_move(), activity, nth)


async def terminated_while(
    client: Client, world: World, op: Operation, activity: str, nth: int
) -> Operation:
    handle = client.get_workflow_handle(str(op.id))
    told = asyncio.Event()
    watch = FaultAt(activity, nth, None, then=told.set)
    queue = str(uuid4())
    story = STORIES[op.kind]
    async with build_worker(
        client, world.hands, queue=queue, stories=[story], interceptors=[watch]
    ):
        await client.start_workflow(
            story.run, OperationOrder(operation=str(op.id)), id=str(op.id), task_queue=queue
        )
        await asyncio.wait_for(told.wait(), 30)
        await handle.terminate("by hand")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    return world.operation(op.id)


def settler(client: Client, world: World) -> Settler:
    return Settler(world.store, client, world.hands.endings, now)


@crossing
@pytest.mark.parametrize(
    ("activity", "nth"),
    [("take_lease", 1), ("fence", 1), ("copy_beside", 1), ("create_instance", 1)],
)
async def test_a_terminated_move_needs_attention_and_can_be_mended(
    client: Client, world: World, activity: str, nth: int
) -> None:
    op = await terminated(client, world, activity, nth)
    assert op.state is OperationState.RUNNING, "nobody wrote its end down"
    before = world.placement().epoch
    assert [each.id for each in await settler(client, world).look()] == [op.id]
    op = world.operation(op.id)
    assert op.state is OperationState.NEEDS_ATTENTION
    assert op.problem is not None
    assert "terminated" in op.problem.message
    assert world.placement().epoch > before, "a step that goes on running is superseded"
    with world.store.read() as tx:
        lease = tx.leases.find(InstanceId(op.subject))
    assert lease is not None
    assert lease.operation == op.id, "nobody else may change it before a person looked"
    assert await settler(client, world).look() == []
    assert_mended(world, await mend(client, world, op))


@crossing
async def test_a_step_of_the_old_story_is_superseded(client: Client, world: World) -> None:
    op = await terminated(client, world, "fence", 1)
    with world.store.read() as tx:
        lease = tx.leases.find(InstanceId(op.subject))
    assert lease is not None
    await settler(client, world).look()
    with pytest.raises(Exception, match="epoch") as refused, world.store.begin() as tx:
        tx.leases.check(InstanceId(op.subject), op.id, lease.epoch)
    assert refused.value.reason == SUPERSEDED


async def test_an_operation_that_the_engine_does_not_know_is_settled_and_one_it_runs_is_not(
    client: Client, world: World
) -> None:
    world.running_instance(PARTS)
    op = world.ask_move()
    assert await settler(client, world).look() == [], "a queued one is the starter's"
    world.hands.records.begin(str(op.id))
    assert [each.id for each in await settler(client, world).look()] == [op.id]
