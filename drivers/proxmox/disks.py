"""Snapshots of VMs, and disks leaving and changing through qemu-nbd on the node."""

from contextlib import suppress
from typing import Any

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import (
    BlockReader,
    BlockWriter,
    DiskSource,
    ExportSeen,
    ExportStage,
    Mark,
    SnapshotSeen,
)
from controlplane.domain.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from controlplane.domain.owner import OwnerTag
from drivers.contract import DiskExport, DiskImport, Snapshots
from drivers.disks.tunnel import TunnelReader, TunnelWriter
from drivers.proxmox import mapping, marks
from drivers.proxmox.base import Vm
from drivers.proxmox.points import Point, ProxmoxPoints, shown, socket_of
from drivers.proxmox.shell import Served


class ProxmoxSnapshots(ProxmoxPoints, Snapshots):
    """Of a running VM a point that its QEMU keeps, where root's shell is there; else a snapshot.

    A VM's tags announce its snapshots of ours, so that one listing finds them.
    """

    def create_snapshot(self, owner: OwnerTag, instance: str) -> str:
        name = marks.snapshot_name(owner.artefact)
        if (point := self._point(owner.artefact)) is not None:
            return self._taken_again(owner, instance, point)
        if (found := self._announced(owner)) is not None:
            vm, kept = found
            if kept is not None:
                self._not_late(owner, kept)
            if str(vm.vmid) != instance:
                raise Conflict(
                    f"snapshot {owner.artefact} at {self.site} is of VM {vm.vmid}: use a tag of"
                    " its own"
                )
            if kept is not None:
                if owner.epoch > kept.epoch:
                    text = owner.text()
                    self._api.put(f"{vm.path}/snapshot/{name}/config", description=text)
                return f"{vm.vmid}/{name}"
        else:
            vm = self._by_ref(instance)
            if self._can_point(vm):
                self._take(owner, vm, None)
                return f"{vm.vmid}/{name}"
            vm = self._changed(vm, {"tags": self._announcing(vm, owner)})
        if lock := vm.config.get("lock"):
            raise Busy(f"VM {vm.vmid} at {self.site} is locked ({lock}): ask again")
        if not self._snapshotting(vm):
            self._api.post(f"{vm.path}/snapshot", snapname=name, description=owner.text())
        return f"{vm.vmid}/{name}"

    def _taken_again(self, owner: OwnerTag, instance: str, point: Point) -> str:
        self._not_late(owner, point.owner)
        if str(point.vmid) != instance:
            raise Conflict(
                f"snapshot {owner.artefact} at {self.site} is of VM {point.vmid}: use a tag of its"
                " own"
            )
        self._take(owner, self._by_ref(instance), point)
        return f"{point.vmid}/{marks.snapshot_name(owner.artefact)}"

    def find_snapshot(self, owner: OwnerTag) -> Answer[SnapshotSeen]:
        try:
            if (point := self._point(owner.artefact)) is not None:
                return self._seen_point(point)
            found = self._announced(owner)
            if found is None:
                return Absent()
            vm, kept = found
            ref = f"{vm.vmid}/{marks.snapshot_name(owner.artefact)}"
            if kept is not None:
                return Seen(SnapshotSeen(ref=ref, ready=True, epoch=kept.epoch))
            if self._snapshotting(vm):
                return Seen(SnapshotSeen(ref=ref, ready=False, epoch=owner.epoch))
            return Absent()
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _seen_point(self, point: Point) -> Answer[SnapshotSeen]:
        stands = self._point_stands(point)
        if stands is None:
            return Absent()  # only scraps are left of it, which deleting and the sweep see
        ref = f"{point.vmid}/{marks.snapshot_name(point.owner.artefact)}"
        return Seen(SnapshotSeen(ref=ref, ready=stands, epoch=point.owner.epoch))

    def delete_snapshot(self, owner: OwnerTag) -> None:
        if (point := self._point(owner.artefact)) is not None:
            self._not_late(owner, point.owner)
            self._give_up(owner, point)
            return
        found = self._announced(owner)
        if found is None:
            return
        vm, kept = found
        if kept is not None:
            self._not_late(owner, kept)
            name = marks.snapshot_name(owner.artefact)
            if lock := vm.config.get("lock"):
                raise Busy(f"VM {vm.vmid} at {self.site} is locked ({lock}): ask again")
            with suppress(NotFound):  # an earlier call's task was faster
                self._api.delete(f"{vm.path}/snapshot/{name}")
        else:
            tags = marks.tags_without_snapshot(vm.config.get("tags"), owner.artefact)
            self._changed(vm, {"tags": tags})

    def _announcing(self, vm: Vm, owner: OwnerTag) -> str:
        """The VM's tags with this snapshot, and without those that went meanwhile."""
        tags, kept = vm.config.get("tags"), self._kept(vm)
        for earlier in marks.snapshots_of(tags):
            if marks.snapshot_name(earlier) not in kept:
                tags = marks.tags_without_snapshot(tags, earlier)
        return marks.tags_with_snapshot(tags, owner.artefact)

    def _announced(self, owner: OwnerTag) -> tuple[Vm, OwnerTag | None] | None:
        """The VM that announces this snapshot, and the snapshot's stamp if it is there."""
        for node, listed in self._listed():
            if owner.artefact not in marks.snapshots_of(listed.get("tags")):
                continue
            vm = self._read(node, int(listed["vmid"]))
            if vm is not None:
                return vm, self._kept(vm).get(marks.snapshot_name(owner.artefact))
        return None

    def _kept(self, vm: Vm) -> dict[str, OwnerTag]:
        """Snapshots of ours on a VM, by name."""
        out = {}
        for kept in self._api.get(f"{vm.path}/snapshot"):
            try:
                out[str(kept["name"])] = OwnerTag.parse(str(kept.get("description", "")).strip())
            except Invalid:
                continue  # somebody else's
        return out

    def _snapshotting(self, vm: Vm) -> bool:
        tasks: list[dict[str, Any]] = self._api.get(
            f"nodes/{vm.node}/tasks", source="active", vmid=vm.vmid, typefilter="qmsnapshot"
        )
        return bool(tasks)

    def _by_ref(self, ref: str) -> Vm:
        """The VM with this id, wherever it is."""
        for node, listed in self._listed():
            if str(listed["vmid"]) == ref and (vm := self._read(node, int(ref))) is not None:
                return vm
        raise NotFound(f"site {self.site}: there is no VM {ref} of ours: look there")


