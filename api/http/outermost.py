"""Around every request: its id, the limit on its body, and the answer to what nobody foresaw."""

import logging
import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import problem

log = logging.getLogger("fedctl.api")

HEADER = "X-Request-Id"
_GIVEN = re.compile(r"[A-Za-z0-9._-]{8,64}")
_TOO_LARGE = 413
_BYTES_PATH = re.compile(r"/providers/fedctl\.images/v1/.*/data")


class Outermost:
    """Pure ASGI, so that streamed bodies pass through untouched."""

    def __init__(self, app: ASGIApp, *, body_max: int) -> None:
        self._app = app
        self._body_max = body_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        scope["fedctl.request"] = given if _GIVEN.fullmatch(given) else uuid4().hex
        started = False

        async def tell(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers[HEADER] = scope["fedctl.request"]
                headers["Cache-Control"] = "no-store"
            await send(message)

        limited = _Limited(scope, receive, self._body_max)
        if limited.declared_too_large():
            await self._refuse(scope, receive, tell)
            return
        try:
            await self._app(scope, limited.receive, tell)
        except BodyTooLarge:
            await self._refuse(scope, receive, tell)
        except Exception:
            log.exception("request %s failed", scope["fedctl.request"])
            if started:
                raise
            answer = problem(
                Request(scope, receive),
                500,
                "the control plane met a fault of its own; nothing is known to be lost:"
                " report it with the request id",
                code="internal",
            )
            await answer(scope, receive, tell)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = problem(
            Request(scope, receive),
            _TOO_LARGE,
            f"the body is larger than {self._body_max} bytes: send less",
            code="invalid",
        )
        await answer(scope, receive, send)


class BodyTooLarge(Exception):  # said to the middleware only
    """More bytes came than a request may have."""


class _Limited:
    def __init__(self, scope: Scope, receive: Receive, most: int) -> None:
        self._receive = receive
        self._declared = Headers(scope=scope).get("Content-Length", "")
        self._most = None if _BYTES_PATH.fullmatch(scope["path"]) else most
        self._seen = 0

    def declared_too_large(self) -> bool:
        if self._most is None or not self._declared.isdecimal():
            return False
        return int(self._declared) > self._most

    async def receive(self) -> Message:
        message = await self._receive()
        if self._most is not None and message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self._seen > self._most:
                raise BodyTooLarge
        return message
