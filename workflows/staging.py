"""A disk's bytes become an image at a site; what it does not take in goes and is tried again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from temporalio import workflow
from temporalio.exceptions import ActivityError

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import ImageSource
from controlplane.domain.errors import NotFound
from controlplane.domain.ids import derived
from controlplane.domain.plan import Delivery, DiskPlan, TargetPlan
from workflows import options
from workflows.activities.orders import At, Remove, StageImage
from workflows.activities.records import RecordActivities, Retain
from workflows.activities.sites import NOT_TAKEN_IN, SiteActivities
from workflows.activities.steps import Work
from workflows.activities.transfer import Publish, Push, TransferActivities
from workflows.calls import call, clean, copy, record, wait
from workflows.failures import is_cancel, problem_of, reason_of
from workflows.saga import Saga, Undo

Taken = Callable[[ArtefactKind, At], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskBytes:
    """Which recovery point holds a disk's bytes, and the digest they must have at the target."""

    point: UUID
    disk: int
    domain: str
    digest: str | None = None


class Staging:
    """The images of one target. Each try has an artefact of its own; `take_back` is its undo."""

    def __init__(self, work: Work, plan: TargetPlan, take_back: Taken) -> None:
        self._work = work
        self._plan = plan
        self._take_back = take_back
        self._tries = [1 for _ in plan.disks]

    async def stage(self, saga: Saga, disk: DiskPlan, source: DiskBytes) -> str:
        """The image's ref, once the site has all of it."""
        publish = Publish(
            work=self._work,
            step=f"publish {disk.index}",
            point=source.point,
            disk=source.disk,
            domain=source.domain,
            format=disk.format,
            bootable=disk.index == 0,
            site=self._plan.site,
        )
        served: ImageSource = await copy(TransferActivities.publish, publish)
        while True:
            at = self._at("image", disk)
            stage = StageImage(at=at, name=f"{self._plan.name}-{disk.index}", source=served)
            take_back: Undo = partial(self._take_back, ArtefactKind.IMAGE, at)
            try:
                return await self._try(saga, disk, Push(stage=stage, publish=publish), take_back)
            except ActivityError as failure:
                if not self._may_try_again(disk, failure):
                    raise
                await self._make_room(disk, failure)
            saga.done_with(take_back)
            await workflow.sleep(options.IMAGE_AGAIN[self._tries[disk.index] - 1])
            self._tries[disk.index] += 1

    async def remove(self) -> None:
        """What was staged is scaffolding: it goes once its volumes stand, or is written down."""
        for disk in self._plan.disks:
            at = self._at("remove image", disk)
            try:
                await clean(SiteActivities.remove, Remove(at=at, kind=ArtefactKind.IMAGE))
            except ActivityError:
                await record(
                    RecordActivities.retain,
                    Retain(work=self._work, artefact=at.artefact, kind=ArtefactKind.IMAGE),
                )

    def _at(self, what: str, disk: DiskPlan, suffix: str = "") -> At:
        number = self._tries[disk.index]
        path: tuple[object, ...] = ("image", disk.index, *((number,) if number > 1 else ()))
        again = f", try {number}" if number > 1 else ""
        return At(
            work=self._work,
            site=self._plan.site,
            artefact=derived(self._work.operation, *path),
            step=f"{what} {disk.index}{suffix}{again}",
        )

    async def _try(self, saga: Saga, disk: DiskPlan, push: Push, take_back: Undo) -> str:
        pulled: str | None = None
        if disk.delivery is Delivery.PULL:
            pulled = await saga.step(call(SiteActivities.pull_image, push.stage), undo=take_back)
        if pulled is None:
            await saga.step(copy(TransferActivities.push_image, push), undo=take_back)
        return await wait(SiteActivities.wait_image, self._at("image", disk, " in"))

    def _may_try_again(self, disk: DiskPlan, failure: ActivityError) -> bool:
        """The image failed or vanished before it was used, as when its gateway died meanwhile."""
        lost = (
            reason_of(failure) == NOT_TAKEN_IN or problem_of(failure).code == NotFound.code
        ) and self._tries[disk.index] <= len(options.IMAGE_AGAIN)
        return lost and workflow.patched("2026-11-image-again")

    async def _make_room(self, disk: DiskPlan, failure: ActivityError) -> None:
        """The failed image is gone from its site; else its own failure stands."""
        gone = Remove(at=self._at("remove failed image", disk), kind=ArtefactKind.IMAGE)
        try:
            await clean(SiteActivities.remove, gone)
        except ActivityError as left:
            raise (left if is_cancel(left) else failure) from None
