"""Failures as answers: problem documents that never hold a stack trace or a secret."""

import logging
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api.http.settings import HttpSettings
from api.schemas.errors import (
    MALFORMED,
    RETRY_AFTER_SECONDS,
    TYPES,
    ProblemOut,
    Source,
    status_of,
)
from controlplane.domain.errors import FedctlError, Invalid

log = logging.getLogger("fedctl.api")

PROBLEM = "application/problem+json"
_DETAIL_MAX = 4000
_UNAUTHENTICATED = 401
_SERVER_SIDE = 500
_LISTED = 8
# What pydantic says of JSON that has another type than was asked for: the request is malformed.
_TYPE_ENDINGS = ("_type", "_parsing", "json_invalid")


class Refused(Exception):  # a refusal, as the others are
    """A failure of the request that points at its places."""

    def __init__(self, error: FedctlError, sources: Sequence[Source]) -> None:
        super().__init__(str(error))
        self.error = error
        self.sources = tuple(sources)


def request_id(request: Request) -> str:
    return str(request.scope.get("fedctl.request", ""))


def body_refused(error: ValidationError) -> Refused:
    """What was wrong with a body: 400 for JSON of the wrong shape, else a failed validation."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    wrong_type = all(str(each["type"]).endswith(_TYPE_ENDINGS) for each in found)
    sources = [Source(pointer=_pointer(each["loc"]), parameter="") for each in found]
    texts = [f"{_place(each['loc'])}: {each['msg']}" for each in found[:_LISTED]]
    if len(found) > _LISTED:
        texts.append(f"and {len(found) - _LISTED} more")
    cause = Invalid(
        f"the body is not as it must be: {'; '.join(texts)}",
        reason=MALFORMED if wrong_type else "",
    )
    return Refused(cause, sources)


def query_refused(parameter: str, text: str) -> Refused:
    return Refused(Invalid(f"{parameter}: {text}", reason=MALFORMED), [Source(parameter=parameter)])


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    code: str = "",
    reason: str = "",
    sources: Sequence[Source] = (),
) -> JSONResponse:
    """A problem document with the request's id."""
    type_, title = TYPES.get(status, TYPES[_SERVER_SIDE])
    meta: dict[str, object] = {"requestId": request_id(request)}
    if code:
        meta["code"] = code
    if reason:
        meta["reason"] = reason
    body = ProblemOut(
        type=type_,
        title=title,
        status=status,
        detail=detail[:_DETAIL_MAX],
        instance=request.url.path[:256],
        sources=list(sources),
        meta=meta,
    )
    headers = {}
    if status == _UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="fedctl"'
    if code in {"busy", "unavailable"}:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JSONResponse(
        body.model_dump(mode="json"), status_code=status, headers=headers, media_type=PROBLEM
    )


def install(app: FastAPI, settings: HttpSettings) -> None:
    def failed(request: Request, error: FedctlError, sources: Sequence[Source]) -> JSONResponse:
        status = status_of(error, settings.table(request.url.path))
        if status >= _SERVER_SIDE:
            log.warning("%s", error, extra={"code": error.code, "detail": error.detail})
        return problem(
            request, status, str(error), code=error.code, reason=error.reason, sources=sources
        )

    def on_named(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, FedctlError)  # noqa: S101  # for the type checker
        return failed(request, error, ())

    def on_refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)  # noqa: S101  # for the type checker
        return failed(request, error.error, error.sources)

    def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101  # for the type checker
        answer = problem(request, error.status_code, f"{request.url.path}: {error.detail}")
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(FedctlError, on_named)
    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(HTTPException, on_http)


def _pointer(place: tuple[int | str, ...]) -> str:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in place)
    return "".join(f"/{part}" for part in parts)[:256]


def _place(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place) or "the document"
