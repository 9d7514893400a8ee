"""Points in time: snapshots of VMs, named after their owner tags, which XAPI writes with them."""

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import SnapshotSeen
from controlplane.domain.errors import Busy, Conflict, NotFound, Unavailable, Unsupported
from controlplane.domain.ids import ArtefactId
from controlplane.domain.owner import OwnerTag
from drivers.contract import Snapshots
from drivers.xcpng import mapping
from drivers.xcpng.base import View, Vm, XcpBase
from drivers.xcpng.client import NULL, Record, code_of
from drivers.xcpng.mapping import Stamp

_IN_USE = {"VDI_IN_USE", "OTHER_OPERATION_IN_PROGRESS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A snapshot of ours. Its name tells whose it is, keys raise the epoch."""

    record: Record
    stamp: Stamp

    @property
    def owner(self) -> OwnerTag:
        return self.stamp.owner

    @property
    def ref(self) -> str:
        return self.record.ref


class XcpPoints(XcpBase, Snapshots):
    def _points(self, view: View) -> Iterator[Point]:
        for record in view.vms.values():
            if not record.flag("is_a_snapshot"):
                continue
            named = mapping.owner_of(record.text("name_label"))
            if named is None:
                continue
            known = mapping.stamps(record.map("other_config")).get(named.artefact)
            newer = known is not None and known.owner.epoch > named.epoch
            owner = known.owner if known is not None and newer else named
            yield Point(record=record, stamp=Stamp(owner=owner, kind=mapping.SNAPSHOT))

    def _point(self, view: View, artefact: ArtefactId) -> Point | None:
        """The snapshot of that tag; the one with the smaller uuid, if a lost call made two."""
        found = [point for point in self._points(view) if point.owner.artefact == artefact]
        return min(found, key=lambda point: point.record.uuid, default=None)

    def create_snapshot(self, owner: OwnerTag, instance: str) -> str:
        view = self._view()
        point = self._point(view, owner.artefact)
        if point is not None:
            self._not_late(f"snapshot {point.record.uuid}", owner, point.owner)
            of = view.vms.get(point.record.text("snapshot_of"))
            if of is not None and of.uuid != instance:
                raise Conflict(
                    f"snapshot {owner.artefact} at {self.site} is of VM {of.uuid}: use a tag of its"
                    " own"
                )
            self._stamped("VM", point.record, point.stamp, owner)
            return point.record.uuid
        vm = next((vm for vm in self._vms(view) if vm.uuid == instance), None)
        if vm is None:
            raise NotFound(f"site {self.site}: there is no VM {instance} of ours: look there")
        if vm.record.map("current_operations"):  # a snapshot whose answer was lost may be one
            raise self._under_way(vm)
        self._track(view, vm)
        ref = self._api.text("VM.snapshot", vm.ref, owner.text(), [])
        return self._api.record("VM", ref).uuid

    def find_snapshot(self, owner: OwnerTag) -> Answer[SnapshotSeen]:
        try:
            point = self._point(self._view(), owner.artefact)
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        if point is None:
            return Absent()
        ready = not point.record.map("current_operations")
        return Seen(SnapshotSeen(ref=point.record.uuid, ready=ready, epoch=point.owner.epoch))

    def delete_snapshot(self, owner: OwnerTag) -> None:
        """Disks first: without the VM nobody would know that they are its."""
        view = self._view()
        for point in self._points(view):
            if point.owner.artefact != owner.artefact:
                continue
            self._not_late(f"snapshot {point.record.uuid}", owner, point.owner)
            self._untrack(view, point)
            for vbd in view.vbds.values():
                if vbd.text("VM") == point.ref and vbd.text("VDI") != NULL:
                    self._gone("VDI.destroy", vbd.text("VDI"), point)
            self._gone("VM.destroy", point.ref, point)

    def _track(self, view: View, vm: Vm) -> None:
        """From here on XAPI knows which blocks change; a storage that cannot tell need not."""
        for vdi in self._disks(view, vm.ref):
            if not vdi.flag("cbt_enabled"):
                try:
                    self._api.call("VDI.enable_cbt", vdi.ref)
                except Unsupported:
                    return
                self._added("VDI", vdi.ref, mapping.TRACKED, "yes")

    def _untrack(self, view: View, last: Point) -> None:
        """With our last snapshot goes what we asked to be tracked: it hinders live migration."""
        of = last.record.text("snapshot_of")
        others = [p for p in self._points(view) if p.record.text("snapshot_of") == of]
        if len(others) > 1:
            return
        for vdi in self._disks(view, of):
            if mapping.TRACKED in vdi.map("other_config"):
                self._api.call("VDI.disable_cbt", vdi.ref)
                self._api.call("VDI.remove_from_other_config", vdi.ref, mapping.TRACKED)

    def _disks(self, view: View, vm: str) -> list[Record]:
        refs = [vbd.text("VDI") for vbd in view.vbds.values() if vbd.text("VM") == vm]
        return [view.vdis[ref] for ref in refs if ref in view.vdis]

    def _gone(self, method: str, ref: str, point: Point) -> None:
        try:
            self._api.call(method, ref)
        except NotFound:
            return
        except Conflict as e:
            if code_of(e) not in _IN_USE:
                raise
            raise Busy(
                f"snapshot {point.record.uuid} at {self.site} is being read: release its exports,"
                " then ask again"
            ) from e

    def _frozen(self, view: View, snapshot: ArtefactId, volume: Record) -> Record | None:
        """The VDI that a snapshot has of a volume."""
        point = self._point(view, snapshot)
        if point is None:
            return None
        return self._of(view, point.record, volume)

    def _of(self, view: View, snapshot: Record, volume: Record) -> Record | None:
        disks = self._disks(view, snapshot.ref)
        return next((vdi for vdi in disks if vdi.text("snapshot_of") == volume.ref), None)
