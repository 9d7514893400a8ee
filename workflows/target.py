"""Makes an instance at a site from recovery points or straight from a source, and proves it."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from temporalio import workflow

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import DiskSource, VolumeSpec
from controlplane.domain.fence import FenceLevel
from controlplane.domain.ids import PointId, derived
from controlplane.domain.instance import DiskPlace, InstanceSeen, InstanceSpec, Manner, Power
from controlplane.domain.network import NicSpec
from controlplane.domain.plan import DiskPlan, Reuse, TargetPlan
from controlplane.domain.site import CreateOrder
from controlplane.vault.streaming import Streamed
from workflows.activities.changes import ChangeActivities, ProveChanges, WriteChanges
from workflows.activities.moving import Copied, Proof
from workflows.activities.orders import (
    At,
    CloseImport,
    Export,
    Fence,
    MakeInstance,
    MakeVolume,
    Remove,
    SetPower,
)
from workflows.activities.records import RecordActivities, TakeOver
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.steps import Work
from workflows.activities.straight import CopyBeside, StraightActivities, StreamDisk
from workflows.activities.transfer import CopyDisk, Prove, TransferActivities
from workflows.calls import call, copy, once_more, record, undo, wait
from workflows.saga import Saga, Undo, together
from workflows.staging import DiskBytes, Staging, Taken

POWER_ON = "power on isolated"


class Target:
    """One instance in the making at one site.

    `take_back` is the undo of everything made here: a move retains, provisioning removes. `holds`
    is the recovery point that its disks were proven to equal; None while that is not known.
    `empty`: nobody was asked yet to write to the disks that were made empty.
    """

    def __init__(
        self,
        work: Work,
        plan: TargetPlan,
        sources: tuple[DiskBytes | None, ...],
        take_back: Taken,
        *,
        isolated: bool,
    ) -> None:
        self.work = work
        self.plan = plan
        self.proofs: list[Proof] = []
        self.written = 0
        self.holds: PointId | None = None
        self.empty = True
        self._seen: InstanceSeen | None = None
        self._reads_back: tuple[At, Undo] | None = None
        self._sources = sources
        self._take_back = take_back
        self._images = Staging(work, plan, take_back)
        self._isolated = isolated

    def at(self, step: str, *path: object) -> At:
        again = self.plan.reuse
        kept = again.copy if again is not None and path == ("instance",) else None
        return At(
            work=self.work,
            site=self.plan.site,
            artefact=kept or derived(self.work.operation, *path),
            step=step,
        )

    @property
    def made(self) -> bool:
        return self._seen is not None

    @property
    def instance(self) -> At:
        return self.at("instance", "instance")

    async def make(self, saga: Saga) -> InstanceSeen:
        """Everything up to a powered-off instance whose disks are proven."""
        if self.plan.reuse is not None:
            return await self._use_again(saga, self.plan.reuse)
        images = await self._staged(saga)
        places: list[DiskPlace] = []
        for disk, image in zip(self.plan.disks, images, strict=True):
            if self.plan.create_order is CreateOrder.DISKS_FIRST:
                volume = await self._volume(saga, disk, image)
                places.append(DiskPlace(size=disk.target_size, volume=volume, bus=disk.bus))
                await self._prove(saga, disk, DiskSource(volume=volume), self._digest(disk))
            else:
                places.append(
                    DiskPlace(
                        size=disk.target_size, image=image, storage=disk.storage, bus=disk.bus
                    )
                )
        seen = await self._instance(saga, tuple(places))
        if self.plan.create_order is CreateOrder.INSTANCE_FIRST:
            for disk, made in zip(self.plan.disks, seen.disks, strict=True):
                source = DiskSource(volume=made.volume, instance=seen.ref)
                await self._prove(saga, disk, source, self._digest(disk))
        self._seen = seen
        self.holds = self._point
        self.written += sum(proof.bytes_read for proof in self.proofs)
        return seen

    async def _staged(self, saga: Saga) -> list[str | None]:
        """The images that disks are made from, side by side; None for an empty disk."""
        images: list[str | None] = [None] * len(self.plan.disks)

        async def one(number: int) -> None:
            source = self._sources[number]
            if source is not None:
                images[number] = await self._images.stage(saga, self.plan.disks[number], source)

        numbers = range(len(images))
        if len(images) > 1 and workflow.patched("2026-12-images-beside"):
            await together(*map(one, numbers))
        else:
            for number in numbers:
                await one(number)
        return images

    async def _use_again(self, saga: Saga, again: Reuse) -> InstanceSeen:
        """The copy that stayed there is brought up to date, and read back whole.

        It stays fenced until it is proven: whatever wrote to it meanwhile, the proof tells.
        """
        await saga.step(
            record(
                RecordActivities.take_over,
                TakeOver(work=self.work, copy=again.copy, base=again.base),
            ),
            undo=lambda: self._take_back(ArtefactKind.INSTANCE, self.instance),
        )
        self.holds = again.base
        await call(SiteActivities.isolate_nics, self.at("isolate copy", "instance"))
        seen = await wait(SiteActivities.wait_instance, self.at("copy ready", "instance"))
        self.holds = None
        point = self._point
        if point is None:
            raise RuntimeError("a copy is brought up to a point")
        for disk, volume in zip(self.plan.disks, again.volumes, strict=True):
            self.written += await self._write_changes(
                saga, "", disk, volume, base=again.base, point=point
            )
        for disk, volume in zip(self.plan.disks, again.volumes, strict=True):
            source = DiskSource(volume=volume, instance=seen.ref)
            await self._prove(saga, disk, source, self._digest(disk))
        self.holds = point
        await saga.step(
            call(SiteActivities.unfence, self.at("unfence copy", "instance")),
            undo=lambda: undo(
                SiteActivities.fence,
                Fence(at=self.at("undo: fence copy", "instance"), level=FenceLevel.REPORTED),
            ),
        )
        self._seen = seen
        return seen

    def _digest(self, disk: DiskPlan) -> str | None:
        source = self._sources[disk.index]
        return None if source is None else source.digest

    @property
    def _point(self) -> PointId | None:
        """The point that it is first made from."""
        return next((PointId(s.point) for s in self._sources if s is not None), None)

    async def follow(
        self, saga: Saga, label: str, base: UUID, point: UUID, *, last: bool = False
    ) -> None:
        """From what `base` was to what `point` is: changes written, and read back.

        After the `last` time one read-back stays open, for `let_go` beside something else.
        """
        seen = self._stands
        proofs = []
        self.holds = None
        for disk, made in zip(self.plan.disks, seen.disks, strict=True):
            await self.let_go(saga)
            await self._write_changes(saga, label, disk, made.volume, base=base, point=point)
            source = DiskSource(volume=made.volume, instance=seen.ref)
            proofs.append(
                await self._prove_changes(saga, label, disk, source, base=base, point=point)
            )
        if not last:
            await self.let_go(saga)
        self.proofs = proofs
        self.holds = PointId(point)
        self.written += sum(proof.bytes_read for proof in proofs)

    @property
    def _stands(self) -> InstanceSeen:
        if self._seen is None:
            raise RuntimeError("what is written to was made before")
        return self._seen

    async def receive(self, saga: Saga, disk: DiskPlan, export: At, step: str) -> Streamed:
        """What the export shows goes straight into the disk that was made for it."""
        volume = self._stands.disks[disk.index].volume
        order = StreamDisk(
            at=self.at(step, "instance"),
            export=export,
            volume=volume,
            disk=disk.index,
            blank=disk.blank,
        )
        self.empty = False
        shut = self._shut(order.at, disk, volume)
        done = await saga.copying(copy(StraightActivities.stream_disk, order), undo=shut)
        saga.done_with(shut)
        self.written += done.bytes_written
        return done

    async def take(self, saga: Saga, disk: DiskPlan, order: CopyDisk) -> Copied:
        """What is copied goes into the disk that was made for it too.

        A later round has a name of its own: each writer is of one step.
        """
        volume = self._stands.disks[disk.index].volume
        step = order.at.step
        if order.round:
            step = f"{step} again" if order.round == 1 else f"{step} again {order.round}"
        beside = CopyBeside(
            at=self.at(step, "instance"), volume=volume, copy=order, blank=disk.blank
        )
        self.empty = False
        shut = self._shut(beside.at, disk, volume)
        done = await saga.copying(copy(StraightActivities.copy_beside, beside), undo=shut)
        saga.done_with(shut)
        self.written += done.bytes_written
        return done

    async def prove(self, saga: Saga, digests: Sequence[str]) -> None:
        """All of each disk is read back, and is what was read at the source."""
        seen = self._stands
        for disk, made, digest in zip(self.plan.disks, seen.disks, digests, strict=True):
            source = DiskSource(volume=made.volume, instance=seen.ref)
            await self._prove(saga, disk, source, digest)

    async def _write_changes(
        self, saga: Saga, label: str, disk: DiskPlan, volume: str, *, base: UUID, point: UUID
    ) -> int:
        """Bytes written."""
        order = WriteChanges(
            at=self.at(f"{label}write changes {disk.index}", "instance"),
            volume=volume,
            disk=disk.index,
            base=base,
            point=point,
        )
        shut = self._shut(order.at, disk, volume, label)
        writing = copy(ChangeActivities.write_changes, order)
        if workflow.patched("2026-12-writing-heeds"):
            written = await saga.copying(writing, undo=shut)
        else:
            written = await saga.step(writing, undo=shut)
        saga.done_with(shut)
        return written

    def _shut(self, writer: At, disk: DiskPlan, volume: str, label: str = "") -> Undo:
        """The undo of writing: whatever happens, nobody goes on."""
        close = CloseImport(
            at=self.at(f"undo: {label}close writer {disk.index}", "instance"),
            volume=volume,
            writer=writer.step,
        )
        return partial(undo, SnapshotActivities.close_import, close)

    async def _prove_changes(
        self, saga: Saga, label: str, disk: DiskPlan, source: DiskSource, *, base: UUID, point: UUID
    ) -> Proof:
        artefact = ("target-export", disk.index, point)
        release = self.at(f"{label}release read-back {disk.index}", *artefact)
        gone: Undo = partial(undo, SiteActivities.release_export, release)
        export = self.at(f"{label}read back {disk.index}", *artefact)
        proof = await once_more(
            "2026-11-read-back-again",
            lambda: saga.step(
                wait(SiteActivities.prepare_export, Export(at=export, source=source)), undo=gone
            ),
            lambda: copy(
                ChangeActivities.prove_changes,
                ProveChanges(
                    at=self.at(f"{label}proof {disk.index}", *artefact),
                    disk=disk.index,
                    base=base,
                    point=point,
                ),
            ),
        )
        self._reads_back = (release, gone)
        return proof

    async def let_go(self, saga: Saga) -> None:
        """The read-back that is still open, if any, is released."""
        if self._reads_back is not None:
            release, gone = self._reads_back
            await wait(SiteActivities.release_export, release)
            saga.done_with(gone)
            self._reads_back = None

    async def power(self, power: Power, manner: Manner, step: str) -> None:
        order = SetPower(at=self.at(step, "instance"), power=power, manner=manner)
        await call(SiteActivities.set_power, order)
        await wait(SiteActivities.wait_power, order)

    async def power_off(self) -> None:
        """The undo of powering on: cut, and seen to be off."""
        order = SetPower(
            at=self.at("undo: target off", "instance"),
            power=Power.OFF,
            manner=Manner.HARD,
            undoes=(POWER_ON,),
        )
        await undo(SiteActivities.set_power, order)
        await undo(SiteActivities.wait_power, order)

    async def remove_images(self) -> None:
        """What was staged is scaffolding: it goes once its volumes stand, or is written down."""
        if self.plan.reuse is None:
            await self._images.remove()

    async def _volume(self, saga: Saga, disk: DiskPlan, image: str | None) -> str:
        at = self.at(f"volume {disk.index}", "volume", disk.index)
        spec = VolumeSpec(
            name=f"{self.plan.name}-{disk.index}",
            size=disk.target_size,
            image=image,
            storage=disk.storage,
            bus=disk.bus,
            bootable=disk.index == 0,
        )
        await saga.step(
            call(SiteActivities.create_volume, MakeVolume(at=at, spec=spec)),
            undo=lambda: self._take_back(ArtefactKind.VOLUME, at),
        )
        seen = await wait(
            SiteActivities.wait_volume,
            self.at(f"volume {disk.index} ready", "volume", disk.index),
        )
        return seen.ref

    async def _instance(self, saga: Saga, places: tuple[DiskPlace, ...]) -> InstanceSeen:
        spec = InstanceSpec(
            name=self.plan.name,
            size=self.plan.size,
            disks=places,
            nics=tuple(
                NicSpec(
                    network=nic.network,
                    mac=nic.mac,
                    address=nic.address,
                    isolated=self._isolated,
                )
                for nic in self.plan.nics
            ),
            sku=self.plan.sku,
            firmware=self.plan.firmware,
            ssh_keys=self.plan.ssh_keys,
            user_data=self.plan.user_data,
        )
        await saga.step(
            call(SiteActivities.create_instance, MakeInstance(at=self.instance, spec=spec)),
            undo=lambda: self._take_back(ArtefactKind.INSTANCE, self.instance),
        )
        return await wait(SiteActivities.wait_instance, self.at("instance ready", "instance"))

    async def _prove(
        self, saga: Saga, disk: DiskPlan, made: DiskSource, expected: str | None
    ) -> None:
        if expected is None:
            return
        export = self.at(f"read back {disk.index}", "target-export", disk.index)
        release = self.at(f"release read-back {disk.index}", "target-export", disk.index)
        gone: Undo = partial(undo, SiteActivities.release_export, release)
        self.proofs.append(
            await once_more(
                "2026-11-read-back-again",
                lambda: saga.step(
                    wait(SiteActivities.prepare_export, Export(at=export, source=made)), undo=gone
                ),
                lambda: copy(
                    TransferActivities.prove,
                    Prove(
                        at=self.at(f"proof {disk.index}", "target-export", disk.index),
                        disk=disk.index,
                        size=disk.size,
                        expected=expected,
                    ),
                ),
            )
        )
        await wait(SiteActivities.release_export, release)


async def removed(kind: ArtefactKind, at: At) -> None:
    """The undo of provisioning: what was made goes; the image stays in the vault."""
    gone = At(work=at.work, site=at.site, artefact=at.artefact, step=f"undo: {at.step}")
    if kind is ArtefactKind.INSTANCE:
        off = SetPower(at=gone, power=Power.OFF, manner=Manner.HARD)
        await undo(SiteActivities.set_power, off)
        await undo(SiteActivities.wait_power, off)
    await undo(SiteActivities.remove, Remove(at=gone, kind=kind))
