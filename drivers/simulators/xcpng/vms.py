"""VMs of a simulated pool: what they may do when, and what it takes."""

import os
import threading
import time
from pathlib import Path

from drivers.simulators.guest import Disk, Nic
from drivers.simulators.xcpng import disks
from drivers.simulators.xcpng.pool import NULL, Failure, Pool, Row

_STATES: dict[str, set[str]] = {
    "start": {"Halted"},
    "provision": {"Halted"},
    "clone": {"Halted"},
    "clean_shutdown": {"Running"},
    "pause": {"Running"},
    "unpause": {"Paused"},
    "hard_shutdown": {"Paused", "Suspended", "Running"},
    "destroy": {"Halted", "Suspended"},
    "snapshot": {"Halted", "Paused", "Running", "Suspended"},
}
_NOT_OF_TEMPLATES = {"start", "clean_shutdown", "pause", "unpause", "hard_shutdown"}
_LONGEST_SHUTDOWN = 60.0


def checked(pool: Pool, vm: str, operation: str) -> Row:
    """Refused in XAPI's order: blocked, power state, concurrency, template, snapshot."""
    row = pool.row("VM", vm)
    if operation in row["blocked_operations"]:
        raise Failure("OPERATION_BLOCKED", vm, row["blocked_operations"][operation])
    states = _STATES[operation]
    if row["power_state"] not in states:
        wanted = min(states).lower()
        raise Failure("VM_BAD_POWER_STATE", vm, wanted, row["power_state"].lower())
    if row["current_operations"]:
        current = next(iter(row["current_operations"].values()))
        raise Failure("OTHER_OPERATION_IN_PROGRESS", "VM", vm, current)
    if row["is_a_template"] and not row["is_a_snapshot"] and operation in _NOT_OF_TEMPLATES:
        raise Failure("VM_IS_TEMPLATE", vm)
    if row["is_a_snapshot"] and operation in {*_NOT_OF_TEMPLATES, "snapshot", "provision"}:
        raise Failure("VM_IS_SNAPSHOT", vm, operation)
    return row


# -- making ------------------------------------------------------------------------------------

_GIVEN = (
    "name_label",
    "name_description",
    "is_a_template",
    "memory_static_max",
    "memory_static_min",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "VCPUs_max",
    "VCPUs_at_startup",
    "HVM_boot_policy",
    "HVM_boot_params",
    "platform",
    "other_config",
    "ha_restart_priority",
    "user_version",
    "affinity",
    "actions_after_shutdown",
    "actions_after_reboot",
    "actions_after_crash",
    "PV_bootloader",
    "PV_kernel",
    "PV_ramdisk",
    "PV_args",
    "PV_bootloader_args",
    "PV_legacy_args",
    "PCI_bus",
    "recommendations",
    "VCPUs_params",
)
_NUMBERS = {field for field in _GIVEN if field.startswith(("memory_", "VCPUs_m", "VCPUs_at"))}


def create(pool: Pool, _session: str, args: Row) -> str:
    missing = [field for field in _GIVEN if field not in args]
    if missing:
        raise Failure("FIELD_TYPE_ERROR", missing[0])
    fields = {f: int(args[f]) if f in _NUMBERS else args[f] for f in _GIVEN}
    if not 0 < fields["VCPUs_at_startup"] <= fields["VCPUs_max"]:
        raise Failure("INVALID_VALUE", "VCPUs_at_startup", str(args["VCPUs_at_startup"]))
    order = [f"memory_{which}" for which in ("static_min", "dynamic_min")]
    order += [f"memory_{which}" for which in ("dynamic_max", "static_max")]
    if [fields[f] for f in order] != sorted(fields[f] for f in order):
        raise Failure("MEMORY_CONSTRAINT_VIOLATION_ORDER", "static_min to static_max")
    return new(pool, **fields)


