"""A part of an image on its way to a client, read while it is sent."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from api.gateway.ranges import Wanted
from api.gateway.shelf import Shelf
from controlplane.domain.disk import MIB
from controlplane.domain.errors import FedctlError
from controlplane.domain.placement import Served
from drivers.disks.raw import ByteSource

PIECE = MIB
_STALLED = 300.0

_log = logging.getLogger(__name__)


class Pieces:
    """An answer in pieces: one is sent while the next is read.

    An end before the announced length closes the connection, which the client notices: where data
    is damaged, where `pay` (the seconds to wait after so many bytes) tells that nothing is served
    any more (None), and where a client takes nothing for five minutes.
    """

    def __init__(
        self, *, served: Served, part: Wanted, shelf: Shelf,
        pay: Callable[[int], Awaitable[float | None]], headers: Sequence[tuple[bytes, bytes]],
    ) -> None:  # fmt: skip
        self._served = served
        self._part = part
        self._shelf = shelf
        self._pay = pay
        self._headers = headers
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            async with self._shelf.image(self._served) as image:
                await self._send(image, send, gone)
        except FedctlError as e:
            about = {"code": e.code, "operation": str(self._served.operation)}
            _log.error("image broke off: %s", e, extra=about)
            if not self._begun:
                await PlainTextResponse("the image cannot be read\n", 500)(scope, receive, send)
        finally:
            gone.cancel()

    async def _send(self, image: ByteSource, send: Send, gone: "asyncio.Future[None]") -> None:
        at, end = self._part.start, self._part.start + self._part.length
        piece = await self._shelf.read(image, at, min(PIECE, end - at))
        self._begun = True
        status, headers = self._part.status, self._headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        while not gone.done():
            at += len(piece)
            message = {"type": "http.response.body", "body": piece, "more_body": at < end}
            if at >= end:
                await self._pay(len(piece))
                await self._taken(send(message))
                return
            ahead = asyncio.ensure_future(self._shelf.read(image, at, min(PIECE, end - at)))
            try:
                wait = await self._pay(len(piece)) if await self._taken(send(message)) else None
                if wait is None:
                    return
                if wait > 0:
                    await asyncio.wait({gone}, timeout=wait)
            finally:
                # The image must not be closed under it.
                await asyncio.wait({ahead})
                _ = ahead.exception()
            piece = ahead.result()

    async def _taken(self, sending: Awaitable[None]) -> bool:
        """Whether the client took it before it counts as stalled."""
        try:
            async with asyncio.timeout(_STALLED):
                await sending
        except TimeoutError:
            about = {"operation": str(self._served.operation)}
            _log.warning("image broke off: its client has stopped reading", extra=about)
            return False
        return True


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