class ProxmoxTransfers(ProxmoxSnapshots, DiskExport, DiskImport):
    """An export is a qemu-nbd; its owner and source stand in its own command line."""

    def prepare_export(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None = None
    ) -> ExportSeen:
        if source.snapshot and (point := self._point(source.snapshot)) is not None:
            return self._show_point(owner, source, since, point)
        # Snapshots and stopped disks tell no changes: every mark is lost, all of the disk is shown.
        snapshot = marks.snapshot_name(source.snapshot) if source.snapshot else ""
        export = self._export(owner)
        if export is not None:
            self._not_late(owner, export.owner)
            if (export.volume, export.snapshot) != (source.volume, snapshot):
                raise Conflict(
                    f"the export {owner.artefact} at {self.site} shows {export.volume}: release"
                    " it first"
                )
            if owner.epoch == export.owner.epoch:
                return _export_seen(export)
            self._shell.end(export)  # the earlier epoch's readers end with it
        vm = self._by_ref(source.instance) if source.instance else self._holder(source.volume)
        if not snapshot:
            self._stopped(vm, "its disk is read, or read a snapshot")
        size = self._size(vm, source.volume)
        self._shell.serve(owner, source.volume, snapshot=snapshot, size=size, writable=False)
        export = self._export(owner)
        if export is None:
            raise Unavailable(f"site {self.site}: the export ended at once: prepare it again")
        return _export_seen(export)

    def find_export(self, owner: OwnerTag) -> Answer[ExportSeen]:
        if not self._shell.known:
            return Absent()  # without a shell none was ever made
        try:
            if (live := self._point_export(owner)) is not None:
                return Seen(shown(live[1], live[2]))
            export = self._export(owner)
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        return Absent() if export is None else Seen(_export_seen(export))

    def open_export(self, owner: OwnerTag) -> BlockReader:
        if (live := self._point_export(owner)) is not None:
            vm, told, _ = live
            self._not_late(owner, told.owner)
            return TunnelReader(
                *self._shell.connected(socket_of(vm.vmid), told.text(), bitmap=told.bitmap)
            )
        export = self._export(owner)
        if export is None:
            raise NotFound(f"site {self.site}: no export {owner.artefact}: prepare it")
        self._not_late(owner, export.owner)
        connection, forward = self._shell.opened(export)
        return TunnelReader(connection, forward)

    def release_export(self, owner: OwnerTag) -> None:
        if not self._shell.known:
            return
        if (live := self._point_export(owner)) is not None:
            vm, told, _ = live
            self._not_late(owner, told.owner)
            self._drop_point_export(vm, told)
        export = self._export(owner)
        if export is not None:
            self._not_late(owner, export.owner)
            self._shell.end(export)

    def open_import(self, owner: OwnerTag, volume: str) -> BlockWriter:
        vm = self._mine(owner)
        if volume not in {disk.volume for _, disk in mapping.disks(vm.config)}:
            raise NotFound(f"VM {vm.vmid} at {self.site} has no disk {volume}: look again")
        self._stopped(vm, "writing to its disk")
        vm = self._stamped(vm, owner)
        revoked = self._revoke(volume)
        size = self._size(vm, volume)
        try:
            socket = self._shell.serve(vm.owner, volume, snapshot="", size=size, writable=True)
        except Conflict as e:
            if not revoked:
                raise
            raise Busy(
                f"{volume} at {self.site}: the earlier writer is on its way out: ask again"
            ) from e
        connection, forward = self._shell.opened(self._only_writer(volume, socket))
        return TunnelWriter(connection, forward)

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
        if not self._shell.known:
            return
        vm = self._lookup(owner)
        if vm is not None:
            self._current(vm, owner)
        self._revoke(volume)

    def _revoke(self, volume: str) -> bool:
        """End every writer of the volume; whether there was one."""
        found = [e for e in self._shell.served() if e.writable and e.volume == volume]
        for export in found:
            self._shell.end(export)
        return bool(found)

    def _export(self, owner: OwnerTag) -> Served | None:
        found = [
            export
            for export in self._shell.served()
            if export.owner.artefact == owner.artefact and not export.writable
        ]
        return max(found, key=lambda export: export.owner.epoch, default=None)

    def _holder(self, volume: str) -> Vm:
        """The VM whose number a volume's name carries."""
        name = volume.rpartition("/")[2].partition(":")[2] or volume.rpartition("/")[2]
        parts = name.split("-")
        if len(parts) < 2 or not parts[1].isdecimal():  # noqa: PLR2004  # vm-100-disk-0
            raise NotFound(f"site {self.site}: {volume} is no volume of a VM: look again")
        return self._by_ref(parts[1])

    def _size(self, vm: Vm, volume: str) -> int:
        """The volume's true length; the configuration's is only a note."""
        storage = volume.partition(":")[0]
        path = f"nodes/{vm.node}/storage/{storage}/content"
        for stored in self._api.get(path, vmid=vm.vmid):
            if stored["volid"] == volume:
                return int(stored["size"])
        raise NotFound(f"site {self.site}: there is no volume {volume}: look again")


def _export_seen(export: Served) -> ExportSeen:
    return ExportSeen(stage=ExportStage.READY, size=export.size, epoch=export.owner.epoch)
