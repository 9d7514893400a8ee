"""Runs one story to its end on a worker of its own, and replays what it did."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import (
    Interceptor,
    Replayer,
    UnsandboxedWorkflowRunner,
    WorkflowRunner,
)

from controlplane.domain.operation import Operation
from tests.workflows.faults import FaultAt
from tests.workflows.keys import codec
from tests.workflows.recorded import record
from tests.workflows.world import World
from workflows.calls import OperationOrder
from workflows.codec import SealedPayloads, client_options
from workflows.worker import FAILURES, STORIES, build_worker

# The SDK warns when a cancel and the activity's own end cross on the way; we break nothing by it.
crossing = pytest.mark.filterwarnings("ignore:Cannot find activity to cancel:UserWarning")

Steps = list[tuple[str, int]]
"""Activities of a story in order; the number tells apart calls of the same activity."""


async def replayed(
    story: type,
    history: WorkflowHistory,
    keys: SealedPayloads | None = None,
    *,
    runner: WorkflowRunner | None = None,
) -> None:
    """The story, as it is now, decides again what it decided then; else this raises.

    Without the sandbox, in which it ran before: that is half of what telling it again costs.
    """
    await Replayer(
        workflows=[story],
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        workflow_failure_exception_types=list(FAILURES),
        **client_options(keys or codec()),
    ).replay_workflow(history)


async def run(
    client: Client, world: World, op: Operation, interceptors: Sequence[Interceptor] = ()
) -> Operation:
    """The operation after its story ran to its end."""
    queue = str(uuid4())
    story = STORIES[op.kind]
    async with build_worker(
        client, world.hands, queue=queue, stories=[story], interceptors=interceptors
    ):
        handle = await client.start_workflow(
            story.run, OperationOrder(operation=str(op.id)), id=str(op.id), task_queue=queue
        )
        await handle.result()
        history = await handle.fetch_history()
    await replayed(story, history)
    ended = world.operation(op.id)
    record(f"{ended.kind}-{ended.state}", story, history)
    return ended


async def run_and_cancel(
    client: Client, world: World, op: Operation, activity: str, nth: int
) -> Operation:
    """The operation after a cancel that came while the nth call of `activity` was ending."""
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        asyncio.run_coroutine_threadsafe(cancelled(client, world, op), loop)

    return await run(client, world, op, [FaultAt(activity, nth, None, then=cancel)])


async def cancelled(client: Client, world: World, op: Operation) -> None:
    """What the service and the starter do when somebody cancels."""
    with world.store.begin() as tx:
        tx.operations.request_cancel(op.id)
    await client.get_workflow_handle(str(op.id)).cancel()


def in_their_order(calls: Sequence[str], expected: Steps, beside: Steps) -> bool:
    """Whether these are the calls, one after the other but for those that go beside others."""
    told = counted(calls)
    return sorted(told) == sorted(expected) and [each for each in told if each not in beside] == [
        each for each in expected if each not in beside
    ]


def counted(names: Sequence[str]) -> Steps:
    """Each name with how many of it there were so far."""
    return [(name, names[: index + 1].count(name)) for index, name in enumerate(names)]
