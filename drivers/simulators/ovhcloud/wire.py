"""The HTTP side of the simulated API: signatures over exact bytes, tokens, both error shapes."""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from drivers.simulators.faults import Call, LostAnswer
from drivers.simulators.http import Handler, HttpServer
from drivers.simulators.ovhcloud.asked import Asked, Page
from drivers.simulators.ovhcloud.calls import ROUTES, query_id
from drivers.simulators.ovhcloud.calls import Handler as Act
from drivers.simulators.ovhcloud.estate import Estate, Refusal

TOKEN_PATH = "/auth/oauth2/token"  # noqa: S105  # a path
_SKEW_SECONDS = 120
_WINDOW_SECONDS = 60.0
_VERSIONS = re.compile(r"^/(1\.0|v1)(?=/)")
Observer = Callable[[str, str, dict[str, str], Any, Any], None]


class Keys:
    """Who may ask: an application with its consumer, and a service account."""

    def __init__(self, identity: dict[str, str]) -> None:
        self.application, self.secret = identity["application"], identity["secret"]
        self.consumer = identity["consumer"]
        self.account, self.password = identity["account"], identity["password"]
        self.tokens: dict[str, float] = {}
        self.token_seconds = 3600.0
        self.rate: int | None = None  # requests a minute; None: as many as come
        self._lately: deque[float] = deque()

    def token(self) -> dict[str, Any]:
        made = secrets.token_hex(32)
        self.tokens[made] = time.monotonic() + self.token_seconds
        return {
            "access_token": made,
            "expires_in": int(self.token_seconds),
            "scope": "all",
            "token_type": "Bearer",
        }

    def too_many(self) -> bool:
        now = time.monotonic()
        while self._lately and now - self._lately[0] > _WINDOW_SECONDS:
            self._lately.popleft()
        if self.rate is not None and len(self._lately) >= self.rate:
            return True
        self._lately.append(now)
        return False

    def admit(self, method: str, url: str, body: bytes, headers: Any) -> None:
        """Refusal unless the request is signed, or carries a token that is still good."""
        bearer = headers.get("Authorization", "")
        if bearer.startswith("Bearer "):
            if self.tokens.get(bearer.removeprefix("Bearer "), 0) < time.monotonic():
                raise Refusal(403, "This session is forbidden", code="INVALID_CREDENTIAL")
            return
        if headers.get("X-Ovh-Application", "") != self.application:
            raise Refusal(403, "Invalid application key", code="INVALID_KEY")
        if headers.get("X-Ovh-Consumer", "") != self.consumer:
            raise Refusal(403, "This credential does not exist", code="NOT_CREDENTIAL")
        stamp = headers.get("X-Ovh-Timestamp", "")
        if not stamp.isdecimal() or abs(int(stamp) - time.time()) > _SKEW_SECONDS:
            raise Refusal(400, "Invalid timestamp", code="QUERY_TIME_OUT")
        parts = (self.secret, self.consumer, method, url, body.decode(), stamp)
        digest = hashlib.sha1("+".join(parts).encode(), usedforsecurity=False).hexdigest()
        if not hmac.compare_digest(f"$1${digest}", headers.get("X-Ovh-Signature", "")):
            raise Refusal(403, "Invalid signature", code="INVALID_SIGNATURE")


@dataclass(frozen=True, slots=True)
class Api:
    """What is behind the socket, and who sees each call that was done."""

    estate: Estate
    keys: Keys
    observers: list[Observer] = field(default_factory=list)


def api_server(api: Api, *, port: int) -> HttpServer[Api]:
    return HttpServer(_Handler, api, name=f"api-{api.estate.name}", port=port)


