"""Points in time of VMs that ran: backups, which oned makes of a running VM and of one off.

The first is a full one, later ones are increments where the VM's disks allow. A backup has no name
of ours when it is asked for. So the VM's notes announce it first, with the backups that were there
before; the new one is marked with its owner tag as soon as it shows.
"""

import time
from dataclasses import replace

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.disk import SnapshotSeen
from controlplane.domain.errors import Busy, Conflict, NotFound, Unavailable, Unsupported
from controlplane.domain.ids import ArtefactId
from controlplane.domain.owner import OwnerTag
from drivers.contract import Snapshots
from drivers.opennebula import chains, mapping
from drivers.opennebula.base import OneBase, Vm
from drivers.opennebula.chains import Chain, Point
from drivers.opennebula.mapping import PointNote

_MERGE = 1
_FULL, _INCREMENT = "FULL", "INCREMENT"
_CONFIG = "BACKUPS/BACKUP_CONFIG"
_SETTLED = {(mapping.ACTIVE, mapping.RUNNING), (mapping.POWEROFF, 0)}
# oned loses the second of two full backups within one second, without a word, and an increment
# whose bitmap is gone: then it is asked again.
_LOST_AFTER = 5.0


class OnePoints(OneBase, Snapshots):
    def create_snapshot(self, owner: OwnerTag, instance: str) -> str:
        point = self._adopted(owner)
        if point is not None:
            self._not_late(f"snapshot {point.ref}", owner, point.owner)
            if str(point.vm) != instance:
                raise self._other(owner, point.vm)
            if owner.epoch > point.owner.epoch:
                self._mark(point, point.number, chains.mark(owner, point.disks))
            return point.ref
        announced = self._announced(owner)
        lost = None
        if announced is None:
            vm = self._by_ref(instance)
            if vm.notes.point is not None:
                raise Busy(f"VM {vm.id} at {self.site} is being backed up already: ask again")
        else:
            vm, noted = announced
            self._not_late(f"snapshot of VM {vm.id}", owner, noted)
            if str(vm.id) != instance:
                raise self._other(owner, vm.id)
            if not self._lost(vm):
                return f"{vm.id}/{owner.artefact.hex}"
            lost = vm.notes.point
        self._take(vm, owner, anew=lost is not None and lost.increment)
        return f"{vm.id}/{owner.artefact.hex}"

    def _take(self, vm: Vm, owner: OwnerTag, *, anew: bool) -> None:
        """`anew`: with a full one, because an increment came to nothing."""
        if vm.shown[0] == mapping.HOLD:
            raise Unsupported(
                f"VM {vm.id} at {self.site} never ran, and OpenNebula backs up none that did not:"
                " read its disks themselves"
            )
        if vm.shown not in _SETTLED:
            raise self._under_way(vm)
        datastore = self._backup_datastore()
        if datastore is None:
            raise Unsupported(
                f"site {self.site} has no backup datastore: have one made, or move it stopped"
            )
        vm = self._tracked(vm)
        note = PointNote(
            owner=owner.text(),
            asked=time.time(),
            before=tuple((chain.image, number) for chain, number in self._backups(vm)),
            increment=not anew and _last(vm) is not None,
        )
        vm = self._changed(vm, replace(vm.notes, point=note), owner=vm.owner)
        self._api.call("vm.backup", vm.id, datastore, anew)

    def _tracked(self, vm: Vm) -> Vm:
        """From here on oned keeps what changes; it says nothing where it cannot."""
        if vm.record.text(f"{_CONFIG}/MODE", _FULL) == _INCREMENT:
            return vm
        vm = self._changed(vm, replace(vm.notes, tracked=True), owner=vm.owner)
        self._configured(vm, _INCREMENT)
        return self._read(vm.id)

    def _untracked(self, vm: Vm) -> None:
        """With our last point goes what we asked to be kept: it forbids snapshots of disks."""
        if not vm.notes.tracked:
            return
        if vm.power is None:
            raise self._under_way(vm)
        self._configured(vm, _FULL)
        self._changed(vm, replace(vm.notes, tracked=False), owner=vm.owner)

    def _configured(self, vm: Vm, mode: str) -> None:
        wish = mapping.template({"BACKUP_CONFIG": {"MODE": mode}})
        with self._open(vm):
            self._api.call("vm.updateconf", vm.id, wish, _MERGE)

    def find_snapshot(self, owner: OwnerTag) -> Answer[SnapshotSeen]:
        """Besides, a backup that has shown up is marked as what was announced.

        An increment that came to nothing is asked for again, as a full one.
        """
        try:
            if (point := self._adopted(owner)) is not None:
                return Seen(SnapshotSeen(ref=point.ref, ready=True, epoch=point.owner.epoch))
            announced = self._announced(owner)
            if announced is None:
                return Absent()
            vm, noted = announced
            if self._lost(vm):
                if vm.notes.point is None or not vm.notes.point.increment:
                    return Absent()
                self._take(vm, noted, anew=True)
            ref = f"{vm.id}/{owner.artefact.hex}"
            copying = vm.shown[1] in mapping.BACKING_UP
            return Seen(SnapshotSeen(ref=ref, ready=False, epoch=noted.epoch, copying=copying))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        except Unsupported:
            return Absent()

    def delete_snapshot(self, owner: OwnerTag) -> None:
        point = self._adopted(owner)
        if point is not None:
            self._not_late(f"snapshot {point.ref}", owner, point.owner)
            self._give_up(point)
            return
        announced = self._announced(owner)
        if announced is None:
            return
        vm, noted = announced
        self._not_late(f"snapshot of VM {vm.id}", owner, noted)
        if not self._lost(vm):
            raise Busy(f"VM {vm.id} at {self.site} is being backed up: ask again")
        self._changed(vm, replace(vm.notes, point=None), owner=vm.owner)

    def _give_up(self, point: Point) -> None:
        """An increment is not ours any more; the image goes with the last that is needed."""
        every = self._chains()
        image = next((each for each in every if each.image == point.image), None)
        if image is None or image.leaving:
            return
        vm = next((vm for vm in self._vms() if vm.id == point.vm), None)
        if vm is not None and vm.notes.point is not None:
            raise Busy(f"VM {vm.id} at {self.site} is being backed up: ask again")
        kept = [chain for chain in every if chain.vm == point.vm and not chain.leaving]
        left = {each.ref for chain in kept for each in chain.points()}
        if vm is not None and left == {point.ref}:
            self._untracked(vm)
        if image.foreign or len(image.points()) > 1:
            self._mark(image, point.number, chains.GONE)
        else:
            self._api.call("image.delete", point.image, False)  # noqa: FBT003  # not by force

    # -- inside --------------------------------------------------------------------------------

    def _chains(self) -> list[Chain]:
        pool = self._api.record("imagepool.info", -2, -1, -1).all("IMAGE")
        return [found for found in map(chains.chain, pool) if found is not None]

    def _points(self) -> list[Point]:
        """Every backup that carries a tag of ours."""
        return [point for chain in self._chains() for point in chain.points()]

    def _point(self, artefact: ArtefactId) -> Point | None:
        return next((p for p in self._points() if p.owner.artefact == artefact), None)

    def _mark(self, of: Point | Chain, number: int, mark: str) -> None:
        wish = mapping.template({chains.key(number): mark, chains.VM: str(of.vm)})
        self._api.call("image.update", of.image, wish, _MERGE)

    def _announced(self, owner: OwnerTag) -> tuple[Vm, OwnerTag] | None:
        """The VM whose notes announce this snapshot, and under which tag."""
        for vm in self._vms():
            noted = mapping.owner_of(vm.notes.point.owner) if vm.notes.point else None
            if noted is not None and noted.artefact == owner.artefact:
                return vm, noted
        return None

    def _adopted(self, owner: OwnerTag) -> Point | None:
        """The backup of this snapshot, marked now if it has just shown up."""
        if (point := self._point(owner.artefact)) is not None:
            self._forget(owner)
            return point
        announced = self._announced(owner)
        if announced is None or announced[0].notes.point is None:
            return None
        vm, noted = announced
        before = set(announced[0].notes.point.before)
        new = [each for each in self._backups(vm) if (each[0].image, each[1]) not in before]
        if not new:
            return None
        image, number = min(new, key=lambda each: (each[0].image, each[1]))
        disks = {d.text("IMAGE_ID"): d.number("DISK_ID") for d in vm.record.all("TEMPLATE/DISK")}
        kept = {v: (disks[v], size) for v, size, _ in vm.notes.disks if v in disks}
        self._mark(image, number, chains.mark(noted, kept))
        self._forget(owner)
        return self._point(owner.artefact)

    def _backups(self, vm: Vm) -> list[tuple[Chain, int]]:
        """Each backup that there is of a VM: which one of which image."""
        known = {each.number(".") for each in vm.record.all("BACKUPS/BACKUP_IDS/ID")}
        return [(c, number) for c in self._chains() if c.image in known for number in c.marks]

    def _forget(self, owner: OwnerTag) -> None:
        """What was announced is there: the VM may be backed up again."""
        if (announced := self._announced(owner)) is not None:
            vm, _ = announced
            self._changed(vm, replace(vm.notes, point=None), owner=vm.owner)

    def _lost(self, vm: Vm) -> bool:
        """Whether what was announced is not coming any more."""
        note = vm.notes.point
        under_way = vm.shown[1] in mapping.BACKING_UP
        return note is None or (not under_way and time.time() - note.asked > _LOST_AFTER)

    def _newest(self, vm: Vm, point: Point) -> bool:
        """Whether what changes now is told since that point."""
        return _last(vm) == (point.image, point.number)

    def _by_ref(self, ref: str) -> Vm:
        for vm in self._vms():
            if str(vm.id) == ref:
                return vm
        raise NotFound(f"site {self.site}: there is no VM {ref} of ours: look there")

    def _other(self, owner: OwnerTag, vm: int) -> Conflict:
        return Conflict(
            f"snapshot {owner.artefact} at {self.site} is of VM {vm}: use a tag of its own"
        )


def _last(vm: Vm) -> tuple[int, int] | None:
    """(image, number) of the backup that the next increment builds on; None: there is none."""
    image = vm.record.number(f"{_CONFIG}/INCREMENTAL_BACKUP_ID", -1)
    number = vm.record.number(f"{_CONFIG}/LAST_INCREMENT_ID", -1)
    return None if image < 0 or number < 0 else (image, number)
