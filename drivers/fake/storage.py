"""Volumes, snapshots and the bytes in them at a fake site."""

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.disk import (
    BlockReader,
    BlockWriter,
    DiskSource,
    ExportSeen,
    ExportStage,
    Mark,
    SnapshotSeen,
    VolumeSeen,
    VolumeSpec,
    VolumeState,
)
from controlplane.domain.errors import Conflict, Exhausted, NotFound
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Changes
from drivers.contract import DiskExport, DiskImport, Snapshots, Volumes
from drivers.fake.base import FakeBase
from drivers.fake.disk import FakeDisk, FakeReader, FakeWriter, Grant
from drivers.fake.images import filled
from drivers.fake.site import FakeExport, FakeSite, FakeSnapshot, FakeVolume


class FakeVolumes(FakeBase, Volumes):
    def find_volume(self, owner: OwnerTag) -> Answer[VolumeSeen]:
        with self._call("find_volume", owner) as site:
            if stale := site.stale():
                return stale
            volume = site.volumes.get(owner.artefact)
            working = volume is not None and not volume.settled()
            if volume is None:
                volume = site.lingering(owner, FakeVolume)
                working = True
            if volume is None:
                return Absent()
            attached = site.instances.get(volume.attached_to) if volume.attached_to else None
            state = VolumeState.IN_USE if attached else VolumeState.READY
            return Seen(
                VolumeSeen(
                    ref=volume.ref,
                    size=volume.disk.size,
                    state=VolumeState.WORKING if working else state,
                    epoch=volume.epoch,
                    attached_to=attached.ref if attached else None,
                )
            )

    def create_volume(self, owner: OwnerTag, spec: VolumeSpec) -> str:
        with self._call("create_volume", owner) as site:
            if volume := site.volumes.get(owner.artefact):
                if volume.spec != spec:
                    raise self._other_wish(volume.ref)
                volume.stamp(owner)
                return volume.ref
            self._named(spec.name)
            size, left = self._rounded(spec.size), self.quota()
            for what, free, wanted in (
                ("volumes", left.volumes, 1),
                ("bytes of disk", left.disk, size),
            ):
                if free is not None and wanted > free:
                    raise Exhausted(f"site {site.name} has {free} {what} left; {wanted} are wanted")
            site.ghosts.pop(owner.artefact, None)
            volume = FakeVolume(
                owner=owner,
                epoch=owner.epoch,
                ref=f"vol-{site.number()}",
                settling=site.settle,
                spec=spec,
                disk=filled(site, spec.image, size),
            )
            site.volumes[owner.artefact] = volume
            return volume.ref

    def delete_volume(self, owner: OwnerTag) -> None:
        with self._call("delete_volume", owner) as site:
            if not (volume := site.volumes.get(owner.artefact)):
                return
            volume.stamp(owner)
            if volume.attached_to is not None:
                raise Conflict(
                    f"{volume.ref} at {site.name} is attached: delete the instance first"
                )
            del site.volumes[owner.artefact]
            site.ghost(volume)


class FakeSnapshots(FakeBase, Snapshots):
    def create_snapshot(self, owner: OwnerTag, instance: str) -> str:
        with self._call("create_snapshot", owner) as site:
            if snapshot := site.snapshots.get(owner.artefact):
                if snapshot.instance != instance:
                    raise self._other_wish(snapshot.ref)
                snapshot.stamp(owner)
                return snapshot.ref
            it = site.instance_of(instance)
            snapshot = FakeSnapshot(
                owner=owner,
                epoch=owner.epoch,
                ref=f"snap-{site.number()}",
                settling=site.settle,
                instance=instance,
                disks={v.ref: v.disk.copy() for v in it.volumes},
            )
            site.snapshots[owner.artefact] = snapshot
            return snapshot.ref

    def find_snapshot(self, owner: OwnerTag) -> Answer[SnapshotSeen]:
        with self._call("find_snapshot", owner) as site:
            if stale := site.stale():
                return stale
            if not (snapshot := site.snapshots.get(owner.artefact)):
                return Absent()
            return Seen(
                SnapshotSeen(ref=snapshot.ref, ready=snapshot.settled(), epoch=snapshot.epoch)
            )

    def delete_snapshot(self, owner: OwnerTag) -> None:
        with self._call("delete_snapshot", owner) as site:
            if snapshot := site.snapshots.get(owner.artefact):
                snapshot.stamp(owner)
                del site.snapshots[owner.artefact]


