"""The kinds that fedctl adds, in SECA's own conventions."""

from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from api.schemas.wire import Key, Name64, Reference, Shown, Status, Wire, Zone
from controlplane.domain.disk import KIB
from controlplane.domain.finding import Severity
from controlplane.domain.operation import OperationKind, OperationState, StepState
from controlplane.domain.plan import CheckKind
from controlplane.domain.site import ProviderKind

Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Option = Annotated[str, Field(max_length=4096)]

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_HOUR = r"^([01]\d|2[0-3]):[0-5]\d$"
Network = Annotated[str, Field(max_length=64), AfterValidator(lambda text: str(ip_network(text)))]
"""An address or a network, as 192.0.2.7 or 2001:db8::/48."""

Rate = Annotated[int, Field(ge=64 * KIB, le=1 << 40)]


class BandwidthHoursIn(Wire):
    """`maxBandwidth` bytes a second from `from` until before `to`, on the clock of `timeZone`.

    On `days` (all, when none are named); hours that end at midnight or later begin on them.
    """

    days: Annotated[list[Day], Field(min_length=1, max_length=7)] | None = None
    from_: Annotated[str, Field(alias="from", pattern=_HOUR)]
    to: Annotated[str, Field(pattern=_HOUR)]
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    max_bandwidth: Rate


class SiteSpec(Wire):
    """A provider endpoint. `options` and `pins` are per provider; its card documents them.

    `maxBandwidth` bounds what passes between us and the site, in bytes a second, `maxMoves` how
    many moves from and to it run at once, `maxSnapshots` how many snapshots it takes at a time. At
    the hours in `bandwidthHours` the least of the limits that hold counts. `imageClients` are the
    addresses and networks from which the site fetches images; where there are any, nobody else
    gets an image that is for the site.
    """

    provider: ProviderKind
    endpoint: Annotated[str, Field(min_length=1, max_length=2048)]
    region: Annotated[str, Field(min_length=1, max_length=64)]
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    options: Annotated[dict[Key, Option], Field(max_length=64)] = Field(default_factory=dict)
    pins: Annotated[dict[Key, Option], Field(max_length=16)] = Field(default_factory=dict)
    max_bandwidth: Rate | None = None
    bandwidth_hours: Annotated[list[BandwidthHoursIn], Field(max_length=16)] | None = None
    max_moves: Annotated[int, Field(ge=0, le=10_000)] | None = None
    max_snapshots: Annotated[int, Field(ge=1, le=1000)] | None = None
    image_clients: Annotated[list[Network], Field(min_length=1, max_length=64)] | None = None


class FrozenOut(Shown):
    """Nothing is done at the site until it was surveyed."""

    since: datetime
    why: str


class SiteStatus(Status):
    health: str | None = None
    version: str | None = None
    capabilities: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    last_seen_at: datetime | None = None
    has_credentials: bool = False
    frozen: FrozenOut | None = None


class AdoptionIn(Wire):
    """Which instance a machine becomes: its workspace and the name it has here."""

    tenant: Name64
    workspace: Name64
    name: Name64


class CredentialsIn(Wire):
    """What a driver logs in with. Sealed on arrival and never returned."""

    secrets: Annotated[
        dict[Key, Annotated[str, Field(min_length=1, max_length=65536)]],
        Field(min_length=1, max_length=32),
    ]


class FindingOut(Shown):
    id: str
    severity: Severity
    subject: str
    evidence: str
    remedy: str = ""


class StepOut(Shown):
    """One step as it went; overhead is what neither the provider nor copying took."""

    name: str
    state: StepState
    started_at: datetime
    ended_at: datetime | None = None
    attempts: int = 1
    seconds: float = 0.0
    provider_seconds: float = 0.0
    copy_seconds: float = 0.0
    overhead_seconds: float = 0.0
    message: str = ""


class ProgressOut(Shown):
    """How far a copy is, in bytes of the disk, and the bytes sent for it."""

    what: str
    done: int
    total: int
    sent: int
    at: datetime


class ProblemNote(Shown):
    code: str
    message: str
    detail: str = ""
    step: str = ""


class OperationSpec(Wire):
    kind: OperationKind
    subject: str
    order: dict[str, object] = Field(default_factory=dict)
    plan_digest: str | None = None
    deadline: datetime | None = None


class OperationStatus(Status):
    operation_state: OperationState
    outcome: OperationState | None = None
    phase: str = ""
    steps: list[StepOut] = Field(default_factory=list)
    progress: list[ProgressOut] = Field(default_factory=list)
    findings: list[FindingOut] = Field(default_factory=list)
    problem: ProblemNote | None = None
    result: dict[str, object] = Field(default_factory=dict)
    waits_for: str = ""
    cancel_requested: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None


class AuditEntrySpec(Wire):
    """One leaf of the audit log."""

    sequence: int
    at: datetime
    actor: str
    action: str
    subject: str
    request: str


class AuditCheckpointSpec(Wire):
    size: int
    root: str
    note: str = ""


class ImageUploadSpec(Wire):
    """A file that is to become the image `image`. Its bytes follow by PUT on `.../data`."""

    image: Annotated[str, Field(min_length=1, max_length=128)]
    format: Literal["raw", "qcow2", "auto"] = "auto"
    size_bytes: Annotated[int, Field(ge=1)]
    sha256: Hex64 | None = None
    cpu_architecture: Literal["amd64", "arm64"] = "amd64"
    boot: Literal["UEFI", "BIOS"] = "BIOS"
    initializer: Literal["none", "cloudinit-22"] = "none"


