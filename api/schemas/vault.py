"""The vault as its operators see it: checks, and what is stored for whom."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from api.schemas.fedctl import FindingOut
from api.schemas.wire import Reference, Shown, Status, Wire
from controlplane.domain.vault import Depth


class VaultCheckSpec(Wire):
    """How much to read back. `share` is of all blobs, for a sample: another part each time."""

    depth: Annotated[Depth, Field(strict=False)] = Depth.SAMPLE
    share: Annotated[float, Field(ge=0.0001, le=1, strict=False)] = 0.01


class VaultCheckProgress(Shown):
    """`done` bytes were read, of about `total`; `read` of them are blobs, to be read back."""

    done: int
    total: int
    read: int


class VaultCheckStatus(Status):
    """`damaged`: something that a recovery point relies on cannot be read back."""

    operation: str | None = None
    damaged: bool | None = None
    findings: list[FindingOut] = Field(default_factory=list)
    progress: VaultCheckProgress | None = None
    packs: int | None = None
    blobs: int | None = None
    bytes_read: int | None = None
    turn: int | None = None
    parts: int | None = None
    checked_at: datetime | None = None


class VaultStatsSpec(Wire):
    """Of all, of one tenant, or of one workload: an instance, or an image (`@images`)."""

    scope: str
    tenant: str | None = None
    workspace: str | None = None
    workload: str | None = None


class VaultStatsStatus(Status):
    """Bytes. `logical`: lengths of the disks of all retained recovery points.

    `referenced`: the data in them. `unique`: the data that is stored for them, each chunk once.
    `stored`: what that takes in packs, compressed and encrypted, with manifests. `ratio`:
    `referenced` to `stored`. `exclusive`: of `stored`, what nobody else refers to. `freed`: what is
    deleted when these points are forgotten; the rest of `exclusive` becomes waste. `nextNew` and
    `nextStored`: what the newest point of each workload brought. Of all: `packs` and `packBytes` by
    state, `waste`: stored blobs that no recovery point refers to, `damaged`: how many that one
    needs do not read back.
    """

    measured_at: datetime
    measured_by: str
    workloads: int
    points: int
    logical: int
    referenced: int
    unique: int
    stored: int
    ratio: float | None = None
    exclusive: int
    freed: int
    next_new: int
    next_stored: int
    packs: dict[str, int] | None = None
    pack_bytes: dict[str, int] | None = None
    waste: int | None = None
    damaged: int | None = None


class RecoveryPointSpec(Wire):
    """A complete, verified, encrypted copy of an instance's disks at one moment."""

    instance_ref: Reference
    taken_at: datetime


class RecoveryPointDisk(Shown):
    disk: int
    size_bytes: int
    digest: str


class PointGroupOut(Shown):
    """The points that were taken together with it; its snapshot was taken between these times."""

    id: str
    members: int
    asked_at: datetime
    answered_at: datetime


class RecoveryPointStatus(Status):
    """`bytes`: lengths of its disks. `bytesNew`, `bytesStored`: what it brought, plain and stored.

    `kept` are the reasons why it is; without one the next round of housekeeping forgets it.
    `expiresAt` is there where the copies that need it have an end. `digest` is that of the signed
    root. `verifiedAt`: when all of it was last read and found equal.
    """

    point: str
    sequence: int
    bytes: int
    bytes_new: int
    bytes_stored: int
    digest: str
    disks: list[RecoveryPointDisk] = Field(default_factory=list)
    kept: list[str] = Field(default_factory=list)
    expires_at: datetime | None = None
    verified_at: datetime | None = None
    group: PointGroupOut | None = None
