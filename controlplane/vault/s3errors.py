"""What an S3 server or the way to it says, in our own errors."""

import re
from dataclasses import dataclass

from obstore.exceptions import (
    AlreadyExistsError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from controlplane.domain.errors import (
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    NotFound,
    Unavailable,
    Unsupported,
)

_STATUS = re.compile(r"status code: (\d{3})")
_REPEATED = re.compile(r"after [1-9]\d* retries")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_INSUFFICIENT_STORAGE = 507
_REFUSALS = {401, 403}
_DETAIL = "\n\nDebug source"
_REFUSED = {
    "AccessDenied", "AllAccessDisabled", "AccountProblem", "AuthorizationHeaderMalformed",
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "PermanentRedirect",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
_FULL = {
    "EntityTooLarge", "InsufficientStorage", "QuotaExceeded", "ServiceQuotaExceeded",
    "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded",
}  # fmt: skip
_GARBLED = {
    "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch",
}  # fmt: skip
_UNKNOWN = {"NotImplemented", "XNotImplemented"}
_HINTS = {
    "RequestTimeTooSkewed": "its clock and this machine's are minutes apart: set the wrong one",
    "AuthorizationHeaderMalformed": "the region is another one: set it",
    "PermanentRedirect": "the bucket is in another region: set region and endpoint",
    "InvalidAccessKeyId": "it does not know the access key: set the right one",
    "SignatureDoesNotMatch": (
        "the secret key is not that of the access key, or a proxy on the way changes what was"
        " signed: set the right one, or ask the server itself"
    ),
}
_DEFAULT_HINT = (
    "check the key and what it may do in this bucket (docs/stores.md), and whether the store"
    " locked the object"
)


def status(error: BaseException) -> int | None:
    found = _STATUS.search(str(error))
    return int(found.group(1)) if found else None


def repeated(error: BaseException | None) -> bool:
    """Whether the library had asked before it got this answer."""
    return _REPEATED.search(str(error)) is not None


def told(error: BaseException, what: str, bucket: str) -> FedctlError:
    """`what` names the object, its bucket and the server."""
    number = status(error)
    heard = _Heard(
        code=_code(str(error)),
        number=number,
        absent=isinstance(error, FileNotFoundError),
        taken=isinstance(error, AlreadyExistsError | PreconditionError),
        refused=isinstance(error, PermissionDeniedError | UnauthenticatedError),
        unknown=isinstance(error, NotSupportedError),
        silence="" if number else _first(error),
    )
    return _told(heard, what, bucket, _DEFAULT_HINT)


def answered(number: int, body: str, what: str, bucket: str, hint: str) -> FedctlError:
    """The same of an answer that was no success. `hint`: what to do where rights are missing."""
    return _told(_Heard(code=_code(body), number=number), what, bucket, hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    code: str
    number: int | None
    absent: bool = False
    taken: bool = False
    refused: bool = False
    unknown: bool = False
    silence: str = ""


def _told(heard: _Heard, what: str, bucket: str, hint: str) -> FedctlError:
    code, number = heard.code, heard.number
    limited = (
        f": the store does not know what we ask of it ({code or 'not supported'}): it has to know"
        " conditional creates (If-None-Match) and multipart uploads"
    )
    cases: tuple[tuple[bool, type[FedctlError], str], ...] = (
        (
            code == "NoSuchBucket",
            Unavailable,
            f": there is no bucket {bucket!r}: create it, or name the one that there is",
        ),
        (
            code == "NoSuchUpload",
            Unavailable,
            ": the store ended the upload before us; it is sent anew: look at the bucket's rules",
        ),
        (heard.absent, NotFound, " is not in the store"),
        (heard.taken, Conflict, " is in the store already"),
        (
            code in _FULL or number == _INSUFFICIENT_STORAGE,
            Exhausted,
            f": the store is full ({code or number}): free some room",
        ),
        (
            code in _GARBLED,
            Integrity,
            f" did not arrive as it was sent ({code}): look at the network and the store",
        ),
        (heard.unknown or code in _UNKNOWN, Unsupported, limited),
        (
            heard.refused or code in _REFUSED or number in _REFUSALS,
            Denied,
            f": the store refuses us ({code or number or 'denied'}): {_HINTS.get(code, hint)}",
        ),
    )
    why = f"{number} {code}".strip() if number else heard.silence
    silent = (
        f": no usable answer from the store ({why}); it is asked again: look at its endpoint and"
        " the network if it stays so"
    )
    kind, text = next(((k, t) for holds, k, t in cases if holds), (Unavailable, silent))
    return kind(what + text)


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found.group(1) if found else ""


def _first(error: BaseException) -> str:
    """Without addresses and traces, which fill pages."""
    text = str(error).partition(_DETAIL)[0]
    return text.rpartition(" - ")[2].splitlines()[0][:120] if text else type(error).__name__
