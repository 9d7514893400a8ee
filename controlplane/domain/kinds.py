"""Where each kind of resource lives on the wire, declared once for paths, rights and listing."""

from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.ids import TenantName, WorkspaceName
from controlplane.domain.resource import Kind, ResourceKey


class Scope(StrEnum):
    """Which names stand before a resource's own in its path."""

    GLOBAL = "global"
    TENANT = "tenant"
    WORKSPACE = "workspace"


class Verb(StrEnum):
    """What may be asked, in the words that roles use."""

    GET = "get"
    LIST = "list"
    PUT = "put"
    DELETE = "delete"
    POST = "post"


READ = frozenset({Verb.GET, Verb.LIST})
WRITE = READ | {Verb.PUT, Verb.DELETE}


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFacts:
    """One kind under one scope. `area` is the provider without its version: `seca.compute`.

    `regional` kinds name a region in their metadata. `lasting` is false for what has neither times
    nor a version (SKUs, signed heads); `stateful` is false for what has no status.
    """

    kind: Kind
    area: str
    collection: str
    scope: Scope
    verbs: frozenset[Verb] = WRITE
    actions: tuple[str, ...] = ()
    regional: bool = True
    lasting: bool = True
    stateful: bool = True
    version: str = "v1"

    @property
    def provider(self) -> str:
        return f"{self.area}/{self.version}"

    def resource(self, name: str) -> str:
        """The path inside tenant and workspace: `instances/web-1`."""
        return f"{self.collection}/{name}"

    def collection_path(self, tenant: str | None, workspace: str | None) -> str:
        """`v1/tenants/t/workspaces/w/instances`, without a leading slash."""
        parts = [self.version]
        if self.scope is not Scope.GLOBAL:
            parts += ["tenants", tenant or ""]
        if self.scope is Scope.WORKSPACE:
            parts += ["workspaces", workspace or ""]
        return "/".join([*parts, self.collection])

    def ref(self, key: ResourceKey) -> str:
        """The URN of a resource: `seca.compute/v1/tenants/t/workspaces/w/instances/web-1`."""
        return f"{self.area}/{self.collection_path(key.tenant, key.workspace)}/{key.name}"

    def key(self, name: str, tenant: str | None, workspace: str | None) -> ResourceKey:
        """The identity of a resource of this kind; what the scope does not have is dropped."""
        has_tenant = self.scope is not Scope.GLOBAL and tenant is not None
        has_workspace = self.scope is Scope.WORKSPACE and workspace is not None
        return ResourceKey(
            kind=self.kind,
            name=name,
            tenant=TenantName(tenant) if has_tenant and tenant else None,
            workspace=WorkspaceName(workspace) if has_workspace and workspace else None,
        )


