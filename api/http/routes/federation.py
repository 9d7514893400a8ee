"""Beside the kinds: credentials of sites, the sweep and orphans, and the audit log as a whole."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from api.http.documents import answers, body
from api.http.door import RawBody, admitted, entered, parsed
from api.http.metrics import CONTENT_TYPE, exposition
from api.http.routes.kinds import collection_path, operation_headers
from api.schemas.fedctl import AdoptionIn, CredentialsIn
from controlplane.domain.kinds import Scope, Verb, facts
from controlplane.domain.resource import Kind
from controlplane.services import Services
from controlplane.services.extensions import EXTENSION_KEYS

BASE = "/providers/fedctl.federation/v1"


class FederationEndpoints:
    def __init__(self, services: Services) -> None:
        self._services = services

    def credentials(self, request: Request, name: str, raw: RawBody) -> Response:
        site = facts(Kind.SITE)
        caller = admitted(self._services, request, site, Verb.PUT, name=name)
        given = parsed(request, raw, CredentialsIn)
        self._services.sites.put_credentials(caller, site.key(name, None, None), given.secrets)
        return Response(status_code=204)

    def sweep(self, request: Request) -> Response:
        site = facts(Kind.SITE)
        caller = admitted(self._services, request, site, Verb.POST, action="sweep")
        operation = self._services.sites.sweep_all(caller)
        return Response(status_code=202, headers=operation_headers(operation))

    def orphans(self, request: Request) -> Response:
        admitted(self._services, request, facts(Kind.OPERATION, Scope.GLOBAL), Verb.LIST)
        return JSONResponse({"items": self._services.orphans.list()})

    def adopt(self, request: Request, name: str, artefact: str) -> Response:
        site = facts(Kind.SITE)
        caller = admitted(self._services, request, site, Verb.POST, name=name, action="sweep")
        return JSONResponse(self._services.orphans.adopt(caller, name, artefact))

    def release(self, request: Request, name: str, artefact: str) -> Response:
        site = facts(Kind.SITE)
        caller = admitted(self._services, request, site, Verb.POST, name=name, action="sweep")
        operation = self._services.orphans.release(caller, name, artefact)
        return Response(status_code=202, headers=operation_headers(operation))

    def adopt_machine(self, request: Request, name: str, ref: str, raw: RawBody) -> Response:
        """Needs the site's right, because machines there may be anybody's, and the workspace's."""
        site, instance = facts(Kind.SITE), facts(Kind.INSTANCE)
        caller = admitted(self._services, request, site, Verb.POST, name=name, action="adopt")
        asked = parsed(request, raw, AdoptionIn)
        self._services.access.require(
            caller,
            instance,
            Verb.PUT,
            tenant=asked.tenant,
            workspace=asked.workspace,
            name=asked.name,
        )
        key = instance.key(asked.name, asked.tenant, asked.workspace)
        operation = self._services.adoptions.adopt(caller, name, ref, key)
        return Response(status_code=202, headers=operation_headers(operation))

    def audit_log(self, request: Request) -> Response:
        admitted(self._services, request, facts(Kind.AUDIT_CHECKPOINT), Verb.LIST)
        return StreamingResponse(self._services.trail.export(), media_type="application/x-ndjson")

    def audit_key(self, request: Request) -> Response:
        admitted(self._services, request, facts(Kind.AUDIT_CHECKPOINT), Verb.LIST)
        return PlainTextResponse(self._services.trail.key() + "\n")

    def metrics(self, request: Request) -> Response:
        admitted(self._services, request, facts(Kind.AUDIT_CHECKPOINT), Verb.LIST)
        with self._services.store.read() as tx:
            figures = tx.figures()
        text = exposition(figures, self._services.sites.clock.now())
        return Response(text, media_type=CONTENT_TYPE)

    def extension_keys(self, request: Request) -> Response:
        entered(self._services, request)
        items = [
            {
                "name": key.name,
                "form": key.form,
                "kinds": sorted(key.kinds),
                "mutable": key.mutable,
            }
            for key in EXTENSION_KEYS
        ]
        return JSONResponse({"items": items})


def router(services: Services) -> APIRouter:
    endpoints = FederationEndpoints(services)
    routes = APIRouter(tags=["fedctl.federation/v1"])
    routes.add_api_route(
        f"{collection_path(facts(Kind.SITE))}/{{name}}/credentials",
        endpoints.credentials,
        methods=["PUT"],
        operation_id="put-site-credentials",
        response_class=Response,
        openapi_extra={
            "requestBody": body(CredentialsIn.__name__),
            "responses": answers("204", "Sealed; nobody reads them back."),
        },
        status_code=204,
    )
    routes.add_api_route(
        f"{BASE}/sweep",
        endpoints.sweep,
        methods=["POST"],
        operation_id="sweep",
        response_class=Response,
        openapi_extra={"responses": answers("202", "Fedctl-Operation names the work.")},
        status_code=202,
    )
    orphan = f"{collection_path(facts(Kind.SITE))}/{{name}}/orphans/{{artefact}}"
    for action, act, status, said in (
        ("adopt", endpoints.adopt, 200, "On record now, as retained by its instance."),
        ("release", endpoints.release, 202, "Fedctl-Operation names the work."),
    ):
        routes.add_api_route(
            f"{orphan}/{action}",
            act,
            methods=["POST"],
            operation_id=f"{action}-orphan",
            response_class=Response,
            openapi_extra={"responses": answers(str(status), said)},
            status_code=status,
        )
    routes.add_api_route(
        f"{collection_path(facts(Kind.SITE))}/{{name}}/machines/{{ref}}/adopt",
        endpoints.adopt_machine,
        methods=["POST"],
        operation_id="adopt-machine",
        response_class=Response,
        openapi_extra={
            "requestBody": body(AdoptionIn.__name__),
            "responses": answers("202", "Fedctl-Operation names the work."),
        },
        status_code=202,
    )
    for path, endpoint, text in (
        ("orphans", endpoints.orphans, "What the last sweep of each site found unaccounted for."),
        ("audit-log", endpoints.audit_log, "The whole log, one JSON object a line."),
        ("extension-keys", endpoints.extension_keys, "What may be asked for in extensions."),
        ("metrics", endpoints.metrics, "Figures of the whole, in Prometheus' text format."),
        ("audit-key", endpoints.audit_key, "The key that verifies the log, as one line."),
    ):
        routes.add_api_route(
            f"{BASE}/{path}",
            endpoint,
            methods=["GET"],
            operation_id=f"get-{path}",
            response_class=Response,
            openapi_extra={"responses": answers("200", text)},
        )
    return routes
