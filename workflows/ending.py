"""How every story ends: an outcome is written down, whatever happened."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError

from controlplane.domain.operation import OperationState, Problem
from workflows.activities.endings import EndingActivities, Outcome
from workflows.activities.records import RecordActivities
from workflows.calls import forward, record
from workflows.failures import is_cancel, problem_of
from workflows.saga import Saga, settled

T = TypeVar("T")
Body = Callable[[Saga, str], Awaitable[Outcome]]


async def unstoppable(do: Awaitable[T]) -> T:
    """Await `do` to its end and its answer; a cancel that comes meanwhile is too late."""
    task = asyncio.ensure_future(do)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()


async def before(deadline: timedelta, do: Coroutine[Any, Any, None]) -> None:
    """Await `do`; TimeoutError when it was stopped because the deadline passed.

    Not `asyncio.timeout`: an activity that is cancelled ends in a failure of Temporal's own, which
    that would not recognise.
    """
    task = asyncio.ensure_future(do)
    try:
        done, _ = await workflow.wait([task], timeout=deadline.total_seconds())
    except asyncio.CancelledError:
        task.cancel()
        await unstoppable(workflow.wait([task]))
        raise
    if done:
        return task.result()
    task.cancel()
    await settled(workflow.wait([task]))
    if not task.cancelled() and (failure := task.exception()) is not None:
        if not is_cancel(failure):
            raise failure
        raise TimeoutError from failure
    if task.cancelled():
        raise TimeoutError
    return None


async def concluded(operation: str, body: Body) -> str:
    """Run `body` in a saga between the operation's beginning and its end; answer how it ended."""
    saga = Saga()
    try:
        await record(RecordActivities.begin, operation)
        async with saga:
            outcome = await body(saga, operation)
    except (asyncio.CancelledError, FailureError, TimeoutError) as failure:
        outcome = _outcome(operation, saga, failure)
    await unstoppable(forward(EndingActivities.finish, outcome))
    return outcome.state.value


def _outcome(operation: str, saga: Saga, failure: BaseException) -> Outcome:
    problem = problem_of(failure)
    if saga.superseded:
        state = OperationState.FAILED
    elif saga.switched:
        state = OperationState.NEEDS_ATTENTION
    elif saga.left:
        state = OperationState.NEEDS_ATTENTION
        problem = Problem(
            code=problem.code,
            message=f"{problem.message}; and it could not be undone: {saga.left}",
            detail=problem.detail,
            step=problem.step,
        )
    elif is_cancel(failure):
        state = OperationState.CANCELLED
    elif saga.unwound and saga.began:
        state = OperationState.ROLLED_BACK
    else:
        state = OperationState.FAILED
    workflow.logger.info("story ended")
    return Outcome(operation=operation, state=state, problem=problem)
