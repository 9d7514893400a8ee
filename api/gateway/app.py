"""Image files under unguessable addresses: GET and HEAD with ranges, length and digests known.

The address is the only credential, so it never shows up in logs; tokens are looked up by their
SHA-256. Requests are answered from the open image in pieces, each read in a thread.
"""

import asyncio
import logging
import re
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from time import monotonic

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.gateway.ranges import Wanted, wanted
from api.gateway.shelf import Shelf
from controlplane.domain.disk import MIB, BlockReader
from controlplane.domain.errors import FedctlError
from controlplane.domain.placement import Served
from drivers.disks.raw import ByteSource

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,128}")
_PIECE = MIB
_LOOK_AGAIN = 1.0
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416

Owed = Callable[[Served, int], float]
Find = Callable[[str], Served | None]

_log = logging.getLogger(__name__)


def gateway(
    *, find: Find, open_disk: Callable[[Served], BlockReader],
    owed: Owed = lambda _served, _length: 0.0,
) -> Starlette:  # fmt: skip
    """The application. `find` answers for the SHA-256 (hex) of a token; all run in threads.

    `owed`: how many seconds to wait after so many bytes of an image were sent.

    What `find` no longer gives, or gives as revoked, ends within a second, also in the middle.
    """
    shelf = Shelf(open_disk)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(shelf.close)

    async def image(request: Request) -> Response:
        token, form = request.path_params["token"], request.path_params["format"]
        if not _TOKEN.fullmatch(token):
            return _missing()
        token_sha256 = sha256(token.encode()).hexdigest()
        try:
            served = await run_in_threadpool(_living, find, token_sha256)
        except FedctlError as e:
            _log.error("images cannot be looked up: %s", e, extra={"code": e.code})
            return PlainTextResponse("images cannot be looked up just now\n", 503)
        if served is None or served.format != form:
            return _missing()
        living = lambda: _living(find, token_sha256) is not None  # noqa: E731  # one use
        return _answer(request, served, shelf, living, owed)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/images/{token}.{format}", image, methods=["GET", "HEAD"]),
            Route("/healthz", health),
        ],
        lifespan=lifespan,
    )


def server(
    app: Starlette, *, host: str, port: int, certificate: Path | None = None,
    key: Path | None = None,
) -> uvicorn.Server:  # fmt: skip
    """A server for the application that writes no addresses down; HTTPS with a certificate."""
    return uvicorn.Server(
        uvicorn.Config(
            app, host=host, port=port, access_log=False, log_config=None, server_header=False,
            timeout_keep_alive=30, lifespan="on", ssl_certfile=certificate, ssl_keyfile=key,
        )
    )  # fmt: skip


def listening(host: str, port: int) -> socket.socket:
    """A socket to serve on, for a process that must know its port first (0 takes a free one).

    Answers leave at once: asyncio turns Nagle's delay off only on sockets that it made itself.
    """
    made = socket.create_server((host, port), family=_family(host))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _living(find: Find, token_sha256: str) -> Served | None:
    served = find(token_sha256)
    return None if served is None or served.revoked else served


def _missing() -> Response:
    return PlainTextResponse("there is no such image, or it is not served any more\n", 404)


def _answer(
    request: Request, served: Served, shelf: Shelf, living: Callable[[], bool], owed: Owed
) -> Response:
    etag = f'"{served.sha256}"'
    digests = f"sha-256={_structured(served.sha256)}, sha-512={_structured(served.sha512)}"
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
        "Content-Type": "application/octet-stream",
        "ETag": etag,
        "Repr-Digest": digests,
        "X-Content-Type-Options": "nosniff",
    }
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(served.length)})
    part = wanted(request.headers, size=served.length, etag=etag)
    if part.status == _NOT_SATISFIABLE:
        headers["Content-Range"] = f"bytes */{served.length}"
    if part.status not in {_OK, _PARTIAL}:
        return Response(status_code=part.status, headers=headers)
    if part.status == _PARTIAL:
        last = part.start + part.length - 1
        headers["Content-Range"] = f"bytes {part.start}-{last}/{served.length}"
    headers["Content-Length"] = str(part.length)
    return _Pieces(served=served, part=part, shelf=shelf, living=living, owed=owed, headers=headers)


def _structured(hexadecimal: str) -> str:
    """A digest as RFC 9530 writes it."""
    return f":{b64encode(bytes.fromhex(hexadecimal)).decode()}:"


class _Pieces(Response):
    """A part of an image, read while it is sent."""

    def __init__(
        self, *, served: Served, part: Wanted, shelf: Shelf, living: Callable[[], bool],
        owed: Owed, headers: dict[str, str],
    ) -> None:  # fmt: skip
        super().__init__(status_code=part.status, headers=headers)
        self._served = served
        self._part = part
        self._shelf = shelf
        self._living = living
        self._owed = owed
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An end before the announced length closes the connection, which the client notices."""
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            image = await run_in_threadpool(self._shelf.take, self._served)
            try:
                await self._send(image, send, gone)
            finally:
                await run_in_threadpool(self._shelf.give_back, self._served, image)
        except FedctlError as e:
            about = {"code": e.code, "operation": str(self._served.operation)}
            _log.error("image broke off: %s", e, extra=about)
            if not self._begun:
                await PlainTextResponse("the image cannot be read\n", 500)(scope, receive, send)
        finally:
            gone.cancel()

    async def _send(self, image: ByteSource, send: Send, gone: "asyncio.Future[None]") -> None:
        at, end = self._part.start, self._part.start + self._part.length
        looked = monotonic()
        first = await run_in_threadpool(image.read, at, min(_PIECE, end - at))
        self._begun = True
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        piece = first
        while not gone.done():
            at += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": at < end})
            if at >= end:
                return
            owed = await run_in_threadpool(self._owed, self._served, len(piece))
            if owed > 0:
                await asyncio.wait({gone}, timeout=owed)
            if monotonic() - looked > _LOOK_AGAIN:
                if not await run_in_threadpool(self._living):
                    return
                looked = monotonic()
            piece = await run_in_threadpool(image.read, at, min(_PIECE, end - at))


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
