"""What XAPI's records mean in our nouns, and our wishes in its words. Pure.

An owner tag is a key of its own in `other_config`, with what the object is as its value: XAPI adds
a key atomically and refuses a second one. The highest epoch counts.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from controlplane.domain.disk import GIB, MIB, DiskBus, DiskFormat
from controlplane.domain.errors import Invalid
from controlplane.domain.fence import FenceLevel
from controlplane.domain.ids import ArtefactId
from controlplane.domain.instance import (
    DiskSeen,
    Firmware,
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Power,
    Size,
)
from controlplane.domain.network import NicSeen
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Changes, CreateOrder, Limits

LIMITS = Limits(
    name_length=200,
    disk_step=2 * MIB,
    disk_max=2040 * GIB,
    disks_max=15,
    nics_max=7,
    formats=frozenset({DiskFormat.RAW}),
    firmware=frozenset({Firmware.BIOS, Firmware.UEFI}),
    create_order=CreateOrder.DISKS_FIRST,
    settle_seconds=5.0,
    fence_level=FenceLevel.CANNOT_START,
    changes=Changes.TOLD,
    buses=frozenset(),
    blank=True,
)
INSTANCE, VOLUME, IMAGE, SNAPSHOT, NETWORK, SEED = (
    "instance",
    "volume",
    "image",
    "snapshot",
    "network",
    "seed",
)
EXPORT, VHD = "export:", "vhd:"
HALTED, RUNNING, PAUSED = "Halted", "Running", "Paused"
STARTS = ("start", "start_on", "resume", "resume_on")
DISABLED, DEFAULT = "disabled", "network_default"
FENCE = "fedctl fence: the instance was moved away"
SPEC, DISKS, NICS, MADE = "fedctl_spec", "fedctl_disks", "fedctl_nics", "fedctl_made"
TRACKED = "fedctl_cbt"
CLAIM, DONE, WISH, TASK, WRITER = (
    "fedctl_vm",
    "fedctl_done",
    "fedctl_wish",
    "fedctl_task",
    "fedctl_writer",
)


class Record(Protocol):
    """As much of a record as is read here."""

    @property
    def ref(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    def text(self, field: str) -> str: ...
    def number(self, field: str) -> int: ...
    def flag(self, field: str) -> bool: ...
    def map(self, field: str) -> dict[str, str]: ...


# -- tags --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Whose an object is, under the newest epoch on it, and what it is."""

    owner: OwnerTag
    kind: str


def owner_of(text: str) -> OwnerTag | None:
    try:
        return OwnerTag.parse(text)
    except Invalid:
        return None


def stamps(config: Mapping[str, str]) -> dict[ArtefactId, Stamp]:
    """Every tag on an object."""
    found: dict[ArtefactId, Stamp] = {}
    for key, kind in config.items():
        owner = owner_of(key)
        if owner is None:
            continue
        known = found.get(owner.artefact)
        if known is None or owner.epoch > known.owner.epoch:
            found[owner.artefact] = Stamp(owner=owner, kind=str(kind))
    return found


def older(config: Mapping[str, str], owner: OwnerTag) -> list[str]:
    """The keys of the same artefact with lower epochs."""
    tags = [(key, owner_of(key)) for key in config]
    return [
        key
        for key, tag in tags
        if tag is not None and tag.artefact == owner.artefact and tag.epoch < owner.epoch
    ]


def export(vdi: str, base: str, *, vhd: bool) -> str:
    """What an export's mark says: the disk, the way out, and the base of changes or nothing."""
    return f"{EXPORT}{vdi}:{VHD if vhd else ''}{base}"


def base_of(kind: str) -> str:
    """The uuid that an export's changes are told from; empty when all of it is read."""
    return kind.rpartition(":")[2]


def by_vhd(kind: str) -> bool:
    return f":{VHD}" in kind.removeprefix(EXPORT)


def named(name: str) -> str:
    """The name if we take it; else Invalid."""
    if not 1 <= len(name) <= LIMITS.name_length:
        raise Invalid(
            f"name {name[:20]!r} has {len(name)} characters; XCP-ng sites take 1 to"
            f" {LIMITS.name_length}: shorten it"
        )
    if any(ord(c) < ord(" ") for c in name):
        raise Invalid(f"name {name[:40]!r} has a control character: leave it out")
    return name