def new(pool: Pool, **fields: object) -> str:
    base: Row = {
        "power_state": "Halted",
        "allowed_operations": [],
        "current_operations": {},
        "blocked_operations": {},
        "guest_metrics": NULL,
        "resident_on": NULL,
        "is_a_snapshot": False,
        "snapshot_of": NULL,
        "snapshot_time": 0.0,
        "is_control_domain": False,
        "is_default_template": False,
        "tags": [],
    }
    return pool.add("VM", **(base | fields))


def clone(pool: Pool, _session: str, vm: str, name: str) -> str:
    """A VM or a template with disks and nics of its own; of a template a template."""
    with pool.lock:
        row = checked(pool, vm, "clone")
        return _copied(pool, vm, row, name, is_default_template=False)


def provision(pool: Pool, _session: str, vm: str) -> str:
    """A clone of a template becomes a VM; the disks that it asks for are made."""
    with pool.lock:
        checked(pool, vm, "provision")
        pool.put("VM", vm, is_a_template=False)
    return ""


def snapshot(
    pool: Pool, _session: str, vm: str, name: str, _ignored: list[str] | None = None
) -> str:
    """All disks at one moment: what runs stands still for so long."""
    with pool.lock:
        row = checked(pool, vm, "snapshot")
    with pool.operating("VM", vm, "snapshot"):
        pool.pause()
        with pool.lock:
            running = row["power_state"] == "Running" and pool.guests.is_on(row["uuid"])
            if running:
                pool.guests.pause(row["uuid"])
            try:
                return _copied(
                    pool,
                    vm,
                    row,
                    name,
                    is_a_snapshot=True,
                    is_a_template=True,
                    snapshot_of=vm,
                    snapshot_time=time.time(),
                    power_state="Halted",
                    guest_metrics=NULL,
                    resident_on=NULL,
                )
            finally:
                if running:
                    pool.guests.resume(row["uuid"])


def _copied(pool: Pool, vm: str, row: Row, name: str, **fields: object) -> str:
    kept = {key: value for key, value in row.items() if key not in {"uuid", "current_operations"}}
    kept["other_config"] = dict(row["other_config"])
    copy = new(pool, **(kept | {"name_label": name} | fields))
    frozen = bool(fields.get("is_a_snapshot"))
    for vbd in pool.where("VBD", VM=vm):
        old = pool.row("VBD", vbd)
        disk = old["VDI"]
        if disk != NULL:
            disk = (disks.snapshot if frozen else disks.clone)(pool, "", disk)
        same = {key: value for key, value in old.items() if key != "uuid"}
        pool.add("VBD", **(same | {"VM": copy, "VDI": disk, "currently_attached": False}))
    for vif in pool.where("VIF", VM=vm):
        same = {key: value for key, value in pool.row("VIF", vif).items() if key != "uuid"}
        pool.add("VIF", **(same | {"VM": copy, "currently_attached": False}))
    return copy


def destroy(pool: Pool, _session: str, vm: str) -> str:
    """Its VBDs and VIFs go with it, its VDIs stay."""
    with pool.lock:
        checked(pool, vm, "destroy")
        for cls in ("VBD", "VIF"):
            for ref in pool.where(cls, VM=vm):
                pool.drop(cls, ref)
        for ref in pool.where("VM", snapshot_of=vm):
            pool.put("VM", ref, snapshot_of=NULL)
        pool.drop("VM", vm)
    return ""


# -- devices -----------------------------------------------------------------------------------


def create_vbd(pool: Pool, _session: str, args: Row) -> str:
    with pool.lock:
        pool.row("VM", args["VM"])
        pool.row("VDI", args["VDI"])
        place = str(args["userdevice"])
        if pool.where("VBD", VM=args["VM"], userdevice=place):
            raise Failure("DEVICE_ALREADY_EXISTS", place)
        return pool.add(
            "VBD",
            VM=args["VM"],
            VDI=args["VDI"],
            userdevice=place,
            device="",
            bootable=bool(args["bootable"]),
            mode=args["mode"],
            type=args["type"],
            empty=False,
            unpluggable=bool(args.get("unpluggable", False)),
            other_config=dict(args["other_config"]),
            currently_attached=False,
        )