class _Handler(Handler[Api]):
    server_version = "overthebox"
    wbufsize = -1
    _count = 0

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        api = self.server.site
        changes = self.command != "GET" and self.path != TOKEN_PATH
        failing = api.estate.faults.next_for(self.command, self.path, changes=changes)
        if failing is not None and not isinstance(failing, LostAnswer):
            self.fail(failing, garbage=self._marked("text/html"))
            return
        try:
            status, told = self._done(body)
        except Refusal as refusal:
            self._refused(refusal)
            return
        if isinstance(failing, LostAnswer):
            self.cut()
            return
        if isinstance(told, Page):
            self._json(status, told.rows, {"X-Pagination-Cursor-Next": told.after})
        else:
            self._json(status, told, {})

    def _done(self, body: bytes) -> tuple[int, Any]:
        api = self.server.site
        where = urlsplit(self.path)
        if where.path == TOKEN_PATH:
            return 200, self._token(body)
        path = _VERSIONS.sub("", where.path, count=1)
        act, parts = _route(self.command, path)
        if path != "/auth/time":
            if api.keys.too_many():
                raise Refusal(429, "Too many requests", code="TOO_MANY_REQUESTS")
            api.keys.admit(
                self.command, f"http://{self.headers['Host']}{self.path}", body, self.headers
            )
        asked = Asked(
            parts=parts,
            query=dict(parse_qsl(where.query)),
            body=_read(body),
            cursor=self.headers.get("X-Pagination-Cursor", ""),
        )
        kind = Call.READ if self.command == "GET" else Call.WRITE
        time.sleep(api.estate.faults.latency(kind))
        with api.estate.changing() if kind is Call.WRITE else api.estate.lock:
            told = act(api.estate, asked)
        for observe in api.observers:
            observe(self.command, path, asked.query, asked.body, told)
        return 200, told

    def _token(self, body: bytes) -> dict[str, Any]:
        keys, given = self.server.site.keys, parse_qs(body.decode())
        told = [given.get(key, [""])[0] for key in ("grant_type", "client_id", "client_secret")]
        if told != ["client_credentials", keys.account, keys.password]:
            time.sleep(self.server.site.estate.profile.login_failure_seconds)
            raise Refusal(401, "invalid_client", code="invalid_client")
        if given.get("scope") != ["all"]:
            raise Refusal(400, "invalid_scope", code="invalid_scope")
        return keys.token()

    def _refused(self, refusal: Refusal) -> None:
        """Older calls name a class, newer ones a code; a wrong rate is told as plain text."""
        if refusal.status == 429:
            self._plain(429, b"Too Many Requests", "text/plain", {"Retry-After": "60"})
            return
        told: dict[str, Any] = {"message": refusal.message}
        if refusal.code:
            told |= {"errorCode": refusal.code, "httpCode": f"{refusal.status} Refused"}
        else:
            names = {404: "NotFound", 409: "Conflict", 400: "BadParameters"}
            told["class"] = f"Client::{names.get(refusal.status, 'Forbidden')}"
        self._json(refusal.status, told, {})

    def _json(self, status: int, told: Any, headers: dict[str, str]) -> None:
        body = json.dumps(told, separators=(",", ":")).encode()
        self._plain(status, body, "application/json; charset=utf-8", headers)

    def _plain(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        told = self._marked(kind) | {key: value for key, value in headers.items() if value}
        self.tell(status, body, told)

    def _marked(self, kind: str) -> dict[str, str]:
        type(self)._count += 1  # noqa: SLF001  # its own
        return {"Content-Type": kind, "X-OVH-QUERYID": query_id(self._count)}


def _route(method: str, path: str) -> tuple[Act, tuple[str, ...]]:
    for known, pattern, act in ROUTES:
        if known == method and (match := pattern.fullmatch(path)):
            return act, tuple(unquote(each) for each in match.groups())
    raise Refusal(404, "Got an invalid (or empty) URL", code="NOT_FOUND")


def _read(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        told = json.loads(body)
    except ValueError as e:
        raise Refusal(400, "Invalid JSON received", code="INVALID_JSON") from e
    if not isinstance(told, dict):
        raise Refusal(400, "The body must be an object", code="INVALID_JSON")
    return told
