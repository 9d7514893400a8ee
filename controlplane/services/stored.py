"""Reading what the store keeps as a resource; what each kind's use cases build on."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol, TypeAlias
from uuid import uuid4

from controlplane.domain.errors import Conflict, Invalid, NotFound, Unsupported
from controlplane.domain.ids import ResourceId
from controlplane.domain.kinds import Scope, facts, facts_of
from controlplane.domain.operation import Operation
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.services.extensions import admit_extensions
from controlplane.services.ports import Clock
from controlplane.services.wish import Caller, Granted, Page, Wish
from controlplane.store.engine import Store
from controlplane.store.resources import PRECONDITION, Deleted
from controlplane.store.tx import Tx

Resources: TypeAlias = list[Resource]


class Cases(Protocol):
    """The use cases of one kind, in the shape in which the API calls them."""

    def get(self, caller: Caller, key: ResourceKey) -> Resource: ...

    def list(self, caller: Caller, page: Page) -> list[Resource]: ...

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted: ...

    def delete(
        self, caller: Caller, key: ResourceKey, expected: int | None
    ) -> Operation | None: ...

    def act(
        self,
        caller: Caller,
        key: ResourceKey,
        action: str,
        expected: int | None,
        options: Mapping[str, str],
    ) -> Operation | None: ...


class ReadOnly:
    """What may only be read refuses the rest; no route leads here."""

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        del caller, wish
        raise Unsupported(f"a {key.kind} is read only")

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        del caller, expected
        raise Unsupported(f"a {key.kind} is read only")

    def act(
        self,
        caller: Caller,
        key: ResourceKey,
        action: str,
        expected: int | None,
        options: Mapping[str, str],
    ) -> Operation | None:
        del caller, expected, options
        raise Unsupported(f"a {key.kind} has no action {action!r}")


class Stored(ReadOnly):
    """Reading one kind from the store."""

    kind: Kind

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        with self.store.read() as tx:
            in_living_workspace(tx, key, reading=True)
            return self.shown(tx, tx.resources.get(key))

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        del caller
        with self.store.read() as tx:
            known_workspace(tx, page)
            found = tx.resources.list(
                self.kind,
                tenant=page.tenant,
                workspace=page.workspace,
                labels=page.labels,
                limit=page.limit,
                after=page.after,
                deleted=Deleted(page.deleted),
            )
            return self.page_shown(tx, found)

    def shown(self, tx: Tx, resource: Resource) -> Resource:
        """`resource` with what is worked out at the moment of reading."""
        del tx
        return resource

    def page_shown(self, tx: Tx, page: Resources) -> Resources:
        """As `shown`, for several at once."""
        return [self.shown(tx, resource) for resource in page]

    def write(
        self, tx: Tx, key: ResourceKey, wish: Wish, *, status: Json, now: datetime
    ) -> Granted:
        """Stores the wish after its extension keys were admitted."""
        present = tx.resources.find(key)
        admit_extensions(key.kind, wish.extensions, present.extensions if present else None)
        resource, created = tx.resources.put(
            key,
            id=ResourceId(uuid4()),
            spec=wish.spec,
            status=status,
            labels=wish.labels,
            annotations=wish.own_annotations(),
            extensions=wish.extensions,
            expected_version=wish.expected,
            now=now,
        )
        return Granted(resource=resource, created=created)


def in_living_workspace(tx: Tx, key: ResourceKey, *, reading: bool = False) -> None:
    """NotFound where the workspace in the path is missing, Conflict where it is going away."""
    if facts_of(key).scope is not Scope.WORKSPACE or key.workspace is None:
        return
    found = tx.resources.find(facts(Kind.WORKSPACE).key(key.workspace, key.tenant, None))
    if found is None:
        raise NotFound(
            f"there is no workspace {key.workspace!r}:"
            f" create it first (fedctl workspace create {key.workspace})"
        )
    if found.state is State.DELETING and not reading:
        raise Conflict(f"workspace {key.workspace!r} is being deleted: choose another")


def known_workspace(tx: Tx, page: Page) -> None:
    """NotFound where the page is of a workspace that is missing."""
    if page.workspace is None:
        return
    if tx.resources.find(facts(Kind.WORKSPACE).key(page.workspace, page.tenant, None)) is None:
        raise NotFound(f"there is no workspace {page.workspace!r}: check the name")


def living(tx: Tx, key: ResourceKey, expected: int | None = None) -> Resource:
    """The resource under `key` at the version that the caller expects."""
    found = tx.resources.get(key)
    if expected is not None and found.version != expected:
        raise Conflict(
            f"{key.kind} {str(key)!r} is at version {found.version}, not {expected}:"
            " read it again, then decide",
            reason=PRECONDITION,
        )
    return found


def referred(tx: Tx, key: ResourceKey, *, field: str) -> Resource:
    """What a reference means, which must be there and not be going away; else Invalid."""
    found = tx.resources.find(key)
    if found is None or found.state is State.DELETING:
        raise Invalid(
            f"{field}: there is no {key.kind} {str(key)!r}: create it first, or name another"
        )
    return found


def settled(tx: Tx, resource: Resource, *, now: datetime, created: bool) -> Resource:
    """`resource` active at once, through every state that SECA wants to see."""
    first = State.CREATING if created else State.UPDATING
    tx.resources.set_state(resource.id, first, now=now)
    return tx.resources.set_state(resource.id, State.ACTIVE, now=now)
