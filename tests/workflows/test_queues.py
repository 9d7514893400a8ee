"""Steps that move bytes have queues of their own, and nothing else waits behind them."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from temporalio.client import Client
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from controlplane.domain.operation import Operation, OperationKind, OperationState
from tests.workflows.running import run
from tests.workflows.world import World, content
from workflows.calls import OperationOrder
from workflows.options import COPIES, CUTOVER
from workflows.worker import STORIES, build_worker

PARTS = content(1)
COPYING = (
    *("copy_disk", "copy_beside", "commit_point", "publish", "prove"),
    *("write_changes", "prove_changes"),
)


@dataclass
class Held(Interceptor):
    """Holds every call of one activity until `go_on`."""

    activity: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Holding(next, self)


class _Holding(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, held: Held) -> None:
        super().__init__(next)
        self._held = held

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if input.fn.__name__ == self._held.activity:
            self._held.reached.set()
            await self._held.go_on.wait()
        return await super().execute_activity(input)


async def queues(client: Client, op: Operation) -> list[tuple[str, str]]:
    """Each step that a story asked for, and what its queue is called behind the story's own."""
    history = await client.get_workflow_handle(str(op.id)).fetch_history()
    begun = history.events[0].workflow_execution_started_event_attributes.task_queue.name
    asked = [
        event.activity_task_scheduled_event_attributes
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    return [(each.activity_type.name, each.task_queue.name.removeprefix(begun)) for each in asked]


async def test_copies_queue_apart_from_steps_and_those_of_a_cutover_apart_from_both(
    client: Client, world: World
) -> None:
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move(method="warm"))
    assert op.state is OperationState.SUCCEEDED, op.problem
    asked = await queues(client, op)
    cutover = [name for name, _ in asked].index("set_power")
    assert {queue for name, queue in asked[:cutover] if name in COPYING} == {COPIES}
    assert {queue for name, queue in asked[cutover:] if name in COPYING} == {CUTOVER}
    assert {queue for name, queue in asked if name not in COPYING} == {""}


async def test_a_cold_move_copies_beside_those_of_running_sources(
    client: Client, world: World
) -> None:
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move())
    assert {queue for name, queue in await queues(client, op) if name in COPYING} == {COPIES}


async def test_a_step_waits_for_no_copy(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    move, look = world.ask_move(), world.ask_site(OperationKind.VERIFY_SITE)
    queue, held = str(uuid4()), Held("copy_beside")

    async with build_worker(
        client, world.hands, queue=queue, threads=1, copies=1, interceptors=[held]
    ):
        copying, looking = [
            await client.start_workflow(
                STORIES[op.kind].run,
                OperationOrder(operation=str(op.id)),
                id=str(op.id),
                task_queue=queue,
            )
            for op in (move, look)
        ]
        await held.reached.wait()
        await asyncio.wait_for(looking.result(), 20)
        assert world.operation(look.id).state is OperationState.SUCCEEDED
        assert world.operation(move.id).state is OperationState.RUNNING
        held.go_on.set()
        await copying.result()
    assert world.operation(move.id).state is OperationState.SUCCEEDED
