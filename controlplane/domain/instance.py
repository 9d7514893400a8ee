"""What an instance is at a site, wished and seen."""

from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.disk import DiskBus
from controlplane.domain.network import NicSeen, NicSpec


class Power(StrEnum):
    ON = "on"
    OFF = "off"


class Manner(StrEnum):
    """How power is taken away: asked of the guest, or cut."""

    GRACEFUL = "graceful"
    HARD = "hard"


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Compute of an instance: whole virtual cpus, memory in bytes."""

    cpus: int
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlace:
    """One disk of an instance to be created, in boot order.

    Where disks come first (`CreateOrder.DISKS_FIRST`) `volume` names a volume made before and
    `image` is None; where the instance comes first `image` names the staged image that the disk is
    filled from (None: empty) and the site makes the volume. `size` in bytes.
    """

    size: int
    volume: str | None = None
    image: str | None = None
    storage: str | None = None
    bus: DiskBus = DiskBus.VIRTIO


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """An instance as a site is asked to make it; it is created powered off.

    `sku` is the name of a flavor where the site has a closed list, else None.
    `anchor` is what makes a second create impossible where the provider offers such a thing
    (Proxmox: the vmid as text); it comes from `Instances.reserve` and is stored before `create`.
    """

    name: str
    size: Size
    disks: tuple[DiskPlace, ...]
    nics: tuple[NicSpec, ...] = ()
    sku: str | None = None
    firmware: Firmware = Firmware.BIOS
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
    anchor: str | None = None


class InstanceState(StrEnum):
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSeen:
    """A disk of a seen instance, in boot order; `size` in bytes."""

    volume: str
    size: int
    bus: DiskBus


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSeen:
    """An instance as the site shows it. `why` holds the provider's words when it failed.

    `power` is None while the site cannot tell. `fenced` is true while our fence stands.
    """

    ref: str
    name: str
    state: InstanceState
    power: Power | None
    epoch: int
    size: Size
    disks: tuple[DiskSeen, ...]
    nics: tuple[NicSeen, ...]
    fenced: bool = False
    why: str = ""


class Trait(StrEnum):
    """What an instance may have that another site cannot give it, or that keeps it where it is."""

    LOCKED = "locked"
    PROTECTED = "protected"
    SNAPSHOTS = "snapshots"
    SHARED_DISK = "shared disk"
    RAW_DISK = "raw disk"
    EPHEMERAL_DISK = "ephemeral disk"
    SWAP_DISK = "swap disk"
    HIDDEN_DISK = "hidden disk"
    ENCRYPTED_DISK = "encrypted disk"
    READ_ONLY_DISK = "read-only disk"
    DETACHED_DISK = "detached disk"
    DISC = "disc"
    DEVICE = "passed-through device"
    TPM = "vTPM"
    SECURE_BOOT = "secure boot"
    MACHINE = "machine"
    PLACEMENT = "placement"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitSeen:
    """One of them, in the provider's own words."""

    trait: Trait
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """`looked` are those that the site tells: of the others nothing is known."""

    looked: frozenset[Trait]
    found: tuple[TraitSeen, ...] = ()
