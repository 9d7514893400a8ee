"""What every resource has in common: who owns it, what is wished, what is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from controlplane.domain.ids import ResourceId, TenantName, WorkspaceName

# JSON as the wire has it: camelCase keys, text, numbers, booleans, null, lists and maps.
Json: TypeAlias = Mapping[str, object]


class Kind(StrEnum):
    """Resource kinds under the names that SECA and our extensions give them."""

    REGION = "region"
    WORKSPACE = "workspace"
    INSTANCE_SKU = "instance-sku"
    STORAGE_SKU = "storage-sku"
    INSTANCE = "instance"
    BLOCK_STORAGE = "block-storage"
    IMAGE = "image"
    IMAGE_UPLOAD = "image-upload"
    MOVE = "move"
    PROTECTION = "protection"
    OPERATION = "operation"
    SITE = "site"
    PLACEMENT = "placement"
    ROLE = "role"
    ROLE_ASSIGNMENT = "role-assignment"
    AUDIT_ENTRY = "audit-entry"
    AUDIT_CHECKPOINT = "audit-checkpoint"
    RECOVERY_POINT = "recovery-point"
    VAULT_CHECK = "vault-check"
    VAULT_STATS = "vault-stats"


class State(StrEnum):
    """The six states of SECA v1."""

    PENDING = "pending"
    CREATING = "creating"
    ACTIVE = "active"
    UPDATING = "updating"
    DELETING = "deleting"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceKey:
    """The identity of a resource; `tenant` and `workspace` are None where the kind has none."""

    kind: Kind
    name: str
    tenant: TenantName | None = None
    workspace: WorkspaceName | None = None

    def __str__(self) -> str:
        """What a person reads: `shop/web-1`, or the bare name outside a workspace."""
        return f"{self.workspace}/{self.name}" if self.workspace else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One entry of a resource's history."""

    state: State
    at: datetime
    type: str = ""
    reason: str = ""
    message: str = ""


CONDITIONS_KEPT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource as stored. `conditions` are newest first, at most 32.

    `version` counts accepted writes and home switches; `status_version` all other changes.
    """

    key: ResourceKey
    id: ResourceId
    spec: Json
    status: Json
    state: State
    conditions: tuple[Condition, ...]
    version: int
    status_version: int
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, str] = field(default_factory=dict)
