"""Logging in, tokens, users and tenants: `fedctl.identity/v1`."""

from datetime import timedelta
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.http.documents import answers, body
from api.http.door import RawBody, entered, parsed
from api.http.errors import query_refused, request_id
from api.http.render import plain, time
from api.schemas.fedctl import LoginIn, TokenIn, UserIn
from controlplane.domain.identity import TokenRecord
from controlplane.services import Services

BASE = "/providers/fedctl.identity/v1"


class IdentityEndpoints:
    def __init__(self, services: Services, version: str) -> None:
        self._services = services
        self._version = version

    def login(self, request: Request, raw: RawBody) -> Response:
        given = parsed(request, raw, LoginIn)
        issued = self._services.identity.login(
            given.user,
            given.password,
            tenant=given.tenant,
            label=given.label,
            request=request_id(request),
        )
        return JSONResponse(_token(issued.record) | {"token": issued.text}, status_code=201)

    def me(self, request: Request) -> Response:
        caller = entered(self._services, request)
        return JSONResponse(
            {
                "subject": caller.subject,
                "tenant": caller.tenant,
                "region": self._services.settings.region,
                "version": self._version,
            }
        )

    def tokens(self, request: Request) -> Response:
        found = self._services.identity.tokens(entered(self._services, request))
        return JSONResponse({"items": [_token(record) for record in found]})

    def create_token(self, request: Request, raw: RawBody) -> Response:
        caller = entered(self._services, request)
        given = parsed(request, raw, TokenIn)
        issued = self._services.identity.create_token(
            caller, label=given.label, lifetime=timedelta(seconds=given.seconds)
        )
        return JSONResponse(_token(issued.record) | {"token": issued.text}, status_code=201)

    def revoke_token(self, request: Request, token: str) -> Response:
        caller = entered(self._services, request)
        try:
            id_ = UUID(token)
        except ValueError as e:
            raise query_refused("token", f"{token[:40]!r} is not the id of a token") from e
        self._services.identity.revoke_token(caller, id_)
        return Response(status_code=202)

    def put_tenant(self, request: Request, name: str) -> Response:
        caller = entered(self._services, request)
        made = self._services.identity.add_tenant(caller, name)
        return JSONResponse({"name": name}, status_code=201 if made else 200)

    def put_user(self, request: Request, tenant: str, name: str, raw: RawBody) -> Response:
        caller = entered(self._services, request)
        given = parsed(request, raw, UserIn)
        made = self._services.identity.add_user(
            caller, tenant, name, given.password, admin=given.admin
        )
        return JSONResponse({"name": name, "tenant": tenant}, status_code=201 if made else 200)


def _token(record: TokenRecord) -> dict[str, object]:
    return plain(
        {
            "id": str(record.id),
            "subject": record.user,
            "tenant": record.tenant,
            "label": record.note,
            "createdAt": time(record.created_at),
            "expiresAt": time(record.expires_at),
        }
    )


def router(services: Services, *, version: str) -> APIRouter:
    endpoints = IdentityEndpoints(services, version)
    routes = APIRouter(prefix=BASE, tags=["fedctl.identity/v1"])
    for path, method, endpoint, name, shape, status, answer in (
        ("/login", "POST", endpoints.login, "login", "LoginIn", 201, "TokenOut"),
        ("/me", "GET", endpoints.me, "get-me", "", 200, "Me"),
        ("/tokens", "GET", endpoints.tokens, "list-tokens", "", 200, "TokenList"),
        ("/tokens", "POST", endpoints.create_token, "create-token", "TokenIn", 201, "TokenOut"),
        ("/tokens/{token}", "DELETE", endpoints.revoke_token, "revoke-token", "", 202, ""),
        ("/tenants/{name}", "PUT", endpoints.put_tenant, "put-tenant", "", 201, ""),
        (
            "/tenants/{tenant}/users/{name}",
            "PUT",
            endpoints.put_user,
            "put-user",
            "UserIn",
            201,
            "",
        ),
    ):
        extra: dict[str, object] = {"responses": answers(str(status), "Done.", answer or None)}
        if shape:
            extra["requestBody"] = body(shape)
        routes.add_api_route(
            path,
            endpoint,
            methods=[method],
            operation_id=name,
            response_class=Response,
            status_code=status,
            openapi_extra=extra,
        )
    return routes
