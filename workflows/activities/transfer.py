"""Steps that move bytes: into the vault, out to a site, and back again for the proof."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from temporalio import activity

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import MIB, BlockReader, DiskFormat, ImageSource
from controlplane.domain.errors import Integrity, NotFound
from controlplane.domain.ids import (
    GroupId,
    InstanceId,
    OperationId,
    PointId,
    SiteName,
    TenantName,
)
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation
from controlplane.domain.placement import Served
from controlplane.domain.resource import Kind
from controlplane.domain.vault import Moment
from controlplane.keys.port import domain_owner
from controlplane.services.bandwidth import Bandwidth, Pace
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from controlplane.vault.digest import digest
from controlplane.vault.nouns import Member
from controlplane.vault.vault import Vault
from drivers.contract import ImagePush, require
from drivers.disks.image import fingerprint, image_file, read_image, served_as
from drivers.disks.raw import ByteSource
from workflows.activities.moving import Copied, Mover, Proof, beat, beating, stopping
from workflows.activities.orders import At, StageImage
from workflows.activities.records import IMAGES, operation_id
from workflows.activities.steps import Steps, Work
from workflows.connections import Connect
from workflows.failures import translated

_PIECE = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDisk:
    """Copy what the export `at` shows into disk number `disk` of `point`.

    What the export calls unchanged is as in `base`. `round` counts how often it was begun anew
    before, each time with attempts of its own.
    """

    at: At
    point: UUID
    disk: int
    domain: str
    base: UUID | None = None
    round: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPoint:
    work: Work
    point: UUID
    domain: str
    step: str
    copied: tuple[Copied, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    instance: InstanceId
    point: UUID
    copied: tuple[Copied, ...]
    taken: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitGroup:
    operation: OperationId
    domain: str
    step: str
    members: tuple[GroupMember, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Offer a disk of a point at the image gateway, in `format`, while the operation runs.

    To the clients that `site` names, where it names any.
    """

    work: Work
    step: str
    point: UUID
    disk: int
    domain: str
    format: DiskFormat
    bootable: bool
    site: SiteName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    stage: StageImage
    publish: Publish


@dataclass(frozen=True, slots=True, kw_only=True)
class Prove:
    """Digest what the export `at` shows over `size` bytes and compare with `expected`."""

    at: At
    disk: int
    size: int
    expected: str


