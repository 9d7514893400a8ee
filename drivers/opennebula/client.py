"""The one place that speaks to oned: pyone on a wire of ours, records out, our errors.

pyone signs in, names the call and casts what is given. Its own wire has no timeout but one for
every socket of the process, its bindings know neither newer states nor empty answers, and its
errors do not tell the code: so sending and reading are ours. See DECISIONS.md.
"""

import re
import xmlrpc.client as xmlrpc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET
from xml.parsers.expat import ExpatError

import requests
from pyone.server_xrpc import OneServerXRPC

from controlplane.domain.errors import (
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

_OK = 200
_FAILURE = 3  # what an answer array has at least
_ADDRESS = re.compile(r"https?://[^\s'\"<>]+")

_ANY = 0
_BY_TEXT: tuple[tuple[int, re.Pattern[str], type[FedctlError]], ...] = (
    (_ANY, re.compile(r"limit of .* reached|Not enough (space|free)|No space left"), Exhausted),
    (512, re.compile(r"is locked"), Conflict),
    (_ANY, re.compile(r"already taken|already in use|IP/MAC|lease"), Conflict),
    (2048, re.compile(r"does not exist"), NotFound),
    (8192, re.compile(r"does not exist|Cannot get network|Error getting"), NotFound),
    (8192, re.compile(r"[Pp]arse error|syntax error|Invalid NAME|cannot be empty"), Invalid),
)
_BY_CODE: dict[int, type[FedctlError]] = {
    256: Denied,
    512: Denied,
    1024: NotFound,
    2048: Conflict,
    4096: Invalid,
}
_BY_FAULT: dict[int, type[FedctlError]] = {-506: Unsupported, -501: Invalid, -503: Invalid}
_BY_STATUS: dict[int, type[FedctlError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
}
_NEXT: dict[type[FedctlError], str] = {
    Invalid: "fix the wish",
    Denied: "check the token, its expiry, and the rights of its user",
    NotFound: "look what is there",
    Conflict: "look at its state, then decide",
    Unsupported: "update the site or choose another",
    Exhausted: "free some, raise the quota, or choose another site",
    Unavailable: "ask again later",
}


class Refused(Exception):
    """What oned itself answered: its code and its words, without addresses of images."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code, self.text = code, text


class Record:
    """An object of oned as its XML shows it; what is not as it should be is Unavailable."""

    def __init__(self, element: ET.Element, about: str) -> None:
        self._element, self._about = element, about

    def text(self, path: str, default: str = "") -> str:
        return self._element.findtext(path, default) or default

    def number(self, path: str, default: int | None = None) -> int:
        found = self._element.findtext(path) or ""
        if not found.strip() and default is not None:
            return default
        try:
            return int(float(found))
        except (ValueError, OverflowError) as e:
            raise Unavailable(
                f"{self._about}: {path} is {found[:40]!r}, no number: ask again"
            ) from e

    def all(self, path: str) -> "list[Record]":
        return [Record(each, self._about) for each in self._element.findall(path)]

    def has(self, path: str) -> bool:
        return self._element.find(path) is not None

    def names(self, path: str) -> list[str]:
        """The attributes that stand there, in their order."""
        return [each.tag for each in self._element.findall(f"{path}/*")]

    def without(self, path: str, prefix: str) -> str:
        """What stands there as a template, but for attributes whose names begin so."""
        kept = self._element.findall(f"{path}/*")
        rest = [ET.tostring(e, encoding="unicode") for e in kept if not e.tag.startswith(prefix)]
        return f"<TEMPLATE>{''.join(each.strip() for each in rest)}</TEMPLATE>"


class OneClient:
    """One session with one oned. Every call ends within the access's timeout."""

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        user, token = access.secrets.get("username", ""), access.secrets.get("token", "")
        if not user or not token or ":" in user:
            raise Invalid(
                f"site {access.site}: the credentials must name username and token (a login token"
                " or the password): store both again"
            )
        self.user = user
        where = urlsplit(access.endpoint)
        if where.scheme not in {"http", "https"} or not where.hostname:
            raise Invalid(f"site {access.site}: the endpoint must be http(s)://host:port/RPC2")
        self.host, self.encrypted = where.hostname, where.scheme == "https"
        path = where.path if where.path not in {"", "/"} else "/RPC2"
        self._url = f"{where.scheme}://{where.netloc}{path}"
        self.timeout = access.timeout
        self._session = requests.Session()
        guard(self._session, fingerprint=access.pins.get("tls", ""))
        self._oned = _Oned(self._url, f"{user}:{token}", self._sent)

    def __repr__(self) -> str:
        return f"OneClient({self.host!r})"

    def close(self) -> None:
        self._session.close()

    def call(self, method: str, *parameters: str | int | bool) -> Any:  # noqa: ANN401  # a number, a text
        """What `one.METHOD` answers."""
        with translated(f"site {self.site}: {method}"):
            return self._asked(method, parameters)

    def number(self, method: str, *parameters: str | int | bool) -> int:
        """The id that `one.METHOD` answers."""
        with translated(f"site {self.site}: {method}"):
            found = self._asked(method, parameters)
            if type(found) is not int:
                raise TypeError("the answer is no id")
            return found

    def record(self, method: str, *parameters: str | int | bool) -> Record:
        """The XML that `one.METHOD` answers."""
        about = f"site {self.site}: {method}"
        with translated(about):
            text = self._asked(method, parameters)
            if not isinstance(text, str):
                raise TypeError("the answer is no text")
            return Record(ET.fromstring(text), about)  # noqa: S314  # expat bounds entities

    def _asked(self, method: str, parameters: tuple[str | int | bool, ...]) -> Any:  # noqa: ANN401  # as above
        (value,) = getattr(self._oned, method)(*parameters)
        return value

    def _sent(self, body: bytes) -> bytes:
        answer = self._session.post(
            self._url,
            data=body,
            headers={"Content-Type": "text/xml"},
            timeout=self.timeout,
            allow_redirects=False,
        )
        if answer.status_code != _OK:
            raise requests.HTTPError(f"HTTP {answer.status_code}", response=answer)
        return answer.content


class _Oned(OneServerXRPC):  # type: ignore[misc]  # pyone is untyped
    """pyone's server; each call answers a tuple of its value, which pyone hands on unread."""

    def __init__(self, url: str, login: str, send: Callable[[bytes], bytes]) -> None:
        super().__init__(url, login)
        self._send = send

    def _do_request(self, method: str, params: Sequence[Any]) -> list[Any]:
        body = xmlrpc.dumps(tuple(params), method, encoding="utf-8").encode()
        (array,), _ = xmlrpc.loads(self._send(body), use_builtin_types=True)
        return [True, (_value(array),), 0]


def _value(array: object) -> Any:  # noqa: ANN401  # a number, a text, or what it was
    """The value of a 3-array; a 5-array raises Refused."""
    match array:
        case [True, value, *_]:
            return value
        case [False, str(text), int(code), *_]:
            raise Refused(code, _ADDRESS.sub("(an address)", text))
        case _:
            raise ValueError("the answer is neither a success nor a failure")


@contextmanager
def translated(about: str) -> Iterator[None]:
    """Our error for theirs; theirs is the cause."""
    try:
        yield
    except Refused as e:
        raise _named(about, e) from e
    except xmlrpc.Fault as e:
        kind = _BY_FAULT.get(e.faultCode, Unavailable)
        raise kind(f"{about}: {e.faultString}: {_NEXT[kind]}", detail=str(e.faultString)) from e
    except requests.exceptions.SSLError as e:
        if "ingerprint" in str(e):
            raise Integrity(
                f"{about}: the certificate is not the registered one: compare its fingerprint at"
                " the site before registering it anew"
            ) from e
        if "CERTIFICATE_VERIFY_FAILED" in str(e):
            raise Denied(
                f"{about}: the certificate is not trusted: pin its fingerprint at registration"
            ) from e
        raise Unavailable(f"{about}: the connection broke off: ask again", detail=str(e)) from e
    except requests.HTTPError as e:
        kind = _BY_STATUS.get(e.response.status_code, Unavailable)
        raise kind(f"{about}: {e}: {_NEXT[kind]}", detail=str(e)) from e
    except Astray as e:
        raise Unavailable(f"{about}: {e}: look who answers at the endpoint") from e
    except requests.exceptions.RequestException as e:
        raise Unavailable(
            f"{about}: no answer; what was asked may have happened: ask again",
            detail=type(e).__name__,
        ) from e
    except (
        *UNREADABLE,
        ExpatError,
        ET.ParseError,
        xmlrpc.Error,
    ) as e:
        raise Unavailable(f"{about}: the answer cannot be read: ask again", detail=str(e)) from e


def _named(about: str, refused: Refused) -> FedctlError:
    """By code and text, then by code alone."""
    kind = next(
        (
            kind
            for code, pattern, kind in _BY_TEXT
            if code in {_ANY, refused.code} and pattern.search(refused.text)
        ),
        _BY_CODE.get(refused.code, Unavailable),
    )
    return kind(f"{about}: {refused.text}: {_NEXT[kind]}", detail=refused.text)
