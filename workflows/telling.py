"""The log of a worker says of which operation, request, step and attempt it speaks."""

import asyncio
import logging
from collections.abc import Callable
from functools import lru_cache
from uuid import UUID

from structlog.contextvars import bound_contextvars
from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from controlplane.domain.errors import NotFound
from controlplane.domain.ids import OperationId
from controlplane.store.engine import Store
from workflows.failures import NOT_YET

_log = logging.getLogger(__name__)


class TellsOfSteps(Interceptor):
    """Around every activity: what it logs is about its step, and how it failed is logged."""

    def __init__(self, store: Store) -> None:
        self._request_of = lru_cache(maxsize=4096)(lambda story: _request_of(store, story))

    def intercept_activity(
        self,
        next: ActivityInboundInterceptor,  # noqa: A002  # the SDK's name for it
    ) -> ActivityInboundInterceptor:
        return _Telling(next, self._request_of)


class _Telling(ActivityInboundInterceptor):
    def __init__(
        self, following: ActivityInboundInterceptor, request_of: Callable[[str], str]
    ) -> None:
        super().__init__(following)
        self._request_of = request_of

    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002  # same
        info = activity.info()
        story = str(info.workflow_id)
        with bound_contextvars(
            operation=story.partition(".")[0],
            request=await asyncio.to_thread(self._request_of, story),
            step=info.activity_type,
            attempt=info.attempt,
        ):
            _log.debug("step begins")
            try:
                return await self.next.execute_activity(input)
            except ApplicationError as error:
                level = logging.DEBUG if error.type == NOT_YET else logging.WARNING
                _log.log(level, "step failed: %s", error.message, extra={"code": error.type})
                raise
            except (CancelledError, asyncio.CancelledError):
                _log.info("step stopped, as it was told to")
                raise
            except Exception:
                _log.exception("step met a fault of our own")
                raise


def _request_of(store: Store, story: str) -> str:
    """The request that asked for the operation whose story it is; empty where none did."""
    try:
        with store.read() as tx:
            return tx.operations.get(OperationId(UUID(story.partition(".")[0]))).request
    except (ValueError, NotFound):
        return ""