class TransferActivities(Mover):
    """`uploads` is the folder of files on their way to become images.

    What the gateway serves expires after `image_lifetime`, if the operation has not ended before.
    """

    def __init__(
        self,
        *,
        store: Store,
        steps: Steps,
        connect: Connect,
        clock: Callable[[], datetime],
        vault: Vault,
        bandwidth: Bandwidth,
        uploads: Path,
        gateway_url: str,
        image_lifetime: timedelta = timedelta(days=7),
    ) -> None:
        super().__init__(
            store=store,
            steps=steps,
            connect=connect,
            clock=clock,
            vault=vault,
            bandwidth=bandwidth,
        )
        self._uploads = uploads
        self._gateway_url = gateway_url.rstrip("/")
        self._image_lifetime = image_lifetime

    # Into the vault

    @activity.defn(no_thread_cancel_exception=True)
    def copy_disk(self, order: CopyDisk) -> Copied:
        """Source to vault; goes on after the last sealed pack."""
        at = order.at
        with self._steps.step(at.work.operation, at.step, copying=True) as meter:
            with meter.copying(), self._export(at, meter) as reader:
                copied = self._into_vault(
                    reader,
                    operation=at.work.operation,
                    what=at.step,
                    point=order.point,
                    disk=order.disk,
                    domain=order.domain,
                    base=order.base,
                    round_=order.round,
                )
            meter.message = f"{copied.bytes_read} bytes read, {copied.bytes_stored} stored"
            return copied

    @activity.defn(no_thread_cancel_exception=True)
    def commit_point(self, order: CommitPoint) -> None:
        """The copied disks become one recovery point under a signed head."""
        with self._steps.step(order.work.operation, order.step, copying=True) as meter:
            with self._store.read() as tx:
                op = tx.operations.get(order.work.operation)
            with meter.copying(), stopping(), beating() as told:
                self._vault.commit(
                    PointId(order.point),
                    disks=tuple(c.disk for c in order.copied),
                    domain=order.domain,
                    tenant=TenantName(op.tenant or ""),
                    instance=order.work.instance,
                    mark=None,
                    attempt=max(c.attempt for c in order.copied),
                    cancelled=told.is_set,
                )

    @activity.defn(no_thread_cancel_exception=True)
    def commit_group(self, order: CommitGroup) -> None:
        """Every member's copied disks become its point, or none does."""
        with self._steps.step(order.operation, order.step, copying=True) as meter:
            with self._store.read() as tx:
                op = tx.operations.get(order.operation)
            with meter.copying(), stopping(), beating() as told:
                self._vault.commit_group(
                    GroupId(order.operation),
                    tenant=TenantName(op.tenant or ""),
                    members=[
                        Member(
                            point=PointId(each.point),
                            disks=tuple(c.disk for c in each.copied),
                            domain=order.domain,
                            instance=each.instance,
                            attempt=max(c.attempt for c in each.copied),
                            taken=each.taken,
                        )
                        for each in order.members
                    ],
                    cancelled=told.is_set,
                )

    # Out to a site

    @activity.defn(no_thread_cancel_exception=True)
    def publish(self, order: Publish) -> ImageSource:
        """A URL of the image gateway, with the length and digests of what it serves."""
        with self._steps.step(order.work.operation, order.step, copying=True) as meter:
            token = secrets.token_urlsafe(32)
            with (
                meter.copying(),
                beating(),  # before the first byte the whole disk is mapped
                closing(self._vault.open(PointId(order.point), order.disk)) as disk,
            ):
                size = disk.size
                print_ = fingerprint(_file(disk, order), beat)
            with self._store.begin() as tx:
                tx.served.add(
                    Served(
                        token_sha256=sha256(token.encode()).hexdigest(),
                        operation=order.work.operation,
                        point=str(order.point),
                        disk=order.disk,
                        format=order.format,
                        length=print_.length,
                        size=size,
                        sha256=print_.sha256,
                        sha512=print_.sha512,
                        domain=order.domain,
                        expires_at=self._clock() + self._image_lifetime,
                        clients=_clients(tx, order.site),
                    )
                )
            return ImageSource(
                url=f"{self._gateway_url}/images/{token}.{order.format.called}",
                format=order.format.called,
                length=print_.length,
                size=size,
                sha256=print_.sha256,
                sha512=print_.sha512,
                bootable=order.bootable,
            )

    def _image(self, order: Publish) -> ByteSource:
        return _file(self._vault.open(PointId(order.point), order.disk), order)

    @activity.defn(no_thread_cancel_exception=True)
    def push_image(self, order: Push) -> str:
        """Send the image where the site does not fetch."""
        stage = order.stage
        at = stage.at
        with self._steps.step(at.work.operation, f"{at.step} send", copying=True) as meter:
            with self._store.begin() as tx:
                tx.artefacts.intend(
                    Artefact(
                        id=at.artefact,
                        kind=ArtefactKind.IMAGE,
                        site=at.site,
                        instance=at.work.instance,
                        operation=at.work.operation,
                        epoch=at.work.epoch,
                        state=ArtefactState.INTENDED,
                        size=stage.source.length,
                        created_at=self._clock(),
                    )
                )
            with (
                meter.copying(),
                stopping(),
                beating() as told,
                self._connect(at.site) as driver,
                closing(self._image(order.publish)) as image,
            ):
                ref = require(driver, ImagePush).push_image(
                    at.work.tag(at.artefact),
                    stage.name,
                    stage.source,
                    self._pieces(image, at, self._pace(at, told)),
                )
            with self._store.begin() as tx:
                if tx.artefacts.get(at.artefact).state is ArtefactState.INTENDED:
                    tx.artefacts.set_state(at.artefact, ArtefactState.ALLOCATED, ref=ref)
            return ref

    def _pieces(self, image: ByteSource, at: At, pace: Pace) -> Iterator[bytes]:
        for offset in range(0, image.size, _PIECE):
            beat()
            piece = image.read(offset, min(_PIECE, image.size - offset))
            yield piece
            pace.passed(len(piece))
            sent = offset + len(piece)
            self._note(at.work.operation, f"{at.step} send", sent, image.size, sent)

    # Back again

    @activity.defn(no_thread_cancel_exception=True)
    def prove(self, order: Prove) -> Proof:
        """Equal digests, or Integrity: the target holds what the source held."""
        at = order.at
        with self._steps.step(at.work.operation, at.step, copying=True) as meter:
            with meter.copying(), self._export(at, meter) as reader, stopping():
                found = digest(
                    reader,
                    length=order.size,
                    progress=lambda seen: self._progress(at.work.operation, at.step, seen),
                    cancelled=activity.is_cancelled,
                )
            if found != order.expected:
                raise Integrity(
                    f"disk {order.disk} at {at.site} is not what was read at the source"
                    f" (digest {found[:16]} instead of {order.expected[:16]}): the move stops here",
                    reason="digest",
                )
            return Proof(
                disk=order.disk, expected=order.expected, found=found, bytes_read=order.size
            )

    # Images of users

    @activity.defn(no_thread_cancel_exception=True)
    def import_image(self, operation: str) -> Copied:
        """An uploaded file becomes a recovery point that instances can begin from."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "import", copying=True) as meter:
            with self._store.read() as tx:
                op = tx.operations.get(op_id)
            domain = domain_owner(op.tenant or "", IMAGES)
            point = UUID(str(op.subject))
            with meter.copying():
                copied = self._imported(PointId(point)) or self._import(op, PointId(point), domain)
            now = self._clock()
            with self._store.begin() as tx:
                tx.resources.patch_status(
                    op.subject, {"sizeMB": max(1, -(-copied.size // MIB))}, now=now
                )
            return copied

    def _imported(self, point: PointId) -> Copied | None:
        """What an earlier attempt committed whose answer was lost."""
        try:
            with closing(self._vault.open(point, 0)) as disk:
                size, digest = disk.size, disk.digest
        except NotFound:
            return None
        return Copied(
            disk=0,
            size=size,
            digest=digest,
            bytes_read=0,
            bytes_new=0,
            bytes_stored=0,
            attempt=activity.info().attempt,
        )

    def _import(self, op: Operation, point: PointId, domain: str) -> Copied:
        path = self._upload(str(op.order["file"]))
        form = str(op.order.get("format") or "")
        with closing(read_image(path, form, what=f"image {op.subject_name}")) as reader:
            copied = self._into_vault(
                reader, operation=op.id, what="import", point=point, disk=0, domain=domain
            )
        with stopping(), beating() as told:
            self._vault.commit(
                point,
                disks=(0,),
                domain=domain,
                tenant=TenantName(op.tenant or ""),
                instance=InstanceId(point),
                mark=None,
                attempt=copied.attempt,
                cancelled=told.is_set,
            )
        return copied

    def _upload(self, name: str) -> Path:
        path = self._uploads / Path(name).name
        if not path.is_file():
            raise NotFound(
                f"the uploaded file of this image is gone: upload it again ({path.name})"
            )
        return path

    @activity.defn(no_thread_cancel_exception=True)
    def discard_upload(self, operation: str) -> None:
        """The uploaded file has served its purpose, or is no image."""
        with translated("discard upload"):
            with self._store.read() as tx:
                op = tx.operations.get(operation_id(operation))
            (self._uploads / Path(str(op.order["file"])).name).unlink(missing_ok=True)

    @activity.defn(no_thread_cancel_exception=True)
    def abandon_point(self, point: str) -> None:
        """What was copied for it is given up, unless it stands already."""
        with translated("abandon point"):
            self._vault.abandon(PointId(UUID(point)))

    @activity.defn(no_thread_cancel_exception=True)
    def forget_point(self, point: str) -> None:
        """The vault need not keep it any more; unknown is fine."""
        with translated("forget point"):
            self._vault.abandon(PointId(UUID(point)))
            self._vault.forget(PointId(UUID(point)))


def _file(disk: BlockReader, order: Publish) -> ByteSource:
    """The same bytes as the gateway's."""
    of = served_as(str(order.point), order.disk)
    return image_file(disk, order.format, of=of)


def _clients(tx: Tx, site: SiteName | None) -> tuple[str, ...]:
    found = tx.resources.find(facts(Kind.SITE).key(site, None, None)) if site else None
    listed = found.spec.get("imageClients") if found else None
    return tuple(str(each) for each in listed) if isinstance(listed, list | tuple) else ()
