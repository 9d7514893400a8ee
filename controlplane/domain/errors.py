"""Every failure fedctl can name, sorted by what the caller should do next."""

from typing import ClassVar


class FedctlError(Exception):
    """A failure with a name.

    `str(error)` is the text for the customer: who, what, where, next move, never a secret.
    `detail` is what an operator reads besides (the provider's own words, quoted).
    `reason` is a stable code word for programs, such as `superseded`; empty where none is needed.
    """

    code: ClassVar[str]
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, detail: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.detail = detail
        self.reason = reason


class Invalid(FedctlError):
    """The wish is malformed: fix it."""

    code = "invalid"


class Denied(FedctlError):
    """Credentials or rights do not allow it: fix access."""

    code = "denied"


class NotFound(FedctlError):
    """It is not there, or not yours to see."""

    code = "not-found"


class Conflict(FedctlError):
    """It contradicts the present state: look, then decide."""

    code = "conflict"


class Unsupported(FedctlError):
    """The site cannot do it: choose another."""

    code = "unsupported"


class Exhausted(FedctlError):
    """No room or quota: free some or choose another site."""

    code = "exhausted"


class Busy(FedctlError):
    """Another operation holds it: wait."""

    code = "busy"
    retryable = True


class Unavailable(FedctlError):
    """No answer, or the far side failed; the outcome is unknown: ask again with the same key."""

    code = "unavailable"
    retryable = True


class Integrity(FedctlError):
    """A checksum, chain or key does not match: stop and call a person."""

    code = "integrity"


SUPERSEDED = "superseded"


def superseded(what: str, *, presented: int, found: int) -> Conflict:
    """The Conflict that stops a story without unwinding: a newer epoch has taken over."""
    return Conflict(
        f"{what} belongs to epoch {found} now; epoch {presented} may not touch it any more",
        reason=SUPERSEDED,
    )
