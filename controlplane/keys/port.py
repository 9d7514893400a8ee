"""What the keyring needs of others, and the words it uses: purposes, rows, the agent."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType, NoReturn, Protocol
from uuid import UUID

KeyId = NewType("KeyId", UUID)

SYSTEM_OWNER = "@system"
"""Owner of the keys that belong to no tenant; no tenant can have this name."""

SEALED = "sealed"
AGENT_UNREACHABLE = "agent-unreachable"


class Purpose(StrEnum):
    """What a key may be used for. A key never serves two purposes.

    Owners: a tenant's name, or `tenant/workspace` for the two vault purposes (a dedup domain).
    """

    TENANT = "tenant"
    PAYLOAD = "payload"
    CREDENTIALS = "credentials"
    VAULT_DATA = "vault-data"
    VAULT_ID = "vault-id"


class SigningPurpose(StrEnum):
    """Each has an Ed25519 key of its own, which never leaves the agent."""

    AUDIT = "audit"
    VAULT_HEAD = "vault-head"
    HOME = "home"


def tenant_of(owner: str) -> str:
    """The tenant whose key wraps the keys of `owner`."""
    return owner.partition("/")[0]


def domain_owner(tenant: str, workspace: str) -> str:
    """The owner of a dedup domain's vault keys."""
    return f"{tenant}/{workspace}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyName:
    """What a wrapped key is bound to: moved under another name, it does not open."""

    id: KeyId
    purpose: Purpose
    owner: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A row of the store: a key that only its parent can open.

    `wrapped_by` is the id of the tenant key, or of the root key for a tenant key.
    """

    name: KeyName
    wrapped: bytes
    wrapped_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKey:
    """An opened key. It lives in memory only: neither printed nor pickled."""

    name: KeyName
    material: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an opened key does not leave its process")


class WrappedKeys(Protocol):
    """Where wrapped keys are kept. Rows are never changed and never deleted."""

    def get(self, key: KeyId) -> WrappedKey | None: ...

    def put_if_absent(self, row: WrappedKey) -> WrappedKey:
        """Keep `row` unless (purpose, owner, version) is taken; return the row that stands.

        Durable when it returns: something is encrypted with the key next.
        """
        ...

    def list(self, purpose: Purpose, owner: str) -> tuple[WrappedKey, ...]:
        """All versions, oldest first."""
        ...

    def every(self) -> "tuple[WrappedKey, ...]":
        """Of all purposes and owners."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """`root` names the root key that is open; None while sealed."""

    root: str | None

    @property
    def sealed(self) -> bool:
        return self.root is None


class KeyAgent(Protocol):
    """The holder of the opened root key.

    Every method raises `Unavailable`: reason `sealed` while no root key is open, reason
    `agent-unreachable` when nobody answers.
    """

    def status(self) -> AgentStatus: ...

    def wrap(self, name: KeyName, material: bytes) -> bytes:
        """`material` of a tenant key, openable by this root key only."""
        ...

    def unwrap(self, name: KeyName, wrapped: bytes) -> bytes:
        """The material again; `Integrity` if it was changed, moved or wrapped by another root."""
        ...

    def derive(self, label: str) -> bytes:
        """32 bytes that this root key always gives to `label`."""
        ...

    def sign(self, purpose: SigningPurpose, message: bytes) -> bytes:
        """The Ed25519 signature of `message`."""
        ...

    def public_key(self, purpose: SigningPurpose) -> bytes:
        """The 32 bytes that check `sign`."""
        ...


class KeyAct(StrEnum):
    CREATED = "created"
    ROTATED = "rotated"
    OPENED = "opened"


KeyObserver = Callable[[KeyAct, KeyName], None]
"""Told of every key made, rotated or unwrapped, for the audit log."""
