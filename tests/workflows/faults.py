"""Break one activity call on purpose."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor


class Fault(Enum):
    BEFORE = "fails before its effect"
    AFTER = "fails after its effect"
    TWICE = "runs twice"


@dataclass
class FaultAt(Interceptor):
    """Breaks the nth successful-or-not call of one activity; counts what it sees."""

    activity: str
    nth: int
    fault: Fault | None
    seen: int = field(default=0, init=False)
    hit: bool = field(default=False, init=False)
    calls: list[str] = field(default_factory=list, init=False)
    then: Callable[[], None] = field(default=lambda: None)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, plan: FaultAt) -> None:
        super().__init__(next)
        self._plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        plan = self._plan
        name = input.fn.__name__
        if name != plan.activity:
            result = await super().execute_activity(input)
            plan.calls.append(name)
            return result
        plan.seen += 1
        hit = plan.seen == plan.nth
        if hit:
            plan.hit = True
        if hit and plan.fault is Fault.BEFORE:
            raise ApplicationError("injected", non_retryable=True)
        result = await super().execute_activity(input)
        plan.calls.append(name)
        if hit:
            plan.then()
        if hit and plan.fault is Fault.AFTER:
            raise ApplicationError("injected", non_retryable=True)
        if hit and plan.fault is Fault.TWICE:
            return await super().execute_activity(input)
        return result
