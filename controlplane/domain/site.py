"""A provider endpoint: where it is, what it can, what it offers."""

from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.domain.disk import DiskBus, DiskFormat
from controlplane.domain.fence import FenceLevel
from controlplane.domain.ids import RegionName, SiteName
from controlplane.domain.instance import Firmware, Size
from controlplane.domain.network import NetworkSeen


class ProviderKind(StrEnum):
    FAKE = "fake"
    OPENNEBULA = "opennebula"
    OPENSTACK = "openstack"
    PROXMOX = "proxmox"
    XCPNG = "xcpng"
    OVHCLOUD = "ovhcloud"


class Capability(StrEnum):
    """One facet of the driver contract, as data that leaves the process."""

    INSTANCES = "instances"
    VOLUMES = "volumes"
    SNAPSHOTS = "snapshots"
    DISK_EXPORT = "disk-export"
    DISK_IMPORT = "disk-import"
    IMAGE_PULL = "image-pull"
    IMAGE_PUSH = "image-push"
    NETWORKS = "networks"
    FENCING = "fencing"
    CONSOLE_LOG = "console-log"
    GUEST_AGENT = "guest-agent"
    PAUSING = "pausing"
    ADOPTION = "adoption"
    QUOTA = "quota"


class CreateOrder(StrEnum):
    """Whether a site makes an instance around volumes, or volumes with the instance."""

    DISKS_FIRST = "disks-first"
    INSTANCE_FIRST = "instance-first"


class Changes(StrEnum):
    """What a provider tells of a disk's changes since a snapshot of a running instance.

    WHILE_ALIVE: nothing once its process is gone; the last of them are read from a paused one.
    """

    UNTOLD = "untold"
    TOLD = "told"
    WHILE_ALIVE = "while-alive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Facts of a provider kind, narrowed by a site where it can tell. Sizes in bytes.

    `buses` are those that disks can be wished on; empty: the site has one of its own for all.
    `user_data` and `ssh_keys` tell whether a new instance is given them; `blank` whether a disk
    that is made empty reads as zeros, wherever the site puts it.
    """

    name_length: int
    disk_step: int
    disk_max: int
    disks_max: int
    nics_max: int
    formats: frozenset[DiskFormat]
    firmware: frozenset[Firmware]
    create_order: CreateOrder
    settle_seconds: float
    fence_level: FenceLevel
    changes: Changes = Changes.UNTOLD
    buses: frozenset[DiskBus] = frozenset(DiskBus)
    user_data: bool = True
    ssh_keys: bool = True
    blank: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sku:
    """A size that a site offers from a closed list; `disk` bytes come with it, None: none do."""

    name: str
    size: Size
    disk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSeen:
    """A place for volumes; `free` bytes, None where the site does not tell."""

    name: str
    free: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What a site offers. `skus` empty means sizes are free."""

    skus: tuple[Sku, ...] = ()
    networks: tuple[NetworkSeen, ...] = ()
    storages: tuple[StorageSeen, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSeen:
    """What may still be made; None where there is no bound or the site does not tell. Bytes."""

    instances: int | None = None
    cpus: int | None = None
    memory: int | None = None
    volumes: int | None = None
    disk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What `check` saw. `lacking` narrows the declared capabilities, each with its reason."""

    version: str
    lacking: dict[Capability, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """All that planning knows of a site at one moment."""

    site: SiteName
    provider: ProviderKind
    region: RegionName
    capabilities: frozenset[Capability]
    limits: Limits
    catalogue: Catalogue
    quota: QuotaSeen
    version: str = ""
    country: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAccess:
    """What a driver needs to log in: endpoint and opened credentials. Never logged, never stored.

    `endpoint` is the provider's own URL. `secrets` and `options` keys are per provider, documented
    in its card. `pins` hold certificate and ssh host key fingerprints fixed at registration.
    """

    site: SiteName
    provider: ProviderKind
    endpoint: str
    secrets: dict[str, str] = field(repr=False)
    options: dict[str, str] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    timeout: float = 20.0