def rounded(size: int) -> int:
    return -(-size // LIMITS.disk_step) * LIMITS.disk_step


# -- a wish as records -------------------------------------------------------------------------


def spec_digest(spec: InstanceSpec) -> str:
    """What tells two wishes apart; the anchor is not part of the wish."""
    wish = asdict(replace(spec, anchor=None))
    return hashlib.sha256(json.dumps(wish, sort_keys=True).encode()).hexdigest()


def checked(spec: InstanceSpec) -> InstanceSpec:
    """The wish if XAPI can be asked for it; else Invalid."""
    named(spec.name)
    if spec.size.memory % MIB or spec.size.memory < MIB or spec.size.cpus < 1:
        raise Invalid("memory must be whole MiB, and there must be a cpu: change it")
    if not 1 <= len(spec.disks) <= LIMITS.disks_max or len(spec.nics) > LIMITS.nics_max:
        raise Invalid(
            f"1 to {LIMITS.disks_max} disks and at most {LIMITS.nics_max} nics: change it"
        )
    if any(place.volume is None for place in spec.disks):
        raise Invalid("volumes are made before the instance here: make them first")
    return spec


def vm_record(owner: OwnerTag, spec: InstanceSpec) -> dict[str, Any]:
    """A VM without disks and nics; XAPI takes numbers as text."""
    memory = str(spec.size.memory)
    firmware = "uefi" if spec.firmware is Firmware.UEFI else "bios"
    kept = {
        owner.text(): INSTANCE,
        SPEC: spec_digest(spec),
        DISKS: json.dumps([[p.volume, rounded(p.size), str(p.bus)] for p in spec.disks]),
        NICS: json.dumps([{"network": n.network, "address": n.address} for n in spec.nics]),
    }
    return {
        "name_label": spec.name,
        "name_description": "",
        "user_version": "1",
        "is_a_template": False,
        "affinity": "OpaqueRef:NULL",
        **{f"memory_{which}": memory for which in ("static_max", "dynamic_max")},
        **{f"memory_{which}": memory for which in ("static_min", "dynamic_min")},
        "VCPUs_params": {},
        "VCPUs_max": str(spec.size.cpus),
        "VCPUs_at_startup": str(spec.size.cpus),
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "c", "firmware": firmware},
        "platform": {
            "acpi": "1",
            "apic": "true",
            "pae": "true",
            "nx": "true",
            "viridian": "false",
            "device-model": "qemu-upstream-uefi" if firmware == "uefi" else "qemu-upstream-compat",
        },
        "PCI_bus": "",
        "recommendations": "",
        "ha_restart_priority": "",
        "other_config": kept,
    }


def vdi_record(
    name: str, description: str, size: int, sr: str, config: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "name_label": name,
        "name_description": description,
        "SR": sr,
        "virtual_size": str(size),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": dict(config),
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }


def vbd_record(vm: str, vdi: str, place: int, *, mode: str = "RW") -> dict[str, Any]:
    return {
        "VM": vm,
        "VDI": vdi,
        "userdevice": str(place),
        "bootable": place == 0,
        "mode": mode,
        "type": "Disk",
        "unpluggable": True,
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }


def vif_record(
    vm: str, network: str, place: int, *, mac: str | None, isolated: bool
) -> dict[str, Any]:
    return {
        "VM": vm,
        "network": network,
        "device": str(place),
        "MAC": mac or "",
        "MTU": "1500",
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        "locking_mode": DISABLED if isolated else DEFAULT,
        "ipv4_allowed": [],
        "ipv6_allowed": [],
    }


# -- what is seen ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What we keep in a VM's other_config besides its tag."""

    spec: str
    disks: tuple[tuple[str, int, DiskBus], ...]
    addresses: tuple[str | None, ...]
    made: bool
    damaged: bool = False


def notes(config: Mapping[str, str]) -> Notes:
    try:
        disks, nics = json.loads(config[DISKS]), json.loads(config[NICS])
        return Notes(
            spec=config[SPEC],
            disks=tuple((str(v), int(size), DiskBus(bus)) for v, size, bus in disks),
            addresses=tuple(nic["address"] for nic in nics),
            made=MADE in config,
        )
    except (ValueError, TypeError, LookupError):
        return Notes(spec="", disks=(), addresses=(), made=False, damaged=True)


def power(vm: Record) -> Power | None:
    if vm.map("current_operations"):
        return None
    state = vm.text("power_state")
    if state == HALTED:
        return Power.OFF
    return Power.ON if state in {RUNNING, PAUSED} else None


def firmware(vm: Record) -> Firmware:
    told = vm.map("HVM_boot_params").get("firmware")
    return Firmware.UEFI if told == "uefi" else Firmware.BIOS


def is_fenced(vm: Record) -> bool:
    blocked = vm.map("blocked_operations")
    return all(blocked.get(operation) == FENCE for operation in STARTS)


def instance_seen(
    vm: Record,
    owner: OwnerTag | None,
    kept: Notes,
    nics: Iterable[tuple[Record, str]],
    why: str = "",
) -> InstanceSeen:
    """`nics` are VIFs with their networks' uuids, in the order of their devices."""
    ready = kept.made and not vm.map("current_operations")
    return InstanceSeen(
        ref=vm.uuid,
        name=vm.text("name_label"),
        state=InstanceState.READY if ready else InstanceState.WORKING,
        power=power(vm),
        epoch=owner.epoch if owner else 0,
        size=Size(cpus=vm.number("VCPUs_max"), memory=vm.number("memory_static_max")),
        disks=tuple(DiskSeen(volume=v, size=size, bus=bus) for v, size, bus in kept.disks),
        nics=tuple(
            NicSeen(
                network=network,
                mac=vif.text("MAC").lower(),
                address=address,
                isolated=vif.text("locking_mode") == DISABLED,
            )
            for (vif, network), address in zip(nics, kept.addresses, strict=False)
        ),
        fenced=is_fenced(vm),
        why=why,
    )
