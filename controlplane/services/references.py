"""Which resource a reference means."""

import re
from collections.abc import Mapping
from typing import cast

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import TenantName, WorkspaceName
from controlplane.domain.kinds import KindFacts, Scope, facts
from controlplane.domain.resource import Kind, ResourceKey

SHARED_TENANTS = frozenset({"seca", "public"})
_PROVIDER = re.compile(r"(?P<provider>[a-z][a-z0-9-]*\.[a-z][a-z0-9-]*)/(?P<version>v[a-z0-9]+)/")
_SCOPES = {"regions": "region", "tenants": "tenant", "workspaces": "workspace"}


def resolve(reference: object, *, field: str, kind: Kind, home: ResourceKey) -> ResourceKey:
    """The key that `reference` means, written in `field` of the resource `home`.

    Explicit fields win over what `resource` holds; what neither says is taken from `home`.
    """
    target = facts(kind)
    given = {k: str(v) for k, v in cast("Mapping[str, object]", reference).items() if v}
    rest = given["resource"].strip("/")
    embedded: dict[str, str] = {}
    if match := _PROVIDER.match(rest):
        embedded["provider"] = match["provider"]
        rest = rest[match.end() :]
    parts = rest.split("/")
    while len(parts) > 2 and parts[0] in _SCOPES:  # noqa: PLR2004  # collection and name remain
        embedded[_SCOPES[parts[0]]] = parts[1]
        parts = parts[2:]
    provider = given.get("provider", embedded.get("provider", target.area)).partition("/")[0]
    if provider != target.area or len(parts) != 2 or parts[0] != target.collection:  # noqa: PLR2004
        raise Invalid(
            f"{field}: {given['resource'][:120]!r} does not name a resource of kind {kind}:"
            f" write {target.collection}/NAME"
        )
    tenant = given.get("tenant", embedded.get("tenant", home.tenant or ""))
    workspace = given.get("workspace", embedded.get("workspace", home.workspace or ""))
    if target.scope is Scope.WORKSPACE and not workspace:
        raise Invalid(f"{field}: {given['resource'][:120]!r} lies in a workspace: name it")
    return _key(target, parts[1], tenant, workspace)


def _key(target: KindFacts, name: str, tenant: str, workspace: str) -> ResourceKey:
    return ResourceKey(
        kind=target.kind,
        name=name,
        tenant=TenantName(tenant) if target.scope is not Scope.GLOBAL else None,
        workspace=WorkspaceName(workspace) if target.scope is Scope.WORKSPACE else None,
    )


def must_be_local(target: ResourceKey, *, field: str, home: ResourceKey) -> ResourceKey:
    """`target`, when it lies in the tenant and workspace of `home`; else Invalid."""
    if target.tenant != home.tenant or target.workspace != home.workspace:
        raise Invalid(
            f"{field}: {target} lies outside workspace {home.workspace}: name one inside it"
        )
    return target
