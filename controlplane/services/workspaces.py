"""Workspaces: active at once, and deleted only when nothing lives in them."""

from dataclasses import replace

from controlplane.domain.errors import Conflict
from controlplane.domain.ids import SCOPE_NAME_MAX, WorkspaceName, checked_name
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation
from controlplane.domain.resource import Kind, Resource, ResourceKey, State
from controlplane.services.record import note
from controlplane.services.stored import Stored, living, settled
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.tx import Tx

_CONTENT = (Kind.INSTANCE, Kind.BLOCK_STORAGE, Kind.PROTECTION)
_CREATOR_ROLE = "seca.workspace-admin"


class Workspaces(Stored):
    kind = Kind.WORKSPACE

    def shown(self, tx: Tx, resource: Resource) -> Resource:
        count = sum(_counts(tx, resource.key).values())
        return replace(resource, status={**resource.status, "resourceCount": count})

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        checked_name(key.name, what="a workspace's name", longest=SCOPE_NAME_MAX)
        now = self.clock.now()
        with self.store.begin() as tx:
            before = tx.resources.find(key)
            granted = self.write(tx, key, wish, status={}, now=now)
            resource = granted.resource
            if granted.created:
                _give_to_creator(tx, caller, key, self)
            if granted.created or (before is not None and before.spec != resource.spec):
                resource = settled(tx, resource, now=now, created=granted.created)
            note(tx, caller, "put", key, now)
            return replace(granted, resource=self.shown(tx, resource))

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            workspace = living(tx, key, expected)
            left = {kind: n for kind, n in _counts(tx, key).items() if n}
            if left:
                held = ", ".join(f"{n} of kind {kind}" for kind, n in left.items())
                raise Conflict(f"workspace {key.name!r} is not empty ({held}): delete those first")
            for move in tx.resources.list(
                Kind.MOVE, tenant=key.tenant, workspace=WorkspaceName(key.name), limit=100_000
            ):
                tx.resources.remove(move.id, now)
            creator = tx.resources.find(_creator_key(key))
            if creator is not None:
                tx.resources.remove(creator.id, now)
            if workspace.state is not State.DELETING:
                tx.resources.mark_deleting(workspace.id, now)
            tx.resources.remove(workspace.id, now)
            note(tx, caller, "delete", key, now)
        return None


def _counts(tx: Tx, key: ResourceKey) -> dict[Kind, int]:
    return {
        kind: tx.resources.count(kind, key.tenant, WorkspaceName(key.name)) for kind in _CONTENT
    }


def _creator_key(workspace: ResourceKey) -> ResourceKey:
    return facts(Kind.ROLE_ASSIGNMENT).key(f"creator.{workspace.name}", workspace.tenant, None)


def _give_to_creator(tx: Tx, caller: Caller, key: ResourceKey, cases: Stored) -> None:
    """Whoever makes a workspace may administer it, as long as it lives."""
    now = cases.clock.now()
    assignment = Wish(
        spec={
            "subs": [caller.subject],
            "roles": [_CREATOR_ROLE],
            "scopes": [{"workspaces": [key.name]}],
        }
    )
    granted = cases.write(tx, _creator_key(key), assignment, status={}, now=now)
    if granted.created:
        settled(tx, granted.resource, now=now, created=True)
