"""Protections: instances whose recovery points are taken together, when somebody asks for them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from controlplane.domain.errors import Invalid
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind
from controlplane.domain.resource import Kind, ResourceKey, State
from controlplane.services.record import free, note, start
from controlplane.services.stored import Stored, in_living_workspace, living, referred, settled
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.tx import Tx


class Protections(Stored):
    """A wish alone does nothing; `sync` takes the points. They stay when the wish goes."""

    kind = Kind.PROTECTION

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        now = self.clock.now()
        with self.store.begin() as tx:
            in_living_workspace(tx, key)
            _members_exist(tx, key, wish)
            before = tx.resources.find(key)
            granted = self.write(tx, key, wish, status={}, now=now)
            resource = granted.resource
            changed = before is not None and before.spec != resource.spec
            if granted.created or (changed and resource.state is not State.UPDATING):
                resource = settled(tx, resource, now=now, created=granted.created)
            note(tx, caller, "put", key, now)
            return replace(granted, resource=resource)

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            found = living(tx, key, expected)
            free(tx, found.id, what=f"protection {key}")
            tx.resources.mark_deleting(found.id, now)
            tx.resources.remove(found.id, now)
            note(tx, caller, "delete", key, now)
        return None

    def act(
        self,
        caller: Caller,
        key: ResourceKey,
        action: str,
        expected: int | None,
        options: Mapping[str, str],
    ) -> Operation | None:
        del options
        now = self.clock.now()
        with self.store.begin() as tx:
            in_living_workspace(tx, key)
            found = living(tx, key, expected)
            free(tx, found.id, what=f"protection {key}")
            note(tx, caller, action, key, now)
            order = {
                "members": found.spec["members"],
                "maxSpreadSeconds": found.spec.get("maxSpread"),
            }
            operation = start(tx, caller, OperationKind.TAKE_POINTS, found, now=now, order=order)
            tx.resources.patch_status(found.id, {"operation": operation.name}, now=now)
            return operation


def _members_exist(tx: Tx, key: ResourceKey, wish: Wish) -> None:
    members = cast("list[str]", wish.spec["members"])
    if len(set(members)) != len(members):
        raise Invalid("spec.members: an instance is named twice: name each once")
    for name in members:
        instance = facts(Kind.INSTANCE).key(name, key.tenant, key.workspace)
        referred(tx, instance, field="spec.members")
