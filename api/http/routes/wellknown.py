"""What may be read without a token: where the providers are, and whether we live."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from api.http.documents import answers
from controlplane.domain.kinds import KINDS, Scope
from controlplane.services import Services

WELLKNOWN = "/.wellknown/secapi"
HEALTH = "/healthz"
OPEN_PATHS = frozenset({WELLKNOWN, HEALTH, "/openapi.json", "/providers/fedctl.identity/v1/login"})


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["wellknown"])
    public = services.settings.public_url
    unbound = {(k.area, k.version) for k in KINDS if k.scope is Scope.GLOBAL or not k.regional}
    endpoints = [
        {"provider": f"{area}/{version}", "url": f"{public}/providers/{area}"}
        for area, version in sorted({*unbound, ("fedctl.identity", "v1")})
    ]

    def wellknown() -> Response:
        return JSONResponse({"version": "v1", "endpoints": endpoints})

    def health() -> Response:
        with services.store.read() as tx:
            incarnation = tx.settings.incarnation
        return JSONResponse({"status": "ok", "incarnation": str(incarnation)})

    routes.add_api_route(
        WELLKNOWN,
        wellknown,
        methods=["GET"],
        operation_id="get-wellknown",
        response_class=Response,
        openapi_extra={"security": [], "responses": answers("200", "Endpoints.", "Wellknown")},
    )
    routes.add_api_route(
        HEALTH,
        health,
        methods=["GET"],
        operation_id="get-health",
        response_class=Response,
        openapi_extra={"security": [], "responses": answers("200", "The store answers.")},
    )
    return routes
