"""Disks leaving, over NBD or as VHD streams, and changing in place.

An export is a mark on the VDI that it shows, with the owner tag as its key; a VDI that a snapshot
copied the mark to is another one. The way out is chosen when it is prepared and noted on the mark.
Readers over NBD are VBDs of the control domain, which releasing unplugs; streams have tasks, which
it cancels.
"""

import secrets
from dataclasses import dataclass
from functools import partial

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
from drivers.xcpng import mapping
from drivers.xcpng.base import View
from drivers.xcpng.client import Record, code_of
from drivers.xcpng.mapping import Stamp
from drivers.xcpng.points import XcpPoints
from drivers.xcpng.reading import XcpReading, reading
from drivers.xcpng.storage import XcpStorage
from drivers.xcpng.writing import XcpWriter, label

_NOTES = {
    False: "read over NBD, changes in blocks of 64 KiB",
    True: "read as a VHD stream, for want of NBD: changes in blocks of 2 MiB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A VDI that an export of ours shows."""

    record: Record
    stamp: Stamp

    @property
    def owner(self) -> OwnerTag:
        return self.stamp.owner


class XcpTransfers(XcpReading, XcpStorage, XcpPoints, DiskExport, DiskImport):
    def _exports(self, view: View) -> list[Marked]:
        return [
            Marked(record=record, stamp=stamp)
            for record in view.vdis.values()
            for stamp in mapping.stamps(record.map("other_config")).values()
            if stamp.kind.startswith(mapping.EXPORT + record.uuid)
        ]

    def _export(self, view: View, owner: OwnerTag) -> Marked | None:
        found = [e for e in self._exports(view) if e.owner.artefact == owner.artefact]
        return max(found, key=lambda export: export.owner.epoch, default=None)

    def prepare_export(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None = None
    ) -> ExportSeen:
        """A mark is an earlier snapshot of the same VM; without its blocks everything is read."""
        view = self._view()
        vdi = self._shown(view, source)
        export = self._export(view, owner)
        if export is None:
            vhd = self._reached(vdi) is None
            base = "" if since is None else self._base(view, source, since, vhd=vhd)
            kind = mapping.export(vdi.uuid, base, vhd=vhd)
            self._added("VDI", vdi.ref, owner.text(), kind)
            return _seen(vdi, owner, kind)
        self._not_late(f"export {owner.artefact}", owner, export.owner)
        if export.record.ref != vdi.ref:
            raise Conflict(
                f"export {owner.artefact} at {self.site} shows another disk: use a tag of its own"
            )
        self._stamped("VDI", export.record, export.stamp, owner)
        newest = max(owner, export.owner, key=lambda tag: tag.epoch)
        return _seen(vdi, newest, export.stamp.kind)

    def _base(self, view: View, source: DiskSource, since: Mark, *, vhd: bool) -> str:
        """The uuid of the VDI that the mark's snapshot has of the disk, if changes are told."""
        volume = self._volume(view, source.volume)
        snapshot = next((vm for vm in view.vms.values() if vm.uuid == since.text), None)
        frozen = None
        if snapshot is not None and snapshot.flag("is_a_snapshot"):
            frozen = self._of(view, snapshot, volume)
        if frozen is None:
            return ""
        shown = self._shown(view, source)
        if vhd:  # needs the base's bytes, and no list
            sizes = {vdi.number("virtual_size") for vdi in (frozen, shown)}
            return frozen.uuid if frozen.text("type") == "user" and len(sizes) == 1 else ""
        try:
            self._api.text("VDI.list_changed_blocks", frozen.ref, shown.ref)
        except (Conflict, NotFound, Unsupported):
            return ""
        except Unavailable as e:
            if not code_of(e):
                raise
            return ""  # the storage's own kind of refusal
        return frozen.uuid

    def _shown(self, view: View, source: DiskSource) -> Record:
        """The VDI with the content that is asked for; Conflict while something writes to it."""
        volume = self._volume(view, source.volume)
        if source.snapshot is not None:
            frozen = self._frozen(view, source.snapshot, volume)
            if frozen is None:
                raise NotFound(
                    f"site {self.site}: no snapshot {source.snapshot} of {source.volume}: make it"
                    " first"
                )
            return frozen
        for vm in view.users(volume.ref):
            if vm.map("current_operations"):
                raise Busy(f"VM {vm.uuid} at {self.site} is changing: ask again")
            if vm.text("power_state") != mapping.HALTED:
                raise Conflict(
                    f"VM {vm.uuid} at {self.site} writes to the disk: stop it, or read a snapshot"
                )
        return volume

    def _volume(self, view: View, ref: str) -> Record:
        for stored in self._all_stored(view):
            if stored.uuid == ref and stored.kind == mapping.VOLUME and stored.done:
                return stored.record
        raise NotFound(f"site {self.site}: there is no volume {ref} of ours: look there")

    def find_export(self, owner: OwnerTag) -> Answer[ExportSeen]:
        try:
            export = self._export(self._view(), owner)
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        return (
            Absent()
            if export is None
            else Seen(_seen(export.record, export.owner, export.stamp.kind))
        )

    def open_export(self, owner: OwnerTag) -> BlockReader:
        export = self._export(self._view(), owner)
        if export is None:
            raise NotFound(f"site {self.site}: no export {owner.artefact}: prepare it")
        self._not_late(f"export {owner.artefact}", owner, export.owner)
        vdi, base = export.record, mapping.base_of(export.stamp.kind)
        if not mapping.by_vhd(export.stamp.kind):
            return self._over_nbd(vdi, base)
        task, still = reading(owner.artefact.hex), partial(self._still, vdi, owner)
        try:
            return self._as_vhd(vdi, base, task, still)
        except Unsupported:  # a storage that knows no differences, or a base that lost its bytes
            if not base:
                raise
            return self._as_vhd(vdi, "", task, still)

    def _still(self, vdi: Record, owner: OwnerTag) -> None:
        """Nothing while the export's mark is on its disk; NotFound, or superseded."""
        config = self._api.record("VDI", vdi.ref).map("other_config")
        stamp = mapping.stamps(config).get(owner.artefact)
        if stamp is None:
            raise NotFound(f"site {self.site}: export {owner.artefact} was released: prepare it")
        self._not_late(f"export {owner.artefact}", owner, stamp.owner)

    def release_export(self, owner: OwnerTag) -> None:
        """Readers first; the mark goes when none is left, which may take another call."""
        view = self._view()
        export = self._export(view, owner)
        if export is None:
            self._ended(reading(owner.artefact.hex))
            return
        self._not_late(f"export {owner.artefact}", owner, export.owner)
        others = [e for e in self._exports(view) if e.record.ref == export.record.ref]
        if len(others) == 1 and self._cut(view, export.record):
            return
        if self._ended(reading(owner.artefact.hex)):
            return
        for key in mapping.older(export.record.map("other_config"), _above(export.owner)):
            self._api.call("VDI.remove_from_other_config", export.record.ref, key)
        if mapping.by_vhd(export.stamp.kind):
            self._ended(reading(owner.artefact.hex))  # of who saw the mark just before it went

    def _cut(self, view: View, vdi: Record) -> bool:
        """Unplug the readers of a disk; whether there were any."""
        readers = [
            vbd
            for vbd in view.vbds.values()
            if vbd.text("VDI") == vdi.ref
            and (vm := view.vms.get(vbd.text("VM"))) is not None
            and vm.flag("is_control_domain")
        ]
        for vbd in readers:
            try:
                self._api.call("VBD.unplug", vbd.ref)
            except (NotFound, Conflict):
                continue  # it went by itself, or is going
        return bool(readers)

    # -- writers -------------------------------------------------------------------------------

    def open_import(self, owner: OwnerTag, volume: str) -> BlockWriter:
        view = self._view()
        vm = self._mine(view, owner)
        if volume not in {ref for ref, _, _ in vm.notes.disks}:
            raise NotFound(f"VM {vm.uuid} at {self.site} has no disk {volume}: look again")
        self._stopped(vm, "writing to its disk")
        vdi = self._volume(view, volume)
        self._raised(vm, owner)
        key = f"{vm.owner.epoch}.{secrets.token_hex(8)}"
        self._noted("VDI", vdi.ref, mapping.WRITER, key)
        self._cancelled(vdi)
        return XcpWriter(self._api, vdi, key, partial(self._either_way, vdi), self.site)

    def close_import(self, owner: OwnerTag, volume: str) -> None:
        view = self._view()
        vm = self._lookup(view, owner.artefact)
        if vm is not None:
            self._current(vm, owner)
        for vdi in view.vdis.values():
            if vdi.uuid == volume:
                self._api.call("VDI.remove_from_other_config", vdi.ref, mapping.WRITER)
                self._cancelled(vdi)

    def _cancelled(self, vdi: Record) -> None:
        """End what an earlier writer has under way; Busy when there was something."""
        if self._ended(label(vdi.uuid)):
            raise Busy(f"disk {vdi.uuid} at {self.site}: its writer is being ended: ask again")


def _seen(vdi: Record, owner: OwnerTag, kind: str) -> ExportSeen:
    return ExportSeen(
        stage=ExportStage.READY,
        size=vdi.number("virtual_size"),
        epoch=owner.epoch,
        changed_only=bool(mapping.base_of(kind)),
        note=_NOTES[mapping.by_vhd(kind)],
    )


def _above(owner: OwnerTag) -> OwnerTag:
    """A tag that all of an artefact's are older than."""
    return OwnerTag(
        artefact=owner.artefact,
        instance=owner.instance,
        operation=owner.operation,
        epoch=owner.epoch + 1,
    )
