"""Instances at an XCP-ng pool: VMs made halted around volumes, powered, fenced and deleted.

A VM is made in steps that each may be repeated; its last note says that it is whole. What guards a
second create is a claim on its first volume: XAPI adds a key to a map once only.
"""

from collections.abc import Collection
from datetime import UTC, datetime

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.errors import Busy, Conflict, NotFound, Unavailable
from controlplane.domain.fence import FenceLevel, FenceProof
from controlplane.domain.instance import InstanceSeen, InstanceSpec, Manner, Power, Traits
from controlplane.domain.owner import OwnerTag
from drivers.contract import Fencing, GuestAgent, Instances
from drivers.xcpng import mapping, seed
from drivers.xcpng import traits as found
from drivers.xcpng.base import View, Vm, XcpBase
from drivers.xcpng.client import NULL, Record, code_of

_AUTOSTART = "auto_poweron"


class XcpInstances(XcpBase, Instances, Fencing, GuestAgent):
    def reserve(self, owner: OwnerTag, promised: Collection[str] = ()) -> str | None:
        """None: the volumes, made first, are what guards a create here."""
        del owner, promised
        return None

    def find(self, owner: OwnerTag, anchor: str | None = None) -> Answer[InstanceSeen]:
        """Besides, the task of a shutdown that ended is taken away."""
        del anchor
        try:
            view = self._view()
            vm = self._lookup(view, owner.artefact)
            if vm is None:
                return Absent()
            self._whole(vm)
            return Seen(self._seen(view, vm))
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _seen(self, view: View, vm: Vm) -> InstanceSeen:
        nics = view.nics(vm.ref)
        places = [view.networks.get(vif.text("network")) for vif in nics]
        if any(place is None for place in places):
            raise Unavailable(f"site {self.site}: networks changed while they were read: ask again")
        with_places = [(v, p.uuid) for v, p in zip(nics, places, strict=True) if p is not None]
        return mapping.instance_seen(
            vm.record, vm.owner, vm.notes, with_places, why=self._shutdown(vm)
        )

    def _shutdown(self, vm: Vm) -> str:
        """What the last polite shutdown failed with; its task goes when it ended."""
        task = vm.record.map("other_config").get(mapping.TASK, "")
        if not task:
            return ""
        try:
            seen = self._api.record("task", task)
            if seen.text("status") == "pending":
                return ""
            why = " ".join(seen.refs("error_info"))
            if why and vm.state != mapping.HALTED:
                return why  # told until it is off, or asked again
            self._api.call("task.destroy", task)
        except NotFound:
            why = ""
        self._api.call("VM.remove_from_other_config", vm.ref, mapping.TASK)
        return ""

    def traits(self, owner: OwnerTag) -> Traits:
        view = self._view()
        vm = self._lookup(view, owner.artefact)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        held = {v.text("VDI") for v in view.vbds.values() if v.text("VM") == vm.ref}
        taken = [
            each
            for each in view.vms.values()
            if each.flag("is_a_snapshot")
            and each.text("snapshot_of") == vm.ref
            and mapping.owner_of(each.text("name_label")) is None
        ]
        disks = [vdi for vdi in view.vdis.values() if vdi.ref in held]
        return found.traits(vm.record, disks, taken, self._api.records("SR"))

    # -- making --------------------------------------------------------------------------------

    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        mapping.checked(spec)
        view = self._view()
        vm = self._lookup(view, owner.artefact)
        if vm is None:
            self._free(view, self._places(view, spec)[0])
            ref = self._api.text("VM.create", mapping.vm_record(owner, spec))
            view = self._view()
            vm = next(each for each in self._vms(view) if each.ref == ref)
        self._current(vm, owner)
        if vm.notes.spec != mapping.spec_digest(spec):
            raise Conflict(
                f"VM {vm.uuid} at {self.site} was made under this tag from another wish: use a tag"
                " of its own"
            )
        if not vm.notes.made:
            disks, networks = self._places(view, spec)
            vm = self._claimed(view, vm, disks[0])
            self._complete(view, vm, spec, disks, networks)
        self._raised(vm, owner)
        return vm.uuid

    def _places(self, view: View, spec: InstanceSpec) -> tuple[list[Record], list[Record]]:
        """The volumes and networks of a wish; NotFound, or Busy while one is being filled."""
        vdis = {vdi.uuid: vdi for vdi in view.vdis.values()}
        nets = {net.uuid: net for net in view.networks.values()}
        lost = [p.volume or "" for p in spec.disks if p.volume not in vdis]
        lost += [nic.network for nic in spec.nics if nic.network not in nets]
        if lost:
            raise NotFound(f"site {self.site}: there is no {lost[0]}: look there")
        disks = [vdis[place.volume or ""] for place in spec.disks]
        for vdi in disks:
            if mapping.DONE not in vdi.map("other_config"):
                raise Busy(f"volume {vdi.uuid} at {self.site} is being filled: ask again")
        return disks, [nets[nic.network] for nic in spec.nics]

    def _free(self, view: View, disks: list[Record]) -> None:
        for vdi in disks:
            for vm in view.users(vdi.ref):
                raise Conflict(
                    f"volume {vdi.uuid} at {self.site} belongs to VM {vm.uuid}: delete that first"
                )

    def _claimed(self, view: View, ours: Vm, disk: Record) -> Vm:
        """The VM that has the claim on the first disk: ours, or one that came before."""
        if self._added("VDI", disk.ref, mapping.CLAIM, ours.uuid):
            return ours
        claim = self._api.record("VDI", disk.ref).map("other_config").get(mapping.CLAIM, "")
        holder = next((vm for vm in self._vms(view) if vm.uuid == claim), None)
        if holder is None:  # of a VM that is gone
            self._noted("VDI", disk.ref, mapping.CLAIM, ours.uuid)
            return ours
        if holder.ref != ours.ref:
            self._api.call("VM.destroy", ours.ref)
        if holder.owner.artefact != ours.owner.artefact:
            raise Conflict(
                f"volume {disk.uuid} at {self.site} belongs to VM {claim}: delete that first"
            )
        return holder

    def _complete(
        self, view: View, vm: Vm, spec: InstanceSpec, disks: list[Record], networks: list[Record]
    ) -> None:
        """Disks and nics that are not there yet, and then the note that all are."""
        there = {v.text("userdevice") for v in view.vbds.values() if v.text("VM") == vm.ref}
        for place, vdi in enumerate(disks):
            if str(place) not in there:
                self._once("VBD.create", mapping.vbd_record(vm.ref, vdi.ref, place))
        plugged = {vif.text("device") for vif in view.nics(vm.ref)}
        for place, (nic, net) in enumerate(zip(spec.nics, networks, strict=True)):
            if str(place) not in plugged:
                wish = mapping.vif_record(
                    vm.ref, net.ref, place, mac=nic.mac, isolated=nic.isolated
                )
                self._once("VIF.create", wish)
        if seed.wished(spec) and str(len(disks)) not in there:
            drive = self._seeded(view, vm, spec)
            self._once("VBD.create", mapping.vbd_record(vm.ref, drive, len(disks), mode="RO"))
        self._added("VM", vm.ref, mapping.MADE, "yes")

    def _seeded(self, view: View, vm: Vm, spec: InstanceSpec) -> str:
        """The VDI with what cloud-init reads at the guest's first boot."""
        content = seed.drive(vm.owner.artefact.hex, spec)
        found = self._seeds(view, vm.owner)
        if found:
            ref, uuid = found[0].ref, found[0].uuid
        else:
            config = {vm.owner.text(): mapping.SEED}
            name = f"{spec.name[:150]} cloud-init"
            sr = self._storage(None).ref
            record = mapping.vdi_record(name, "a drive of fedctl", seed.SIZE, sr, config)
            ref = self._api.text("VDI.create", record)
            uuid = self._api.record("VDI", ref).uuid
        with self._api.task(f"fedctl seed {uuid}") as task:
            self._api.put(uuid, [content], len(content), task=task)
            self._api.awaited(task, "import_raw_vdi")
        return ref

    def _seeds(self, view: View, owner: OwnerTag) -> list[Record]:
        """The cloud-init drives of an instance of ours."""
        found = []
        for vdi in view.vdis.values():
            stamp = mapping.stamps(vdi.map("other_config")).get(owner.artefact)
            if stamp is not None and stamp.kind == mapping.SEED and not vdi.flag("is_a_snapshot"):
                found.append(vdi)
        return found

    def _once(self, method: str, wish: dict[str, object]) -> None:
        """A device whose place another call of ours has taken is there."""
        try:
            self._api.call(method, wish)
        except Conflict as e:
            if code_of(e) != "DEVICE_ALREADY_EXISTS":
                raise

    # -- power ---------------------------------------------------------------------------------

    def set_power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.GRACEFUL) -> None:
        view = self._view()
        vm = self._mine(view, owner)
        if power is Power.ON:
            self._on(view, vm, owner)
        else:
            self._off(vm, owner, manner)

    def _on(self, view: View, vm: Vm, owner: OwnerTag) -> None:
        if vm.fenced:
            raise Conflict(f"VM {vm.uuid} at {self.site} is fenced: unfence it first")
        if not vm.notes.made:
            raise Busy(f"VM {vm.uuid} at {self.site} is being made: ask again")
        volumes = {ref for ref, _, _ in vm.notes.disks}
        for vdi in view.vdis.values():
            if vdi.uuid in volumes and mapping.WRITER in vdi.map("other_config"):
                raise Conflict(
                    f"disk {vdi.uuid} of VM {vm.uuid} at {self.site} is being written: close its"
                    " import first"
                )
        if vm.record.map("current_operations"):
            raise self._under_way(vm)
        self._raised(vm, owner)
        if vm.state == mapping.HALTED:
            self._api.call("VM.start", vm.ref, False, False)  # noqa: FBT003  # the wire's shape
        elif vm.state == mapping.PAUSED:
            self._api.call("VM.unpause", vm.ref)
        elif vm.state != mapping.RUNNING:
            self._api.call("VM.resume", vm.ref, False, False)  # noqa: FBT003  # the wire's shape

    def _off(self, vm: Vm, owner: OwnerTag, manner: Manner) -> None:
        self._raised(vm, owner)
        if vm.state == mapping.HALTED and not vm.record.map("current_operations"):
            return
        going = set(vm.record.map("current_operations").values())
        if manner is Manner.HARD:
            self._api.call("VM.hard_shutdown", vm.ref)
        elif "clean_shutdown" not in going:
            if going:
                raise self._under_way(vm)
            task = self._api.text("Async.VM.clean_shutdown", vm.ref)
            self._noted("VM", vm.ref, mapping.TASK, task)

    def delete(self, owner: OwnerTag) -> None:
        view = self._view()
        vm = self._lookup(view, owner.artefact)
        if vm is not None:
            self._not_late(f"VM {vm.uuid}", owner, vm.owner)
            self._stopped(vm, "deleting it")
            self._raised(vm, owner)
            for each in self._vms(view):  # a second one that a lost create made, too
                if each.owner.artefact == owner.artefact:
                    self._stopped(each, "deleting it")
                    self._api.call("VM.destroy", each.ref)
        for drive in self._seeds(view, owner):
            self._api.call("VDI.destroy", drive.ref)

    # -- nics ----------------------------------------------------------------------------------

    def isolate_nics(self, owner: OwnerTag) -> None:
        view = self._view()
        vm = self._lookup(view, owner.artefact)
        if vm is not None:
            self._current(vm, owner)
            self._lock(view, vm, owner, mapping.DISABLED)

    def connect_nics(self, owner: OwnerTag) -> None:
        view = self._view()
        self._lock(view, self._mine(view, owner), owner, mapping.DEFAULT)

    def give_up_nics(self, owner: OwnerTag) -> bool:
        """XAPI guards neither MACs nor addresses: nics that carry nothing are given up."""
        view = self._view()
        vm = self._lookup(view, owner.artefact)
        if vm is not None:
            self._current(vm, owner)
            self._stopped(vm, "giving up its nics")
            self._lock(view, vm, owner, mapping.DISABLED)
        return True

    def _lock(self, view: View, vm: Vm, owner: OwnerTag, mode: str) -> None:
        self._raised(vm, owner)
        for vif in view.nics(vm.ref):
            if vif.text("locking_mode") != mode:
                self._api.call("VIF.set_locking_mode", vif.ref, mode)

    # -- the guest -----------------------------------------------------------------------------

    def agent_answers(self, owner: OwnerTag) -> bool:
        return bool(self._told(self._mine(self._view(), owner)))

    def probe_boot(self, owner: OwnerTag) -> str:
        return self._told(self._mine(self._view(), owner))

    def _told(self, vm: Vm) -> str:
        """What the guest's agent says of itself; empty while it says nothing."""
        metrics = vm.record.text("guest_metrics")
        if vm.state != mapping.RUNNING or metrics == NULL:
            return ""
        try:
            seen = self._api.record("VM_guest_metrics", metrics)
        except NotFound:
            return ""
        if not seen.flag("live"):
            return ""
        system = seen.map("os_version")
        return f"the guest's agent runs: {system.get('name', 'no name')} {system.get('uname', '')}"

    # -- fences --------------------------------------------------------------------------------

    def fence(self, owner: OwnerTag) -> FenceProof:
        """Autostart and HA off, then every way to start is blocked, for administrators too."""
        view = self._view()
        vm = self._mine(view, owner)
        self._stopped(vm, "fencing it")
        self._raised(vm, owner)
        if vm.record.text("ha_restart_priority"):
            self._api.call("VM.set_ha_restart_priority", vm.ref, "")
        if _AUTOSTART in vm.record.map("other_config"):
            self._api.call("VM.remove_from_other_config", vm.ref, _AUTOSTART)
        blocked = vm.record.map("blocked_operations")
        for operation in mapping.STARTS:
            if blocked.get(operation) != mapping.FENCE:
                if operation in blocked:
                    self._api.call("VM.remove_from_blocked_operations", vm.ref, operation)
                self._block(vm.ref, operation)
        return self._verified(self._mine(self._view(), owner))

    def _block(self, ref: str, operation: str) -> None:
        try:
            self._api.call("VM.add_to_blocked_operations", ref, operation, mapping.FENCE)
        except Conflict as e:
            if code_of(e) != "MAP_DUPLICATE_KEY":
                raise

    def verify_fence(self, owner: OwnerTag) -> FenceProof:
        vm = self._lookup(self._view(), owner.artefact)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        self._whole(vm)
        return self._verified(vm)

    def _verified(self, vm: Vm) -> FenceProof:
        autostart = _AUTOSTART in vm.record.map("other_config")
        guarded = vm.record.text("ha_restart_priority")
        if not vm.fenced or vm.power is not Power.OFF or autostart or guarded:
            raise Conflict(
                f"VM {vm.uuid} at {self.site} could run: stop it and fence it again",
                reason="not-fenced",
            )
        return FenceProof(
            level=FenceLevel.CANNOT_START,
            observer=f"XAPI of {self.site}: VM {vm.uuid} is halted and its start is blocked",
            epoch=vm.owner.epoch,
            at=datetime.now(UTC),
        )

    def unfence(self, owner: OwnerTag) -> None:
        vm = self._mine(self._view(), owner)
        blocked = vm.record.map("blocked_operations")
        for operation in mapping.STARTS:
            if blocked.get(operation) == mapping.FENCE:
                self._api.call("VM.remove_from_blocked_operations", vm.ref, operation)
        self._raised(vm, owner)
