"""Image files under unguessable addresses: GET and HEAD with ranges, length and digests known.

The address is the only credential, so it never shows up in logs; tokens are looked up by their
SHA-256. An image may expire, and may be for certain clients only: to all others it is not there.
Small parts come from blocks that all clients share; others are read in threads while they are sent.
"""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api.gateway.access import Access, Find, Open, may_fetch
from api.gateway.asking import Asking
from api.gateway.ranges import Wanted, wanted
from api.gateway.sending import Pieces
from api.gateway.shelf import Shelf
from controlplane.domain.disk import KIB, MIB, BlockReader, DiskFormat
from controlplane.domain.errors import FedctlError
from controlplane.domain.placement import Served

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,128}")
_SMALL = 256 * KIB
_UNPAID = MIB
_CLIENTS = 128
PATIENCE = 30
"""Seconds that a connection may take for its next request."""
_PARTIAL, _OK, _NOT_SATISFIABLE = 206, 200, 416
_CONDITIONS = ("if-match", "if-none-match", "if-range", "range")

Owed = Callable[[Served, int], float]

_log = logging.getLogger(__name__)


def gateway(
    *, find: Find, open_disk: Callable[[Served], BlockReader],
    owed: Owed = lambda _served, _length: 0.0,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Starlette:  # fmt: skip
    """The application. `find` answers for the SHA-256 (hex) of a token; all run in threads.

    `owed`: how many seconds to wait after so many bytes of an image were sent.

    What has expired by `clock` ends at once, and what `find` no longer gives, or gives as revoked,
    within a second, also in the middle of an answer.
    """
    shelf, access = Shelf(open_disk), Access(find, clock)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await shelf.close()

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            # A class, so that it gets the bare request: wrapping it takes as long as answering.
            Route("/images/{token}.{format}", _Images(access, shelf, owed), methods=["GET"]),
            Route("/healthz", health),
        ],
        lifespan=lifespan,
    )


def server(
    app: Starlette, *, host: str, port: int, certificate: Path | None = None,
    key: Path | None = None, proxies: Sequence[str] = (),
) -> uvicorn.Server:  # fmt: skip
    """A server for the application that writes no addresses down; HTTPS with a certificate.

    `proxies` are the addresses and networks whose X-Forwarded-For is believed; else the peer's
    address counts. More than 128 clients at a time are told to come again; a connection that asks
    for nothing in time ends.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app, host=host, port=port, access_log=False, log_config=None, server_header=False,
            timeout_keep_alive=PATIENCE, lifespan="on", ssl_certfile=certificate, ssl_keyfile=key,
            proxy_headers=bool(proxies), forwarded_allow_ips=list(proxies),
            limit_concurrency=_CLIENTS, http=Asking,
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


class _Images:
    """Answers for one image after another."""

    def __init__(self, access: Access, shelf: Shelf, owed: Owed) -> None:
        self._access, self._shelf, self._owed = access, shelf, owed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> ASGIApp:
        token, form = scope["path_params"]["token"], scope["path_params"]["format"]
        if not _TOKEN.fullmatch(token):
            return _missing()
        token_sha256 = sha256(token.encode()).hexdigest()
        image = self._access.remembered(token_sha256)
        if image is None:
            try:
                image = await run_in_threadpool(self._access.look, token_sha256)
            except FedctlError as e:
                return _not_just_now(e)
        if image is None or form != DiskFormat(image.served.format).called:
            return _missing()
        if not may_fetch(image.served, (scope.get("client") or (None,))[0]):
            return _missing()
        return await self._of(image, token_sha256, scope)

    async def _of(self, image: Open, token_sha256: str, scope: Scope) -> ASGIApp:
        served, reading = image.served, scope["method"] != "HEAD"
        asked = _conditions(Headers(scope=scope))
        part = wanted(asked, size=served.length, etag=image.etag, ranged=reading)
        if part.status not in {_OK, _PARTIAL}:
            return _Told(part.status, image.headers, _unsatisfied(part, served.length))
        headers = [*image.headers, *_lengths(part, served.length)]
        if not reading:
            return _Told(part.status, headers)
        if part.length > _SMALL:
            return Pieces(
                served=served, part=part, shelf=self._shelf, headers=headers,
                pay=lambda length: self._pay(image, token_sha256, length),
            )  # fmt: skip
        data = self._shelf.kept(served, part.start, part.length)
        if data is None:
            try:
                data = await self._shelf.small(served, part.start, part.length)
            except FedctlError as e:
                about = {"code": e.code, "operation": str(served.operation)}
                _log.error("image cannot be read: %s", e, extra=about)
                return PlainTextResponse("the image cannot be read\n", 500)
        image.unpaid += part.length
        if image.unpaid >= _UNPAID:
            try:
                await asyncio.sleep(await self._pay(image, token_sha256, 0) or 0)
            except FedctlError as e:
                return _not_just_now(e)
        return _Told(part.status, headers, body=data)

    async def _pay(self, image: Open, token_sha256: str, length: int) -> float | None:
        """Seconds to wait after that much more; None when the token opens nothing any more."""
        if self._access.remembered(token_sha256) is None:
            try:
                found = await run_in_threadpool(self._access.look, token_sha256)
            except FedctlError as e:
                _log.error("images cannot be looked up: %s", e, extra={"code": e.code})
                return None
            if found is None:
                return None
        image.unpaid, due = 0, image.unpaid + length
        return await run_in_threadpool(self._owed, image.served, due)


class _Told:
    """An answer at once."""

    def __init__(
        self, status: int, headers: Sequence[tuple[bytes, bytes]],
        more: Sequence[tuple[bytes, bytes]] = (), body: bytes = b"",
    ) -> None:  # fmt: skip
        self._status, self._headers, self._body = status, [*headers, *more], body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # as ASGI calls it
        status, headers = self._status, self._headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


def _not_just_now(error: FedctlError) -> Response:
    _log.error("images cannot be looked up: %s", error, extra={"code": error.code})
    return PlainTextResponse("images cannot be looked up just now\n", 503)


def _missing() -> Response:
    return PlainTextResponse("there is no such image, or it is not served any more\n", 404)


def _conditions(headers: Headers) -> dict[str, str]:
    return {
        name: ", ".join(given) for name in _CONDITIONS if (given := headers.getlist(name))
    }  # fmt: skip


def _lengths(part: Wanted, size: int) -> list[tuple[bytes, bytes]]:
    length = (b"content-length", b"%d" % part.length)
    if part.status != _PARTIAL:
        return [length]
    last = part.start + part.length - 1
    return [length, (b"content-range", b"bytes %d-%d/%d" % (part.start, last, size))]


def _unsatisfied(part: Wanted, size: int) -> list[tuple[bytes, bytes]]:
    nothing = [(b"content-length", b"0")]
    if part.status == _NOT_SATISFIABLE:
        return [*nothing, (b"content-range", b"bytes */%d" % size)]
    return [] if part.status == 304 else nothing  # noqa: PLR2004  # it tells of the whole's headers
