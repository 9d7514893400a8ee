"""The one place that speaks to OVHcloud's API: signed or with a bearer token, and our errors.

The SDK signs; it reads no environment and no file here, and its OAuth2, whose token has no timeout,
is not used. See DECISIONS.md.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import ovh
import requests
from ovh.exceptions import APIError

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    FedctlError,
    Invalid,
    NotFound,
    Unavailable,
)
from controlplane.domain.site import SiteAccess
from drivers.wire import UNREADABLE, Astray, guard

Json = Any
_EARLY = 30.0  # a token is renewed so many seconds before its end
_PAGES = 1000
_ADDRESS = re.compile(r"https?://[^\s'\"<>]+")
_PENDING = re.compile(r"(pending|in progress|already (running|being|planned))", re.IGNORECASE)
_UNTIMELY = re.compile(r"timestamp|QUERY_TIME_OUT", re.IGNORECASE)
_TOKENS = {
    "eu.api.ovh.com": "https://www.ovh.com/auth/oauth2/token",
    "ca.api.ovh.com": "https://ca.ovh.com/auth/oauth2/token",
    "api.us.ovhcloud.com": "https://us.ovhcloud.com/auth/oauth2/token",
}
_BY_STATUS: dict[int, type[FedctlError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    422: Invalid,
    460: Denied,
}
_NEXT: dict[type[FedctlError], str] = {
    Invalid: "fix the wish",
    Denied: "check the keys, their expiry and their rights",
    NotFound: "look what is there",
    Conflict: "look at its state, then decide",
    Busy: "ask again when its task is done",
    Unavailable: "ask again later",
}
_EXPIRED = 460


class Refused(Exception):
    """What the API answered: its status, its words without addresses, its id of the query."""

    def __init__(self, status: int, text: str, query: str) -> None:
        super().__init__(f"{text} (HTTP {status}{f', query {query}' if query else ''})")
        self.status, self.text = status, text


class OvhClient:
    """One session with one endpoint.

    Every call ends within twice the access's timeout: the first may ask for the time or a token.
    """

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        where = urlsplit(access.endpoint)
        if where.scheme not in {"http", "https"} or not where.hostname:
            raise Invalid(f"site {access.site}: the endpoint must be http(s)://host[:port]/1.0")
        self.host, self.encrypted = where.hostname, where.scheme == "https"
        self._root = f"{where.scheme}://{where.netloc}"
        self.timeout = access.timeout
        self._session = requests.Session()
        guard(self._session)
        self._signed: _Signed | None = None
        self._bearer: tuple[str, float] | None = None
        self._service: tuple[str, str] = ("", "")
        self._token_url = access.options.get("token_url", _TOKENS.get(self.host, ""))
        self._log_in(access, f"{self._root}{where.path.rstrip('/') or '/1.0'}")

    def _log_in(self, access: SiteAccess, endpoint: str) -> None:
        known = access.secrets
        keys = [known.get(f"{each}_key", "") for each in ("application", "consumer")]
        secret = known.get("application_secret", "")
        if all((*keys, secret)):
            self._signed = _Signed(endpoint, keys[0], secret, keys[1], session=self._session)
            return
        self._service = known.get("client_id", ""), known.get("client_secret", "")
        if not all(self._service):
            raise Invalid(
                f"site {self.site}: the credentials must name application_key, application_secret"
                " and consumer_key, or client_id and client_secret: store them again"
            )
        if not self._token_url:
            raise Invalid(f"site {self.site}: name the option token_url for this endpoint")

    def __repr__(self) -> str:
        return f"OvhClient({self.host!r})"

    def close(self) -> None:
        self._session.close()

    # -- calls ---------------------------------------------------------------------------------

    def get(self, path: str, **query: str) -> Json:
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path, None)

    def post(self, path: str, body: Mapping[str, Json] | None = None) -> Json:
        return self._call("POST", path, body)

    def put(self, path: str, body: Mapping[str, Json]) -> Json:
        return self._call("PUT", path, body)

    def delete(self, path: str) -> Json:
        return self._call("DELETE", path, None)

    def pages(self, path: str, **query: str) -> list[Json]:
        """All of a listing of the second version, page by page; Unavailable when it has no end."""
        found: list[Json] = []
        cursor: dict[str, str] = {}
        with translated(f"site {self.site}: GET {path}"):
            for _ in range(_PAGES):
                answer = self._asked("GET", f"{path}?{urlencode(query)}", None, cursor)
                page = _decoded(answer)
                if not isinstance(page, list):
                    raise TypeError("the answer is no list")
                found += page
                after = answer.headers.get("X-Pagination-Cursor-Next", "")
                if not after:
                    return found
                cursor = {"X-Pagination-Cursor": after}
            raise ValueError("the listing has no end")

    def _call(self, method: str, path: str, body: Mapping[str, Json] | None) -> Json:
        with translated(f"site {self.site}: {method} {_said(path)}"):
            return _decoded(self._asked(method, path, body, {}))

    def _asked(
        self,
        method: str,
        path: str,
        body: Mapping[str, Json] | None,
        headers: dict[str, str],
    ) -> requests.Response:
        if self._signed is not None:
            answer = self._signed.sent(method, path, body, headers, self.timeout)
            if answer.status_code == requests.codes.bad_request and _UNTIMELY.search(answer.text):
                self._signed.ask_the_time_again()
                answer = self._signed.sent(method, path, body, headers, self.timeout)
            return answer
        version = "" if path.startswith(("/v1", "/v2")) else "/1.0"
        return self._session.request(
            method,
            f"{self._root}{version}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._token()}", **headers},
            timeout=self.timeout,
        )

    def _token(self) -> str:
        """The bearer token of a service account, fetched anew shortly before its end."""
        now = time.monotonic()
        if self._bearer is not None and now < self._bearer[1]:
            return self._bearer[0]
        answer = self._session.post(
            self._token_url,
            data={
                "grant_type": "client_credentials",
                "client_id": self._service[0],
                "client_secret": self._service[1],
                "scope": "all",
            },
            timeout=self.timeout,
        )
        told = _decoded(answer)
        token, lasts = str(told["access_token"]), float(told["expires_in"])
        self._bearer = token, now + lasts - _EARLY
        return token


class _Signed(ovh.Client):  # type: ignore[misc]  # the SDK ships no types
    """The SDK's signing alone: what it is given counts, not what lies around on the machine."""

    def __init__(
        self, endpoint: str, key: str, secret: str, consumer: str, *, session: requests.Session
    ) -> None:
        self._endpoint = endpoint
        self._application_key, self._application_secret = key, secret
        self._consumer_key = consumer
        self._client_id = self._client_secret = self._oauth2 = self._time_delta = None
        self._session = session
        self._timeout: float = 0.0

    def __repr__(self) -> str:
        return f"_Signed({self._endpoint!r})"

    def sent(
        self,
        method: str,
        path: str,
        body: Mapping[str, Json] | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> requests.Response:
        """What is answered within `timeout` seconds."""
        self._timeout = timeout
        answer: requests.Response = self.raw_call(method, path, body, headers=dict(headers))
        return answer

    def ask_the_time_again(self) -> None:
        """What the site told of its clock, by which calls are signed, was wrong or is outdated."""
        self._time_delta = None


def part(text: str) -> str:
    """A text as one part of a path."""
    return quote(text, safe="")


def _said(path: str) -> str:
    return path.partition("?")[0]


def _decoded(answer: requests.Response) -> Json:
    """The JSON of an answer, None where there is none; a refusal raises Refused."""
    if answer.status_code == requests.codes.no_content:
        return None
    if not answer.ok:
        query = answer.headers.get("X-OVH-QUERYID", "")[:80]
        raise Refused(answer.status_code, _words(answer.content), query)
    return answer.json()


def _words(body: bytes) -> str:
    """What a refusal says in either of its two shapes, or nothing of what is neither."""
    try:
        told = json.loads(body)
        return _ADDRESS.sub("(an address)", str(told["message"]))[:400]
    except (ValueError, LookupError, TypeError):
        return "no reason is told"


@contextmanager
def translated(about: str) -> Iterator[None]:
    """Our error for theirs; theirs is the cause."""
    try:
        yield
    except Refused as e:
        raise _named(about, e) from e
    except APIError as e:
        # Only the clock is asked through the SDK's own calls.
        status = getattr(e.response, "status_code", None)
        if status is not None:
            raise _named(about, Refused(status, "the clock is not told", "")) from e
        raise Unavailable(
            f"{about}: no answer that can be read: ask again", detail=type(e).__name__
        ) from e
    except requests.exceptions.SSLError as e:
        if "CERTIFICATE_VERIFY_FAILED" in str(e):
            raise Denied(f"{about}: the certificate is not trusted: look who answers there") from e
        raise Unavailable(f"{about}: the connection broke off: ask again") from e
    except Astray as e:
        raise Unavailable(f"{about}: {e}: look who answers at the endpoint") from e
    except requests.exceptions.RequestException as e:
        raise Unavailable(
            f"{about}: no answer; what was asked may have happened: ask again",
            detail=type(e).__name__,
        ) from e
    except UNREADABLE as e:
        raise Unavailable(f"{about}: the answer cannot be read: ask again", detail=str(e)) from e


def _named(about: str, refused: Refused) -> FedctlError:
    kind = _BY_STATUS.get(refused.status, Unavailable)
    if kind in {Invalid, Conflict} and _PENDING.search(refused.text):
        kind = Busy
    elif kind is Invalid and _UNTIMELY.search(refused.text):
        kind = Unavailable
    advice = "renew the service" if refused.status == _EXPIRED else _NEXT[kind]
    return kind(f"{about}: {refused}: {advice}", detail=refused.text)
