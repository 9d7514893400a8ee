"""Which status and which exit code each named failure gets."""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.operation import OperationState

STATUS: Final[dict[type[FedctlError], int]] = {
    Invalid: 422,
    Denied: 403,
    NotFound: 404,
    Conflict: 409,
    Unsupported: 422,
    Exhausted: 507,
    Busy: 409,
    Unavailable: 503,
    Integrity: 500,
}

EXIT: Final[dict[type[FedctlError], int]] = {
    Invalid: 2,
    Denied: 3,
    NotFound: 4,
    Conflict: 5,
    Unsupported: 6,
    Exhausted: 7,
    Busy: 8,
    Unavailable: 9,
    Integrity: 10,
}

BLOCKED: Final = 20
ROLLED_BACK: Final = 21
NEEDS_ATTENTION: Final = 22
DETACHED: Final = 130

OUTCOME_EXIT: Final[dict[OperationState, int]] = {
    OperationState.SUCCEEDED: 0,
    OperationState.BLOCKED: BLOCKED,
    OperationState.FAILED: ROLLED_BACK,
    OperationState.ROLLED_BACK: ROLLED_BACK,
    OperationState.CANCELLED: ROLLED_BACK,
    OperationState.NEEDS_ATTENTION: NEEDS_ATTENTION,
}

# The released SECA SDK does not decode 422: below /providers validation failures answer 412.
PROVIDER_STATUS: Final[dict[type[FedctlError], int]] = STATUS | {Invalid: 412, Unsupported: 412}
# Nor 507: on SECA's own paths a refused quota is a conflict.
SECA_STATUS: Final[dict[type[FedctlError], int]] = PROVIDER_STATUS | {Exhausted: 409}

PRECONDITION: Final = "precondition"
MALFORMED: Final = "malformed"
# Nobody came in: the door's own words, and those that tokens are refused with.
UNAUTHENTICATED: Final = frozenset(
    {"unauthenticated", "token-unknown", "token-expired", "token-revoked"}
)

# What `reason` says, where it decides more exactly than the class.
REASON_STATUS: Final[dict[str, int]] = {
    PRECONDITION: 412,
    MALFORMED: 400,
    **dict.fromkeys(UNAUTHENTICATED, 401),
}

_ERROR_SPACE = "http://secapi.cloud/errors"
TYPES: Final[dict[int, tuple[str, str]]] = {
    400: (f"{_ERROR_SPACE}/invalid-request", "Invalid request"),
    401: (f"{_ERROR_SPACE}/unauthorized", "Not logged in"),
    403: (f"{_ERROR_SPACE}/forbidden", "Not allowed"),
    404: (f"{_ERROR_SPACE}/resource-not-found", "Not found"),
    405: (f"{_ERROR_SPACE}/invalid-request", "Method not allowed"),
    406: (f"{_ERROR_SPACE}/invalid-request", "Not acceptable"),
    409: (f"{_ERROR_SPACE}/resource-conflict", "Conflict"),
    412: (f"{_ERROR_SPACE}/precondition-failed", "Precondition failed"),
    413: (f"{_ERROR_SPACE}/invalid-request", "Body too large"),
    415: (f"{_ERROR_SPACE}/invalid-request", "Unsupported media type"),
    422: (f"{_ERROR_SPACE}/validation-error", "Validation failed"),
    429: (f"{_ERROR_SPACE}/invalid-request", "Too many requests"),
    500: (f"{_ERROR_SPACE}/internal-server-error", "Internal error"),
    503: (f"{_ERROR_SPACE}/internal-server-error", "Unavailable"),
    507: (f"{_ERROR_SPACE}/resource-conflict", "No room"),
}
RETRY_AFTER_SECONDS: Final = 5


class Source(BaseModel):
    """The place in the request that an error is about; one of the two is empty."""

    model_config = ConfigDict(extra="ignore")

    pointer: str = ""
    parameter: str = ""


class ProblemOut(BaseModel):
    """An error as it is answered: RFC 7807 in the shape that SECA asks for.

    `meta` holds `code` (the name of the failure), `requestId`, and what programs may act on.
    """

    model_config = ConfigDict(extra="ignore")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    sources: list[Source] = Field(default_factory=list)
    meta: dict[str, object] = Field(default_factory=dict)


def status_of(error: FedctlError, table: Mapping[type[FedctlError], int]) -> int:
    """The HTTP status of `error` under `table`; its reason decides where it has a line."""
    return REASON_STATUS.get(error.reason, table[type(error)])


BY_CODE: Final[dict[str, type[FedctlError]]] = {kind.code: kind for kind in STATUS}
