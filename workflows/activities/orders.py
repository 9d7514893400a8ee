"""What steps at a site are told."""

from dataclasses import dataclass
from datetime import timedelta

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import DiskSource, ImageSource, VolumeSpec
from controlplane.domain.fence import FenceLevel
from controlplane.domain.ids import ArtefactId, SiteName
from controlplane.domain.instance import InstanceSpec, Manner, Power
from workflows.activities.steps import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """One of our objects at one site, and the name under which the step is shown."""

    work: Work
    site: SiteName
    artefact: ArtefactId
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageImage:
    at: At
    name: str
    source: ImageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeVolume:
    at: At
    spec: VolumeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeInstance:
    at: At
    spec: InstanceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPower:
    """`patience` bounds the wait for a graceful stop; then power is cut."""

    at: At
    power: Power
    manner: Manner = Manner.GRACEFUL
    patience: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    at: At
    level: FenceLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export `at` (its own artefact) of a disk that belongs to `source`."""

    at: At
    source: DiskSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """`pattern` must occur in the guest's boot proof before `within` has passed."""

    at: At
    pattern: str
    within: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """An object that is to go from its site."""

    at: At
    kind: ArtefactKind