def create_vif(pool: Pool, _session: str, args: Row) -> str:
    with pool.lock:
        pool.row("VM", args["VM"])
        pool.row("network", args["network"])
        place, mac = str(args["device"]), str(args["MAC"]).lower()
        if pool.where("VIF", VM=args["VM"], device=place):
            raise Failure("DEVICE_ALREADY_EXISTS", place)
        if mac and (len(mac) != 17 or int(mac[:2], 16) & 1):
            raise Failure("MAC_INVALID", mac)
        return pool.add(
            "VIF",
            VM=args["VM"],
            network=args["network"],
            device=place,
            MAC=mac or "02:" + ":".join(f"{byte:02x}" for byte in os.urandom(5)),
            MAC_autogenerated=not mac,
            MTU=int(args["MTU"]),
            locking_mode=args.get("locking_mode", "network_default"),
            ipv4_allowed=list(args.get("ipv4_allowed", [])),
            ipv6_allowed=list(args.get("ipv6_allowed", [])),
            other_config=dict(args["other_config"]),
            currently_attached=False,
        )


def destroy_vif(pool: Pool, _session: str, vif: str) -> str:
    pool.row("VIF", vif)
    pool.drop("VIF", vif)
    return ""


def set_locking(pool: Pool, _session: str, vif: str, mode: str) -> str:
    if mode not in {"network_default", "locked", "unlocked", "disabled"}:
        raise Failure("INVALID_VALUE", "locking_mode", mode)
    with pool.lock:
        pool.put("VIF", vif, locking_mode=mode)
        vm = pool.row("VM", pool.row("VIF", vif)["VM"])
        pool.guests.set_nics(vm["uuid"], _nics(pool, pool.row("VIF", vif)["VM"]))
    return ""


def create_network(pool: Pool, _session: str, args: Row) -> str:
    return pool.add(
        "network",
        name_label=str(args["name_label"]),
        name_description=str(args.get("name_description", "")),
        MTU=int(args.get("MTU", "1500")),
        other_config=dict(args.get("other_config", {})),
        bridge=f"xapi{len(pool.tables['network'])}",
        managed=True,
        tags=[],
        purpose=[],
        default_locking_mode="unlocked",
    )


def destroy_network(pool: Pool, _session: str, network: str) -> str:
    with pool.lock:
        pool.row("network", network)
        if vifs := pool.where("VIF", network=network):
            raise Failure("NETWORK_CONTAINS_VIF", *vifs)
        if pifs := pool.where("PIF", network=network):
            raise Failure("NETWORK_CONTAINS_PIF", *pifs)
        pool.drop("network", network)
    return ""


# -- power -------------------------------------------------------------------------------------


def start(pool: Pool, _session: str, vm: str, paused: bool, _force: bool) -> str:  # noqa: FBT001  # the wire's shape
    with pool.lock:
        checked(pool, vm, "start")
        for vbd in pool.where("VBD", VM=vm):
            vdi = pool.row("VBD", vbd)["VDI"]
            if vdi not in pool.tables["VDI"]:
                raise Failure("HANDLE_INVALID", "VDI", vdi)
            if pool.in_use(vdi, writing=True):
                raise Failure("VDI_IN_USE", vdi, "attach")
    with pool.operating("VM", vm, "start"):
        pool.pause()
        with pool.lock:
            run(pool, vm)
            if paused:
                pool.guests.pause(pool.row("VM", vm)["uuid"])
                pool.put("VM", vm, power_state="Paused")
    return ""


def run(pool: Pool, vm: str) -> None:
    """The domain is there and its guest boots from the first disk."""
    row = pool.row("VM", vm)
    vbds = sorted(pool.where("VBD", VM=vm), key=lambda vbd: int(pool.row("VBD", vbd)["userdevice"]))
    first = next((pool.row("VBD", vbd)["VDI"] for vbd in vbds), None)
    for cls in ("VBD", "VIF"):
        for ref in pool.where(cls, VM=vm):
            pool.put(cls, ref, currently_attached=True)
    pool.put("VM", vm, power_state="Running", resident_on=pool.only("host"))
    pool.guests.start(
        row["uuid"],
        name=row["name_label"],
        disk=_disk(pool.file(first)) if first else None,
        nics=_nics(pool, vm),
        agent=True,
    )


