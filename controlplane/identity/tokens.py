"""API tokens: 256 random bits that are shown once and kept as a digest.

The digest is plain SHA-256: nobody guesses 256 bits, so a salt or a slow hash adds nothing.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import uuid4

from controlplane.domain.errors import Denied
from controlplane.domain.identity import Actor, TokenRecord, User

PREFIX = "fedctl_"
UNKNOWN = "token-unknown"
EXPIRED = "token-expired"
REVOKED = "token-revoked"

_BYTES = 32
_FORM = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """`text` goes to its user now and is kept nowhere; `record` goes to the store."""

    text: str = field(repr=False)
    record: TokenRecord


def issue(
    user: User, *, now: datetime, lifetime: timedelta | None = None, note: str = ""
) -> IssuedToken:
    """A new token of `user`, for `lifetime` (None: until it is revoked)."""
    text = PREFIX + secrets.token_urlsafe(_BYTES)
    record = TokenRecord(
        id=uuid4(),
        user=user.name,
        tenant=user.tenant,
        digest=digest(text),
        created_at=now,
        expires_at=None if lifetime is None else now + lifetime,
        note=note,
    )
    return IssuedToken(text=text, record=record)


def digest(text: str) -> str:
    """What the store finds a token by; `Denied` for a text that is no token of ours."""
    if not _FORM.fullmatch(text):
        raise _unknown()
    return hashlib.sha256(text.encode()).hexdigest()


def admit(record: TokenRecord | None, user: User | None, *, now: datetime) -> Actor:
    """Who holds the token whose digest found `record`, and its `user`; else `Denied`.

    An unknown token and a disabled user's look the same from outside.
    """
    if record is None or user is None or user.disabled or user.name != record.user:
        raise _unknown()
    if record.revoked_at is not None and record.revoked_at <= now:
        raise Denied("the API token was revoked: log in again", reason=REVOKED)
    if record.expires_at is not None and record.expires_at <= now:
        raise Denied(
            f"the API token ended on {record.expires_at:%Y-%m-%d %H:%M} UTC: log in again",
            reason=EXPIRED,
        )
    return Actor(subject=user.name, tenant=user.tenant)


def _unknown() -> Denied:
    return Denied("the API token is not known here: log in again", reason=UNKNOWN)
