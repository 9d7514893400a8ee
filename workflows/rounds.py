"""What looks round and round beside a worker, until it is told to stop."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta


async def rounds(
    stop: asyncio.Event, every: timedelta, look: Callable[[], Awaitable[object]]
) -> None:
    """`look` each time that `every` has passed; what it raises ends the rounds."""
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), every.total_seconds())
        except TimeoutError:
            await look()
