"""The endpoints of every kind, made from the table of kinds."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.http.documents import describe_action, describe_item, describe_list
from api.http.door import RawBody, admitted, expected_version, parsed
from api.http.paging import Pages
from api.http.render import ZONAL, operation_ref, render
from api.schemas.kinds import shapes
from controlplane.domain.ids import checked_name
from controlplane.domain.kinds import KINDS, KindFacts, Scope, Verb
from controlplane.domain.operation import Operation
from controlplane.domain.resource import Resource, ResourceKey
from controlplane.services import Services
from controlplane.services.wish import Wish
from controlplane.store.resources import cursor

OPERATION_HEADER = "Fedctl-Operation"
_PREFIX = {
    Scope.GLOBAL: "",
    Scope.TENANT: "/tenants/{tenant}",
    Scope.WORKSPACE: "/tenants/{tenant}/workspaces/{workspace}",
}


class KindEndpoints:
    """One kind under one scope."""

    def __init__(self, services: Services, entry: KindFacts, pages: Pages) -> None:
        self._services = services
        self._entry = entry
        self._pages = pages
        self._cases = services.cases[entry.kind]

    def list(self, request: Request) -> Response:
        caller = admitted(self._services, request, self._entry, Verb.LIST)
        places = request.path_params
        page = self._pages.asked(request, places.get("tenant"), places.get("workspace"))
        found = self._cases.list(caller, replace(page, limit=page.limit + 1))
        shown = list(islice(found, page.limit))
        metadata: dict[str, object] = {
            "provider": self._entry.provider,
            "resource": self._entry.collection,
            "verb": "GET",
        }
        if len(found) > len(shown):
            last = shown[-1]
            after = last.key.name if page.deleted == "live" else cursor(last)
            metadata["skipToken"] = self._pages.token(request.url.path, after)
        items = self._rendered(shown, "GET")
        return JSONResponse({"items": items, "metadata": metadata})

    def get(self, request: Request, name: str) -> Response:
        caller = admitted(self._services, request, self._entry, Verb.GET, name=name)
        found = self._cases.get(caller, self._key(request, name))
        return JSONResponse(self._rendered([found], "GET")[0])

    def put(self, request: Request, name: str, raw: RawBody) -> Response:
        caller = admitted(self._services, request, self._entry, Verb.PUT, name=name)
        body = parsed(request, raw, shapes(self._entry).request)
        checked_name(name)
        wish = Wish(
            spec=body.spec.json_map(),
            labels=body.labels,
            annotations=body.annotations,
            extensions=body.extensions,
            expected=expected_version(request),
        )
        granted = self._cases.put(caller, self._key(request, name), wish)
        return JSONResponse(
            self._rendered([granted.resource], "PUT")[0],
            status_code=201 if granted.created else 200,
            headers=operation_headers(granted.operation),
        )

    def delete(self, request: Request, name: str) -> Response:
        caller = admitted(self._services, request, self._entry, Verb.DELETE, name=name)
        key = self._key(request, name)
        operation = self._cases.delete(caller, key, expected_version(request))
        return Response(status_code=202, headers=operation_headers(operation))

    def act(self, request: Request, name: str, *, action: str) -> Response:
        caller = admitted(self._services, request, self._entry, Verb.POST, name=name, action=action)
        key = self._key(request, name)
        options = dict(request.query_params)
        operation = self._cases.act(caller, key, action, expected_version(request), options)
        return Response(status_code=202, headers=operation_headers(operation))

    def _key(self, request: Request, name: str) -> ResourceKey:
        places = request.path_params
        return self._entry.key(name, places.get("tenant"), places.get("workspace"))

    def _rendered(self, found: Sequence[Resource], verb: str) -> Sequence[dict[str, object]]:
        regions = self._services.regions
        zones = regions.zones() if self._entry.kind in ZONAL else {}
        return [
            render(self._entry, each, verb=verb, region=regions.locate(zones, each))
            for each in found
        ]


def router(services: Services, pages: Pages) -> APIRouter:
    """All kinds, each below the base URL of its provider."""
    routes = APIRouter()
    for entry in KINDS:
        _add(routes, KindEndpoints(services, entry, pages), entry)
    return routes


def collection_path(entry: KindFacts) -> str:
    return f"/providers/{entry.area}/{entry.version}{_PREFIX[entry.scope]}/{entry.collection}"


def operation_headers(operation: Operation | None) -> dict[str, str]:
    """Where the work that a request started is to be watched."""
    return {} if operation is None else {OPERATION_HEADER: operation_ref(operation)}


def _add(routes: APIRouter, endpoints: KindEndpoints, entry: KindFacts) -> None:
    collection = collection_path(entry)
    item = f"{collection}/{{name}}"

    def add(path: str, method: str, endpoint: Any, document: dict[str, Any]) -> None:  # noqa: ANN401  # FastAPI's own word
        name = f"{method.lower()}-{path}"
        routes.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=name,
            operation_id=document.pop("operationId"),
            openapi_extra=document,
            response_class=Response,
            responses={},
            tags=[entry.provider],
        )

    if Verb.LIST in entry.verbs:
        add(collection, "GET", endpoints.list, describe_list(entry))
    if Verb.GET in entry.verbs:
        add(item, "GET", endpoints.get, describe_item(entry, "get"))
    if Verb.PUT in entry.verbs:
        add(item, "PUT", endpoints.put, describe_item(entry, "put"))
    if Verb.DELETE in entry.verbs:
        add(item, "DELETE", endpoints.delete, describe_item(entry, "delete"))
    for action in entry.actions:
        act = partial(endpoints.act, action=action)
        add(f"{item}/{action}", "POST", act, describe_action(entry, action))
