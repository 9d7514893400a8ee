"""What steps at a site are told."""

from dataclasses import dataclass
from datetime import timedelta

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import DiskSource, ImageSource, Mark, VolumeSpec
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
    """`patience` bounds the wait for a graceful stop; then power is cut.

    A `sole` step can be revoked; this one first revokes the steps that it `undoes`.
    """

    at: At
    power: Power
    manner: Manner = Manner.GRACEFUL
    patience: timedelta = timedelta(seconds=60)
    sole: bool = False
    undoes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    at: At
    level: FenceLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export `at` (its own artefact) of a disk that belongs to `source`.

    `since` asks for what changed since that mark; a lost mark shows everything.
    """

    at: At
    source: DiskSource
    since: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSnapshot:
    """A snapshot `at` (its own artefact) of the instance that is the artefact `of`."""

    at: At
    of: ArtefactId


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseImport:
    """No writer may write to `volume` of the instance `at` any more, nor the step `writer`."""

    at: At
    volume: str
    writer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Hold the instance `at` still; after `within` its site lets it go on by itself."""

    at: At
    within: timedelta
