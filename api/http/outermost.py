"""Around every request: its id, the limit on its body, and the answer to what nobody foresaw."""

import logging
import re
from time import monotonic
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api.http.errors import problem

log = logging.getLogger("fedctl.api")

HEADER = "X-Request-Id"
_GIVEN = re.compile(r"[A-Za-z0-9._-]{8,64}")
_TOO_LARGE, _BAD = 413, 400
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
        with bound_contextvars(request=scope["fedctl.request"]):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = monotonic(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = scope["fedctl.request"]
                headers["Cache-Control"] = "no-store"
            await send(message)

        limited = _Limited(scope, receive, self._body_max)
        try:
            if limited.declared_too_large():
                await self._refuse(scope, receive, tell)
            else:
                await self._app(scope, limited.receive, tell)
        except BodyTooLarge:
            await self._refuse(scope, receive, tell)
        except Exception:
            log.exception("request %s met a fault of our own", scope["fedctl.request"])
            if status:
                raise
            answer = problem(
                Request(scope, receive),
                500,
                "the control plane met a fault of its own; nothing is known to be lost:"
                " report it with the request id",
                code="internal",
            )
            await answer(scope, receive, tell)
        finally:
            _tell_of(scope, status, monotonic() - began)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = problem(
            Request(scope, receive),
            _TOO_LARGE,
            f"the body is larger than {self._body_max} bytes: send less",
            code="invalid",
        )
        await answer(scope, receive, send)


def _tell_of(scope: Scope, status: int, seconds: float) -> None:
    """What was asked and answered; no query and no header, there could be a secret in them.

    Reading that went well is told only to those who want to know everything.
    """
    plain = scope["method"] in {"GET", "HEAD"} and status < _BAD
    log.log(
        logging.DEBUG if plain else logging.INFO,
        "%s %s",
        scope["method"],
        scope["path"],
        extra={"status": status, "seconds": round(seconds, 3)},
    )


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
