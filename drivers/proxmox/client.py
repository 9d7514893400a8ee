"""The one place that knows proxmoxer: a pinned session, paths in, plain data out, our errors."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from proxmoxer import ProxmoxAPI
from proxmoxer.core import ResourceException

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
from controlplane.domain.site import SiteAccess
from drivers.wire import UNREADABLE, Astray, guard

# It logs whole requests, and the URL of an image is a secret while the site may pull it.
logging.getLogger("proxmoxer").setLevel(logging.WARNING)

_TOKEN = re.compile(r"([^@!=\s]+@[^@!=\s]+)!([A-Za-z][A-Za-z0-9._-]+)")
_DEFAULT_PORT = 8006
_BY_TEXT: tuple[tuple[re.Pattern[str], type[FedctlError]], ...] = (
    (re.compile(r"Configuration file '.*' does not exist"), NotFound),
    (re.compile(r"(volume|snapshot|storage|disk|resource) '.*' does not exist"), NotFound),
    (re.compile(r"no such (resource|volume)"), NotFound),
    (re.compile(r"VM is locked|can't lock file|got timeout|checksum mismatch \(file"), Busy),
    (re.compile(r"out of space|No space left|not enough (free )?space|quota"), Exhausted),
    (re.compile(r"already exists|already used|is running|protection mode|not running"), Conflict),
)
_BY_STATUS: dict[int, type[FedctlError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    501: Unsupported,
}
_NEXT: dict[type[FedctlError], str] = {
    Invalid: "fix the wish",
    Denied: "check the token, its expiry, and the rights of both token and user",
    NotFound: "look what is there",
    Conflict: "look at its state, then decide",
    Unsupported: "update the site or choose another",
    Exhausted: "free some space or choose another storage",
    Busy: "ask again when its task is done",
    Unavailable: "ask again later",
}


class PveClient:
    """One session with one cluster's API. Every call ends within the access's timeout."""

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        token = _TOKEN.fullmatch(access.secrets.get("token_id", ""))
        if token is None or not access.secrets.get("token_secret"):
            raise Invalid(
                f"site {access.site}: token_id must read user@realm!name, with its token_secret:"
                " store both again"
            )
        self.user = token[0]
        where = urlsplit(access.endpoint)
        if where.scheme != "https" or not where.hostname:
            raise Invalid(f"site {access.site}: the endpoint must be https://host:port")
        self.host = where.hostname
        pin = access.pins.get("tls", "")
        self._api = ProxmoxAPI(
            where.hostname,
            port=where.port or _DEFAULT_PORT,
            user=token[1],
            token_name=token[2],
            token_value=access.secrets["token_secret"],
            verify_ssl=not pin,
            timeout=access.timeout,
        )
        # proxmoxer offers no way to its session; the pin and the deaf ears must be put there.
        self._session: requests.Session = self._api._store["session"]  # noqa: SLF001  # see above
        guard(self._session, fingerprint=pin)

    def __repr__(self) -> str:
        return f"PveClient({self.host!r})"

    def get(self, path: str, **parameters: str | int) -> Any:  # noqa: ANN401  # untyped JSON, mapped next door
        return self._call(path, "get", parameters)

    def post(self, path: str, **parameters: object) -> Any:  # noqa: ANN401  # untyped JSON, mapped next door
        return self._call(path, "post", parameters)

    def put(self, path: str, **parameters: str | int) -> Any:  # noqa: ANN401  # untyped JSON, mapped next door
        return self._call(path, "put", parameters)

    def delete(self, path: str, **parameters: str | int) -> Any:  # noqa: ANN401  # untyped JSON, mapped next door
        return self._call(path, "delete", parameters)

    def close(self) -> None:
        self._session.close()

    def _call(self, path: str, method: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401  # untyped JSON
        about = f"site {self.site}: {method.upper()} {path}"
        with translated(about):
            answer = getattr(self._api(path), method)(
                **{key.replace("__", "-"): value for key, value in parameters.items()}
            )
            if isinstance(answer, dict) and isinstance(answer.get("errors"), bytes):
                raise ValueError("the answer is no JSON")  # noqa: TRY004  # proxmoxer's way to say so
            return answer


@contextmanager
def translated(about: str) -> Iterator[None]:
    """Our error for theirs; theirs is the cause."""
    try:
        yield
    except ResourceException as e:
        raise _named(about, e) from e
    except requests.exceptions.SSLError as e:
        if "ingerprint" in str(e):
            raise Integrity(
                f"{about}: the certificate is not the registered one: compare its fingerprint at"
                " the node before registering it anew"
            ) from e
        if "CERTIFICATE_VERIFY_FAILED" in str(e):
            raise Denied(
                f"{about}: the certificate is not trusted: pin its fingerprint at registration"
            ) from e
        raise Unavailable(  # a node that goes down in the middle of a handshake
            f"{about}: the connection broke off: ask again", detail=str(e)
        ) from e
    except Astray as e:
        raise Unavailable(f"{about}: {e}: look who answers at the endpoint") from e
    except requests.exceptions.RequestException as e:
        raise Unavailable(
            f"{about}: no answer; what was asked may have happened: ask again",
            detail=type(e).__name__,
        ) from e
    except UNREADABLE as e:
        raise Unavailable(f"{about}: the answer cannot be read: ask again", detail=str(e)) from e


def words(error: FedctlError) -> str:
    """What Proxmox VE itself said."""
    return error.detail or str(error)


def _named(about: str, error: ResourceException) -> FedctlError:
    said = str(error.content).strip() or str(error.status_message)
    if error.errors:
        said += f" {error.errors}"
    kind = _BY_STATUS.get(error.status_code)
    if kind is None:
        kind = next((k for pattern, k in _BY_TEXT if pattern.search(said)), Unavailable)
    return kind(f"{about}: {said}: {_NEXT[kind]}", detail=said)
