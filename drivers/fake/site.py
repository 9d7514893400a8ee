"""The state of a fake site: what was made there, what it offers, and how it misbehaves."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from threading import Lock, RLock
from typing import TypeVar
from uuid import uuid4

import httpx

from controlplane.domain.answer import Unknown
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import MIB, DiskSource, ImageSource, ImageState, VolumeSpec
from controlplane.domain.errors import FedctlError, Invalid, NotFound, superseded
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import DiskPlace, InstanceSpec, Power, Size, TraitSeen
from controlplane.domain.network import NetworkSeen, NicSeen, NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability, Catalogue, QuotaSeen, StorageSeen
from drivers.fake.disk import FakeDisk, Grant
from drivers.fake.history import HISTORY, Overlap

Fetch = Callable[[ImageSource], Iterable[bytes]]

_CATALOGUE = Catalogue(
    networks=(
        NetworkSeen(ref="net-1", name="production", cidr="10.0.4.0/24"),
        NetworkSeen(ref="net-2", name="office", cidr="10.0.5.0/24"),
    ),
    storages=(StorageSeen(name="ssd"),),
)


def fetch_url(source: ImageSource, *, timeout: float = 20.0) -> Iterator[bytes]:
    """The bytes behind `source.url`, as a site that pulls would ask for them."""
    with httpx.stream("GET", source.url, timeout=timeout, follow_redirects=True) as answer:
        answer.raise_for_status()
        yield from answer.iter_bytes()


@dataclass(slots=True, kw_only=True)
class Thing:
    """What all objects at a site have: a tag, its highest epoch, a ref, and time to settle."""

    owner: OwnerTag
    epoch: int
    ref: str
    settling: int = 0

    def stamp(self, owner: OwnerTag) -> None:
        """Raise the epoch to the presented one, or refuse it."""
        if owner.epoch < self.epoch:
            raise superseded(f"{self.ref}", presented=owner.epoch, found=self.epoch)
        self.epoch = owner.epoch

    def settled(self) -> bool:
        """Whether it has come to rest; each call brings that nearer."""
        if self.settling:
            self.settling -= 1
            return False
        return True


@dataclass(slots=True, kw_only=True)
class FakeVolume(Thing):
    spec: VolumeSpec
    disk: FakeDisk
    made_by: ArtefactId | None = None
    attached_to: ArtefactId | None = None


@dataclass(slots=True, kw_only=True)
class FakeInstance(Thing):
    spec: InstanceSpec
    volumes: list[FakeVolume]
    nics: list[NicSeen]
    power: Power = Power.OFF
    fenced: bool = False
    paused: bool = False
    stopping: int = 0
    boots: int = 0
    anchor: str | None = None
    broken: str = ""
    traits: tuple[TraitSeen, ...] = ()


@dataclass(slots=True, kw_only=True)
class FakeImage(Thing):
    name: str
    source: ImageSource
    disk: FakeDisk | None = None
    state: ImageState = ImageState.WORKING
    why: str = ""


@dataclass(slots=True, kw_only=True)
class FakeSnapshot(Thing):
    instance: str
    disks: dict[str, FakeDisk]


@dataclass(slots=True, kw_only=True)
class FakeExport(Thing):
    source: DiskSource
    disk: FakeDisk
    base: FakeDisk | None
    grant: Grant


@dataclass(slots=True, kw_only=True)
class FakeNetwork(Thing):
    name: str
    cidr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    method: str
    error: FedctlError
    before_effect: bool


T = TypeVar("T", bound=Thing)


@dataclass(slots=True, kw_only=True)
class FakeSite:
    """One site's state, shared by every connection to it; take `lock` to look or change.

    `settle` is how many `find` calls show an object as working after each effect on it. A site
    that is `down` answers no call while its guests run on; `guests_boot` false lets them hang;
    `leisure` is for how many `find` calls a guest that was asked to stop is shown running;
    `refusing` is what every call raises.
    """

    name: str
    settle: int = 1
    token: str | None = None
    version: str = "1"
    catalogue: Catalogue = _CATALOGUE
    bounds: QuotaSeen = field(default_factory=QuotaSeen)
    lacking: dict[Capability, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    fetch: Fetch = fetch_url
    guests_boot: bool = True
    leisure: int = 0
    down: bool = False
    refusing: FedctlError | None = None
    lock: RLock = field(default_factory=RLock, repr=False)
    instances: dict[ArtefactId, FakeInstance] = field(default_factory=dict)
    volumes: dict[ArtefactId, FakeVolume] = field(default_factory=dict)
    images: dict[ArtefactId, FakeImage] = field(default_factory=dict)
    snapshots: dict[ArtefactId, FakeSnapshot] = field(default_factory=dict)
    exports: dict[ArtefactId, FakeExport] = field(default_factory=dict)
    networks: dict[ArtefactId, FakeNetwork] = field(default_factory=dict)
    ghosts: dict[ArtefactId, Thing] = field(default_factory=dict)
    strangers: dict[str, FakeInstance] = field(default_factory=dict)
    strange_volumes: dict[str, FakeVolume] = field(default_factory=dict)
    writers: dict[str, Grant] = field(default_factory=dict)
    foreign_anchors: set[str] = field(default_factory=set)
    calls: list[tuple[str, ArtefactId | None]] = field(default_factory=list)
    _faults: list[_Fault] = field(default_factory=list)
    _stale: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: count(100))

    # What tests ask for.

    def fail_next(
        self,
        method_name: str,
        error: FedctlError,
        before_effect: bool = True,  # noqa: FBT001, FBT002  # reads as the sentence it is
        times: int = 1,
    ) -> None:
        """The next `times` calls of `method_name` raise `error`, before or after their effect."""
        with self.lock:
            fault = _Fault(method=method_name, error=error, before_effect=before_effect)
            self._faults.extend([fault] * times)

    def stale_for(self, finds: int) -> None:
        """The next `finds` looks answer Unknown, and `owned` is Unavailable."""
        with self.lock:
            self._stale = finds

    def appear(
        self,
        name: str,
        *contents: bytes,
        power: Power = Power.ON,
        traits: tuple[TraitSeen, ...] = (),
    ) -> str:
        """A machine that nobody made through us, with a disk of each content; its ref."""
        with self.lock:
            owner = OwnerTag(
                artefact=ArtefactId(uuid4()),
                instance=InstanceId(uuid4()),
                operation=OperationId(uuid4()),
                epoch=1,
            )
            volumes = []
            for number, data in enumerate(contents):
                disk = FakeDisk(size=-(-len(data) // MIB) * MIB)
                disk.write(0, data)
                spec = VolumeSpec(name=f"{name}-{number}", size=disk.size)
                tag = replace(owner, artefact=ArtefactId(uuid4()))
                ref = f"vol-{self.number()}"
                volumes.append(FakeVolume(owner=tag, epoch=0, ref=ref, spec=spec, disk=disk))
            network = self.catalogue.networks[0].ref
            mac = f"52:54:00:00:00:{self.number() % 256:02x}"
            it = FakeInstance(
                owner=owner,
                epoch=0,
                ref=f"vm-{self.number()}",
                spec=InstanceSpec(
                    name=name,
                    size=Size(cpus=1, memory=256 * MIB),
                    disks=tuple(DiskPlace(size=v.disk.size, volume=v.ref) for v in volumes),
                    nics=(NicSpec(network=network, mac=mac),),
                ),
                volumes=volumes,
                nics=[NicSeen(network=network, mac=mac, address=None, isolated=False)],
                power=power,
                boots=int(power is Power.ON),
                traits=traits,
            )
            self.strangers[it.ref] = it
            self.strange_volumes.update({v.ref: v for v in volumes})
            return it.ref

    def running_overlaps(self) -> tuple[Overlap, ...]:
        """Each moment at which two copies of an instance ran, one of them here."""
        return tuple(
            o for o in HISTORY.overlaps() if any(site == self.name for site, _ in o.copies)
        )

    def write_disk(self, volume: str, offset: int, data: bytes) -> None:
        """Write as the guest would."""
        with self.lock:
            self.volume_of(volume).disk.write(offset, data)

    def read_disk(self, volume: str, offset: int = 0, length: int | None = None) -> bytes:
        with self.lock:
            disk = self.volume_of(volume).disk
            return disk.read(offset, disk.size - offset if length is None else length)

    def digest(self, volume: str, length: int | None = None) -> str:
        """SHA-256 of the volume's first `length` bytes."""
        with self.lock:
            return self.volume_of(volume).disk.digest(length)

    def is_empty(self) -> bool:
        """Whether nothing of ours is left here."""
        with self.lock:
            return not any(things for _, things in self.everything())

    # What the driver's facets ask for, with the lock held.

    def number(self) -> int:
        return next(self._numbers)

    def everything(self) -> Iterator[tuple[ArtefactKind | None, dict[ArtefactId, Thing]]]:
        yield ArtefactKind.INSTANCE, dict(self.instances)
        yield ArtefactKind.VOLUME, {k: v for k, v in self.volumes.items() if v.made_by is None}
        yield ArtefactKind.IMAGE, dict(self.images)
        yield ArtefactKind.SNAPSHOT, dict(self.snapshots)
        yield ArtefactKind.EXPORT, dict(self.exports)
        yield None, dict(self.networks)

    def volume_of(self, ref: str) -> FakeVolume:
        return self.strange_volumes.get(ref) or by_ref(self.volumes, ref, "volume")

    def instance_of(self, ref: str) -> FakeInstance:
        return by_ref(self.instances, ref, "instance")

    def raise_due(self, method: str, *, before_effect: bool) -> None:
        for index, fault in enumerate(self._faults):
            if fault.method == method and fault.before_effect is before_effect:
                del self._faults[index]
                raise fault.error

    def stale(self) -> Unknown | None:
        if self._stale:
            self._stale -= 1
            return Unknown(why=f"site {self.name} answered from an old listing")
        return None

    def ghost(self, thing: Thing) -> None:
        """Keep showing what was deleted for as long as the site takes to settle."""
        if self.settle:
            thing.settling = self.settle
            self.ghosts[thing.owner.artefact] = thing

    def lingering(self, owner: OwnerTag, kind: type[T]) -> T | None:
        """The deleted thing if it still shows; each call brings its end nearer."""
        thing = self.ghosts.get(owner.artefact)
        if not isinstance(thing, kind):
            return None
        if thing.settled():
            del self.ghosts[owner.artefact]
            return None
        return thing

    def record(self, it: FakeInstance, *, on: bool | None = None) -> None:
        """What it does now; `on` says it of one that nobody watches any more."""
        HISTORY.record(
            site=self.name,
            artefact=it.owner.artefact,
            instance=it.owner.instance,
            on=it.power is Power.ON if on is None else on,
            connected=any(not nic.isolated for nic in it.nics),
        )


def by_ref(things: dict[ArtefactId, T], ref: str, what: str) -> T:
    for thing in things.values():
        if thing.ref == ref:
            return thing
    raise NotFound(f"there is no {what} {ref} here: look which refs the site gave")


_SITES: dict[str, FakeSite] = {}
_SITES_LOCK = Lock()


def fake_site(endpoint: str) -> FakeSite:
    """The site behind `fake://name`, made on first use; all of the process share it."""
    scheme, _, name = endpoint.partition("://")
    if scheme != "fake" or not name:
        raise Invalid(f"endpoint {endpoint!r} is not of the form fake://name")
    with _SITES_LOCK:
        return _SITES.setdefault(endpoint, FakeSite(name=name))


def forget_sites() -> None:
    """Drop every site and what was recorded of them; for the end of a test."""
    with _SITES_LOCK:
        _SITES.clear()
    HISTORY.clear()
