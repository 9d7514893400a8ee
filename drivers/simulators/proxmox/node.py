"""What a simulated node remembers: its VMs, their locks, and what lags behind them."""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drivers.simulators.faults import Faults, Profile
from drivers.simulators.guest import Disk, Guests, Nic
from drivers.simulators.proxmox.access import Access
from drivers.simulators.proxmox.live import Live
from drivers.simulators.proxmox.params import DRIVE, NIC, Refused, parse_nic, parse_property
from drivers.simulators.proxmox.storage import Storages, Volume
from drivers.simulators.proxmox.tasks import Tasks
from drivers.simulators.witness import Witness

Observer = Callable[[str, str, dict[str, str], Any], None]  # method, path, parameters, answer


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """A frozen configuration; the disks' bytes lie beside the volumes under the same name."""

    config: dict[str, str]
    description: str
    snaptime: int
    parent: str | None


@dataclass(slots=True, kw_only=True)
class Vm:
    """One VM: its configuration as the API shows it, what waits for a restart, its power."""

    vmid: int
    config: dict[str, str]
    pending: dict[str, str | None] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    parent: str | None = None
    running: bool = False
    suspended: bool = False
    started: float = 0.0

    @property
    def digest(self) -> str:
        lines = sorted(f"{key}: {value}" for key, value in self.config.items())
        return hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest()

    def drives(self) -> dict[str, dict[str, str]]:
        """The attached guest volumes by slot, CD-ROMs and cloud-init drives left out."""
        out = {}
        for key, value in sorted(self.config.items()):
            if DRIVE.fullmatch(key):
                drive = parse_property(value, default="file")
                if drive.get("media") != "cdrom":
                    out[key] = drive
        return out


