"""Nics of VMs: an isolated nic is not plugged in at all, and gives its lease back.

oned has no link state, and plugs nics into VMs that run or are powered off only. What a VM's nics
are to be stands in its notes; each call takes the next step from what is to what is to be.
"""

from dataclasses import replace

from controlplane.domain.errors import Busy, Conflict
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from drivers.contract import Instances
from drivers.opennebula import mapping
from drivers.opennebula.base import OneBase, Vm
from drivers.opennebula.mapping import NicNote

_LOCK_ALL = 4


class OneNics(OneBase, Instances):
    def isolate_nics(self, owner: OwnerTag) -> None:
        """One nic a call: Busy until none is left to be unplugged."""
        vm = self._lookup(owner)
        if vm is None:
            return
        self._current(vm, owner)
        vm = self._noted(vm, owner, isolated=True)
        self._plug(vm)

    def connect_nics(self, owner: OwnerTag) -> None:
        """One nic a call, Busy until all are plugged; of a VM that never ran, when it runs."""
        vm = self._noted(self._mine(owner), owner, isolated=False)
        self._plug(vm)

    def give_up_nics(self, owner: OwnerTag) -> bool:
        """Unplugged nics hold no lease; of a VM that never ran they are kept until it is deleted.

        A fence's lock forbids unplugging: it is lifted for as long as that takes.
        """
        vm = self._lookup(owner)
        if vm is None:
            return True
        self._current(vm, owner)
        if vm.notes.fenced and not vm.locked and vm.power is None:
            raise self._under_way(vm)
        self._stopped(vm, "giving up its nics")
        vm = self._noted(vm, owner, isolated=True)
        if vm.shown[0] == mapping.HOLD or not mapping.unsettled(vm.record, vm.notes):
            if vm.notes.fenced and not vm.locked:
                self._api.call("vm.lock", vm.id, _LOCK_ALL)
            return True
        if vm.fenced:
            self._api.call("vm.unlock", vm.id)
        self._settle(vm)
        return False

    # -- inside --------------------------------------------------------------------------------

    def _noted(self, vm: Vm, owner: OwnerTag, *, isolated: bool) -> Vm:
        """The VM with this wish in its notes, and what its nics have now, to be had again."""
        now = mapping.plugged(vm.record, vm.notes)
        nics = tuple(
            replace(
                nic,
                isolated=isolated,
                mac=nic.mac or (now[n].text("MAC") or None if n in now else None),
                address=nic.address or (now[n].text("IP") or None if n in now else None),
            )
            for n, nic in enumerate(vm.notes.nics)
        )
        return self._changed(vm, replace(vm.notes, nics=nics), owner=owner)

    def _plug(self, vm: Vm) -> None:
        """The next step, if one is due now; Busy while more follow."""
        due = mapping.unsettled(vm.record, vm.notes)
        if not due or vm.shown[0] == mapping.HOLD:
            return
        if vm.power is None:
            raise self._under_way(vm)
        self._settle(vm)
        if len(due) > 1:
            raise Busy(f"VM {vm.id} at {self.site}: its nics go one after the other: ask again")

    def _settle(self, vm: Vm) -> None:
        """Plug or unplug the first nic that is not as it is to be."""
        for number in mapping.unsettled(vm.record, vm.notes)[:1]:
            now = mapping.plugged(vm.record, vm.notes)
            try:
                if number in now:
                    self._api.call("vm.detachnic", vm.id, now[number].number("NIC_ID"))
                else:
                    wish = {"NIC": self._wish(number, vm.notes.nics[number])}
                    self._api.call("vm.attachnic", vm.id, mapping.template(wish))
            except Conflict as e:
                if self._read(vm.id).shown != vm.shown:
                    raise Busy(f"VM {vm.id} at {self.site} has just changed: ask again") from e
                raise

    def _wish(self, number: int, nic: NicNote) -> dict[str, str]:
        return mapping.nic_wish(
            number, nic, self._api.record("vn.info", self._id("network", nic.network))
        )

    @staticmethod
    def _held_back(vm: Vm) -> list[int]:
        """Nics that a VM on hold was made with and that are not to be there when it starts."""
        if vm.shown[0] != mapping.HOLD or vm.power is not Power.OFF:
            return []
        now = mapping.plugged(vm.record, vm.notes)
        return [n for n, nic in enumerate(vm.notes.nics) if nic.isolated and n in now]
