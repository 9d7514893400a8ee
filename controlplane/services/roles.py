"""Roles and role assignments: a tenant's own, beside the system roles that nobody edits."""

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import islice
from typing import cast
from uuid import NAMESPACE_URL, uuid5

from controlplane.domain.errors import Conflict, Invalid, Unsupported
from controlplane.domain.identity import Role
from controlplane.domain.ids import ResourceId, TenantName
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation
from controlplane.domain.resource import Condition, Kind, Resource, ResourceKey, State
from controlplane.identity.roles import SYSTEM_PREFIX, system_roles
from controlplane.services.access import OPERATOR, role_spec, to_assignment
from controlplane.services.record import note
from controlplane.services.selecting import selects
from controlplane.services.skus import OFFERED_SINCE
from controlplane.services.stored import Stored, living, settled
from controlplane.services.wish import Caller, Granted, Page, Wish
from controlplane.store.tx import Tx

_MANY = 100_000


class _Grants(Stored, ABC):
    """What both kinds share: active at once, gone at once."""

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        now = self.clock.now()
        with self.store.begin() as tx:
            self.admit(tx, key, wish)
            before = tx.resources.find(key)
            granted = self.write(tx, key, wish, status={}, now=now)
            resource = granted.resource
            if granted.created or (before is not None and before.spec != resource.spec):
                resource = settled(tx, resource, now=now, created=granted.created)
            note(tx, caller, "put", key, now)
            return replace(granted, resource=resource)

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            found = living(tx, key, expected)
            self.admit_delete(tx, key)
            tx.resources.mark_deleting(found.id, now)
            tx.resources.remove(found.id, now)
            note(tx, caller, "delete", key, now)
        return None

    @abstractmethod
    def admit(self, tx: Tx, key: ResourceKey, wish: Wish) -> None:
        """Returns where the wish may be had."""

    def admit_delete(self, tx: Tx, key: ResourceKey) -> None:
        """Nothing forbids it, unless a kind says so."""
        del tx, key


class Roles(_Grants):
    kind = Kind.ROLE

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        system = _system(key.tenant).get(key.name)
        return system if system is not None else super().get(caller, key)

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        system = (
            role
            for name, role in _system(page.tenant).items()
            if name > page.after and page.deleted != "only" and selects(page.labels, role.labels)
        )
        both = [*super().list(caller, page), *system]
        return list(islice(sorted(both, key=lambda role: role.key.name), page.limit))

    def admit(self, tx: Tx, key: ResourceKey, wish: Wish) -> None:
        del tx, wish
        if key.name.startswith(SYSTEM_PREFIX):
            raise Unsupported(
                f"role {key.name} belongs to the system: names that begin with"
                f" {SYSTEM_PREFIX!r} are taken, choose another"
            )

    def admit_delete(self, tx: Tx, key: ResourceKey) -> None:
        for found in tx.resources.list(Kind.ROLE_ASSIGNMENT, tenant=key.tenant, limit=_MANY):
            if key.name in to_assignment(found).roles:
                raise Conflict(
                    f"role {key.name} is given by assignment {found.key.name}: delete that first"
                )


class RoleAssignments(_Grants):
    kind = Kind.ROLE_ASSIGNMENT

    def admit(self, tx: Tx, key: ResourceKey, wish: Wish) -> None:
        for name in cast("list[str]", wish.spec["roles"]):
            own = facts(Kind.ROLE).key(name, key.tenant, None)
            if name not in _system(key.tenant) and tx.resources.find(own) is None:
                raise Invalid(f"spec.roles: there is no role {name!r} in tenant {key.tenant}")
        if key.tenant == OPERATOR:
            return
        for scope in cast("list[dict[str, list[str]]]", wish.spec["scopes"]):
            if set(scope.get("tenants", ())) - {key.tenant}:
                raise Invalid(
                    f"spec.scopes: an assignment in tenant {key.tenant} reaches that tenant only:"
                    " leave tenants out"
                )


def _system(tenant: TenantName | None) -> dict[str, Resource]:
    return {role.name: _shown(role) for role in system_roles(TenantName(tenant or ""))}


def _shown(role: Role) -> Resource:
    states = (State.ACTIVE, State.CREATING, State.PENDING)
    return Resource(
        key=facts(Kind.ROLE).key(role.name, role.tenant, None),
        id=ResourceId(uuid5(NAMESPACE_URL, f"{role.tenant}/roles/{role.name}")),
        spec=role_spec(role),
        status={},
        state=State.ACTIVE,
        conditions=tuple(Condition(state=state, at=OFFERED_SINCE) for state in states),
        version=1,
        status_version=1,
        created_at=OFFERED_SINCE,
        modified_at=OFFERED_SINCE,
    )
