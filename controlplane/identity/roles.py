"""Who may do what: SECA's roles and role assignments, denied unless something allows it."""

import re
from collections.abc import Iterable
from functools import lru_cache

from controlplane.domain.identity import (
    ANY,
    AccessRequest,
    Permission,
    Role,
    RoleAssignment,
    RoleScope,
)
from controlplane.domain.ids import TenantName
from controlplane.domain.kinds import KINDS
from controlplane.domain.resource import Kind

SYSTEM_PREFIX = "seca."
REGIONS = "seca.region/v1"
AUTHORIZATION = "seca.authorization/v1"
WORKSPACES = "workspaces"

_READ = ("get", "list")
_CHANGE = (*_READ, "put", "post")
_OUTSIDE_WORKSPACES = frozenset(
    {
        Kind.REGION,
        Kind.SITE,
        Kind.ROLE,
        Kind.ROLE_ASSIGNMENT,
        Kind.WORKSPACE,
        Kind.AUDIT_ENTRY,
        Kind.AUDIT_CHECKPOINT,
        Kind.VAULT_CHECK,
        Kind.VAULT_STATS,
    }
)


def allowed(
    assignments: Iterable[RoleAssignment],
    roles: Iterable[Role],
    request: AccessRequest,
    *,
    operator: TenantName | None = None,
) -> bool:
    """Whether some assignment gives the actor the permission, where the request is.

    `operator` is the tenant of those who run fedctl: only its assignments reach other tenants, or
    what stands above all tenants. A tenant cannot give itself rights elsewhere by naming another
    tenant in a scope. Every authenticated actor may read regions.
    """
    if request.provider == REGIONS and request.verb in _READ:
        return True
    own = {(role.tenant, role.name): role.permissions for role in roles}
    for assignment in assignments:
        if not _names(assignment, request, operator):
            continue
        if not any(_covers(assignment, scope, request, operator) for scope in assignment.scopes):
            continue
        for name in assignment.roles:
            granted = (
                _SYSTEM.get(name, ())
                if name.startswith(SYSTEM_PREFIX)
                else own.get((assignment.tenant, name), ())
            )
            if any(permits(permission, request) for permission in granted):
                return True
    return False


def permits(permission: Permission, request: AccessRequest) -> bool:
    """Whether `permission` by itself speaks of the request's provider, resource and verb."""
    return (
        permission.provider == request.provider
        and _has_verb(permission.verbs, request)
        and any(_pattern(text).fullmatch(request.resource) for text in permission.resources)
    )


def system_roles(tenant: TenantName) -> tuple[Role, ...]:
    """The roles that every tenant has and nobody edits."""
    return tuple(
        Role(name=name, tenant=tenant, permissions=permissions)
        for name, permissions in _SYSTEM.items()
    )


def _names(assignment: RoleAssignment, request: AccessRequest, operator: TenantName | None) -> bool:
    if request.actor.subject in assignment.subs:
        return True
    at_home = assignment.tenant in {request.actor.tenant, operator}
    return ANY in assignment.subs and at_home


def _covers(
    assignment: RoleAssignment,
    scope: RoleScope,
    request: AccessRequest,
    operator: TenantName | None,
) -> bool:
    runs_all = operator is not None and assignment.tenant == operator
    if not runs_all and request.tenant != assignment.tenant:
        return False
    return (
        _within(scope.tenants or (assignment.tenant,), request.tenant)
        and _within(scope.regions or (ANY,), request.region)
        and _within(scope.workspaces or (ANY,), _workspace(request))
    )


def _within(named: tuple[str, ...], place: str | None) -> bool:
    """A dimension that the request does not have is not checked."""
    return place is None or ANY in named or place in named


def _workspace(request: AccessRequest) -> str | None:
    """A workspace itself lies within itself, though its path is the tenant's."""
    return request.name if request.collection == WORKSPACES else request.workspace


def _has_verb(verbs: tuple[str, ...], request: AccessRequest) -> bool:
    one_action = f"{request.verb}.{request.action}" if request.action else request.verb
    return ANY in verbs or request.verb in verbs or one_action in verbs


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    if text == ANY:
        return re.compile(r".*", re.DOTALL)
    return re.compile("[^/]*".join(re.escape(part) for part in text.split(ANY)))


def _on(provider: str, resources: Iterable[str], verbs: tuple[str, ...]) -> Permission:
    return Permission(provider=provider, resources=tuple(resources), verbs=verbs)


def _in_workspaces(verbs: tuple[str, ...]) -> tuple[Permission, ...]:
    collections: dict[str, list[str]] = {}
    for facts in KINDS:
        if facts.kind not in _OUTSIDE_WORKSPACES:
            patterns = (facts.collection, f"{facts.collection}/*")
            collections.setdefault(facts.provider, []).extend(
                p for p in patterns if p not in collections.get(facts.provider, [])
            )
    return tuple(_on(provider, names, verbs) for provider, names in collections.items())


def _workspaces(verbs: tuple[str, ...]) -> Permission:
    return _on("seca.workspace/v1", (WORKSPACES, f"{WORKSPACES}/*"), verbs)


_PROVIDERS = tuple(dict.fromkeys(facts.provider for facts in KINDS))
_SYSTEM: dict[str, tuple[Permission, ...]] = {
    "seca.admin": tuple(_on(provider, (ANY,), (ANY,)) for provider in _PROVIDERS),
    "seca.region-admin": tuple(
        _on(provider, (ANY,), (ANY,)) for provider in _PROVIDERS if provider != AUTHORIZATION
    ),
    "seca.workspace-admin": (*_in_workspaces((ANY,)), _workspaces(_CHANGE)),
    "seca.workspace-editor": (*_in_workspaces(_CHANGE), _workspaces(_READ)),
    "seca.workspace-viewer": (*_in_workspaces(_READ), _workspaces(_READ)),
}