class ImageUploadStatus(Status):
    received: int = 0
    sha256: str | None = None
    image_ref: Reference | None = None


class CheckIn(Wire):
    """`pattern` is text that the guest's boot proof must contain."""

    kind: CheckKind
    pattern: Annotated[str, Field(max_length=256)] = ""
    within: Annotated[int, Field(ge=1, le=86400)] = 120


class NetworkMapping(Wire):
    """Networks by the names that the two sites give them; without `to` by the plan's own rule.

    With `address` new, nics on it get addresses of the target's choice.
    """

    from_: Annotated[str, Field(alias="from", min_length=1, max_length=128)]
    to: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    address: Literal["keep", "new"] = "keep"


class WaiverIn(Wire):
    """A blocker that the caller, who may put `waivers/ID`, takes upon themselves."""

    finding: Annotated[str, Field(pattern=r"^[A-Z]{3}[0-9]{2}$")]
    reason: Annotated[str, Field(min_length=3, max_length=500)]


class MoveTarget(Wire):
    site: Zone


class CutoverIn(Wire):
    """When a warm move may stop its source; `manual`: when it is told to."""

    mode: Literal["automatic", "manual"] = "automatic"
    not_before: Annotated[AwareDatetime, Field(strict=False)] | None = None
    not_after: Annotated[AwareDatetime, Field(strict=False)] | None = None


class MoveSpec(Wire):
    """An instance is to change its site. With `planOnly` only its plan is made.

    `auto` is warm where that saves downtime. `direct` is cold, and keeps nothing in the vault.
    """

    instance_ref: Reference
    target: MoveTarget
    sku_ref: Reference | None = None
    network_map: Annotated[list[NetworkMapping], Field(max_length=16)] = Field(default_factory=list)
    method: Literal["auto", "warm", "cold", "direct"] = "auto"
    cutover: CutoverIn | None = None
    max_downtime: Annotated[int, Field(ge=1, le=86400 * 7)] | None = None
    max_bandwidth: Rate | None = None
    deadline: Annotated[int, Field(ge=1, le=86400 * 30)] = 86400
    retain_source: Annotated[int, Field(ge=0, le=86400 * 365)] = 86400 * 7
    checks: Annotated[list[CheckIn], Field(max_length=16)] = Field(default_factory=list)
    waivers: Annotated[list[WaiverIn], Field(max_length=64)] = Field(default_factory=list)
    plan_only: bool = False
    plan_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{6,128}$")] | None = None


class MoveStatus(Status):
    phase: str = ""
    plan: dict[str, object] | None = None
    plan_digest: str | None = None
    findings: list[FindingOut] = Field(default_factory=list)
    estimate: dict[str, object] | None = None
    waived_by: dict[str, str] = Field(default_factory=dict)
    progress: list[ProgressOut] = Field(default_factory=list)
    downtime_seconds: float | None = None
    waits_for: str = ""
    announced_downtime: float | None = None
    proof: dict[str, object] | None = None
    operation: str | None = None
    retained: list[dict[str, object]] = Field(default_factory=list)


class ProtectionSpec(Wire):
    """Instances of the workspace, by name, whose recovery points are taken together or not at all.

    `crash`: each disk as a loss of power would leave it. `maxSpread`: seconds that may lie between
    the first snapshot and the last; without it any do, and what it was is shown.
    """

    members: Annotated[list[Name64], Field(min_length=1, max_length=64)]
    consistency: Literal["crash"] = "crash"
    max_spread: Annotated[float, Field(gt=0, le=86400)] | None = None


class TakenPointOut(Shown):
    """A member's recovery point; its snapshot was taken between `asked` and `answered`."""

    instance: str
    point: str
    asked: datetime
    answered: datetime
    snapshot_seconds: float
    bytes_read: int
    bytes_new: int


class ProtectionStatus(Status):
    """`points` are those of the newest group; `spreadSeconds` may lie between them at most."""

    newest_point_at: datetime | None = None
    spread_seconds: float | None = None
    points: list[TakenPointOut] = Field(default_factory=list)
    operation: str | None = None


class PlacementSpec(Wire):
    instance_ref: Reference


class RetainedOut(Shown):
    """Something of the instance that a site still keeps beside its home."""

    id: str
    kind: str
    site: str
    size: int
    state: str
    expires_at: datetime | None = None


class PlacementStatus(Status):
    site: str
    epoch: int
    address: str | None = None
    mac: str | None = None
    disks: list[dict[str, object]] = Field(default_factory=list)
    retained: list[RetainedOut] = Field(default_factory=list)


class LoginIn(Wire):
    """`tenant` may be left out where the user's name is known in one tenant only."""

    tenant: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    user: Annotated[str, Field(min_length=1, max_length=128)]
    password: Annotated[str, Field(min_length=1, max_length=1024)]
    label: Annotated[str, Field(max_length=128)] = "login"


class TokenIn(Wire):
    label: Annotated[str, Field(min_length=1, max_length=128)]
    seconds: Annotated[int, Field(ge=60, le=86400 * 366)] = 86400 * 30


class TokenOut(Shown):
    """`token` is shown once, when it is made."""

    id: str
    subject: str
    tenant: str
    label: str
    created_at: datetime
    expires_at: datetime | None = None
    token: str | None = None


class TokenList(Shown):
    items: list[TokenOut]


class Me(Shown):
    """Who the token belongs to, and which control plane answered."""

    subject: str
    tenant: str
    region: str
    version: str


class UserIn(Wire):
    """`admin` gives the user the role seca.admin in the tenant."""

    password: Annotated[str, Field(min_length=1, max_length=1024)]
    admin: bool = False
