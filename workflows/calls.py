"""How stories ask for activities: which options each kind of step gets."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, RetryState
from temporalio.workflow import ActivityCancellationType

from controlplane.domain.errors import NotFound
from workflows import options
from workflows.failures import problem_of, worker_died
from workflows.options import (
    ASK,
    CALL,
    CLEAN,
    COPIES,
    COPY,
    CUTOVER,
    FORWARD,
    HELD,
    RECORD,
    TOGETHER,
    UNDO,
    WAIT,
)

_ROUNDS = 3
A = TypeVar("A")
R = TypeVar("R")

# Of the story that runs: each has a context of its own.
_copies: ContextVar[str] = ContextVar("copies", default=COPIES)
_undo_within: ContextVar[timedelta | None] = ContextVar("undo_within", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationOrder:
    """All that a story is started with; the rest is read from the operation's row."""

    operation: str


def record(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """Write or read our own rows."""
    return workflow.execute_activity_method(method, order, **RECORD)


def call(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """One provider call."""
    return workflow.execute_activity_method(method, order, **CALL)


async def ask(method: Callable[[Any, A], R], order: A) -> R:
    """A provider call that a person waits for; its few tries do not count workers that died."""
    for _ in range(_ROUNDS - 1):
        try:
            return await workflow.execute_activity_method(method, order, **ASK)
        except ActivityError as failure:
            if not worker_died(failure):
                raise
    return await workflow.execute_activity_method(method, order, **ASK)


def at_once(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """Calls to several providers that wait for each other."""
    return workflow.execute_activity_method(method, order, **TOGETHER)


def wait(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """Look again and again until the provider is done."""
    return workflow.execute_activity_method(method, order, **WAIT)


def wait_held(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """As `wait`, while others are kept from an instance: not for hours."""
    return workflow.execute_activity_method(method, order, **HELD)


def undo(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """Take an effect back, patiently."""
    options = UNDO
    if (within := _undo_within.get()) is not None:
        options = {**UNDO, "schedule_to_close_timeout": within}
    return workflow.execute_activity_method(method, order, **options)


@contextmanager
def undoing_within(patience: timedelta) -> Iterator[None]:
    """What is taken back in the block is given up after so long: it will be tried again."""
    before = _undo_within.get()
    _undo_within.set(patience)
    try:
        yield
    finally:
        # Not by a token: a story that is thrown out of the cache is closed in another context.
        _undo_within.set(before)


def clean(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """Tidy up within minutes, or leave it for later."""
    return workflow.execute_activity_method(method, order, **CLEAN)


def forward(method: Callable[[Any, A], R], order: A) -> Awaitable[R]:
    """What must happen, however long it takes."""
    return workflow.execute_activity_method(method, order, **FORWARD)


async def copy(method: Callable[[Any, A], R], order: A) -> R:
    """Move bytes: heartbeats, stops when told to, resumes."""
    queue = workflow.info().task_queue + _copies.get()
    return await _heeded(workflow.execute_activity_method(method, order, task_queue=queue, **COPY))


def hurry() -> None:
    """From here on this story's copies wait for no copy of a source that still runs."""
    _copies.set(CUTOVER)


async def remove(method: Callable[[Any, A], R], order: A) -> R:
    """Make something go for good, patiently; told to stop, it ends the attempt that runs.

    Else an attempt would go on at the site after its story has ended and the lease is another's.
    """
    return await _heeded(
        workflow.execute_activity_method(
            method,
            order,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            **UNDO,
        )
    )


async def once_more(
    since: str, prepare: Callable[[], Awaitable[object]], use: Callable[[], Awaitable[R]]
) -> R:
    """Prepare and use; once more where the site lost what was prepared, as when its node restarts.

    Stories from before the version `since` give up then.
    """
    await prepare()
    try:
        return await use()
    except ActivityError as failure:
        lost = problem_of(failure).code == NotFound.code
        if not lost or not workflow.patched(since):
            raise
    await prepare()
    return await use()


async def patiently(since: str, use: Callable[[], Awaitable[R]]) -> R:
    """Use; and go on after each pause while a site is away, as long as nothing stands still for it.

    Stories from before the version `since` give up when the tries are used up.
    """
    until = workflow.now() + options.AWAY_FOR
    while True:
        began = workflow.now()
        try:
            return await use()
        except ActivityError as failure:
            used_up = failure.retry_state is RetryState.MAXIMUM_ATTEMPTS_REACHED
            if not used_up or workflow.now() >= until or not workflow.patched(since):
                raise
        if workflow.now() - began > options.GOT_SOMEWHERE:
            until = workflow.now() + options.AWAY_FOR
        await workflow.sleep(options.AWAY_PAUSE)


async def _heeded(do: Awaitable[R]) -> R:
    """What was told to stop, and then ended well or was not tried again, swallows the cancel."""
    try:
        done = await do
    except ActivityError as failure:
        if failure.retry_state is RetryState.CANCEL_REQUESTED:
            raise asyncio.CancelledError from failure
        raise
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return done
