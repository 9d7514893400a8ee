"""Steps at a site: each opens a driver, makes one contract call, and records what it made."""

from contextlib import nullcontext
from dataclasses import replace
from typing import NoReturn

from temporalio import activity

from controlplane.domain.answer import Absent, Unknown
from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import (
    ExportSeen,
    ExportStage,
    ImageState,
    VolumeSeen,
    VolumeState,
)
from controlplane.domain.errors import Conflict, Integrity, Unavailable, Unsupported
from controlplane.domain.fence import FenceProof
from controlplane.domain.ids import derived
from controlplane.domain.instance import InstanceSeen, InstanceState, Manner, Power
from controlplane.planning.findings import warning
from drivers.contract import (
    DiskExport,
    Driver,
    Fencing,
    ImagePull,
    Instances,
    Volumes,
    require,
)
from workflows.activities.atsite import SiteSteps, known, made
from workflows.activities.orders import (
    At,
    Export,
    Fence,
    MakeInstance,
    MakeVolume,
    Probe,
    Remove,
    SetPower,
    StageImage,
)
from workflows.activities.removal import delete, images
from workflows.activities.steps import Meter, waited_so_far
from workflows.failures import NotYet

PULL_REFUSED = "pull-refused"
NOT_TAKEN_IN = "not-taken-in"


