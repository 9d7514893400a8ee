"""Which page of a collection a request asks for, and the token of the next one."""

import base64
import binascii
import hashlib
import hmac

from fastapi import Request

from api.http.errors import query_refused
from controlplane.domain.errors import Invalid
from controlplane.domain.ids import TenantName, WorkspaceName
from controlplane.domain.selector import parse_selector
from controlplane.services.wish import Page

DEFAULT_LIMIT = 1000
MOST = 10_000
_MAC = 16
_DELETED = {"true": "also", "only": "only", "false": "live"}
_JSON_RANGES = frozenset({"application/json", "application/*", "*/*"})


class Pages:
    """Tokens are signed and hold for one collection: nobody reads another's names by guessing."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def asked(self, request: Request, tenant: str | None, workspace: str | None) -> Page:
        query = request.query_params
        try:
            labels = parse_selector(query.get("labels", ""))
        except Invalid as e:
            raise query_refused("labels", str(e)) from e
        token = query.get("skipToken")
        return Page(
            tenant=None if tenant is None else TenantName(tenant),
            workspace=None if workspace is None else WorkspaceName(workspace),
            labels=labels,
            limit=_limit(query.get("limit")),
            after="" if token is None else self._open(request.url.path, token),
            deleted=_deleted(request.headers.get("Accept", "")),
        )

    def token(self, path: str, after: str) -> str:
        """What the answer carries when more follows."""
        text = after.encode()
        return base64.urlsafe_b64encode(self._mac(path, text) + text).decode().rstrip("=")

    def _open(self, path: str, token: str) -> str:
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError) as e:
            raise query_refused("skipToken", "is not one of ours: begin the list anew") from e
        mac, text = raw[:_MAC], raw[_MAC:]
        if not hmac.compare_digest(mac, self._mac(path, text)):
            raise query_refused("skipToken", "is not of this list: begin the list anew")
        return text.decode()

    def _mac(self, path: str, text: bytes) -> bytes:
        return hmac.digest(self._key, path.encode() + b"\0" + text, hashlib.sha256)[:_MAC]


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    try:
        return min(max(int(text), 1), MOST)
    except ValueError as e:
        raise query_refused("limit", f"{text[:40]!r} is not a number from 1 to {MOST}") from e


def _deleted(accept: str) -> str:
    for media in accept.split(","):
        name, *parameters = (part.strip() for part in media.split(";"))
        if name.lower() not in _JSON_RANGES:
            continue
        for parameter in parameters:
            word, _, value = (part.strip().lower() for part in parameter.partition("="))
            if word == "deleted":
                return _DELETED.get(value.strip('"'), "live")
    return "live"


def acceptable(accept: str) -> bool:
    """Whether the client takes JSON; silence means yes."""
    names = {media.split(";")[0].strip().lower() for media in accept.split(",") if media.strip()}
    return not names or bool(names & _JSON_RANGES)
