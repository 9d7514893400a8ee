"""Our errors on their way through Temporal, and back."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    FailureError,
    TimeoutType,
)
from temporalio.exceptions import (
    TimeoutError as TemporalTimeout,
)

from controlplane.domain.errors import SUPERSEDED, FedctlError
from controlplane.domain.operation import Problem
from workflows.codec import is_codec_failure

NOT_YET = "not-yet"
CANCELLED = "cancelled"


class NotYet(Exception):  # a state of waiting, named for the situation
    """The provider is still at it: look again."""


@contextmanager
def translated(step: str) -> Iterator[None]:
    """Turn what an activity raises into what Temporal retries, or does not."""
    try:
        yield
    except FedctlError as error:
        raise ApplicationError(
            str(error),
            {"detail": error.detail, "reason": error.reason, "step": step},
            type=error.code,
            non_retryable=not error.retryable,
        ) from error
    except NotYet as wait:
        raise ApplicationError(
            str(wait), {"detail": "", "reason": NOT_YET, "step": step}, type=NOT_YET
        ) from wait


def _innermost(failure: BaseException) -> BaseException:
    while isinstance(failure, ActivityError | TemporalTimeout) and failure.cause is not None:
        failure = failure.cause
    return failure


def _details(failure: BaseException) -> dict[str, str]:
    if isinstance(failure, ApplicationError) and failure.details:
        first = failure.details[0]
        if isinstance(first, dict):
            return {str(key): str(value) for key, value in first.items()}
    return {}


def reason_of(failure: BaseException) -> str:
    return _details(_innermost(failure)).get("reason", "")


def problem_of(failure: BaseException, *, step: str = "") -> Problem:
    """The problem that a person reads, from whatever a story caught."""
    inner = _innermost(failure)
    details = _details(inner)
    if isinstance(inner, ApplicationError):
        code = inner.type or "unavailable"
        text = inner.message
        if details.get("reason") == CANCELLED:
            code = CANCELLED
        if code == NOT_YET:
            code = "unavailable"
            text = f"waited in vain: {text}"
    elif isinstance(inner, asyncio.CancelledError | CancelledError):
        code, text = CANCELLED, "cancelled on request"
    elif isinstance(inner, TemporalTimeout):
        code, text = "unavailable", _silence(failure)
    elif isinstance(inner, TimeoutError):
        code, text = "deadline", "the deadline passed before the switch"
    else:
        code, text = "unavailable", str(inner)
    return Problem(
        code=code,
        message=text,
        detail=details.get("detail", ""),
        step=details.get("step", "") or step,
    )


def worker_died(failure: BaseException) -> bool:
    """Whether nothing was heard of the worker that had an activity in hand, nor of those before."""
    inner = _innermost(failure)
    return isinstance(inner, TemporalTimeout) and inner.type is TimeoutType.HEARTBEAT


def _silence(failure: BaseException) -> str:
    named = failure.activity_type if isinstance(failure, ActivityError) else "a step"
    what = named.replace("_", " ")
    if worker_died(failure):
        return (
            f"every worker that began to {what} fell silent, so whether it was done is not known:"
            " see that a worker stays alive, then ask again"
        )
    return f"the step to {what} gave no answer within its time: look at the site, then ask again"


def is_cancel(failure: BaseException) -> bool:
    inner = _innermost(failure)
    return isinstance(inner, asyncio.CancelledError | CancelledError) or (
        reason_of(inner) == CANCELLED
    )


def stops_without_unwinding(failure: BaseException) -> bool:
    """Whether nothing may be undone: a newer epoch took over, or payloads could not be opened."""
    return isinstance(failure, FailureError) and (
        reason_of(failure) == SUPERSEDED or is_codec_failure(failure)
    )
