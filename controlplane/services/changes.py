"""What was committed, as those who listen may hear of it: small, in order, and never a secret."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from uuid import UUID

from controlplane.domain.errors import Invalid
from controlplane.domain.identity import AccessRequest
from controlplane.domain.ids import OperationId, RegionName, ResourceId, TenantName, WorkspaceName
from controlplane.domain.kinds import KINDS, Scope, Verb, facts, facts_of
from controlplane.domain.operation import StepState
from controlplane.domain.resource import Json, Kind, ResourceKey
from controlplane.services.access import Access
from controlplane.services.operations import operation_key, stamp
from controlplane.services.ports import ServiceSettings
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.store.events import Event
from controlplane.store.tx import Tx

_TRUSTED = 15.0  # seconds until token and rights are looked at again
_RIGHTS = frozenset({Kind.ROLE, Kind.ROLE_ASSIGNMENT})
_KNOWN = frozenset(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something changed, and how it stands since. `what` is a running step or an audited action."""

    seq: int
    at: datetime
    key: ResourceKey
    state: str
    phase: str = ""
    what: str = ""

    def document(self) -> Json:
        """As the stream says it."""
        named = {"tenant": self.key.tenant, "workspace": self.key.workspace}
        told = {"state": self.state, "phase": self.phase, "what": self.what}
        return {
            "kind": self.key.kind.value,
            "name": self.key.name,
            **{name: value for name, value in named.items() if value},
            "ref": facts_of(self.key).ref(self.key),
            "at": stamp(self.at),
            **{name: value for name, value in told.items() if value},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """All changes up to the event `until`; `missed` when some before it cannot be told any more."""

    changes: tuple[Change, ...] = ()
    until: int
    missed: bool = False


class Audience:
    """What one listener may hear: each change only with the right to list its kind, where it is."""

    def __init__(
        self,
        access: Access,
        region: RegionName,
        enter: Callable[[], Caller],
        place: tuple[TenantName | None, WorkspaceName | None],
    ) -> None:
        self._access = access
        self._region = region
        self._enter = enter
        self._tenant, self._workspace = place
        self._may: dict[tuple[Kind, str | None, str | None], bool] = {}
        self._caller = enter()
        self._trusted_until = monotonic() + _TRUSTED

    def admit(self) -> None:
        """Denied, unless something in the place may be listed."""
        scopes = {Scope.GLOBAL} if self._tenant is None else {Scope.TENANT, Scope.WORKSPACE}
        for kind in {entry.kind for entry in KINDS if entry.scope in scopes} - {Kind.REGION}:
            if self._allowed(kind, self._tenant, self._workspace):
                return
        scope = Scope.GLOBAL if self._tenant is None else Scope.TENANT
        target = facts(Kind.OPERATION, Scope.WORKSPACE if self._workspace else scope)
        self._access.require(
            self._caller, target, Verb.LIST, tenant=self._tenant, workspace=self._workspace
        )

    def heard(self, changes: Iterable[Change]) -> list[Change]:
        """Those that the caller may hear; Denied once the token holds no more."""
        told = list(changes)
        if monotonic() > self._trusted_until or any(c.key.kind in _RIGHTS for c in told):
            self._caller = self._enter()
            self._may.clear()
            self._trusted_until = monotonic() + _TRUSTED
        return [change for change in told if self._here(change.key) and self._hears(change.key)]

    def _here(self, key: ResourceKey) -> bool:
        return self._tenant in {None, key.tenant} and self._workspace in {None, key.workspace}

    def _hears(self, key: ResourceKey) -> bool:
        asked = (key.kind, key.tenant, key.name if key.kind is Kind.WORKSPACE else key.workspace)
        if asked not in self._may:
            self._may[asked] = self._allowed(*asked)
        return self._may[asked]

    def _allowed(self, kind: Kind, tenant: str | None, workspace: str | None) -> bool:
        scope = Scope.GLOBAL if tenant is None else None
        entries = [entry for entry in KINDS if entry.kind is kind and scope in {None, entry.scope}]
        if not entries:  # such as what the installation notes of itself: nobody lists it
            return False
        target = entries[-1]
        is_place = kind is Kind.WORKSPACE
        return self._access.allows(
            AccessRequest(
                actor=self._caller.actor,
                provider=target.provider,
                collection=target.collection,
                verb=Verb.LIST.value,
                name=workspace if is_place else None,
                action="",
                tenant=None if tenant is None else TenantName(tenant),
                region=self._region if target.regional else None,
                workspace=None if workspace is None or is_place else WorkspaceName(workspace),
            )
        )


class Changes:
    """Reads the sequence of events; a cursor is the incarnation and the number of an event."""

    def __init__(self, *, store: Store, access: Access, settings: ServiceSettings) -> None:
        self._store = store
        self._access = access
        self._region = settings.region

    def audience(
        self, enter: Callable[[], Caller], tenant: str | None, workspace: str | None
    ) -> Audience:
        """Who listens in that place, when they may. `enter` says who it is, now and later."""
        place = (
            None if tenant is None else TenantName(tenant),
            None if workspace is None else WorkspaceName(workspace),
        )
        audience = Audience(self._access, self._region, enter, place)
        audience.admit()
        if workspace is not None:
            with self._store.read() as tx:
                tx.resources.get(facts(Kind.WORKSPACE).key(workspace, tenant, None))
        return audience

    def place(self, cursor: str | None) -> tuple[UUID, Batch]:
        """The incarnation, and where a listener with this cursor stands; without one, at the end.

        `missed` for a cursor of another incarnation, or of events yet to come.
        """
        with self._store.read() as tx:
            incarnation, last = tx.settings.incarnation, tx.events.last()
        if not cursor:
            return incarnation, Batch(until=last)
        life, _, number = cursor.rpartition(".")
        try:
            found = UUID(life), int(number)
        except ValueError as e:
            raise Invalid(f"{cursor[:80]!r} is no cursor: take one that a stream gave") from e
        if found[0] != incarnation or not 0 <= found[1] <= last:
            return incarnation, Batch(until=last, missed=True)
        return incarnation, Batch(until=found[1])

    def read(self, after: int, limit: int = 500) -> Batch:
        """What came after that event; of several about one thing the newest."""
        with self._store.read() as tx:
            events = tx.events.after(after, limit)
            first, last = (events[0].seq, events[-1].seq) if events else (0, tx.events.last())
            if (first or last + 1) != after + 1:
                return Batch(until=tx.events.last(), missed=True)
            newest = {(event.kind, event.id): event for event in events}
            told = (_change(tx, e) for e in sorted(newest.values(), key=lambda e: e.seq))
            return Batch(changes=tuple(c for c in told if c is not None), until=last)


def _change(tx: Tx, event: Event) -> Change | None:
    """None for what no resource shows, such as artefacts."""
    match Kind(event.kind) if event.kind in _KNOWN else None:
        case None:
            return None
        case Kind.OPERATION:
            return _operation(tx, event)
        case Kind.AUDIT_ENTRY:
            entry = tx.audit.entries(after=int(event.id), limit=1)[0]
            key = facts(Kind.AUDIT_ENTRY).key(event.id, entry.tenant, None)
            return Change(
                seq=event.seq, at=event.at, key=key, state=entry.outcome, what=entry.action
            )
        case kind:
            found = tx.resources.find_id(ResourceId(UUID(event.id)), deleted=True)
            if found is None:
                return None
            place = found.key
            return Change(
                seq=event.seq,
                at=event.at,
                key=facts(kind).key(place.name, place.tenant, place.workspace),
                state="deleted" if _gone(tx, found.id) else found.state.value,
                phase=str(found.status.get("phase", "")) if kind is Kind.MOVE else "",
            )


def _gone(tx: Tx, resource: ResourceId) -> bool:
    return tx.resources.find_id(resource) is None


def _operation(tx: Tx, event: Event) -> Change:
    operation = tx.operations.get(OperationId(UUID(event.id)))
    running = [s.name for s in tx.operations.steps(operation.id) if s.state is StepState.RUNNING]
    return Change(
        seq=event.seq,
        at=event.at,
        key=operation_key(operation),
        state=operation.state.value,
        phase=operation.phase,
        what=running[-1] if running else "",
    )