class FakeTransfers(FakeBase, DiskExport, DiskImport):
    def _tells(self, site: FakeSite, source: DiskSource) -> bool:
        """Whether changes are told of this disk now."""
        if self.limits.changes is Changes.WHILE_ALIVE:
            holder = site.volume_of(source.volume).attached_to
            return holder is not None and site.instances[holder].power is Power.ON
        return self.limits.changes is Changes.TOLD

    def prepare_export(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None = None
    ) -> ExportSeen:
        with self._call("prepare_export", owner) as site:
            export = site.exports.get(owner.artefact)
            if export is None:
                export = FakeExport(
                    owner=owner,
                    epoch=owner.epoch,
                    ref=f"export-{site.number()}",
                    settling=site.settle,
                    source=source,
                    disk=_frozen(site, source).copy(),
                    base=_base(site, source, since) if self._tells(site, source) else None,
                    grant=Grant(f"the export of {source.volume} at {site.name}"),
                )
                site.exports[owner.artefact] = export
            elif export.source != source:
                raise self._other_wish(export.ref)
            else:
                export.stamp(owner)
                export.settled()
            return _export_seen(export)

    def find_export(self, owner: OwnerTag) -> Answer[ExportSeen]:
        with self._call("find_export", owner) as site:
            if stale := site.stale():
                return stale
            export = site.exports.get(owner.artefact)
            return Seen(_export_seen(export)) if export else Absent()

    def open_export(self, owner: OwnerTag) -> BlockReader:
        with self._call("open_export", owner) as site:
            if not (export := site.exports.get(owner.artefact)):
                raise NotFound(f"there is no export {owner.artefact} at {site.name}: prepare it")
            if export.settling:
                raise Conflict(f"{export.ref} at {site.name} is not ready: prepare it further")
            export.stamp(owner)
            return FakeReader(export.disk, export.grant, export.base)

    def release_export(self, owner: OwnerTag) -> None:
        with self._call("release_export", owner) as site:
            if export := site.exports.get(owner.artefact):
                export.stamp(owner)
                export.grant.revoked = True
                del site.exports[owner.artefact]

    def open_import(self, owner: OwnerTag, volume: str) -> BlockWriter:
        with self._call("open_import", owner) as site:
            it = site.instances.get(owner.artefact)
            if it is None or volume not in {v.ref for v in it.volumes}:
                raise NotFound(f"no instance of this tag has {volume} at {site.name}: look again")
            it.stamp(owner)
            if it.power is Power.ON:
                raise Conflict(f"{it.ref} at {site.name} is running: stop it before writing")
            _revoke(site, volume)
            grant = site.writers[volume] = Grant(f"the writer of {volume} at {site.name}")
            return FakeWriter(site.volume_of(volume).disk, grant, site.lock)

    def close_import(self, owner: OwnerTag, volume: str) -> None:
        with self._call("close_import", owner) as site:
            if it := site.instances.get(owner.artefact):
                it.stamp(owner)
            _revoke(site, volume)


def _revoke(site: FakeSite, volume: str) -> None:
    if grant := site.writers.pop(volume, None):
        grant.revoked = True


def _frozen(site: FakeSite, source: DiskSource) -> FakeDisk:
    """The content that the export shows; Conflict while somebody may write it."""
    if source.snapshot is not None:
        snapshot = site.snapshots.get(source.snapshot)
        if snapshot is None or source.volume not in snapshot.disks:
            raise NotFound(
                f"no snapshot {source.snapshot} at {site.name} holds {source.volume}: take one"
            )
        return snapshot.disks[source.volume]
    volume = site.volume_of(source.volume)
    it = site.instances.get(volume.attached_to) if volume.attached_to else None
    if it is not None and it.power is Power.ON:
        raise Conflict(f"{it.ref} at {site.name} is running: stop it, or export a snapshot")
    return volume.disk


def _base(site: FakeSite, source: DiskSource, since: Mark | None) -> FakeDisk | None:
    """The earlier state that `since` names (a snapshot's ref), None when it is lost."""
    if since is None:
        return None
    for snapshot in site.snapshots.values():
        if snapshot.ref == since.text:
            return snapshot.disks.get(source.volume)
    return None


def _export_seen(export: FakeExport) -> ExportSeen:
    return ExportSeen(
        stage=ExportStage.WORKING if export.settling else ExportStage.READY,
        size=export.disk.size,
        epoch=export.epoch,
        changed_only=export.base is not None,
    )
