"""Who somebody is, and what they may do where."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from controlplane.domain.ids import RegionName, TenantName, UserName, WorkspaceName

ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A local user. `password` is an argon2id hash, empty where no password opens the door.

    Names are unique over all tenants: a name alone is a subject of role assignments.
    """

    name: UserName
    tenant: TenantName
    password: str = field(default="", repr=False)
    disabled: bool = False
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks, once the door has let them in; `tenant` is where they are at home."""

    subject: str
    tenant: TenantName


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """An API token as it is kept: never the token, only its digest (hex). None: no end."""

    id: UUID
    user: UserName
    tenant: TenantName
    digest: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Verbs on resources of one provider (`seca.compute/v1`).

    `resources` are patterns over `instances` (the list) or `instances/web-1` (an item) in which
    `*` stands for any run of characters but `/`; a pattern that is `*` alone is everything.
    `verbs` are get, list, put, delete, post, `post.start` for one action, or `*`.
    """

    provider: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    name: str
    tenant: TenantName
    permissions: tuple[Permission, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleScope:
    """Where an assignment holds: all dimensions at once.

    An empty dimension means all of it, but empty `tenants` means the assignment's own.
    """

    tenants: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    workspaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleAssignment:
    """Who (`subs`) has which roles of the same tenant, in any one of `scopes`."""

    name: str
    tenant: TenantName
    subs: tuple[str, ...]
    roles: tuple[str, ...]
    scopes: tuple[RoleScope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """One call, as authorisation sees it. `name` is None for a list.

    `tenant` is None for what stands above all tenants (sites, audit checkpoints); `region` and
    `workspace` are None where the path has none. `action` is the word behind a POST.
    """

    actor: Actor
    provider: str
    collection: str
    verb: str
    name: str | None = None
    action: str = ""
    tenant: TenantName | None = None
    region: RegionName | None = None
    workspace: WorkspaceName | None = None

    @property
    def resource(self) -> str:
        return self.collection if self.name is None else f"{self.collection}/{self.name}"
