"""The door: who comes in with which token, and what they may ask for."""

from typing import Final, cast

from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Denied
from controlplane.domain.identity import (
    AccessRequest,
    Permission,
    Role,
    RoleAssignment,
    RoleScope,
)
from controlplane.domain.ids import RegionName, TenantName, WorkspaceName
from controlplane.domain.kinds import READ, KindFacts, Verb
from controlplane.domain.resource import Json, Kind, Resource
from controlplane.identity import roles, tokens
from controlplane.services.ports import Clock, ServiceSettings
from controlplane.services.record import append
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

OPERATOR: Final = TenantName("system")
UNAUTHENTICATED: Final = "unauthenticated"
_MANY = 100_000


class Access:
    """Default deny: nothing is allowed unless a role assignment says so."""

    def __init__(self, *, store: Store, clock: Clock, settings: ServiceSettings) -> None:
        self._store = store
        self._clock = clock
        self._region = settings.region

    def enter(self, token: str | None, request: str) -> Caller:
        """Who holds `token`; Denied with a reason that the door answers 401 for."""
        if not token:
            raise Denied(
                "no API token came with the request: log in (fedctl login)",
                reason=UNAUTHENTICATED,
            )
        digest = tokens.digest(token)
        with self._store.read() as tx:
            record = tx.identity.tokens.by_hash(digest)
            user = None if record is None else tx.identity.users.find(record.user)
        actor = tokens.admit(record, user, now=self._clock.now())
        return Caller(subject=actor.subject, tenant=actor.tenant, request=request)

    def require(
        self,
        caller: Caller,
        target: KindFacts,
        verb: Verb,
        *,
        tenant: str | None = None,
        workspace: str | None = None,
        name: str | None = None,
        action: str = "",
    ) -> None:
        """Returns when some assignment allows it; else Denied, and a refused change is noted."""
        wanted = AccessRequest(
            actor=caller.actor,
            provider=target.provider,
            collection=target.collection,
            verb=verb.value,
            name=name,
            action=action,
            tenant=None if tenant is None else TenantName(tenant),
            region=RegionName(self._region) if target.regional else None,
            workspace=None if workspace is None else WorkspaceName(workspace),
        )
        self.require_request(caller, wanted)

    def allows(self, wanted: AccessRequest) -> bool:
        with self._store.read() as tx:
            return _allowed(tx, wanted)

    def require_request(self, caller: Caller, wanted: AccessRequest) -> None:
        if self.allows(wanted):
            return
        place = f"tenant {wanted.tenant}" if wanted.tenant else "the whole control plane"
        if wanted.workspace:
            place = f"workspace {wanted.workspace} of {place}"
        if wanted.verb not in {verb.value for verb in READ}:
            self._note_refusal(caller, wanted)
        raise Denied(
            f"{caller.subject} may not {wanted.verb} {wanted.resource} in {place}:"
            " ask an administrator there for a role"
        )

    def _note_refusal(self, caller: Caller, wanted: AccessRequest) -> None:
        now = self._clock.now()
        entry = AuditEntry(
            sequence=0,
            at=now,
            actor=caller.subject,
            tenant=caller.tenant,
            action=f"{wanted.collection}.{wanted.verb}",
            subject=f"{wanted.provider}/{wanted.tenant or ''}/{wanted.resource}",
            outcome="denied",
            request=caller.request,
        )
        with self._store.begin() as tx:
            append(tx, entry)


def _allowed(tx: Tx, wanted: AccessRequest) -> bool:
    places = {OPERATOR, *((wanted.tenant,) if wanted.tenant else ())}
    assignments = [
        assignment
        for tenant in places
        for assignment in map(
            to_assignment, tx.resources.list(Kind.ROLE_ASSIGNMENT, tenant=tenant, limit=_MANY)
        )
    ]
    own = [
        to_role(role)
        for tenant in places
        for role in tx.resources.list(Kind.ROLE, tenant=tenant, limit=_MANY)
    ]
    return roles.allowed(assignments, own, wanted, operator=OPERATOR)


def to_assignment(resource: Resource) -> RoleAssignment:
    spec = resource.spec
    scopes = cast("list[dict[str, list[str]]]", spec["scopes"])
    return RoleAssignment(
        name=resource.key.name,
        tenant=TenantName(resource.key.tenant or ""),
        subs=tuple(cast("list[str]", spec["subs"])),
        roles=tuple(cast("list[str]", spec["roles"])),
        scopes=tuple(
            RoleScope(
                tenants=tuple(scope.get("tenants", ())),
                regions=tuple(scope.get("regions", ())),
                workspaces=tuple(scope.get("workspaces", ())),
            )
            for scope in scopes
        ),
    )


def to_role(resource: Resource) -> Role:
    permissions = cast("list[dict[str, object]]", resource.spec["permissions"])
    return Role(
        name=resource.key.name,
        tenant=TenantName(resource.key.tenant or ""),
        permissions=tuple(
            Permission(
                provider=str(permission["provider"]),
                resources=tuple(cast("list[str]", permission["resources"])),
                verbs=tuple(cast("list[str]", permission["verb"])),
            )
            for permission in permissions
        ),
    )


def role_spec(role: Role) -> Json:
    return {
        "permissions": [
            {
                "provider": permission.provider,
                "resources": list(permission.resources),
                "verb": list(permission.verbs),
            }
            for permission in role.permissions
        ]
    }
