"""Where an instance is at home, and who may change that."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, SiteName, TenantName


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`copy` is the artefact that is the instance at `site`; None until it was provisioned.

    `epoch` is raised by every lease that is taken.
    """

    instance: InstanceId
    site: SiteName
    copy: ArtefactId | None
    epoch: int
    switched_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """That `copy` at `site` became the home under `epoch`, by `operation`."""

    tenant: TenantName
    instance: InstanceId
    epoch: int
    site: SiteName
    copy: ArtefactId
    operation: OperationId
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to change an instance's home or power, held by one operation at one epoch."""

    instance: InstanceId
    operation: OperationId
    epoch: int
    taken_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An image that the gateway serves while `operation` runs, known by its token's SHA-256.

    Not after `expires_at`, and to no others than `clients`, networks such as 192.0.2.0/24, where
    there are any. Lengths in bytes; digests are of the file as served.
    """

    token_sha256: str
    operation: OperationId
    point: str
    disk: int
    format: str
    length: int
    size: int
    sha256: str
    sha512: str
    domain: str
    revoked: bool = False
    expires_at: datetime | None = None
    clients: tuple[str, ...] = ()