class Node:
    """One Proxmox VE node (a cluster of one, unless a test names dead peers)."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        profile: Profile,
        faults: Faults,
        witness: Witness | None,
        sizes: dict[str, int],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.profile, self.faults = folder, name, profile, faults
        self.lock = threading.RLock()
        self.access = Access()
        self.storages = Storages(folder, sizes=sizes, faults=faults)
        self.guests = Guests(name, profile=profile, witness=witness)
        self.bridges = {"vmbr0": "10.0.4.1/24", "vmbr1": ""}
        self.peers: dict[str, str] = {}  # other nodes and their status, as a test wishes
        self.ha: dict[str, str] = {}  # sid -> state
        self.memory = 64 << 30
        self.cpus = 16
        self.exports: Callable[[], set[str]] = set  # files that qemu-nbd holds open
        self.writers: Callable[[], set[str]] = set  # and those that it may write
        self.observers: list[Observer] = []  # told each call that succeeded, for tests
        self._vm_locks: dict[int, threading.Lock] = {}
        self._descriptors: dict[str, int] = {}
        self.live: dict[int, Live] = {}  # the block layers of running VMs
        self._state = folder / "state.json"
        saved = json.loads(self._state.read_text()) if self._state.exists() else {}
        self.vms = {record["vmid"]: _vm(record) for record in saved.get("vms", [])}
        self.ha |= saved.get("ha", {})
        self._shown: dict[int, dict[str, Any]] = {}
        self._lagging: list[tuple[float, int, dict[str, Any] | None]] = []
        self.tasks = Tasks(
            name, saved=saved.get("tasks", []), step=profile.step_seconds, changed=self.save
        )
        for vm in self.vms.values():
            self._shown[vm.vmid] = self.summary(vm)
            if vm.running:
                vm.running = False
                with contextlib.suppress(Refused):  # a disk went with somebody's hand: stays off
                    self.power_on(vm)

    # -- memory --------------------------------------------------------------------------------

    def save(self) -> None:
        with self.lock:
            state = {
                "vms": [asdict(vm) for vm in self.vms.values()],
                "tasks": self.tasks.records(),
                "ha": self.ha,
            }
            part = self._state.with_suffix(".tmp")
            part.write_text(json.dumps(state))
            part.replace(self._state)

    def changed(self, vmid: int) -> None:
        """Remember a VM's new state, and let cluster-wide listings learn of it later."""
        with self.lock:
            vm = self.vms.get(vmid)
            after = time.monotonic() + self.faults.staleness()
            self._lagging.append((after, vmid, self.summary(vm) if vm else None))
            self.save()

    def shown(self) -> list[dict[str, Any]]:
        """What cluster/resources shows now."""
        with self.lock:
            now = time.monotonic()
            for _, vmid, summary in (entry for entry in self._lagging if entry[0] <= now):
                if summary is None:
                    self._shown.pop(vmid, None)
                else:
                    self._shown[vmid] = summary
            self._lagging = [entry for entry in self._lagging if entry[0] > now]
            return [dict(summary) for _, summary in sorted(self._shown.items())]

    def close(self) -> None:
        """Stop tasks and guests; what ran is remembered as running."""
        self.tasks.close()
        self.save()
        self.guests.close()  # without our lock: a guest on its way down wants it
        with self.lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    # -- VMs -----------------------------------------------------------------------------------

    def vm(self, vmid: int) -> Vm:
        vm = self.vms.get(vmid)
        if vm is None:
            raise Refused(
                500,
                f"Configuration file 'nodes/{self.name}/qemu-server/{vmid}.conf' does not exist",
            )
        return vm

    @contextlib.contextmanager
    def locked(self, vmid: int) -> Iterator[None]:
        """Hold the VM's flock, or give up as Proxmox VE does."""
        with self.lock:
            lock = self._vm_locks.setdefault(vmid, threading.Lock())
        if not lock.acquire(timeout=self.profile.lock_wait_seconds):
            raise Refused(
                500, f"can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"
            )
        try:
            yield
        finally:
            lock.release()

    def summary(self, vm: Vm) -> dict[str, Any]:
        config = vm.config
        out: dict[str, Any] = {
            "vmid": vm.vmid,
            "name": config.get("name", f"VM {vm.vmid}"),
            "status": "running" if vm.running else "stopped",
            "maxmem": int(config.get("memory", "512")) << 20,
            "cpus": int(config.get("cores", "1")) * int(config.get("sockets", "1")),
            "uptime": int(time.time() - vm.started) if vm.running else 0,
        }
        out |= {key: config[key] for key in ("tags", "lock") if key in config}
        return out

    # -- power ---------------------------------------------------------------------------------

    def power_on(self, vm: Vm) -> None:
        """Start the guest of a stopped VM on its boot disk."""
        with self.lock:
            for key, value in vm.pending.items():
                if value is None:
                    vm.config.pop(key, None)
                else:
                    vm.config[key] = value
            vm.pending.clear()
            live = self.live[vm.vmid] = Live(self._files(vm), self.translated)
            disk = self._boot_disk(vm, live)
            vm.running, vm.suspended, vm.started = True, False, time.time()
            agent = parse_property(vm.config.get("agent", "0"), default="enabled")
            self.guests.start(
                str(vm.vmid),
                name=vm.config.get("name", f"VM{vm.vmid}"),
                disk=disk,
                nics=guest_nics(vm),
                agent=agent.get("enabled") == "1",
            )

    def power_off(self, vm: Vm) -> None:
        """Pull the plug."""
        self.guests.stop(str(vm.vmid))
        self._went_down(vm)

    def pause(self, vm: Vm) -> None:
        """Freeze a running guest for the moment of a snapshot."""
        if self.guests.is_on(str(vm.vmid)) and not vm.suspended:
            self.guests.pause(str(vm.vmid))

    def unpause(self, vm: Vm) -> None:
        if self.guests.is_on(str(vm.vmid)) and not vm.suspended:
            self.guests.resume(str(vm.vmid))

    def _went_down(self, vm: Vm) -> None:
        with self.lock:
            vm.running = vm.suspended = False
            if (live := self.live.pop(vm.vmid, None)) is not None:
                live.close()
            for volume in self.volumes_of(vm):
                if (descriptor := self._descriptors.pop(str(volume.file), None)) is not None:
                    os.close(descriptor)
        self.changed(vm.vmid)

    def went_down(self, vmid: int) -> None:
        """The guest powered itself off."""
        if (vm := self.vms.get(vmid)) is not None:
            self._went_down(vm)

    def volumes_of(self, vm: Vm) -> list[Volume]:
        out = []
        for drive in vm.drives().values():
            with contextlib.suppress(Refused):
                out.append(self.storages.volume(drive["file"]))
        return out

    def translated(self, path: str) -> Path:
        """Our file for a scrap file's path on the node."""
        return self.folder / "scrap" / Path(path).name

    def _files(self, vm: Vm) -> dict[str, Path]:
        """The files of the VM's disks by slot."""
        out = {}
        for slot, drive in vm.drives().items():
            with contextlib.suppress(Refused):
                out[slot] = self.storages.volume(drive["file"]).file
        return out

    def _boot_disk(self, vm: Vm, live: Live) -> Disk | None:
        drives = vm.drives()
        order = parse_property(vm.config.get("boot", ""), default="legacy").get("order", "")
        slots = [slot for slot in order.split(";") if slot in drives]
        slots = slots or [slot for slot in drives if not slot.startswith("efidisk")]
        if not slots:
            return None
        file = self.storages.volume(drives[slots[0]]["file"]).file
        descriptor = os.open(file, os.O_RDWR)
        self._descriptors[str(file)] = descriptor
        return Disk(
            read=lambda offset, length: os.pread(descriptor, length, offset),
            write=lambda offset, data: live.write(
                file, offset, len(data), lambda: _write(descriptor, offset, data)
            ),
            flush=lambda: None,  # the simulated host has no power cut; our files outlive processes
        )


def guest_nics(vm: Vm) -> tuple[Nic, ...]:
    """The nics as the guest has them."""
    out = []
    for key, value in sorted(vm.config.items()):
        if NIC.fullmatch(key):
            nic = parse_nic(value)
            config = vm.config.get(f"ipconfig{key.removeprefix('net')}", "")
            address = parse_property(config, default="_").get("ip", "").partition("/")[0]
            out.append(
                Nic(
                    mac=nic["macaddr"],
                    address=address if address not in {"", "dhcp"} else None,
                    connected=nic.get("link_down") != "1",
                )
            )
    return tuple(out)


def _write(descriptor: int, offset: int, data: bytes) -> None:
    if offset + len(data) > os.fstat(descriptor).st_size:
        raise OSError("write past the end of the disk")
    os.pwrite(descriptor, data, offset)


def _vm(record: dict[str, Any]) -> Vm:
    snapshots = {name: Snapshot(**saved) for name, saved in record.pop("snapshots").items()}
    return Vm(**record, snapshots=snapshots)