def _nics(pool: Pool, vm: str) -> tuple[Nic, ...]:
    rows = [pool.row("VIF", vif) for vif in pool.where("VIF", VM=vm)]
    return tuple(
        Nic(mac=row["MAC"], connected=row["locking_mode"] != "disabled")
        for row in sorted(rows, key=lambda row: row["device"])
    )


def _disk(file: Path) -> Disk:
    def read(offset: int, length: int) -> bytes:
        with file.open("rb") as reading:
            return os.pread(reading.fileno(), length, offset)

    def write(offset: int, data: bytes) -> None:
        with file.open("r+b") as writing:
            os.pwrite(writing.fileno(), data, offset)

    def flush() -> None:
        with file.open("r+b") as writing:
            os.fsync(writing.fileno())

    return Disk(read=read, write=write, flush=flush)


def hard_shutdown(pool: Pool, _session: str, vm: str) -> str:
    with pool.lock:
        row = pool.row("VM", vm)
        operation = next(iter(row["current_operations"].values()), "")
        if operation == "clean_shutdown":  # the one that it may overtake
            pool.put("VM", vm, current_operations={})
        row = checked(pool, vm, "hard_shutdown")
    with pool.operating("VM", vm, "hard_shutdown"):
        pool.pause()
        pool.guests.stop(row["uuid"])
        halted(pool, vm)
    return ""


def halted(pool: Pool, vm: str) -> None:
    with pool.lock:
        if vm not in pool.tables["VM"]:
            return
        for cls in ("VBD", "VIF"):
            for ref in pool.where(cls, VM=vm):
                pool.put(cls, ref, currently_attached=False)
        metrics = pool.row("VM", vm)["guest_metrics"]
        pool.put("VM", vm, power_state="Halted", resident_on=NULL, guest_metrics=NULL)
        pool.drop("VM_guest_metrics", metrics)


def clean_shutdown(pool: Pool, _session: str, vm: str) -> str:
    """Asked of the guest; one without drivers cannot hear it."""
    with pool.lock:
        row = checked(pool, vm, "clean_shutdown")
        if not pool.guests.ping(row["uuid"]):
            raise Failure("VM_LACKS_FEATURE", vm)
    down = threading.Event()
    with pool.operating("VM", vm, "clean_shutdown"):
        if not pool.guests.shutdown(row["uuid"], on_down=down.set):
            raise Failure("VM_LACKS_FEATURE", vm)
        if not down.wait(_LONGEST_SHUTDOWN):
            raise Failure("VM_SHUTDOWN_TIMEOUT", vm, str(_LONGEST_SHUTDOWN))
        halted(pool, vm)
    return ""


def pause(pool: Pool, _session: str, vm: str) -> str:
    with pool.lock:
        pool.guests.pause(checked(pool, vm, "pause")["uuid"])
        pool.put("VM", vm, power_state="Paused")
    return ""


def unpause(pool: Pool, _session: str, vm: str) -> str:
    with pool.lock:
        pool.guests.resume(checked(pool, vm, "unpause")["uuid"])
        pool.put("VM", vm, power_state="Running")
    return ""


def hear_guests(pool: Pool) -> None:
    """What guests told through xenstore since the last look."""
    with pool.lock:
        for vm in pool.where("VM", power_state="Running", guest_metrics=NULL):
            if pool.guests.ping(pool.row("VM", vm)["uuid"]):
                metrics = pool.add(
                    "VM_guest_metrics",
                    os_version={"name": "FEDGUEST", "uname": "6.1"},
                    PV_drivers_version={"major": "8", "minor": "4"},
                    PV_drivers_detected=True,
                    networks={},
                    other={"feature-shutdown": "1"},
                    live=True,
                    last_updated=time.time(),
                )
                pool.put("VM", vm, guest_metrics=metrics)
