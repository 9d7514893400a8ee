"""What will be done, exactly, before anything is done."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from controlplane.domain.disk import DiskBus, DiskFormat
from controlplane.domain.fence import FenceLevel
from controlplane.domain.finding import Finding
from controlplane.domain.ids import ArtefactId, InstanceId, PointId, SiteName
from controlplane.domain.instance import Firmware, Size
from controlplane.domain.site import CreateOrder


class Delivery(StrEnum):
    """How bytes come into the target: the site fetches them, or we send them."""

    PULL = "pull"
    PUSH = "push"


class CheckKind(StrEnum):
    """An acceptance check on the isolated target."""

    POWERED = "powered"
    BOOTED = "booted"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceCheck:
    """`pattern` is text that the guest's boot proof must contain; empty: any proof will do."""

    kind: CheckKind
    pattern: str = ""
    within: timedelta = timedelta(seconds=120)


class Method(StrEnum):
    """Cold: the source is stopped for all of it. Warm: only what changes last is copied then.

    Direct is cold, and its bytes go straight from source to target: nothing is kept of them.
    """

    COLD = "cold"
    WARM = "warm"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutover:
    """When a warm move may stop its source: by itself once the rest fits, or when told to.

    Neither before `not_before` nor after `not_after`: a move that missed its window unwinds.
    """

    manual: bool = False
    not_before: datetime | None = None
    not_after: datetime | None = None


AT_ONCE = Cutover()


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPolicy:
    """Bounds within which a pure function chooses each next copy pass.

    A cold move has one pass, with the source stopped. Passes go on until the final one reads for no
    longer than `budget`, or another would not shorten it; `limit` is how long it may read at most:
    without a rest that fits it somebody must decide. `tracked`: the source tells what changed since
    a snapshot; else each pass reads all of it. `seeded`: the target is made from the first pass and
    then follows by writing changes. `paused`: the last pass reads a source that is paused, because
    its change list dies with it. `direct`: the one pass of a stopped source goes straight into the
    target, which is made before. `beside`: it goes into the vault and the target at the same time.
    """

    warm: bool = False
    passes_max: int = 1
    budget: timedelta | None = None
    tracked: bool = False
    seeded: bool = False
    paused: bool = False
    limit: timedelta | None = None
    cutover: Cutover = AT_ONCE
    direct: bool = False
    beside: bool = False

    @property
    def early(self) -> bool:
        """Whether the target is made, with empty disks, before its source stops."""
        return self.direct or self.beside

    @property
    def method(self) -> Method:
        if self.direct:
            return Method.DIRECT
        return Method.WARM if self.warm else Method.COLD


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """One disk; sizes in bytes. `target_size` is rounded to the target's step.

    `blank`: made empty, it reads as zeros at the target.
    """

    index: int
    size: int
    target_size: int
    bus: DiskBus
    format: DiskFormat
    delivery: Delivery
    storage: str | None = None
    volume: str | None = None
    point: PointId | None = None
    point_disk: int = 0
    blank: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NicPlan:
    """One nic. `network` is the target's own id of it, `network_name` what people call it."""

    network: str
    network_name: str = ""
    mac: str | None = None
    address: str | None = None
    source_network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """A retained copy at the target that becomes the target: what differs from `base` is written.

    `volumes` are its disks in boot order. `was_home`: it is an old home, else of a failed attempt.
    """

    copy: ArtefactId
    base: PointId
    volumes: tuple[str, ...]
    was_home: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """The instance as it will be made at a site, or brought up to date there."""

    site: SiteName
    name: str
    size: Size
    sku: str | None
    firmware: Firmware
    create_order: CreateOrder
    disks: tuple[DiskPlan, ...]
    nics: tuple[NicPlan, ...]
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
    reuse: Reuse | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds and bytes expected; `basis` says what the rates come from."""

    seconds: float
    downtime_seconds: float
    bytes_read: int
    bytes_sent: int
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionPlan:
    instance: InstanceId
    target: TargetPlan
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MovePlan:
    """A move, frozen: what its digest names is what runs.

    `copy` is the artefact at the source site that is the home now. `retain` is how long the source
    stays stopped and fenced after the switch.
    """

    instance: InstanceId
    instance_name: str
    source: SiteName
    copy: ArtefactId
    target: TargetPlan
    passes: PassPolicy
    fence: FenceLevel
    checks: tuple[AcceptanceCheck, ...]
    retain: timedelta
    deadline: timedelta
    was_on: bool
    findings: tuple[Finding, ...]
    estimate: Estimate
    return_path: str
