"""The kinds that SECA v1 defines, as they are asked for and shown."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.schemas.wire import Reference, Shown, Status, Wire, Zone

GIBIBYTES = "sizeGB"


class ProviderEntry(Wire):
    name: str
    version: str
    url: str


class RegionSpec(Wire):
    available_zones: list[Zone]
    providers: list[ProviderEntry]


class Permission(Wire):
    provider: Annotated[str, Field(min_length=1, max_length=64)]
    resources: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(min_length=1, max_length=256),
    ]
    verb: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=7)]], Field(min_length=1, max_length=16)
    ]


class RoleSpec(Wire):
    permissions: Annotated[list[Permission], Field(min_length=1, max_length=256)]


class AssignmentScope(Wire):
    """Dimensions are joined by and; an empty one covers all (tenants: the assignment's own)."""

    tenants: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=64)
    ] = Field(default_factory=list)
    regions: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=64)
    ] = Field(default_factory=list)
    workspaces: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=256)
    ] = Field(default_factory=list)


class RoleAssignmentSpec(Wire):
    subs: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]],
        Field(min_length=1, max_length=256),
    ]
    roles: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]],
        Field(min_length=1, max_length=32),
    ]
    scopes: Annotated[list[AssignmentScope], Field(min_length=1, max_length=256)]


class WorkspaceSpec(Wire):
    """A free-form map."""

    model_config = ConfigDict(extra="allow")


class WorkspaceStatus(Status):
    resource_count: int | None = None


class InstanceSkuSpec(Wire):
    v_cpu: Annotated[int, Field(alias="vCPU", ge=1, le=60)]
    ram: Annotated[int, Field(ge=1, le=65536)]


class StorageType(StrEnum):
    LOCAL_EPHEMERAL = "local-ephemeral"
    LOCAL_DURABLE = "local-durable"
    REMOTE_DURABLE = "remote-durable"


class StorageSkuSpec(Wire):
    type: StorageType
    iops: Annotated[int, Field(ge=1, le=45000)]
    min_volume_size: Annotated[int, Field(ge=1)]


class VolumeReference(Wire):
    device_ref: Reference
    type: Literal["virtio"] = "virtio"


class InstanceSpec(Wire):
    sku_ref: Reference
    zone: Zone
    boot_volume: VolumeReference
    data_volumes: Annotated[list[VolumeReference], Field(max_length=64)] = Field(
        default_factory=list
    )
    primary_nic_ref: Reference | None = None
    additional_nic_refs: Annotated[list[Reference], Field(max_length=16)] = Field(
        default_factory=list
    )
    security_group_ref: Reference | None = None
    ssh_keys: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=32)
    ] = Field(default_factory=list)
    user_data: Annotated[str, Field(max_length=65536)] | None = None
    anti_affinity_group: Annotated[str, Field(max_length=64)] | None = None


class InstanceStatus(Status):
    power_state: Literal["on", "off"]
    power_state_since: datetime | None = None


class BlockStorageSpec(Wire):
    sku_ref: Reference
    size_gb: Annotated[int, Field(alias=GIBIBYTES, ge=1, le=1_000_000)]
    source_image_ref: Reference | None = None


class BlockStorageStatus(Status):
    size_gb: Annotated[int, Field(alias=GIBIBYTES)]
    attached_to: Reference | None = None


class ImageSpec(Wire):
    block_storage_ref: Reference
    cpu_architecture: Literal["amd64", "arm64"]
    boot: Literal["UEFI", "BIOS"] = "UEFI"
    initializer: Literal["none", "cloudinit-22"] = "none"


class ImageStatus(Status):
    size_mb: Annotated[int | None, Field(alias="sizeMB")] = None


class WellknownEndpoint(Shown):
    provider: str
    url: str


class Wellknown(Shown):
    version: str
    endpoints: list[WellknownEndpoint]
