"""What the suite makes at a site during one test, and how it waits for it and takes it away."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TypeVar
from uuid import uuid4

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import (
    MIB,
    DiskFormat,
    DiskSource,
    ExportStage,
    ImageState,
    Mark,
    VolumeSeen,
    VolumeSpec,
    VolumeState,
)
from controlplane.domain.errors import Busy, FedctlError, Unavailable, Unsupported
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import (
    DiskPlace,
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Manner,
    Power,
    Size,
)
from controlplane.domain.network import NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import CreateOrder
from drivers.contract import (
    DiskExport,
    DiskImport,
    Driver,
    Fencing,
    ImagePull,
    ImagePush,
    Instances,
    Networks,
    Snapshots,
    Volumes,
    require,
)
from tests.contract.images import Gateway, Published

T = TypeVar("T")
SHORTEST, LONGEST = 0.001, 0.05
FREE_SIZE = Size(cpus=1, memory=256 * MIB)
_LAST_EPOCH = 1_000_000


class World:
    """One test's view of one site: makes things under tags of its own, waits, and cleans up."""

    def __init__(
        self,
        driver: Driver,
        gateway: Gateway,
        *,
        guest: bytes,
        network: str | None,
        deadline: float,
    ) -> None:
        self.driver = driver
        self.gateway = gateway
        self.guest = guest
        self.network = network
        self.deadline = deadline
        self.operation = OperationId(uuid4())
        self.subject = InstanceId(uuid4())
        self.anchors: dict[ArtefactId, str | None] = {}
        self._made: dict[str, dict[ArtefactId, OwnerTag]] = {}
        self._numbers = count(1)

    # Tags, names, waiting.

    def tag(self, kind: str, epoch: int = 1) -> OwnerTag:
        """A new tag; `kind` (instance, volume, image, snapshot, export, network) says how to clean."""
        owner = OwnerTag(
            artefact=ArtefactId(uuid4()),
            instance=self.subject,
            operation=self.operation,
            epoch=epoch,
        )
        self._made.setdefault(kind, {})[owner.artefact] = owner
        return owner

    def name(self) -> str:
        return f"suite-{uuid4().hex[:6]}-{next(self._numbers)}"

    def wait(self, look: Callable[[], T | None], what: str) -> T:
        """What `look` answers once it is something; a passing refusal counts as nothing yet."""
        end = time.monotonic() + self.deadline
        trouble: Exception | None = None
        pause = SHORTEST
        while True:
            try:
                if (found := look()) is not None:
                    return found
            except (Busy, Unavailable) as e:
                trouble = e
            if time.monotonic() > end:
                raise AssertionError(f"after {self.deadline} s still not: {what}") from trouble
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)

    def do(self, call: Callable[[], T]) -> T:
        """What `call` answers, asked again while the site is busy with the step before."""
        done: list[T] = []

        def attempt() -> bool:
            try:
                done.append(call())
            except Busy:
                return False
            return True

        self.until(attempt, "the site takes the call")
        return done[0]

    def until(self, look: Callable[[], bool], what: str) -> None:
        self.wait(lambda: look() or None, what)

    def gone(self, find: Callable[[OwnerTag], Answer[T]], owner: OwnerTag) -> None:
        self.until(lambda: isinstance(find(owner), Absent), f"{owner.artefact} is gone")

    def owned_kinds(self, owner: OwnerTag) -> list[ArtefactKind]:
        return [f.kind for f in self.listing() if f.owner.artefact == owner.artefact]

    def listing(self) -> list:
        return self.wait(lambda: list(self.driver.owned()), "a complete listing")

    # Images and volumes.

    @property
    def format(self) -> DiskFormat:
        formats = self.driver.limits.formats
        return DiskFormat.RAW if DiskFormat.RAW in formats else DiskFormat.QCOW2

    def published(self, raw: bytes | None = None, format: DiskFormat | None = None) -> Published:
        return self.gateway.publish(self.guest if raw is None else raw, format or self.format)

    def image(self, raw: bytes | None = None, format: DiskFormat | None = None) -> str:
        """The ref of a staged, READY image of `raw` (the guest when None), pulled or pushed."""
        owner, name, file = self.tag("image"), self.name(), self.published(raw, format)
        if isinstance(self.driver, ImagePull):
            try:
                self.do(lambda: self.driver.pull_image(owner, name, file.source))
                return self.image_ready(owner)
            except Unsupported:
                pass
        push = require(self.driver, ImagePush)
        self.do(lambda: push.push_image(owner, name, file.source, chunks(file.data)))
        return self.image_ready(owner)

    def image_ready(self, owner: OwnerTag) -> str:
        def look() -> str | None:
            match self.driver.find_image(owner):
                case Seen(it):
                    assert it.state is not ImageState.FAILED, it.why
                    return it.ref if it.state is ImageState.READY else None
                case _:
                    return None

        return self.wait(look, "the image is ready")

    def rounded(self, size: int) -> int:
        step = self.driver.limits.disk_step
        return -(-size // step) * step

    @property
    def disk_size(self) -> int:
        return self.rounded(max(4 * MIB, len(self.guest)))

    def volume(self, *, image: str | None = None, owner: OwnerTag | None = None) -> VolumeSeen:
        """A READY volume, empty or filled from a staged image."""
        owner = owner or self.tag("volume")
        spec = VolumeSpec(name=self.name(), size=self.disk_size, image=image)
        self.do(lambda: require(self.driver, Volumes).create_volume(owner, spec))
        return self.volume_ready(owner)

    def volume_ready(self, owner: OwnerTag) -> VolumeSeen:
        def look() -> VolumeSeen | None:
            match require(self.driver, Volumes).find_volume(owner):
                case Seen(it):
                    assert it.state is not VolumeState.FAILED, it.why
                    return it if it.state is not VolumeState.WORKING else None
                case _:
                    return None

        return self.wait(look, "the volume is ready")

    # Instances.

    @property
    def disks_first(self) -> bool:
        return self.driver.limits.create_order is CreateOrder.DISKS_FIRST

    def sizes(self) -> list[tuple[str | None, Size]]:
        """Two sizes (one where the site has a single sku), smallest first."""
        skus = sorted(
            self.driver.catalogue().skus, key=lambda s: (s.size.memory, s.size.cpus, s.name)
        )
        if skus:
            return [(sku.name, sku.size) for sku in skus[:2]]
        return [(None, FREE_SIZE), (None, replace(FREE_SIZE, cpus=2))]

    def place(self, image: str | None = None) -> DiskPlace:
        """Where a disk of a coming instance is; made now where disks come first."""
        if self.disks_first:
            volume = self.volume(image=image)
            return DiskPlace(size=volume.size, volume=volume.ref)
        return DiskPlace(size=self.disk_size, image=image)

    def spec(
        self, *, image: str | None = None, nics: tuple[NicSpec, ...] = (), disks: int = 1
    ) -> InstanceSpec:
        sku, size = self.sizes()[0]
        places = (self.place(image), *(self.place() for _ in range(disks - 1)))
        return InstanceSpec(name=self.name(), size=size, sku=sku, disks=places, nics=nics)

    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        """Reserve an anchor as a workflow would, and create."""
        instances = require(self.driver, Instances)
        if owner.artefact not in self.anchors:
            self.anchors[owner.artefact] = instances.reserve(owner)
        anchored = replace(spec, anchor=self.anchors[owner.artefact])
        return self.do(lambda: instances.create(owner, anchored))

    def instance(self, spec: InstanceSpec | None = None, epoch: int = 1) -> OwnerTag:
        """A READY, stopped instance."""
        owner = self.tag("instance", epoch)
        self.create(owner, spec or self.spec())
        self.seen(owner)
        return owner

    def loaded(self) -> OwnerTag:
        """A stopped instance with the guest's bytes on its first disk."""
        return self.instance(self.spec(image=self.image()))

    def find(self, owner: OwnerTag) -> Answer[InstanceSeen]:
        return require(self.driver, Instances).find(owner, self.anchors.get(owner.artefact))

    def seen(
        self, owner: OwnerTag, when: Callable[[InstanceSeen], bool] = lambda _: True
    ) -> InstanceSeen:
        """The instance once it is READY and `when` holds of it."""
        last: list[object] = []

        def look() -> InstanceSeen | None:
            answer = self.find(owner)
            last[:] = [answer]
            if not isinstance(answer, Seen):
                return None
            assert answer.it.state is not InstanceState.FAILED, answer.it.why
            return answer.it if answer.it.state is InstanceState.READY and when(answer.it) else None

        try:
            return self.wait(look, "the instance is ready and as expected")
        except AssertionError as e:
            e.add_note(f"last seen: {last}")
            raise

    def power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.HARD) -> InstanceSeen:
        """Ask for `power` and wait for it."""
        self.do(lambda: require(self.driver, Instances).set_power(owner, power, manner))
        return self.seen(owner, lambda it: it.power is power)

    # Exports.

    def prepare(
        self, source: DiskSource, since: Mark | None = None, owner: OwnerTag | None = None
    ) -> OwnerTag:
        """A READY export of `source`."""
        owner = owner or self.tag("export")
        driver = require(self.driver, DiskExport)

        def step() -> bool:
            seen = driver.prepare_export(owner, source, since)
            assert seen.stage is not ExportStage.FAILED, seen.note
            return seen.stage is ExportStage.READY

        self.until(step, "the export is ready")
        return owner

    def release(self, owner: OwnerTag) -> None:
        driver = require(self.driver, DiskExport)

        def step() -> bool:
            driver.release_export(owner)
            return isinstance(driver.find_export(owner), Absent)

        self.until(step, "the export is released")

    def first_disk(self, owner: OwnerTag) -> DiskSource:
        seen = self.seen(owner)
        return DiskSource(volume=seen.disks[0].volume, instance=seen.ref)

    # The end.

    def clean(self) -> None:
        """Take away all that was made, and see that it is gone."""
        driver = self.driver
        for owner in self._last("export"):
            self.release(owner)
        for owner in self._last("instance"):
            self._stop(owner)
        if isinstance(driver, Snapshots):
            self._remove("snapshot", driver.delete_snapshot, driver.find_snapshot)
        if isinstance(driver, Instances):
            self._remove("instance", driver.delete, self.find)
        if isinstance(driver, Volumes):
            self._remove("volume", driver.delete_volume, driver.find_volume)
        if isinstance(driver, ImagePull | ImagePush):
            self._remove("image", driver.delete_image, driver.find_image)
        if isinstance(driver, Networks):
            self._remove("network", driver.delete_network, driver.find_network)

        def left() -> list[object]:
            return [f for f in driver.owned() if f.owner.operation == self.operation]

        try:
            self.until(lambda: not left(), "nothing of the test is left at the site")
        except AssertionError as e:
            e.add_note(f"left: {left()}")
            raise

    def made(self, kind: str) -> list[OwnerTag]:
        """The tags of that kind so far, the oldest first."""
        return [*self._made.get(kind, {}).values()]

    def _last(self, kind: str) -> Iterator[OwnerTag]:
        for owner in self._made.get(kind, {}).values():
            yield replace(owner, epoch=_LAST_EPOCH)

    def _remove(
        self,
        kind: str,
        delete: Callable[[OwnerTag], None],
        find: Callable[[OwnerTag], Answer[T]],
    ) -> None:
        for owner in self._last(kind):
            self.do(lambda owner=owner: delete(owner))
            self.gone(find, owner)

    def _stop(self, owner: OwnerTag) -> None:
        def known() -> Answer[InstanceSeen] | None:
            answer = self.find(owner)
            match answer:
                case Seen(it) if it.state is InstanceState.WORKING:
                    return None
                case Seen() | Absent():
                    return answer
                case _:
                    return None

        answer = self.wait(known, "the instance is seen or absent")
        if not isinstance(answer, Seen):
            return
        if isinstance(self.driver, DiskImport):
            for disk in answer.it.disks:
                self.do(lambda disk=disk: self.driver.close_import(owner, disk.volume))
        if answer.it.state is InstanceState.FAILED:
            with suppress(FedctlError):
                self.driver.set_power(owner, Power.OFF, Manner.HARD)
        elif answer.it.power is not Power.OFF:
            self.power(owner, Power.OFF)
        if isinstance(self.driver, Fencing) and answer.it.fenced:
            self.do(lambda: self.driver.unfence(owner))


def chunks(data: bytes, size: int = 256 * 1024) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