class SiteActivities(SiteSteps):
    """Images, volumes, instances, fences, exports and their removal."""

    # Images

    @activity.defn(no_thread_cancel_exception=True)
    def pull_image(self, order: StageImage) -> str | None:
        """Ask the site to fetch an image; None when it will not fetch from us."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            self._intend(at, ArtefactKind.IMAGE, size=order.source.length)
            with self._calling(at.site, meter) as driver:
                try:
                    ref = require(driver, ImagePull).pull_image(
                        at.work.tag(at.artefact), order.name, order.source
                    )
                except Unsupported as refused:
                    if refused.reason != PULL_REFUSED:
                        raise
                    meter.message = f"{at.site} does not fetch from here; the bytes are sent"
                    return None
            self._became(at, ArtefactState.ALLOCATED, ref=ref)
            return ref

    @activity.defn(no_thread_cancel_exception=True)
    def wait_image(self, at: At) -> str:
        """The staged image's ref, once the site has all of it."""
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                answer = images(driver).find_image(at.work.tag(at.artefact))
            image = made(driver, answer, f"image {at.step} at {at.site}")
            if image.state is ImageState.FAILED and image.damaged:
                raise Integrity(
                    f"{at.site} got other bytes of the image than were sent ({image.why}): nothing"
                    " was made from it; ask again, and look at the way there if it comes again",
                    detail=image.why,
                )
            if image.state is ImageState.FAILED:
                raise Unsupported(
                    f"{at.site} could not take in the image ({image.why}): nothing was made from"
                    " it; ask again or choose another site",
                    detail=image.why,
                    reason=NOT_TAKEN_IN,
                )
            if image.state is ImageState.WORKING:
                raise NotYet(f"{at.site} is taking in the image")
            self._became(at, ArtefactState.COPIED, ref=image.ref)
            return image.ref

    # Volumes

    @activity.defn(no_thread_cancel_exception=True)
    def create_volume(self, order: MakeVolume) -> str:
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            self._intend(at, ArtefactKind.VOLUME, size=order.spec.size)
            with self._calling(at.site, meter) as driver:
                ref = require(driver, Volumes).create_volume(at.work.tag(at.artefact), order.spec)
            self._became(at, ArtefactState.ALLOCATED, ref=ref)
            return ref

    @activity.defn(no_thread_cancel_exception=True)
    def wait_volume(self, at: At) -> VolumeSeen:
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                volumes = require(driver, Volumes)
                answer = volumes.find_volume(at.work.tag(at.artefact))
                with self._never_made(at, volumes.delete_volume):
                    volume = made(driver, answer, f"volume {at.step} at {at.site}")
            if volume.state is VolumeState.FAILED:
                raise Unsupported(
                    f"{at.site} could not make the volume ({volume.why}): look there, then ask"
                    " again",
                    detail=volume.why,
                )
            if volume.state is VolumeState.WORKING:
                raise NotYet(f"{at.site} is filling the volume")
            self._became(at, ArtefactState.COPIED, ref=volume.ref)
            return volume

    # Instances

    @activity.defn(no_thread_cancel_exception=True)
    def create_instance(self, order: MakeInstance) -> str:
        """Create under an anchor that was written down first."""
        at = order.at
        tag = at.work.tag(at.artefact)
        with self._steps.step(at.work.operation, at.step) as meter:
            intent = self._intend(at, ArtefactKind.INSTANCE)
            with self._calling(at.site, meter) as driver:
                instances = require(driver, Instances)
                anchor = intent.anchor or self._reserve(at, instances)
                try:
                    ref = instances.create(tag, replace(order.spec, anchor=anchor))
                except Conflict as taken:
                    if taken.reason != "anchor-taken":
                        raise
                    self._reserve(at, instances)
                    raise Unavailable(
                        f"{at.site} gave the reserved id away: asking with another"
                    ) from taken
            self._became(at, ArtefactState.ALLOCATED, ref=ref)
            return ref

    def _reserve(self, at: At, instances: Instances) -> str | None:
        """An anchor, written down, that no other of ours means to create under."""
        promised: frozenset[str] = frozenset()
        while True:
            anchor = instances.reserve(at.work.tag(at.artefact), promised)
            with self._store.begin() as tx:
                promised = frozenset(
                    other.anchor
                    for other in tx.artefacts.list(site=at.site, states=(ArtefactState.INTENDED,))
                    if other.anchor is not None and other.id != at.artefact
                )
                if anchor is None or anchor not in promised:
                    now = tx.artefacts.get(at.artefact).state
                    tx.artefacts.set_state(at.artefact, now, anchor=anchor)
                    return anchor

    @activity.defn(no_thread_cancel_exception=True)
    def wait_instance(self, at: At) -> InstanceSeen:
        """The instance, once it is there and settled."""
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                answer = self._look(driver, at)
                kept = at.artefact != derived(at.work.operation, "instance")
                instances = require(driver, Instances)
                with nullcontext() if kept else self._never_made(at, instances.delete):
                    seen = made(driver, answer, f"instance at {at.site}")
            if seen.state is InstanceState.FAILED:
                raise Unsupported(
                    f"{at.site} could not make the instance ({seen.why}): look there, then ask"
                    " again or choose another site",
                    detail=seen.why,
                )
            if seen.state is InstanceState.WORKING or seen.power is None:
                raise NotYet(f"{at.site} is making the instance")
            self._became(at, ArtefactState.ALLOCATED, ref=seen.ref)
            return seen

    @activity.defn(no_thread_cancel_exception=True)
    def set_power(self, order: SetPower) -> None:
        """Ask for power; an instance that is gone is off."""
        at = order.at
        with (
            self._steps.step(at.work.operation, at.step, sole=order.sole) as meter,
            self._calling(at.site, meter) as driver,
        ):
            self._steps.revoke(at.work.operation, *order.undoes)
            answer = self._look(driver, at)
            if isinstance(answer, Absent) and order.power is Power.OFF:
                return
            seen = known(answer, f"instance at {at.site}")
            if order.power is Power.ON and self._still_stops(order, seen):
                self._await_stop(order, driver, meter)
            if seen.power is not order.power:
                if order.sole:
                    self._steps.claim(at.work.operation, at.step, meter)
                self._asking(order)
                require(driver, Instances).set_power(
                    at.work.tag(at.artefact), order.power, order.manner
                )

    def _asking(self, order: SetPower) -> None:
        if order.sole or order.undoes:
            self._steps.asking(order.at.work.operation, order.at.step)

    def _still_stops(self, order: SetPower, seen: InstanceSeen) -> bool:
        """Whether a stop that this undoes may be under way: it would end after we found it on.

        Not once we asked for power, which is after it was seen to be off.
        """
        operation = order.at.work.operation
        return (
            seen.power is not Power.OFF
            and self._steps.asked(operation, *order.undoes)
            and not self._steps.asked(operation, order.at.step)
        )

    def _await_stop(self, order: SetPower, driver: Driver, meter: Meter) -> NoReturn:
        at = order.at
        if waited_so_far() > order.patience:
            meter.message = "the guest did not stop by itself; power was cut to start it again"
            require(driver, Instances).set_power(at.work.tag(at.artefact), Power.OFF, Manner.HARD)
        raise NotYet(f"{at.site} is stopping the instance still: it is started after that")

    @activity.defn(no_thread_cancel_exception=True)
    def wait_power(self, order: SetPower) -> None:
        """Return once the site shows the power asked for; a deaf guest is cut after `patience`."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                answer = self._look(driver, at)
                if isinstance(answer, Absent) and order.power is Power.OFF:
                    return
                seen = known(answer, f"instance at {at.site}")
                if seen.power is order.power and seen.state is not InstanceState.WORKING:
                    return
                waited = waited_so_far()
                if order.power is Power.OFF and waited > order.patience:
                    meter.message = "the guest did not stop by itself; power was cut"
                    if order.sole:
                        self._steps.claim(at.work.operation, at.step, meter)
                    self._asking(order)
                    require(driver, Instances).set_power(
                        at.work.tag(at.artefact), Power.OFF, Manner.HARD
                    )
            raise NotYet(f"{at.site} is powering the instance {order.power}")

    @activity.defn(no_thread_cancel_exception=True)
    def isolate_nics(self, at: At) -> None:
        with self._effect(at) as driver:
            require(driver, Instances).isolate_nics(at.work.tag(at.artefact))

    @activity.defn(no_thread_cancel_exception=True)
    def connect_nics(self, at: At) -> None:
        with self._effect(at) as driver:
            require(driver, Instances).connect_nics(at.work.tag(at.artefact))

    @activity.defn(no_thread_cancel_exception=True)
    def give_up_nics(self, at: At) -> None:
        """A copy that stays keeps no MAC or address from the next one."""
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                done = require(driver, Instances).give_up_nics(at.work.tag(at.artefact))
            if not done:
                raise NotYet(f"{at.site} is letting go of the nics")

    @activity.defn(no_thread_cancel_exception=True)
    def probe_boot(self, order: Probe) -> str:
        """The boot proof of the guest, once it contains the pattern."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                proof = require(driver, Instances).probe_boot(at.work.tag(at.artefact))
            if proof and order.pattern in proof:
                meter.message = proof.strip().splitlines()[-1][:200] if proof.strip() else ""
                return meter.message
            if waited_so_far() > order.within:
                wanted = f"{order.pattern!r}" if order.pattern else "a sign of life"
                raise Integrity(
                    f"the isolated target at {at.site} did not show {wanted} within"
                    f" {order.within.total_seconds():.0f} s",
                    detail=proof[-400:],
                    reason="acceptance",
                )
            raise NotYet("the guest has not shown that it booted")

    # Fencing

    @activity.defn(no_thread_cancel_exception=True)
    def fence(self, order: Fence) -> FenceProof:
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                proof = require(driver, Fencing).fence(at.work.tag(at.artefact))
            self._judge(order, proof)
            meter.message = f"{proof.level}, seen by {proof.observer}"
            return proof

    @activity.defn(no_thread_cancel_exception=True)
    def verify_fence(self, order: Fence) -> FenceProof:
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                proof = require(driver, Fencing).verify_fence(at.work.tag(at.artefact))
            self._judge(order, proof)
            return proof

    @staticmethod
    def _judge(order: Fence, proof: FenceProof) -> None:
        if not proof.level.at_least(order.level):
            raise Conflict(
                f"the fence at {order.at.site} is {proof.level}, the plan asks for {order.level}:"
                " give the account the rights named in the provider's card, then plan again",
                reason="fence-too-weak",
            )

    @activity.defn(no_thread_cancel_exception=True)
    def unfence(self, at: At) -> None:
        with self._effect(at) as driver:
            require(driver, Fencing).unfence(at.work.tag(at.artefact))

    # Exports

    @activity.defn(no_thread_cancel_exception=True)
    def prepare_export(self, order: Export) -> ExportSeen:
        """The export, once it can be read."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            if activity.info().attempt == 1 or not self._on_record(at):
                self._intend(at, ArtefactKind.EXPORT)
            with self._calling(at.site, meter) as driver:
                seen = require(driver, DiskExport).prepare_export(
                    at.work.tag(at.artefact), order.source, order.since
                )
            if seen.stage is ExportStage.FAILED:
                raise Unsupported(
                    f"{at.site} could not make the disk readable ({seen.note}): ask again",
                    detail=seen.note,
                )
            if seen.stage is ExportStage.WORKING:
                raise NotYet(f"{at.site} is making the disk readable: {seen.note}")
            meter.message = seen.note
            if order.since is not None and not seen.changed_only:
                meter.message = "what changed is not told: all of it is read"
                self._untold(at, seen)
            self._became(at, ArtefactState.ALLOCATED)
            return seen

    def _untold(self, at: At, seen: ExportSeen) -> None:
        """A mark was lost: nothing is missed, but it takes longer than was planned."""
        finding = warning(
            "SRC05",
            at.site,
            f"{at.step}: {at.site} cannot tell any more what changed since the last time, so all"
            f" {seen.size} bytes are read",
            "leave the instance's snapshots, backups and change tracking alone from one time to the"
            " next, and see what the provider's card says of changes",
        )
        with self._store.begin() as tx:
            known = tx.operations.get(at.work.operation).findings
            if finding not in known:
                tx.operations.update(at.work.operation, findings=(*known, finding))

    @activity.defn(no_thread_cancel_exception=True)
    def release_export(self, at: At) -> None:
        """Gone when this returns."""
        with self._steps.step(at.work.operation, at.step) as meter:
            tag = at.work.tag(at.artefact)
            with self._store.read() as tx:
                known_here = tx.artefacts.find(at.artefact)
            if known_here is None:
                return
            with self._calling(at.site, meter) as driver:
                export = require(driver, DiskExport)
                export.release_export(tag)
                gone = export.find_export(tag)
            if not isinstance(gone, Absent):
                raise NotYet(f"{at.site} is removing the export")
            self._became(at, ArtefactState.RELEASED)

    # Removal

    @activity.defn(no_thread_cancel_exception=True)
    def remove(self, order: Remove) -> None:
        """Make one object go; gone when this returns."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._store.read() as tx:
                known_here = tx.artefacts.find(at.artefact)
            if known_here is None or known_here.state is ArtefactState.RELEASED:
                return
            with self._calling(at.site, meter) as driver:
                anchor = self._anchor_of(at)
                gone = delete(driver, order.kind, at.work.tag(at.artefact), anchor)
            if isinstance(gone, Unknown):
                raise Unavailable(f"{at.site} cannot tell whether it is gone: {gone.why}")
            if not isinstance(gone, Absent):
                raise NotYet(f"{at.site} is deleting the {order.kind}")
            self._became(at, ArtefactState.RELEASED)
