"""Instances at an OpenNebula site: VMs made on hold, powered, fenced and deleted.

A VM on hold has taken its volumes and never ran: that is a new instance that is off. Volumes are
persistent images, which oned gives to one VM at a time, so that a second create of the same wish
is refused whatever became of the first one's answer.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.errors import (
    Busy,
    Conflict,
    FedctlError,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.fence import FenceLevel, FenceProof
from controlplane.domain.instance import (
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Manner,
    Power,
    Traits,
)
from controlplane.domain.owner import OwnerTag
from drivers.contract import Fencing
from drivers.opennebula import mapping
from drivers.opennebula import traits as found
from drivers.opennebula.base import Vm
from drivers.opennebula.mapping import NicNote
from drivers.opennebula.nics import OneNics

_LOCK_ALL = 4


class OneInstances(OneNics, Fencing):
    def reserve(self, owner: OwnerTag, promised: Collection[str] = ()) -> str | None:
        """None: the volumes, made first, are what guards a create here."""
        del owner, promised
        return None

    def find(self, owner: OwnerTag, anchor: str | None = None) -> Answer[InstanceSeen]:
        """Besides, the next nic of a VM that runs is plugged as it is to be."""
        del anchor
        try:
            vm = self._lookup(owner)
            if vm is None:
                return Absent()
            self._whole(vm)
            seen = mapping.instance_seen(vm.record, vm.notes)
            return Seen(self._settled(vm, seen) if vm.power is Power.ON else seen)
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))

    def _settled(self, vm: Vm, seen: InstanceSeen) -> InstanceSeen:
        """The next nic's turn; why it cannot be plugged is told, and tried at the next look."""
        try:
            if not vm.locked:
                self._settle(vm)
        except Conflict as e:
            return replace(seen, why=mapping.said(str(e)))
        return seen

    def traits(self, owner: OwnerTag) -> Traits:
        vm = self._lookup(owner)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        record = self._read(vm.id).record  # a listing leaves parts of the template out
        return found.traits(record, fenced=mapping.is_fenced(record, vm.notes))

    # -- making --------------------------------------------------------------------------------

    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        mapping.checked(spec)
        if (vm := self._lookup(owner)) is not None:
            return self._same(vm, owner, spec)
        wishes = []
        for number, nic in enumerate(spec.nics):
            note = NicNote(network=nic.network, mac=nic.mac, address=nic.address)
            plug = self._wish(number, note)  # refused now, where the network has no such lease
            wishes.append(None if nic.isolated else plug)
        try:
            wish = mapping.creation(owner, spec, wishes)
            return str(self._api.number("vm.allocate", wish, True))  # noqa: FBT003  # on hold
        except FedctlError:
            # A create whose answer was lost holds the volumes: then it is this one.
            if (vm := self._lookup(owner)) is not None:
                return self._same(vm, owner, spec)
            raise

    def _same(self, vm: Vm, owner: OwnerTag, spec: InstanceSpec) -> str:
        """The same wish again changes nothing but the epoch."""
        self._current(vm, owner)
        if vm.shown[1] in mapping.ENDING:
            raise Busy(f"VM {vm.id} at {self.site} is on its way out: wait until it is gone")
        if vm.notes.spec != mapping.spec_digest(spec):
            raise Conflict(
                f"VM {vm.id} at {self.site} was made under this tag from another wish: use a tag"
                " of its own"
            )
        self._stamped(vm, owner)
        return str(vm.id)

    # -- power ---------------------------------------------------------------------------------

    def set_power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.GRACEFUL) -> None:
        vm = self._mine(owner)
        if power is Power.ON:
            self._on(vm, owner)
        else:
            self._off(vm, owner, manner)

    def _on(self, vm: Vm, owner: OwnerTag) -> None:
        state, _ = vm.shown
        if vm.fenced:
            raise Conflict(f"VM {vm.id} at {self.site} is fenced: unfence it first")
        if mapping.state(vm.record) is InstanceState.FAILED:
            raise self._broken(vm)
        if vm.power is Power.OFF and (held := self._held_back(vm)):
            raise Conflict(
                f"VM {vm.id} at {self.site} never ran, and nic {held[0]} cannot be unplugged before"
                " it does: connect its nics, or delete it and make it with isolated ones"
            )
        if vm.power is Power.OFF:
            self._unwritten(vm)
        vm = self._stamped(vm, owner)
        if state == mapping.HOLD:
            self._act(vm, "release")
        elif vm.power is Power.OFF or state in {mapping.STOPPED, mapping.SUSPENDED}:
            self._act(vm, "resume")
        elif vm.shown[1] in mapping.STOPPING:
            raise self._under_way(vm)

    def _unwritten(self, vm: Vm) -> None:
        """A VM that never ran takes copies of its disks: QEMU's locks do not see our writers."""
        volumes = {ref for ref, _, _ in vm.notes.disks}
        if any(e.writable and e.volume in volumes for e in self._shell.served()):
            raise Conflict(
                f"a disk of VM {vm.id} at {self.site} is being written: close its import first"
            )

    def _off(self, vm: Vm, owner: OwnerTag, manner: Manner) -> None:
        vm = self._stamped(vm, owner)
        if vm.power is Power.OFF:
            return
        hard = "poweroff-hard" if manner is Manner.HARD else "poweroff"
        if vm.power is Power.ON:
            self._act(vm, hard)
        elif vm.shown[0] == mapping.PENDING:
            self._act(vm, "hold")
        elif vm.shown[1] not in mapping.STOPPING:
            raise self._under_way(vm)

    def _act(self, vm: Vm, action: str) -> None:
        """An action; refused because the state changed since it was read, Busy."""
        try:
            self._api.call("vm.action", action, vm.id)
        except Conflict as e:
            if self._read(vm.id).shown != vm.shown:
                raise Busy(f"VM {vm.id} at {self.site} has just changed: ask again") from e
            raise

    def _broken(self, vm: Vm) -> Conflict:
        why = mapping.said(vm.record.text("USER_TEMPLATE/ERROR"))
        return Conflict(
            f"VM {vm.id} at {self.site} failed to start ({why or 'no reason is told'}): delete it,"
            " or have it recovered there (onevm recover)"
        )

    def delete(self, owner: OwnerTag) -> None:
        """Terminate: what oned keeps of it afterwards is a record that is DONE."""
        vm = self._lookup(owner)
        if vm is None:
            return
        self._current(vm, owner)
        if vm.shown[1] in mapping.ENDING:
            return
        if vm.shown[0] not in {mapping.PENDING, mapping.CLONING_FAILURE}:
            self._stopped(vm, "deleting it")
        vm = self._stamped(vm, owner)
        if vm.fenced:
            self._api.call("vm.unlock", vm.id)
        self._act(vm, "terminate-hard")

    def probe_boot(self, owner: OwnerTag) -> NoReturn:
        del owner
        raise Unsupported(
            f"site {self.site}: OpenNebula tells nothing of a guest's console or agent: probe its"
            " address"
        )

    # -- fences --------------------------------------------------------------------------------

    def fence(self, owner: OwnerTag) -> FenceProof:
        """A lock against every use; oned starts nothing that is off but by a scheduled action."""
        vm = self._mine(owner)
        self._stopped(vm, "fencing it")
        if vm.record.has("TEMPLATE/SCHED_ACTION") or vm.record.has("SCHED_ACTIONS/ID"):
            raise Conflict(
                f"VM {vm.id} at {self.site} has scheduled actions, which may start it: remove them"
                " first (onevm sched-delete)"
            )
        vm = self._changed(vm, replace(vm.notes, fenced=True), owner=owner)
        if not vm.fenced:
            self._api.call("vm.lock", vm.id, _LOCK_ALL)
        return self._verified(self._read(vm.id))

    def verify_fence(self, owner: OwnerTag) -> FenceProof:
        vm = self._lookup(owner)
        if vm is None:
            raise NotFound(f"site {self.site}: no VM carries the tag {owner.artefact}: look there")
        self._whole(vm)
        return self._verified(vm)

    def _verified(self, vm: Vm) -> FenceProof:
        if not vm.fenced or vm.power is not Power.OFF:
            raise Conflict(
                f"VM {vm.id} at {self.site} could run: stop it and fence it again",
                reason="not-fenced",
            )
        return FenceProof(
            level=FenceLevel.CANNOT_START,
            observer=f"oned of {self.site}: VM {vm.id} is off and locked against every use",
            epoch=vm.owner.epoch,
            at=datetime.now(UTC),
        )

    def unfence(self, owner: OwnerTag) -> None:
        vm = self._mine(owner)
        if not vm.notes.fenced:
            self._stamped(vm, owner)
            return
        if vm.locked:
            self._api.call("vm.unlock", vm.id)
            vm = self._read(vm.id)
        self._changed(vm, replace(vm.notes, fenced=False), owner=owner)
