"""Keys by purpose and owner: the root wraps tenant keys, tenant keys wrap data keys.

Opened keys stay in this process for `ttl`, so that bulk work costs no call to the agent; after
that they are unwrapped anew, and a sealed agent refuses.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from controlplane.domain.errors import Conflict, Integrity, NotFound
from controlplane.keys import envelope
from controlplane.keys.port import (
    KeyAct,
    KeyAgent,
    KeyId,
    KeyName,
    KeyObserver,
    OpenKey,
    Purpose,
    WrappedKey,
    WrappedKeys,
    tenant_of,
)

DEFAULT_TTL = timedelta(minutes=5)


def _unobserved(act: KeyAct, name: KeyName) -> None:
    """Nobody asked to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cached:
    """A data key lives no longer than the tenant key that opened it."""

    key: OpenKey
    until: float


class Keyring:
    """Used by any number of threads."""

    def __init__(
        self,
        *,
        agent: KeyAgent,
        rows: WrappedKeys,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        ttl: timedelta = DEFAULT_TTL,
        observe: KeyObserver = _unobserved,
    ) -> None:
        self.agent = agent
        self._rows = rows
        self._now = now
        self._monotonic = monotonic
        self._ttl = ttl.total_seconds()
        self._observe = observe
        self._lock = threading.Lock()
        self._by_id: dict[KeyId, _Cached] = {}
        self._current: dict[tuple[Purpose, str], _Cached] = {}

    def current(self, purpose: Purpose, owner: str) -> OpenKey:
        """The newest key of `owner` for `purpose`, made now if there is none."""
        return self._newest(purpose, owner).key

    def by_id(self, key: KeyId) -> OpenKey:
        """The key with that id, of whatever version; `NotFound` if there is no such row."""
        return self._known(key).key

    def check(self, row: WrappedKey) -> None:
        """Integrity unless the key opens; NotFound when there is no row of what wraps it."""
        self._opened(row)

    def held_current(self, purpose: Purpose, owner: str) -> OpenKey | None:
        """What `current` would give without asking anybody; for callers that must not wait."""
        with self._lock:
            return self._alive(self._current.get((purpose, owner)))

    def held(self, key: KeyId) -> OpenKey | None:
        """What `by_id` would give without asking anybody."""
        with self._lock:
            return self._alive(self._by_id.get(key))

    def rotate(self, purpose: Purpose, owner: str) -> OpenKey:
        """A new version seals from now on; everything older still opens.

        Other processes follow when their memory of the old one has run out.
        """
        if purpose is Purpose.VAULT_ID:
            raise Conflict(
                f"the id key of {owner} names every chunk it ever stored and is not rotated:"
                " rotate its data key"
            )
        versions = self._rows.list(purpose, owner)
        made = self._made(purpose, owner, version=versions[-1].name.version + 1 if versions else 1)
        self._observe(KeyAct.ROTATED, made.key.name)
        with self._lock:
            self._current[purpose, owner] = made
        return made.key

    def seal(self, purpose: Purpose, owner: str, plain: bytes, *, bound: bytes = b"") -> bytes:
        return envelope.seal(self.current(purpose, owner), plain, bound=bound)

    def open(self, purpose: Purpose, owner: str, sealed: bytes, *, bound: bytes = b"") -> bytes:
        """What `seal` was given, for the same purpose, owner and `bound`; else `Integrity`."""
        key = self.by_id(envelope.key_id(sealed))
        if (key.name.purpose, key.name.owner) != (purpose, owner):
            raise Integrity(
                f"sealed bytes of {owner} ({purpose}) name a key of {key.name.owner}"
                f" ({key.name.purpose}): somebody moved them; restore the row from a backup"
            )
        return envelope.open_sealed(key, sealed, bound=bound)

    def forget(self) -> None:
        """Drop every opened key; the next use asks the agent."""
        with self._lock:
            self._by_id.clear()
            self._current.clear()

    def _newest(self, purpose: Purpose, owner: str) -> _Cached:
        with self._lock:
            cached = self._current.get((purpose, owner))
        if cached is not None and cached.until > self._monotonic():
            return cached
        versions = self._rows.list(purpose, owner)
        newest = self._opened(versions[-1]) if versions else self._made(purpose, owner, version=1)
        with self._lock:
            self._current[purpose, owner] = newest
        return newest

    def _known(self, key: KeyId) -> _Cached:
        with self._lock:
            cached = self._by_id.get(key)
        if cached is not None and cached.until > self._monotonic():
            return cached
        row = self._rows.get(key)
        if row is None:
            raise NotFound(f"key {key} is not in the store: restore the rows of wrapped keys")
        return self._opened(row)

    def _made(self, purpose: Purpose, owner: str, *, version: int) -> _Cached:
        name = KeyName(id=KeyId(uuid4()), purpose=purpose, owner=owner, version=version)
        material = envelope.new_material()
        if purpose is Purpose.TENANT:
            wrapped = self.agent.wrap(name, material)
            parent, until = self.agent.status().root or "", self._later()
        else:
            tenant = self._newest(Purpose.TENANT, tenant_of(owner))
            wrapped = envelope.seal(tenant.key, material, bound=_binding(name))
            parent, until = str(tenant.key.name.id), tenant.until
        row = WrappedKey(name=name, wrapped=wrapped, wrapped_by=parent, created_at=self._now())
        standing = self._rows.put_if_absent(row)
        if standing.name.id != name.id:
            return self._opened(standing)  # another process was first: its key is the key
        self._observe(KeyAct.CREATED, name)
        return self._remember(OpenKey(name=name, material=material), until)

    def _opened(self, row: WrappedKey) -> _Cached:
        if row.name.purpose is Purpose.TENANT:
            material, until = self.agent.unwrap(row.name, row.wrapped), self._later()
        else:
            tenant = self._known(envelope.key_id(row.wrapped))
            wrapper = tenant.key.name
            expected = (Purpose.TENANT, tenant_of(row.name.owner))
            if (wrapper.purpose, wrapper.owner) != expected:
                raise Integrity(
                    f"key {row.name.id} of {row.name.owner} is wrapped by a key of"
                    f" {wrapper.owner}: restore the rows of wrapped keys"
                )
            material = envelope.open_sealed(tenant.key, row.wrapped, bound=_binding(row.name))
            until = tenant.until
        self._observe(KeyAct.OPENED, row.name)
        return self._remember(OpenKey(name=row.name, material=material), until)

    def _remember(self, key: OpenKey, until: float) -> _Cached:
        cached = _Cached(key=key, until=until)
        with self._lock:
            self._by_id[key.name.id] = cached
        return cached

    def _alive(self, cached: _Cached | None) -> OpenKey | None:
        return cached.key if cached is not None and cached.until > self._monotonic() else None

    def _later(self) -> float:
        return self._monotonic() + self._ttl


def _binding(name: KeyName) -> bytes:
    return b"\x00".join(
        (b"key", name.id.bytes, name.purpose.encode(), name.owner.encode(), b"%d" % name.version)
    )
