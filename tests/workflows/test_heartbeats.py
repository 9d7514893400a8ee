"""A step that lasts is beaten for by its worker; one whose worker is dead is another's soon."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner, Worker

from workflows import heartbeats
from workflows.heartbeats import BeatsForSteps
from workflows.options import CALL

ALIVE = timedelta(seconds=0.6)
LASTS = 1.5


@workflow.defn
class Lasting:
    @workflow.run
    async def run(self) -> int:
        options: dict[str, Any] = {**CALL, "heartbeat_timeout": ALIVE}
        return await workflow.execute_activity("lasts", result_type=int, **options)


class Step:
    """Its first attempt lasts longer than a silence may be."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    @activity.defn(no_thread_cancel_exception=True)
    def lasts(self) -> int:
        attempt = activity.info().attempt
        if attempt == 1:
            self.go_on.wait(LASTS)
        return attempt


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Step]:
    monkeypatch.setattr(heartbeats, "ALIVE", ALIVE)
    monkeypatch.setattr(heartbeats, "EVERY", ALIVE / 5)
    made = Step()
    yield made
    made.go_on.set()


async def attempts(client: Client, lasts: Callable[..., Any], by: Sequence[Interceptor]) -> int:
    queue = str(uuid4())
    with ThreadPoolExecutor(4) as threads:
        async with Worker(
            client,
            task_queue=queue,
            workflows=[Lasting],
            activities=[lasts],
            activity_executor=threads,
            workflow_runner=UnsandboxedWorkflowRunner(),
            interceptors=by,
            max_heartbeat_throttle_interval=timedelta(seconds=0.1),
        ):
            return await client.execute_workflow(Lasting.run, id=queue, task_queue=queue)


# Both take the second or two that a silence takes.


async def test_a_step_that_lasts_is_beaten_for(client: Client, step: Step) -> None:
    assert await attempts(client, step.lasts, [BeatsForSteps()]) == 1


@pytest.mark.filterwarnings("ignore:Cannot find activity to cancel:UserWarning")
async def test_a_silent_step_is_tried_again(client: Client, step: Step) -> None:
    assert await attempts(client, step.lasts, []) == 2
