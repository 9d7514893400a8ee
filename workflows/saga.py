"""Undo what was begun, newest first, when a story fails or is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import TracebackType
from typing import Self, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

from workflows.failures import problem_of, stops_without_unwinding

T = TypeVar("T")
Undo = Callable[[], Awaitable[object]]


class Saga:
    """Remembers undos and runs them when its block ends in failure, cancel or deadline.

    `began` tells whether there was anything to undo when it unwound; `overtaken`, whether a newer
    epoch was in the way.
    Unwinding stops at the first undo that fails, which `left` names: a source must not start while
    it is unknown whether its target was stopped. Asked again, it goes on from there.
    """

    def __init__(self) -> None:
        self._undos: list[Undo] = []
        self.left: str = ""
        self.began = False
        self.unwound = False
        self.superseded = self.overtaken = False
        self.switched = False

    def switch(self) -> None:
        """From here the story only goes forward: nothing is undone any more."""
        self.switched = True
        self._undos.clear()

    async def step(self, do: Awaitable[T], *, undo: Undo) -> T:
        """Run `do`; remember `undo` first, because a step that failed may have happened.

        A cancelled story lets the step in flight settle before anything is undone.
        """
        self.remember(undo)
        return await settled(do)

    async def copying(self, do: Awaitable[T], *, undo: Undo) -> T:
        """A step that may take hours: it is told of a cancel, and ends before any undo."""
        self.remember(undo)
        return await do

    def remember(self, undo: Undo) -> None:
        """What is begun from here on is taken back by `undo`."""
        self._undos.append(undo)

    def done_with(self, undo: Undo) -> None:
        """What `undo` would take back has gone in the meantime."""
        self._undos = [each for each in self._undos if each != undo]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is None or not isinstance(exc, asyncio.CancelledError | FailureError | TimeoutError):
            return
        if stops_without_unwinding(exc):
            self.superseded = True
            return
        await settled(self.unwind())

    async def unwind(self) -> None:
        """Undo what is not undone yet, newest first, up to the first undo that fails."""
        self.unwound = not self.switched
        self.left = ""
        self.began = self.began or bool(self._undos)
        while self._undos:
            try:
                await self._undos[-1]()
            except (ActivityError, ApplicationError) as failure:
                self.left = problem_of(failure).message
                self.overtaken = stops_without_unwinding(failure)
                workflow.logger.warning("an undo failed; a person must look")
                return
            self._undos.pop()

    def stuck_at(self, undos: Collection[Undo]) -> bool:
        """Whether one of these is the next to be undone."""
        return bool(self._undos) and self._undos[-1] in undos


async def together(*parts: Awaitable[object]) -> None:
    """Side by side, to the end of each; the first failure ends the others after their step."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await workflow.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:  # and not when it is closed: what was evicted cannot wait
        await _ended(tasks)
        raise
    await _ended(tasks)
    for task in done:
        task.result()


async def _ended(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()  # one that has ended stays as it is
    await settled(workflow.wait(tasks))


async def settled(do: Awaitable[T]) -> T:
    """Await `do` to its end even when cancelled meanwhile; then the cancel is raised."""
    task = asyncio.ensure_future(do)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await workflow.wait([task])
        raise
