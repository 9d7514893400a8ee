"""Operations whose story is gone: what it held is taken over, and a person is told to look."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from controlplane.domain.errors import FedctlError, Unavailable
from controlplane.domain.operation import Operation, OperationState, Problem
from controlplane.store.engine import Store
from workflows.activities.endings import EndingActivities, Outcome
from workflows.rounds import rounds

_log = logging.getLogger(__name__)

GONE = (
    "the story of this operation ended at the engine without writing its end down (it was"
    " terminated, or the engine lost it): whatever it was doing stands as it was; look at its"
    " steps, then retry or cancel it, which stops the target and lets the source run again"
)


class Settler:
    """Runs beside a worker.

    No clock breaks a lease: only when the engine says that a story is closed, or knows none, while
    its row says that it runs. The lease stays with the operation under a new epoch, so that a step
    which goes on running somewhere has no effect any more; mending the operation looks at the sites
    before it changes anything.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        endings: EndingActivities,
        clock: Callable[[], datetime],
        *,
        look_every: timedelta = timedelta(minutes=1),
    ) -> None:
        self._store = store
        self._client = client
        self._endings = endings
        self._clock = clock
        self._look_every = look_every

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what cannot be asked now is asked in the next round."""
        await rounds(stop, self._look_every, self._round)

    async def _round(self) -> None:
        try:
            await self.look()
        except (RPCError, FedctlError) as error:
            _log.warning("settling waits: %s", error)

    async def look(self) -> list[Operation]:
        """One round: the operations that were settled in it."""
        running = await asyncio.to_thread(self._running)
        gone = [op for op in running if await self._is_gone(op)]
        for op in gone:
            _log.warning("operation %s has no story any more: it needs attention", op.name)
            await asyncio.to_thread(self._settle, op)
        return gone

    def _running(self) -> list[Operation]:
        with self._store.read() as tx:
            return tx.operations.list(states={OperationState.RUNNING})

    async def _is_gone(self, op: Operation) -> bool:
        try:
            seen = await self._client.get_workflow_handle(str(op.id)).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return True
        return seen.status is not WorkflowExecutionStatus.RUNNING

    def _settle(self, op: Operation) -> None:
        with self._store.begin() as tx:
            if tx.operations.get(op.id).state is not OperationState.RUNNING:
                return  # it wrote its end while we asked
            held = tx.leases.held_by(op.id)
            tx.leases.release_all(op.id)
            tx.leases.take_all(held, op.id, self._clock())
        problem = Problem(code=Unavailable.code, message=GONE)
        self._endings.finish(
            Outcome(operation=str(op.id), state=OperationState.NEEDS_ATTENTION, problem=problem)
        )
