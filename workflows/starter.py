"""Lets moves take turns, and tells Temporal what the outbox says: start this story, cancel that."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic

from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from controlplane.domain.admission import Bounds
from controlplane.domain.errors import FedctlError
from controlplane.domain.ids import OperationId
from controlplane.domain.operation import OperationKind
from controlplane.services.admission import admit
from controlplane.store.engine import Store
from controlplane.store.outbox import OutboxItem
from workflows.calls import OperationOrder
from workflows.mend_operation import MendOperation
from workflows.move_instance import MoveInstance
from workflows.options import QUEUE
from workflows.worker import STORIES

_log = logging.getLogger(__name__)
_LIMITS_EVERY = 1.0


class Starter:
    """One runs beside each worker; that two say the same thing does no harm.

    `pause` is the time between looks into the outbox, in seconds. `bounds` are those on moves.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        clock: Callable[[], datetime],
        *,
        queue: str = QUEUE,
        pause: float = 0.05,
        bounds: Bounds | None = None,
    ) -> None:
        self._store = store
        self._client = client
        self._clock = clock
        self._queue = queue
        self._pause = pause
        self._bounds = bounds or Bounds()
        self._seen: tuple[int, int] = (0, 0)
        self._look_again = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what cannot be told now is told later."""
        while not stop.is_set():
            pause = self._pause
            try:
                told = await self.tell()
            except (RPCError, FedctlError) as error:
                _log.warning("the outbox waits: %s", error)
                told, pause = 0, 1.0
            if not told:
                await _quiet(stop, pause)

    async def tell(self) -> int:
        """Pass on what is pending now; answer how much it was."""
        items = await asyncio.to_thread(self._next)
        for item, kind in items:
            if item.what == "start":
                await self._start(item.operation, kind)
            elif item.what == "cancel":
                await self._cancel(item.operation)
            elif item.what == "nudge":
                await self._nudge(item.operation)
            elif item.what == "mend":
                await self._mend(item)
            await asyncio.to_thread(self._done, item)
        return len(items)

    def _next(self) -> list[tuple[OutboxItem, OperationKind]]:
        with self._store.read() as tx:
            counted = tx.admissions.counted()
        if self._takes_turns(counted):
            with self._store.begin() as tx:
                admit(tx, self._bounds, self._clock())
                self._seen = tx.admissions.counted()
        with self._store.read() as tx:
            return [
                (item, tx.operations.get(item.operation).kind) for item in tx.outbox.pending(100)
            ]

    def _takes_turns(self, counted: tuple[int, int]) -> bool:
        """Whether somebody waits and something changed: a move more or less, or a limit perhaps."""
        there, admitted = counted
        now = monotonic()
        if there == admitted or (counted == self._seen and now < self._look_again):
            return False
        self._look_again = now + _LIMITS_EVERY
        return True

    def _done(self, item: OutboxItem) -> None:
        with self._store.begin() as tx:
            tx.outbox.done(item.seq)

    async def _start(self, operation: OperationId, kind: OperationKind) -> None:
        _log.info("operation starts", extra={"operation": str(operation), "kind": kind.value})
        try:
            await self._client.start_workflow(
                STORIES[kind].run,
                OperationOrder(operation=str(operation)),
                id=str(operation),
                task_queue=self._queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )
        except WorkflowAlreadyStartedError:
            _log.debug("started before")

    async def _mend(self, item: OutboxItem) -> None:
        try:
            await self._client.start_workflow(
                MendOperation.run,
                OperationOrder(operation=str(item.operation)),
                id=f"{item.operation}.{item.seq}",
                task_queue=self._queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )
        except WorkflowAlreadyStartedError:
            _log.debug("mended before")

    async def _nudge(self, operation: OperationId) -> None:
        try:
            await self._client.get_workflow_handle(str(operation)).signal(MoveInstance.nudge)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def _cancel(self, operation: OperationId) -> None:
        try:
            await self._client.get_workflow_handle(str(operation)).cancel()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise


async def _quiet(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
