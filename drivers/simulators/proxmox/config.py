"""How a VM's configuration changes: rights, drives made and imported, nics, what must wait."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from drivers.simulators.guest import Nic
from drivers.simulators.proxmox.access import Caller
from drivers.simulators.proxmox.node import Node, Vm, guest_nics
from drivers.simulators.proxmox.params import (
    DRIVE,
    GIB,
    NIC,
    UNUSED,
    Fails,
    Refused,
    format_nic,
    format_property,
    invalid,
    is_config_key,
    normal_tags,
    parse_nic,
    parse_property,
    size_text,
    split_list,
)
from drivers.simulators.proxmox.storage import MIB, Volume
from drivers.simulators.proxmox.tasks import Worker

_CLOUDINIT_BYTES = 4 * MIB
_EFI_BYTES = 528 << 10
_WAITS = frozenset({"memory", "cores", "sockets", "cpu", "machine", "bios", "scsihw", "numa"})
_RIGHTS = {
    "VM.Config.CPU": {"cores", "sockets", "cpu", "vcpus", "cpulimit", "cpuunits", "numa"},
    "VM.Config.Memory": {"memory", "balloon", "shares"},
    "VM.Config.Cloudinit": {"ciuser", "cipassword", "citype", "cicustom", "sshkeys"}
    | {"nameserver", "searchdomain", "ciupgrade"},
    "VM.Config.HWType": {"scsihw", "bios", "machine", "vga", "acpi", "kvm", "tablet", "serial0"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Who changes a configuration, and the task in which it happens (None: at once)."""

    caller: Caller
    worker: Worker | None = None


def right_for(key: str) -> str:
    """The right that changing this key takes."""
    if DRIVE.fullmatch(key) or UNUSED.fullmatch(key):
        return "VM.Config.Disk"
    if NIC.fullmatch(key) or key.startswith("ipconfig"):
        return "VM.Config.Network"
    return next((r for r, keys in _RIGHTS.items() if key in keys), "VM.Config.Options")


def allowed(node: Node, caller: Caller, vmid: int, changes: Mapping[str, str]) -> None:
    """403 or 400 for a change that this caller may not make or that makes no sense."""
    for key, value in changes.items():
        if not is_config_key(key):
            raise invalid(
                **{
                    key: "property is not defined in schema and the schema does not allow"
                    " additional properties"
                }
            )
        node.access.require(caller, f"/vms/{vmid}", right_for(key))
        if key in {"lock", "args", "hookscript"} and caller.name != "root@pam":
            raise Refused(500, f"only root can set '{key}' config")
        if DRIVE.fullmatch(key):
            drive = parse_property(value, default="file")
            _drive_allowed(node, caller, key, drive)
        if NIC.fullmatch(key):
            bridge = parse_nic(value).get("bridge", "")
            if bridge and bridge not in node.bridges:
                raise Refused(500, f"bridge '{bridge}' does not exist")


def apply(node: Node, vm: Vm, changes: Mapping[str, str], *, job: Job) -> None:
    """Make the changes one by one, drives with their bytes; the first failure ends it."""
    for key, value in changes.items():
        if DRIVE.fullmatch(key):
            _detach(vm, key)
            vm.config[key] = _drive(node, vm, key, value, job=job)
        elif NIC.fullmatch(key):
            _set_nic(node, vm, key, value)
        elif key == "tags":
            _set(vm, "tags", normal_tags(value))
        elif key in _WAITS and vm.running:
            vm.pending[key] = value
        else:
            _set(vm, key, value.rstrip() if key == "description" else value)


def remove(node: Node, vm: Vm, keys: str) -> None:
    """The `delete` parameter: detach drives, free unused volumes, forget options."""
    for key in split_list(keys):
        if DRIVE.fullmatch(key):
            _detach(vm, key)
        elif UNUSED.fullmatch(key) and key in vm.config:
            node.storages.free(vm.config.pop(key))
        elif key in _WAITS and vm.running:
            vm.pending[key] = None
        else:
            vm.config.pop(key, None)
            if NIC.fullmatch(key):
                node.guests.set_nics(str(vm.vmid), guest_nics(vm))


def free_all(node: Node, vm: Vm) -> None:
    """Free every volume of a VM that is going away, cloud-init drives too."""
    for storage in node.storages.names():
        for volume in node.storages.volumes(storage):
            if volume.vmid == vm.vmid:
                node.storages.free(volume.volid)


def masked(config: Mapping[str, str]) -> dict[str, str | int]:
    """A configuration as the API shows it: whole numbers as numbers, the password hidden."""
    out: dict[str, str | int] = {}
    for key, value in config.items():
        if key == "cipassword":
            out[key] = "**********"
        elif value.isdecimal() and key not in {"name", "description", "tags", "memory"}:
            out[key] = int(value)
        else:
            out[key] = value
    return out


