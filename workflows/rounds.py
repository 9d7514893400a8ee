"""What looks round and round beside a worker, until it is told to stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

_log = logging.getLogger(__name__)


async def side_by_side(*runs: Awaitable[None]) -> None:
    """All of them to their ends, then what the first raised that broke.

    That one broke is told at once: the others go on, and its work is not done any more.
    """

    async def told(run: Awaitable[None]) -> None:
        try:
            await run
        except Exception:
            _log.exception("a part of this worker ended: start the worker again")
            raise

    ended = await asyncio.gather(*map(told, runs), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error


async def rounds(
    stop: asyncio.Event, every: timedelta, look: Callable[[], Awaitable[object]]
) -> None:
    """`look` each time that `every` has passed; what it raises ends the rounds."""
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), every.total_seconds())
        except TimeoutError:
            await look()
