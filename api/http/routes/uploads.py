"""The bytes of an upload: sent in parts, resumed where they broke off."""

import re
from collections.abc import AsyncIterator

from anyio import from_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from api.http.documents import answers
from api.http.door import admitted
from api.http.errors import query_refused
from api.http.render import render
from api.http.routes.kinds import collection_path, operation_headers
from api.http.settings import MIB
from controlplane.domain.errors import Invalid
from controlplane.domain.kinds import Verb, facts
from controlplane.domain.resource import Kind
from controlplane.services import Services

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class UploadEndpoints:
    def __init__(self, services: Services) -> None:
        self._services = services

    def data(self, request: Request, name: str) -> Response:
        entry = facts(Kind.IMAGE_UPLOAD)
        caller = admitted(self._services, request, entry, Verb.PUT, name=name)
        key = entry.key(name, request.path_params["tenant"], None)
        first, last, total = _content_range(request)
        uploads = self._services.uploads
        chunks = _gathered(request)
        with uploads.receiving(key, first, total) as receiver:
            try:
                while chunk := from_thread.run(_next, chunks):
                    if receiver.received + len(chunk) > last + 1:
                        raise Invalid("more bytes came than Content-Range says: send them again")
                    receiver.write(chunk)
            except ClientDisconnect as e:
                raise Invalid(
                    f"upload {name} broke off at byte {receiver.received}: send the rest"
                ) from e
            short = last + 1 - receiver.received
        if short:
            raise Invalid(f"{short} bytes fewer came than Content-Range says: send the rest")
        granted = uploads.complete(caller, key)
        region = self._services.settings.region
        return JSONResponse(
            render(entry, granted.resource, verb="PUT", region=region),
            headers=operation_headers(granted.operation),
        )


def _content_range(request: Request) -> tuple[int, int, int]:
    """First and last byte of this part, and how many there are in all."""
    text = request.headers.get("Content-Range", "")
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise query_refused("Content-Range", "write bytes FIRST-LAST/TOTAL")
    first, last, total = (int(part) for part in match.groups())
    if not first <= last < total:
        raise query_refused("Content-Range", f"{text[:80]!r} is no part of a file")
    return first, last, total


async def _gathered(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a crossing between threads.

    When the client goes away, what it sent before is handed on first.
    """
    pieces = bytearray()
    gone: ClientDisconnect | None = None
    try:
        async for piece in request.stream():
            pieces += piece
            if len(pieces) >= MIB:
                yield bytes(pieces)
                pieces.clear()
    except ClientDisconnect as e:
        gone = e
    if pieces:
        yield bytes(pieces)
    if gone is not None:
        raise gone


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    return await anext(chunks, b"")


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["fedctl.images/v1"])
    routes.add_api_route(
        f"{collection_path(facts(Kind.IMAGE_UPLOAD))}/{{name}}/data",
        UploadEndpoints(services).data,
        methods=["PUT"],
        operation_id="put-image-upload-data",
        response_class=Response,
        openapi_extra={
            "parameters": [
                {
                    "name": place,
                    "in": where,
                    "required": True,
                    "schema": {"type": "string"},
                }
                for place, where in (("tenant", "path"), ("Content-Range", "header"))
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            },
            "responses": answers("200", "How much has arrived.", "ImageUploadOut"),
        },
    )
    return routes
