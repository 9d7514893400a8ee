"""What every endpoint does first: who asks, may they, what did they send."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from api.http.errors import body_refused, query_refused, request_id
from api.http.paging import acceptable
from controlplane.domain.kinds import KindFacts, Verb
from controlplane.services import Services
from controlplane.services.wish import Caller

B = TypeVar("B", bound=BaseModel)

_BEARER = "bearer "
_NOT_ACCEPTABLE = 406
_WRONG_TYPE = 415


def identified(services: Services, request: Request) -> Caller:
    """Who asks; Denied where no good token came."""
    header = request.headers.get("Authorization", "")
    token = header[len(_BEARER) :].strip() if header[: len(_BEARER)].lower() == _BEARER else None
    return services.access.enter(token, request_id(request))


def entered(services: Services, request: Request) -> Caller:
    """Who asks, and takes JSON."""
    caller = identified(services, request)
    if not acceptable(request.headers.get("Accept", "")):
        raise HTTPException(_NOT_ACCEPTABLE, "answers are application/json: accept that")
    return caller


def admitted(
    services: Services,
    request: Request,
    target: KindFacts,
    verb: Verb,
    *,
    name: str | None = None,
    action: str = "",
) -> Caller:
    """Who asks, when a role allows what they ask for in the place that the path names."""
    caller = entered(services, request)
    places = request.path_params
    services.access.require(
        caller,
        target,
        verb,
        tenant=places.get("tenant"),
        workspace=places.get("workspace"),
        name=name,
        action=action,
    )
    return caller


async def _body(request: Request) -> bytes:
    return await request.body()


RawBody = Annotated[bytes, Depends(_body)]


def parsed(request: Request, raw: bytes, model: type[B]) -> B:
    """The body as `model`; refused with a pointer to every place that is wrong."""
    media = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HTTPException(_WRONG_TYPE, "the body must be application/json")
    try:
        return model.model_validate_json(raw)
    except ValidationError as e:
        raise body_refused(e) from e


def expected_version(request: Request) -> int | None:
    """What `if-unmodified-since` says: a version, not a date."""
    text = request.headers.get("if-unmodified-since")
    if text is None:
        return None
    if not text.strip().isdecimal():
        raise query_refused("if-unmodified-since", "is a resourceVersion, a whole number")
    return int(text)


Endpoint = Callable[..., Any]
