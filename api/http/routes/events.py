"""What changes, as server-sent events that a listener can resume by their cursor."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from api.http.documents import answers
from api.http.door import identified
from api.http.feed import Feed
from controlplane.domain.errors import Denied
from controlplane.services import Services
from controlplane.services.changes import Audience, Batch

BASE = "/providers/fedctl.federation/v1"
_PLACES = {
    "global": (),
    "tenant": ("tenant",),
    "workspace": ("tenant", "workspace"),
}
_HEADERS = {"X-Accel-Buffering": "no"}  # a proxy that collects answers would deliver them late


class EventEndpoint:
    def __init__(self, services: Services, feed: Feed) -> None:
        self._services = services
        self._feed = feed

    def follow(self, request: Request) -> Response:
        places = request.path_params
        audience = self._services.changes.audience(
            lambda: identified(self._services, request),
            places.get("tenant"),
            places.get("workspace"),
        )
        cursor = request.headers.get("Last-Event-ID") or request.query_params.get("since")
        incarnation, start = self._services.changes.place(cursor)
        return StreamingResponse(
            _told(self._feed, audience, incarnation, start),
            media_type="text/event-stream",
            headers=_HEADERS,
        )


async def _told(
    feed: Feed, audience: Audience, incarnation: UUID, start: Batch
) -> AsyncGenerator[str]:
    """An id without data moves a client's cursor and shows it nothing: the beat is one."""
    yield _reset(incarnation, start) if start.missed else _beat(incarnation, start)
    async with aclosing(feed.listen(start.until)) as batches:
        async for batch in batches:
            try:
                heard = await asyncio.to_thread(audience.heard, batch.changes)
            except Denied:
                return  # the token holds no more: whoever comes back is told so at the door
            if batch.missed:
                yield _reset(incarnation, batch)
                continue
            lines = [
                f"id: {incarnation}.{change.seq}\ndata: {json.dumps(change.document())}\n\n"
                for change in heard
            ]
            yield "".join(lines) or _beat(incarnation, batch)


def _beat(incarnation: UUID, batch: Batch) -> str:
    return f": beat\nid: {incarnation}.{batch.until}\n\n"


def _reset(incarnation: UUID, batch: Batch) -> str:
    return f"event: reset\nid: {incarnation}.{batch.until}\ndata: {{}}\n\n"


def router(services: Services, feed: Feed) -> APIRouter:
    endpoint = EventEndpoint(services, feed)
    routes = APIRouter(tags=["fedctl.federation/v1"])
    for scope, places in _PLACES.items():
        inside = "".join(f"/{place}s/{{{place}}}" for place in places)
        described = answers("200", "Changes as they are committed, until the client leaves.")
        described["200"]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
        routes.add_api_route(
            f"{BASE}{inside}/events",
            endpoint.follow,
            methods=["GET"],
            operation_id=f"follow-{scope}-events",
            response_class=Response,
            openapi_extra={
                "parameters": [
                    *(_parameter("path", place) for place in places),
                    _parameter("query", "since"),
                    _parameter("header", "Last-Event-ID"),
                ],
                "responses": described,
                "summary": "Follow what changes; since or Last-Event-ID go on where one was",
            },
        )
    return routes


def _parameter(where: str, name: str) -> dict[str, object]:
    return {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}
