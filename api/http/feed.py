"""One look at the store for all who listen to it in this process, and their end when it stops."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import AsyncGenerator

import uvicorn

from controlplane.domain.errors import Unavailable
from controlplane.services.changes import Batch, Change, Changes

_log = logging.getLogger("fedctl.api")
_HELD = 1000
_STOPPING = 10  # seconds


class Feed:
    """Lives in one event loop. `every` is the time between looks, `beat` between signs of life.

    Nothing is queued for a listener: each takes from what was seen last, or reads from the store
    when it has fallen behind that. While nobody listens nobody looks.
    """

    def __init__(self, changes: Changes, *, every: float = 0.25, beat: float = 15.0) -> None:
        self._changes = changes
        self._every = every
        self._beat = beat
        self._recent: deque[Change] = deque(maxlen=_HELD)
        self._since = self._until = 0
        self._listeners = 0
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    async def listen(self, after: int) -> AsyncGenerator[Batch]:
        """What comes after that event, until `close`; an empty batch after a silent `beat`."""
        self._listeners += 1
        if self._looking is None:
            self._since = self._until = 0  # until the first look all wait
            self._recent.clear()
            self._looking = asyncio.create_task(self._look())
        try:
            while not self._closed:
                news = self._news
                batch = self._held(after)
                if batch is None:
                    batch = await asyncio.to_thread(self._changes.read, after)
                if batch.until == after and not batch.missed:
                    try:
                        await asyncio.wait_for(news.wait(), self._beat)
                        continue
                    except TimeoutError:
                        batch = Batch(until=after)
                after = batch.until
                yield batch
        finally:
            self._listeners -= 1
            if not self._listeners and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def close(self) -> None:
        """Every listener's stream ends."""
        self._closed = True
        self._wake()

    def _held(self, after: int) -> Batch | None:
        """From memory; None where that does not reach back so far."""
        if after < self._since:
            return None
        if after >= self._until:
            return Batch(until=after)
        return Batch(changes=tuple(c for c in self._recent if c.seq > after), until=self._until)

    async def _look(self) -> None:
        while not self._closed:
            try:
                batch = await asyncio.to_thread(self._next)
            except Unavailable as error:
                _log.warning("listeners wait: %s", error)
            else:
                self._keep(batch)
            await asyncio.sleep(self._every)

    def _next(self) -> Batch:
        """The first look begins at the end: what was before is read from the store."""
        if self._until:
            return self._changes.read(self._until)
        _, end = self._changes.place(None)
        return Batch(until=end.until, missed=True)

    def _keep(self, batch: Batch) -> None:
        if batch.until == self._until:
            return
        if batch.missed:
            self._recent.clear()
            self._since = batch.until
        for change in batch.changes:
            if len(self._recent) == _HELD:
                self._since = self._recent[0].seq
            self._recent.append(change)
        self._until = batch.until
        self._wake()

    def _wake(self) -> None:
        old, self._news = self._news, asyncio.Event()
        old.set()


class Server(uvicorn.Server):
    """Ends the streams first: they would hold up a stop for ever."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        config.timeout_graceful_shutdown = _STOPPING
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._feed.close()
        await super().shutdown(sockets)