def _set(vm: Vm, key: str, value: str) -> None:
    if value:
        vm.config[key] = value
    else:
        vm.config.pop(key, None)


def _drive_allowed(node: Node, caller: Caller, key: str, drive: Mapping[str, str]) -> None:
    storage, _, wish = drive["file"].partition(":")
    if drive["file"] == "none":
        return
    node.storages.kind(storage)
    node.access.require(caller, f"/storage/{storage}", "Datastore.AllocateSpace")
    source = drive.get("import-from")
    if source is None:
        return
    if wish != "0":
        raise invalid(**{key: "unable to import: the disk size must be 0 for an import"})
    if source.startswith("/"):
        if caller.name != "root@pam":
            raise Refused(500, "Only root can use absolute paths as import source")
        return
    volume = node.storages.volume(source)
    if volume.content == "import":
        node.access.require(caller, f"/storage/{volume.storage}", "Datastore.Audit")


def _drive(node: Node, vm: Vm, key: str, value: str, *, job: Job) -> str:
    """Make, import, or attach the drive that `value` describes; the value to be kept."""
    drive = parse_property(value, default="file")
    source = drive.pop("import-from", None)
    storage, _, wish = drive["file"].partition(":")
    if drive["file"] == "none":
        return value
    if wish == "cloudinit":
        volume = node.storages.allocate_named(
            storage, vm.vmid, _cloudinit_name(node, storage, vm.vmid), _CLOUDINIT_BYTES
        )
        drive |= {"file": volume.volid, "media": "cdrom"}
    elif source is not None:
        volume = _import(node, vm, source, storage, drive.pop("format", ""), job=job)
        drive |= {"file": volume.volid, "size": size_text(volume.size)}
    elif wish.replace(".", "", 1).isdecimal():
        size = _EFI_BYTES if key == "efidisk0" else int(float(wish) * GIB)
        volume = node.storages.allocate(storage, vm.vmid, size, format=drive.pop("format", ""))
        drive |= {"file": volume.volid, "size": size_text(volume.size)}
    else:
        volume = node.storages.volume(drive["file"])
        if drive.get("media") != "cdrom":
            drive["size"] = size_text(volume.size)
        for slot in [k for k, v in vm.config.items() if v == volume.volid]:
            del vm.config[slot]  # an unused volume is attached again
    return format_property(drive, default="file")


def _import(node: Node, vm: Vm, source: str, storage: str, format: str, *, job: Job) -> Volume:  # noqa: A002  # Proxmox VE's word
    """Convert the source's bytes into a new volume."""
    origin = node.storages.volume(source)
    if origin.content == "import" and origin.format not in {"qcow2", "raw"}:
        raise Fails(f"import of '{origin.format}' is not modelled by this simulator")
    volume = node.storages.allocate(storage, vm.vmid, origin.size, format=format)
    try:
        for done, size in node.storages.fill(origin, volume, step=lambda n: _paced(node, job, n)):
            if job.worker is not None:
                share = 100 * done / size if size else 100.0
                job.worker.log(f"transferred {done} B of {size} B ({share:.2f}%)")
    except BaseException:
        node.storages.free(volume.volid)
        raise
    return volume


def _paced(node: Node, job: Job, length: int) -> None:
    seconds = node.faults.transfer_seconds(length)
    if job.worker is not None:
        job.worker.wait(seconds)


def _cloudinit_name(node: Node, storage: str, vmid: int) -> str:
    pool = node.storages.kind(storage) == "zfspool"
    return f"vm-{vmid}-cloudinit" + ("" if pool else ".qcow2")


def _detach(vm: Vm, key: str) -> None:
    """A guest volume that loses its slot stays, as unusedN."""
    if key not in vm.config:
        return
    drive = parse_property(vm.config.pop(key), default="file")
    if drive.get("media") == "cdrom" or drive["file"] == "none":
        return
    number = next(n for n in range(256) if f"unused{n}" not in vm.config)
    vm.config[f"unused{number}"] = drive["file"]


def _set_nic(node: Node, vm: Vm, key: str, value: str) -> None:
    nic = parse_nic(value)
    if "macaddr" not in nic:
        nic["macaddr"] = "BC:24:11:" + ":".join(f"{byte:02X}" for byte in secrets.token_bytes(3))
    nic["macaddr"] = nic["macaddr"].upper()
    vm.config[key] = format_nic(nic)
    nics: tuple[Nic, ...] = guest_nics(vm)
    node.guests.set_nics(str(vm.vmid), nics)
