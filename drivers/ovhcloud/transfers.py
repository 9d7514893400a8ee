"""Disks leaving and changing through qemu-nbd in a server's rescue system."""

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import (
    BlockReader,
    BlockWriter,
    DiskSource,
    ExportSeen,
    ExportStage,
    Mark,
)
from controlplane.domain.errors import Busy, Conflict, NotFound, Unavailable, Unsupported
from controlplane.domain.owner import OwnerTag
from drivers.contract import DiskExport, DiskImport
from drivers.disks.tunnel import TunnelReader, TunnelWriter
from drivers.ovhcloud import mapping
from drivers.ovhcloud.base import Rented, is_of
from drivers.ovhcloud.instances import OvhInstances, volume_of
from drivers.ovhcloud.rescue import Rescue, Served


class OvhTransfers(OvhInstances, DiskExport, DiskImport):
    """An export is a qemu-nbd in rescue; whose it is stands in its command line and in a tag."""

    def prepare_export(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None = None
    ) -> ExportSeen:
        """All of a disk: nothing tells here what changed, so that every mark is lost."""
        del since
        if source.snapshot is not None:
            raise Unsupported(f"site {self.site} has no snapshots: read the disk of a stopped one")
        rented = self._exporting(owner)
        if rented is not None:
            self._not_late(f"export {owner.artefact}", owner, _export_of(rented))
            if volume_of(rented) != source.volume:
                raise Conflict(
                    f"the export {owner.artefact} at {self.site} shows {volume_of(rented)}:"
                    " release it first"
                )
        else:
            rented = self._with_volume(source.volume)
            if rented.notes.export is not None:
                raise Busy(
                    f"{source.volume} at {self.site} is being read by another export: release that"
                )
        rented, shell, block = self._needs_rescue(rented, "before its disk is read")
        served = _reading(shell, owner)
        if served is not None and served.owner.epoch < owner.epoch:
            shell.end(served)  # the earlier epoch's readers end with it
            served = None
        self._tag(rented, {mapping.EXPORT: owner.text()})
        if served is None:
            shell.serve(owner, block, writable=False)
            served = _reading(shell, owner)
        if served is None:
            raise Unavailable(f"site {self.site}: the export ended at once: prepare it again")
        return _export_seen(served)

    def find_export(self, owner: OwnerTag) -> Answer[ExportSeen]:
        try:
            rented = self._exporting(owner)
            found = None if rented is None else self._in_rescue(rented)
            served = None if found is None else _reading(found[1], owner)
            if rented is not None and found is None and _may_be_in_rescue(rented):
                return Unknown(why=f"rescue of {rented.name} at {self.site} does not answer")
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        return Absent() if served is None else Seen(_export_seen(served))

    def open_export(self, owner: OwnerTag) -> BlockReader:
        rented = self._exporting(owner)
        found = None if rented is None else self._in_rescue(rented)
        if rented is not None and found is None and _may_be_in_rescue(rented):
            raise Busy(f"rescue of {rented.name} at {self.site} does not answer: ask again")
        served = None if found is None else _reading(found[1], owner)
        if found is None or served is None:
            raise NotFound(f"site {self.site}: no export {owner.artefact}: prepare it")
        self._not_late(f"export {owner.artefact}", owner, served.owner)
        return TunnelReader(*found[1].opened(served))

    def release_export(self, owner: OwnerTag) -> None:
        """Gone with the boot that it was made in, at the latest."""
        rented = self._exporting(owner)
        if rented is None:
            return
        self._not_late(f"export {owner.artefact}", owner, _export_of(rented))
        found = self._in_rescue(rented)
        if found is not None:
            rented, shell, _ = found
            for export in shell.served():
                if not export.writable and is_of(export.owner, owner):
                    shell.end(export)
        self._untag(rented, [mapping.EXPORT])

    def open_import(self, owner: OwnerTag, volume: str) -> BlockWriter:
        rented = self._mine(owner)
        if volume != volume_of(rented):
            raise NotFound(f"server {rented.name} at {self.site} has no disk {volume}: look again")
        rented, shell, block = self._needs_rescue(rented, "before writing to its disk")
        rented = self._stamped(rented, owner)
        _revoke(shell)
        socket = shell.serve(rented.owner, block, writable=True)
        return TunnelWriter(*shell.opened(self._only_writer(shell, volume, socket)))

    def _only_writer(self, shell: Rescue, volume: str, socket: str) -> Served:
        """Our qemu-nbd, alone: two that start at once would both be let in."""
        writers = [e for e in shell.served() if e.writable]
        if not writers:
            raise Unavailable(f"{volume} at {self.site}: the writer ended at once: open it again")
        last = max(writers, key=lambda export: (export.owner.epoch, export.pid))
        for export in writers:
            if export is not last:
                shell.end(export)
        if last.socket != socket:
            raise Busy(f"{volume} at {self.site}: another writer was opened just now: ask again")
        return last

    def close_import(self, owner: OwnerTag, volume: str) -> None:
        rented = self._lookup(owner)
        if rented is None:
            return
        self._not_late(f"server {rented.name}", owner, rented.owner)
        if volume == volume_of(rented) and (found := self._in_rescue(rented)) is not None:
            _revoke(found[1])

    # -- inside --------------------------------------------------------------------------------

    def _exporting(self, owner: OwnerTag) -> Rented | None:
        return next((each for each in self._pool() if is_of(each.notes.export, owner)), None)

    def _with_volume(self, volume: str) -> Rented:
        name, _, number = volume.rpartition("/")
        rented = self._rented(name) if name and number == "0" else None
        if rented is None or rented.notes.owner is None or rented.notes.get(mapping.LEAVING):
            raise NotFound(f"site {self.site}: there is no disk {volume} of ours: look there")
        return rented


def _revoke(shell: Rescue) -> None:
    """End every writer."""
    for export in shell.served():
        if export.writable:
            shell.end(export)


def _may_be_in_rescue(rented: Rented) -> bool:
    boot = rented.notes.boot
    return boot is not None and boot.mode != mapping.HARDDISK


def _reading(shell: Rescue, owner: OwnerTag) -> Served | None:
    found = [e for e in shell.served() if not e.writable and is_of(e.owner, owner)]
    return max(found, key=lambda export: export.owner.epoch, default=None)


def _export_of(rented: Rented) -> OwnerTag:
    export = rented.notes.export
    if export is None:
        raise NotFound(f"server {rented.name} is not exported: prepare it")
    return export


def _export_seen(export: Served) -> ExportSeen:
    return ExportSeen(stage=ExportStage.READY, size=export.size, epoch=export.owner.epoch)
