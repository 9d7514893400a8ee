"""Break one activity call on purpose."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor


class Fault(Enum):
    BEFORE = "fails before its effect"
    AFTER = "fails after its effect"


@dataclass
class FaultAt(Interceptor):
    """Breaks the nth call of one activity, however often that call is attempted.

    `calls` lists calls by the order of their success; `then` runs when the nth call has had its
    effect, before anybody is told.
    """

    activity: str
    nth: int
    fault: Fault | None
    hit: bool = field(default=False, init=False)
    calls: list[str] = field(default_factory=list, init=False)
    then: Callable[[], None] = field(default=lambda: None)
    _ids: list[str] = field(default_factory=list, init=False)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self)

    def is_due(self, name: str, id: str) -> bool:
        if name != self.activity:
            return False
        if id not in self._ids:
            self._ids.append(id)
        return self._ids.index(id) + 1 == self.nth


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, plan: FaultAt) -> None:
        super().__init__(next)
        self._plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        plan = self._plan
        name = input.fn.__name__
        due = plan.is_due(name, activity.info().activity_id)
        if due and plan.fault is Fault.BEFORE:
            plan.hit = True
            raise ApplicationError("injected", non_retryable=True)
        result = await super().execute_activity(input)
        plan.calls.append(name)
        if not due:
            return result
        plan.hit = True
        plan.then()
        if plan.fault is Fault.AFTER:
            raise ApplicationError("injected", non_retryable=True)
        return result


@dataclass
class StepsTwice(Interceptor):
    """Every activity runs twice, and the second run is to find nothing left to do.

    `look` tells all that a step may change and that is to be the same after its second run;
    `told` lists the activities that ran twice, `changed` those whose second run changed what
    `look` tells. One runs at a time, so that no other's change is taken for it.
    """

    look: Callable[[], object]
    told: list[str] = field(default_factory=list, init=False)
    changed: list[str] = field(default_factory=list, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Twice(next, self)


class _Twice(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, plan: StepsTwice) -> None:
        super().__init__(next)
        self._plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        # The SDK wraps the heartbeat for the thread it starts, each time; wrapped twice it would
        # wait on the event loop for the event loop.
        context = activity._Context.current()
        heartbeat = context.heartbeat
        async with self._plan._turn:
            await super().execute_activity(input)
            seen = self._plan.look()
            context.heartbeat = heartbeat
            info = activity.info()
            context.info = lambda: replace(info, attempt=info.attempt + 1)
            result = await super().execute_activity(input)
            self._plan.told.append(input.fn.__name__)
            if self._plan.look() != seen:
                self._plan.changed.append(input.fn.__name__)
        return result


@dataclass
class FirstTriesDie(Interceptor):
    """The first attempt of every activity dies with its worker, before its effect or after it."""

    fault: Fault
    died: set[str] = field(default_factory=set)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Dying(next, self)


class _Dying(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, plan: FirstTriesDie) -> None:
        super().__init__(next)
        self._plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        this = activity.info().activity_id
        if this in self._plan.died:
            return await super().execute_activity(input)
        if self._plan.fault is Fault.AFTER:
            await super().execute_activity(input)
        self._plan.died.add(this)
        raise ApplicationError(f"its worker died in {activity.info().activity_type}")


@dataclass
class CancelsBetweenTries(Interceptor):
    """Tells a story to stop while an activity that failed waits for its next try, in the third wait.

    The third wait lasts 0.8 s, so that a fifth of a second lies well inside of it.
    """

    activity: str
    cancel: Callable[[], Coroutine[Any, Any, None]]

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Between(next, self)


class _Between(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, plan: CancelsBetweenTries) -> None:
        super().__init__(next)
        self._plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if input.fn.__name__ == self._plan.activity and activity.info().attempt == 3:
            loop = asyncio.get_running_loop()
            loop.call_later(0.2, lambda: loop.create_task(self._plan.cancel()))
        return await super().execute_activity(input)
