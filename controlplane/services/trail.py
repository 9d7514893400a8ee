"""The audit log for its readers: entries, signed heads, the whole as an export."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from controlplane.audit.checkpoint import Checkpoint, signed_note, verifier_key
from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Invalid, NotFound
from controlplane.domain.ids import ResourceId, TenantName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.services.operations import stamp
from controlplane.services.ports import Clock, Signer
from controlplane.services.skus import OFFERED_SINCE
from controlplane.services.stored import ReadOnly
from controlplane.services.wish import Caller, Page
from controlplane.store.engine import Store

_NOTE_LINES = 3
_NO_ID = ResourceId(UUID(int=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A signed note, and the line of text that verifies it."""

    note: str
    key: str


class AuditEntries(ReadOnly):
    """A tenant's own entries, named by their place in the log."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        place = _place(key.name)
        with self._store.read() as tx:
            found = tx.audit.entries(tenant=key.tenant, after=place, limit=1)
        if not found or found[0].sequence != place:
            raise NotFound(f"tenant {key.tenant} has no audit entry {key.name}: list them first")
        return _entry(found[0], key.tenant)

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        del caller
        after = _place(page.after) + 1 if page.after else 0
        with self._store.read() as tx:
            found = tx.audit.entries(tenant=page.tenant, after=after, limit=page.limit)
        return [_entry(entry, page.tenant) for entry in found]


class AuditCheckpoints(ReadOnly):
    """Every signed head, named by the size of the log that it covers."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        found = {each.key.name: each for each in self._all()}.get(key.name)
        del caller
        if found is None:
            raise NotFound(f"there is no audit checkpoint {key.name}: list them first")
        return found

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        del caller
        after = _place(page.after) if page.after else -1
        return [each for each in self._all() if _place(each.key.name) > after][: page.limit]

    def _all(self) -> tuple[Resource, ...]:
        with self._store.read() as tx:
            notes = tx.audit.checkpoints()
        return tuple({each.key.name: each for each in map(_checkpoint, notes)}.values())


class Trail:
    """What is above all tenants: signing heads, exporting everything."""

    def __init__(self, *, store: Store, clock: Clock, signer: Signer) -> None:
        self._store = store
        self._clock = clock
        self._signer = signer

    def sign_head(self) -> Head:
        """Signs the log as it is now, unless that very head was signed."""
        with self._store.read() as tx:
            size, root = tx.audit.checkpoint()
        public_key = self._signer.public_key()
        note = signed_note(
            Checkpoint(origin=self._signer.origin, size=size, root=root),
            public_key=public_key,
            sign=self._signer.sign,
        )
        with self._store.begin() as tx:
            tx.audit.store_checkpoint(note)
        return Head(note=note, key=verifier_key(self._signer.origin, public_key))

    def key(self) -> str:
        """The public key as the line that `fedctl audit verify --key` takes."""
        return verifier_key(self._signer.origin, self._signer.public_key())

    def export(self) -> Iterator[str]:
        """The whole log as lines, signed up to its last entry."""
        size = int(self.sign_head().note.split("\n")[1])
        with self._store.read() as tx:
            for line in tx.audit.export():
                yield line
                if _closes(line, size):
                    return


def _closes(line: str, size: int) -> bool:
    """Whether `line` is the checkpoint that was signed for this export.

    What was appended since then stands behind it, unsigned: the next export holds it.
    """
    return line.startswith('{"checkpoint"') and f"\\n{size}\\n" in line


def _place(name: str) -> int:
    if not name.isdecimal():
        raise Invalid(f"{name[:80]!r} is not a place in the audit log: it is a number")
    return int(name)


def _entry(entry: AuditEntry, tenant: TenantName | None) -> Resource:
    spec: dict[str, object] = {
        "sequence": entry.sequence,
        "at": stamp(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "outcome": entry.outcome,
        "operation": entry.operation,
        "request": entry.request,
        "detail": dict(entry.detail),
    }
    key = facts(Kind.AUDIT_ENTRY).key(str(entry.sequence), tenant, None)
    return _resource(key, spec, entry.at)


def _checkpoint(note: str) -> Resource:
    origin, size, root = note.split("\n")[:_NOTE_LINES]
    spec = {"size": int(size), "root": root, "origin": origin, "note": note}
    key = facts(Kind.AUDIT_CHECKPOINT).key(size, None, None)
    return _resource(key, spec, OFFERED_SINCE)


def _resource(key: ResourceKey, spec: Json, at: datetime) -> Resource:
    return Resource(
        key=key,
        id=_NO_ID,
        spec=spec,
        status={},
        state=State.ACTIVE,
        conditions=(),
        version=1,
        status_version=1,
        created_at=at,
        modified_at=at,
    )
