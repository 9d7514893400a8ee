"""Everything we made, or meant to make, at a site."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, PointId, SiteName
from controlplane.domain.owner import OwnerTag

RETENTION = timedelta(days=7)
"""How long what an operation left is kept, where nobody said otherwise."""


class ArtefactKind(StrEnum):
    INSTANCE = "instance"
    VOLUME = "volume"
    IMAGE = "image"
    SNAPSHOT = "snapshot"
    EXPORT = "export"
    NIC = "nic"


class ArtefactState(StrEnum):
    """`intended` is written before the external create: its outcome may be unknown."""

    INTENDED = "intended"
    ALLOCATED = "allocated"
    COPYING = "copying"
    COPIED = "copied"
    ATTACHED = "attached"
    RETAINED = "retained"
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """The record of one external object; `anchor` is the provider's own guard against a second.

    `holds` is the recovery point that the disks of a retained instance equal; None: not known.
    """

    id: ArtefactId
    kind: ArtefactKind
    site: SiteName
    instance: InstanceId
    operation: OperationId
    epoch: int
    state: ArtefactState
    anchor: str | None = None
    ref: str | None = None
    size: int = 0
    note: str = ""
    expires_at: datetime | None = None
    created_at: datetime | None = None
    holds: PointId | None = None

    @property
    def owner(self) -> OwnerTag:
        return OwnerTag(
            artefact=self.id, instance=self.instance, operation=self.operation, epoch=self.epoch
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One object at a site that carries an owner tag of ours; what `owned` yields."""

    owner: OwnerTag
    kind: ArtefactKind
    ref: str
    power_on: bool | None = None
