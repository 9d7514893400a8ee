"""What callers bring: who they are, what they want, which page they read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.domain.identity import Actor
from controlplane.domain.ids import TenantName, WorkspaceName
from controlplane.domain.operation import Operation
from controlplane.domain.resource import Json, Resource
from controlplane.domain.selector import Selector

SERVER_OWNED = "fedctl:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, known by a token, and the id of this request."""

    subject: str
    tenant: TenantName
    request: str

    @property
    def actor(self) -> Actor:
        return Actor(subject=self.subject, tenant=self.tenant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The body of a PUT. `expected` is the version it may replace; None replaces any.

    Annotations that begin with `fedctl:` are the server's own and not taken from clients.
    """

    spec: Json
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, str] = field(default_factory=dict)
    expected: int | None = None

    def own_annotations(self) -> dict[str, str]:
        return {k: v for k, v in self.annotations.items() if not k.startswith(SERVER_OWNED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What became of a PUT; `operation` is the work that it started."""

    resource: Resource
    created: bool
    operation: Operation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a collection: after the name `after`, at most `limit`."""

    tenant: TenantName | None = None
    workspace: WorkspaceName | None = None
    labels: Selector = ()
    limit: int = 1000
    after: str = ""
    deleted: str = "live"
