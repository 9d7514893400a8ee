"""Behind the simulated sites' backs: guests that write, and marks that are lost."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from controlplane.domain.disk import KIB, MIB
from drivers.contract import Driver, Snapshots, require
from drivers.simulators.faults import Direction, Faults
from drivers.simulators.opennebula import OpenNebulaSim, vms
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.template import vectors
from drivers.simulators.proxmox import ProxmoxSim
from drivers.simulators.xcpng import XcpngSim
from tests.contract.suite_changes import Disk


class _Behind:
    granule = 64 * KIB

    def __init__(self, faults: Faults, losses: Mapping[str, Callable[[Disk], None]]) -> None:
        self._faults, self.losses = faults, losses

    @property
    def served(self) -> int:
        return self._faults.carried[Direction.OUT]

    def content(self, ref: str) -> bytes:
        return self.file(ref).read_bytes()

    def write(self, ref: str, offset: int, data: bytes) -> None:
        with self.file(ref).open("r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    def file(self, ref: str) -> Path:
        raise NotImplementedError(ref)


class BehindProxmox(_Behind):
    def __init__(self, sim: ProxmoxSim) -> None:
        losses = {"a removed bitmap": self._bitmap_removed, "a new process": _restarted}
        super().__init__(sim.faults, losses)
        self._sim = sim

    def file(self, ref: str) -> Path:
        (drive,) = self._sim.node.live[int(ref)].drives.values()
        return drive.file

    def write(self, ref: str, offset: int, data: bytes) -> None:
        file = self.file(ref)
        plain = super().write
        live = self._sim.node.live[int(ref)]
        live.write(file, offset, len(data), lambda: plain(ref, offset, data))

    def _bitmap_removed(self, disk: Disk) -> None:
        live = self._sim.node.live[int(disk.ref)]
        (drive,) = live.drives.values()
        for name in tuple(drive.bitmaps):
            live.drop_bitmap(drive.node, name)


class BehindXcpng(_Behind):
    def __init__(self, sim: XcpngSim) -> None:
        losses = {"tracking switched off": self._untracked, "a deleted snapshot": _deleted}
        super().__init__(sim.pool.faults, losses)
        self._sim = sim

    def file(self, ref: str) -> Path:
        return self._sim.pool.file(self._vdi(ref))

    def _vdi(self, ref: str) -> str:
        pool = self._sim.pool
        vbds = pool.where("VBD", VM=pool.by_uuid("VM", ref))
        first = min(vbds, key=lambda vbd: int(pool.row("VBD", vbd)["userdevice"]))
        return str(pool.row("VBD", first)["VDI"])

    def _untracked(self, disk: Disk) -> None:
        """By somebody who wants to migrate its storage."""
        vdi = self._vdi(disk.ref)
        disk.world.driver._api.call("VDI.disable_cbt", vdi)


class BehindStreams(BehindXcpng):
    """As VHD streams tell it: in larger blocks, and whether or not anybody tracks changes."""

    granule = 2 * MIB

    def __init__(self, sim: XcpngSim) -> None:
        super().__init__(sim)
        self.losses = {"a deleted snapshot": _deleted}


class BehindOpenNebula(_Behind):
    def __init__(self, sim: OpenNebulaSim) -> None:
        losses = {"a chain begun anew": self._begun, "another mode": self._switched}
        super().__init__(sim.faults, losses)
        self._sim = sim

    def file(self, ref: str) -> Path:
        vm = self._sim.oned.vms[int(ref)]
        disk = vectors(vm.template, "DISK")[0]
        return self._sim.oned.file(vms.disk_path(vm, disk)).resolve()

    def _begun(self, disk: Disk) -> None:
        vm, driver = self._sim.oned.vms[int(disk.ref)], disk.world.driver
        number, vm.backup_second = len(vm.backups), 0
        driver._api.call("vm.backup", vm.id, one.BACKUP_DS, True)  # noqa: FBT003  # the wire's shape
        disk.world.until(lambda: len(vm.backups) > number, "somebody else's backup is there")
        disk.world.seen(disk.owner)
        vm.backup_second = 0

    def _switched(self, disk: Disk) -> None:
        config = "<TEMPLATE><BACKUP_CONFIG><MODE>FULL</MODE></BACKUP_CONFIG></TEMPLATE>"
        vm = self._sim.oned.vms[int(disk.ref)]
        disk.world.driver._api.call("vm.updateconf", vm.id, config, 1)
        vm.backup_second = 0


def _restarted(disk: Disk) -> None:
    disk.off()
    disk.on()


def _deleted(disk: Disk) -> None:
    """The snapshot that changes are told from."""
    driver: Driver = disk.world.driver
    snapshots = require(driver, Snapshots)
    for owner in disk.world.made("snapshot"):
        disk.world.do(lambda owner=owner: snapshots.delete_snapshot(owner))
