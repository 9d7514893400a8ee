"""The worker beats for its steps: its death is noticed in seconds, not at their timeout."""

import asyncio

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from workflows.options import ALIVE

EVERY = ALIVE / 5


class BeatsForSteps(Interceptor):
    """For activities whose heartbeat timeout is `ALIVE`; copies beat for themselves as they go."""

    def intercept_activity(
        self,
        next: ActivityInboundInterceptor,  # noqa: A002  # the SDK's name for it
    ) -> ActivityInboundInterceptor:
        return _Beating(next)


class _Beating(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002  # same
        if activity.info().heartbeat_timeout != ALIVE:
            return await self.next.execute_activity(input)
        beats = asyncio.create_task(_beat())
        try:
            return await self.next.execute_activity(input)
        finally:
            beats.cancel()


async def _beat() -> None:
    while True:
        await asyncio.sleep(EVERY.total_seconds())
        # From a thread, as the activity itself would: there the SDK takes beats of sync activities.
        await asyncio.to_thread(activity.heartbeat)