KINDS: tuple[KindFacts, ...] = (
    KindFacts(
        kind=Kind.REGION,
        area="seca.region",
        collection="regions",
        scope=Scope.GLOBAL,
        verbs=READ,
        regional=False,
        stateful=False,
    ),
    KindFacts(
        kind=Kind.ROLE,
        area="seca.authorization",
        collection="roles",
        scope=Scope.TENANT,
        regional=False,
    ),
    KindFacts(
        kind=Kind.ROLE_ASSIGNMENT,
        area="seca.authorization",
        collection="role-assignments",
        scope=Scope.TENANT,
        regional=False,
    ),
    KindFacts(
        kind=Kind.WORKSPACE, area="seca.workspace", collection="workspaces", scope=Scope.TENANT
    ),
    KindFacts(
        kind=Kind.INSTANCE_SKU,
        area="seca.compute",
        collection="skus",
        scope=Scope.TENANT,
        verbs=READ,
        lasting=False,
        stateful=False,
    ),
    KindFacts(
        kind=Kind.INSTANCE,
        area="seca.compute",
        collection="instances",
        scope=Scope.WORKSPACE,
        actions=("start", "stop", "restart"),
    ),
    KindFacts(
        kind=Kind.STORAGE_SKU,
        area="seca.storage",
        collection="skus",
        scope=Scope.TENANT,
        verbs=READ,
        lasting=False,
        stateful=False,
    ),
    KindFacts(kind=Kind.IMAGE, area="seca.storage", collection="images", scope=Scope.TENANT),
    KindFacts(
        kind=Kind.BLOCK_STORAGE,
        area="seca.storage",
        collection="block-storages",
        scope=Scope.WORKSPACE,
    ),
    KindFacts(
        kind=Kind.SITE,
        area="fedctl.federation",
        collection="sites",
        scope=Scope.GLOBAL,
        actions=("verify", "survey", "sweep", "scan"),
        regional=False,
    ),
    KindFacts(
        kind=Kind.OPERATION,
        area="fedctl.federation",
        collection="operations",
        scope=Scope.GLOBAL,
        verbs=READ,
        actions=("cancel",),
        regional=False,
    ),
    KindFacts(
        kind=Kind.OPERATION,
        area="fedctl.federation",
        collection="operations",
        scope=Scope.TENANT,
        verbs=READ,
        actions=("cancel",),
        regional=False,
    ),
    KindFacts(
        kind=Kind.OPERATION,
        area="fedctl.federation",
        collection="operations",
        scope=Scope.WORKSPACE,
        verbs=READ,
        actions=("cancel",),
    ),
    KindFacts(
        kind=Kind.AUDIT_ENTRY,
        area="fedctl.federation",
        collection="audit-entries",
        scope=Scope.TENANT,
        verbs=READ,
        regional=False,
        stateful=False,
    ),
    KindFacts(
        kind=Kind.AUDIT_CHECKPOINT,
        area="fedctl.federation",
        collection="audit-checkpoints",
        scope=Scope.GLOBAL,
        verbs=READ,
        regional=False,
        lasting=False,
        stateful=False,
    ),
    KindFacts(
        kind=Kind.VAULT_CHECK,
        area="fedctl.federation",
        collection="vault-checks",
        scope=Scope.GLOBAL,
        regional=False,
    ),
    KindFacts(
        kind=Kind.VAULT_STATS,
        area="fedctl.federation",
        collection="vault-stats",
        scope=Scope.GLOBAL,
        verbs=READ,
        regional=False,
        lasting=False,
    ),
    KindFacts(
        kind=Kind.IMAGE_UPLOAD,
        area="fedctl.images",
        collection="image-uploads",
        scope=Scope.TENANT,
    ),
    KindFacts(
        kind=Kind.MOVE,
        area="fedctl.mobility",
        collection="moves",
        scope=Scope.WORKSPACE,
        actions=("cancel", "retry", "finalize", "cutover", "hold", "resume", "forward"),
    ),
    KindFacts(
        kind=Kind.PROTECTION,
        area="fedctl.protection",
        collection="protections",
        scope=Scope.WORKSPACE,
        actions=("sync",),
    ),
    KindFacts(
        kind=Kind.PLACEMENT,
        area="fedctl.mobility",
        collection="placements",
        scope=Scope.WORKSPACE,
        verbs=READ,
    ),
    KindFacts(
        kind=Kind.RECOVERY_POINT,
        area="fedctl.protection",
        collection="recovery-points",
        scope=Scope.WORKSPACE,
        verbs=READ | {Verb.DELETE},
        actions=("verify",),
    ),
)


def facts(kind: Kind, scope: Scope | None = None) -> KindFacts:
    """The declaration of `kind`; `scope` chooses where a kind has several."""
    return next(f for f in KINDS if f.kind is kind and scope in {None, f.scope})


def facts_of(key: ResourceKey) -> KindFacts:
    """The declaration that `key` falls under."""
    if key.workspace is not None:
        return facts(key.kind, Scope.WORKSPACE)
    return facts(key.kind, Scope.TENANT if key.tenant is not None else Scope.GLOBAL)
