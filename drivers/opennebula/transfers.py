"""Disks leaving and changing through qemu-nbd where the datastores are."""

from dataclasses import replace

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import (
    BlockReader,
    BlockWriter,
    DiskSource,
    ExportSeen,
    ExportStage,
    Mark,
)
from controlplane.domain.errors import Busy, Conflict, NotFound, Unavailable
from controlplane.domain.ids import ArtefactId
from controlplane.domain.owner import OwnerTag
from drivers.contract import DiskExport, DiskImport
from drivers.disks.tunnel import TunnelReader, TunnelWriter
from drivers.opennebula import chains, mapping
from drivers.opennebula.base import Vm
from drivers.opennebula.chains import Point
from drivers.opennebula.client import Record
from drivers.opennebula.points import OnePoints
from drivers.opennebula.shell import Image, Served
from drivers.opennebula.storage import OneStorage, Stored, volume_size

_DATASTORES = "/var/lib/one/datastores"


class OneTransfers(OneStorage, OnePoints, DiskExport, DiskImport):
    """An export is a qemu-nbd; its owner and source stand in its own command line."""

    def prepare_export(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None = None
    ) -> ExportSeen:
        """A mark is an earlier point of the same chain of backups; else everything is read."""
        snapshot = source.snapshot.hex if source.snapshot else ""
        export = self._export(owner)
        if export is not None:
            self._not_late(f"export {owner.artefact}", owner, export.owner)
            if (export.volume, export.snapshot) != (source.volume, snapshot):
                raise Conflict(
                    f"the export {owner.artefact} at {self.site} shows {export.volume}: release"
                    " it first"
                )
            if owner.epoch == export.owner.epoch:
                return _export_seen(export)
            self._shell.end(export)  # the earlier epoch's readers end with it
        if source.snapshot:
            image = self._kept(source.snapshot, source.volume, since)
        else:
            image = self._now(source.volume, since)
        try:
            self._shell.serve(owner, source.volume, image, snapshot=snapshot)
        except NotFound:
            if not image.bitmap:
                raise
            whole = replace(image, bitmap="")
            self._shell.serve(owner, source.volume, whole, snapshot=snapshot)
        export = self._export(owner)
        if export is None:
            raise Unavailable(f"site {self.site}: the export ended at once: prepare it again")
        return _export_seen(export)

    def find_export(self, owner: OwnerTag) -> Answer[ExportSeen]:
        try:
            export = self._export(owner)
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        return Absent() if export is None else Seen(_export_seen(export))

    def open_export(self, owner: OwnerTag) -> BlockReader:
        export = self._export(owner)
        if export is None:
            raise NotFound(f"site {self.site}: no export {owner.artefact}: prepare it")
        self._not_late(f"export {owner.artefact}", owner, export.owner)
        return TunnelReader(*self._shell.opened(export))

    def release_export(self, owner: OwnerTag) -> None:
        export = self._export(owner)
        if export is not None:
            self._not_late(f"export {owner.artefact}", owner, export.owner)
            self._shell.end(export)

    def open_import(self, owner: OwnerTag, volume: str) -> BlockWriter:
        vm = self._mine(owner)
        if volume not in {ref for ref, _, _ in vm.notes.disks}:
            raise NotFound(f"VM {vm.id} at {self.site} has no disk {volume}: look again")
        self._stopped(vm, "writing to its disk")
        vm = self._stamped(vm, owner)
        self._revoke(volume)
        stored = self._volume(volume)
        socket = self._shell.serve(
            vm.owner,
            volume,
            self._image(stored, self._path(stored, "its disk is written")),
            writable=True,
        )
        return TunnelWriter(*self._shell.opened(self._only_writer(volume, socket)))

    def _only_writer(self, volume: str, socket: str) -> Served:
        """Our qemu-nbd, alone: on a raw disk QEMU lets two in that start at once."""
        writers = [e for e in self._shell.served() if e.writable and e.volume == volume]
        if not writers:
            raise Unavailable(f"{volume} at {self.site}: the writer ended at once: open it again")
        last = max(writers, key=lambda export: (export.owner.epoch, export.pid))
        for export in writers:
            if export is not last:
                self._shell.end(export)
        if last.socket != socket:
            raise Busy(f"{volume} at {self.site}: another writer was opened just now: ask again")
        return last

    def close_import(self, owner: OwnerTag, volume: str) -> None:
        vm = self._lookup(owner)
        if vm is not None:
            self._current(vm, owner)
        self._revoke(volume)

    def _revoke(self, volume: str) -> None:
        """End every writer of the volume."""
        for export in self._shell.served():
            if export.writable and export.volume == volume:
                self._shell.end(export)

    def _export(self, owner: OwnerTag) -> Served | None:
        found = [
            export
            for export in self._shell.served()
            if export.owner.artefact == owner.artefact and not export.writable
        ]
        return max(found, key=lambda export: export.owner.epoch, default=None)

    # -- where a disk is -----------------------------------------------------------------------

    def _volume(self, ref: str) -> Stored:
        for stored in self._all_stored():
            if str(stored.id) == ref and stored.finished:
                return stored
        raise NotFound(f"site {self.site}: there is no volume {ref} of ours: look there")

    def _path(self, volume: Stored, purpose: str) -> str:
        """The file with the disk's newest bytes.

        A VM that was on a host has them where it ran: a link back into the image datastore, or
        the only new copy until the VM terminates. One that never ran has them in the datastore.
        """
        for number in volume.users:
            vm = self._read(number)
            self._stopped(vm, purpose)
            if (place := _host_place(vm, volume)) is not None:
                return self._shell.real(f"{self._root}/{place}")
        return volume.record.text("SOURCE")

    def _image(self, volume: Stored, path: str) -> Image:
        form = volume.record.text("FORMAT", "raw")
        return Image(paths=(path,), form=form, size=volume_size(volume))

    def _now(self, ref: str, since: Mark | None) -> Image:
        """A disk as it is. What changed since the last backup of its chain is in a bitmap."""
        volume = self._volume(ref)
        image = self._image(volume, self._path(volume, "its disk is read, or read a snapshot"))
        point = self._marked(since)
        if point is None or volume.users != [point.vm] or image.form != "qcow2":
            return image
        if not self._newest(self._read(point.vm), point):
            return image
        return replace(image, bitmap=f"one-{point.vm}-{point.number}")

    def _kept(self, snapshot: ArtefactId, volume: str, since: Mark | None) -> Image:
        """A disk as it was. What changed since an earlier backup is in the files above that."""
        point = self._point(snapshot)
        files = point and point.files(volume)
        if not point or not files:
            raise NotFound(f"site {self.site}: no snapshot {snapshot} of {volume}: make it first")
        earlier = self._marked(since)
        paths = tuple(f"{self._root}/{path}" for path in files.paths)
        layers = 0
        if earlier is not None and earlier.disks.get(volume) == point.disks[volume]:
            layers = point.since(earlier)
        return Image(paths=paths, form="qcow2", size=files.size, layers=layers)

    def _marked(self, since: Mark | None) -> Point | None:
        artefact = since and chains.marked(since)
        point = self._point(artefact) if artefact else None
        return (
            point if point is not None and since is not None and point.ref == since.text else None
        )

    @property
    def _root(self) -> str:
        return self._options.get("datastores", _DATASTORES)


def _host_place(vm: Vm, volume: Stored) -> str | None:
    """`DATASTORE/VM/disk.N` of the host that the VM was on last; None if it never was on one."""
    history: list[Record] = vm.record.all("HISTORY_RECORDS/HISTORY")
    if not history or vm.shown[0] == mapping.HOLD:
        return None
    last = max(history, key=lambda each: each.number("SEQ", 0))
    for disk in vm.record.all("TEMPLATE/DISK"):
        if disk.text("IMAGE_ID") == str(volume.id):
            return f"{last.number('DS_ID')}/{vm.id}/disk.{disk.number('DISK_ID')}"
    return None


def _export_seen(export: Served) -> ExportSeen:
    return ExportSeen(
        stage=ExportStage.READY,
        size=export.size,
        epoch=export.owner.epoch,
        changed_only=export.changed_only,
    )
