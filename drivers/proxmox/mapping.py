"""What Proxmox VE's payloads mean in our nouns, and our wishes in its words. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from ipaddress import ip_network
from urllib.parse import quote

from controlplane.domain.disk import GIB, KIB, MIB, DiskBus, DiskFormat
from controlplane.domain.errors import Invalid
from controlplane.domain.fence import FenceLevel
from controlplane.domain.instance import (
    DiskPlace,
    DiskSeen,
    Firmware,
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Power,
    Size,
)
from controlplane.domain.network import NetworkSeen, NicSeen, NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Changes, CreateOrder, Limits
from drivers.proxmox import marks

Config = Mapping[str, object]

LOCK = "migrate"  # what a fence sets: it says to an administrator that the VM went elsewhere
LIMITS = Limits(
    name_length=63,
    disk_step=MIB,
    disk_max=128 * 1024 * GIB,
    disks_max=16,
    nics_max=32,
    # Its QEMU has been reading zstd clusters since before the oldest version that we speak to.
    formats=frozenset({DiskFormat.RAW, DiskFormat.QCOW2, DiskFormat.QCOW2_ZSTD}),
    firmware=frozenset({Firmware.BIOS, Firmware.UEFI}),
    create_order=CreateOrder.INSTANCE_FIRST,
    settle_seconds=15.0,
    fence_level=FenceLevel.CANNOT_START,
    changes=Changes.WHILE_ALIVE,
)
_PER_BUS = {DiskBus.VIRTIO: 16, DiskBus.SCSI: 31, DiskBus.SATA: 6, DiskBus.IDE: 2}
_SLOT = re.compile(r"(virtio|scsi|sata|ide)\d+")
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}


# -- property strings --------------------------------------------------------------------------


def properties(value: object, *, first: str = "") -> dict[str, str]:
    """`a,b=c` -> {first: a, b: c}."""
    out = {}
    for part in str(value).split(","):
        key, equals, text = part.partition("=")
        out[key if equals else first] = text if equals else key
    return out


def size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    return int(match[1]) * _UNITS[match[2]] if match else 0


def gibibytes(size: int) -> str:
    """A size for `STORAGE:n`, exact to the MiB."""
    return f"{size / GIB:.10f}".rstrip("0").rstrip(".")


def nic_link(value: object, *, down: bool) -> str:
    """The nic's value with its link unplugged or plugged."""
    parts = [part for part in str(value).split(",") if not part.startswith("link_down=")]
    return ",".join([*parts, "link_down=1"] if down else parts)


def nics(config: Config) -> dict[str, str]:
    """The nics of a configuration by key, in their order."""
    keys = sorted((key for key in config if re.fullmatch(r"net\d+", key)), key=lambda k: int(k[3:]))
    return {key: str(config[key]) for key in keys}


# -- a wish as parameters ----------------------------------------------------------------------


def spec_digest(spec: InstanceSpec) -> str:
    """What tells two wishes apart; the anchor is not part of the wish."""
    wish = asdict(replace(spec, anchor=None))
    return hashlib.sha256(json.dumps(wish, sort_keys=True).encode()).hexdigest()


def creation(
    owner: OwnerTag,
    spec: InstanceSpec,
    *,
    storage: str,
    image_sizes: Mapping[str, int],
    networks: Iterable[NetworkSeen],
) -> dict[str, str | int]:
    """The parameters of POST /nodes/{node}/qemu, without the vmid."""
    cidrs = {network.ref: network.cidr for network in networks}
    slots = disk_slots(spec.disks)
    grow = tuple(
        (slot, place.size)
        for slot, place in slots
        if place.image is not None and image_sizes[place.image] < place.size
    )
    notes = marks.Notes(owner=owner, spec=spec_digest(spec), grow=grow)
    out: dict[str, str | int] = {
        "name": spec.name,
        "memory": spec.size.memory // MIB,
        "cores": spec.size.cpus,
        "ostype": "l26",
        "scsihw": "virtio-scsi-single",
        "agent": "enabled=1",
        "onboot": 0,
        "tags": owner.text(),
        "description": marks.write_notes(notes),
        "boot": "order=" + ";".join(slot for slot, _ in slots),
    }
    for slot, place in slots:
        out[slot] = _drive(place, storage)
    if spec.firmware is Firmware.UEFI:
        target = spec.disks[0].storage or storage if spec.disks else storage
        out |= {"bios": "ovmf", "efidisk0": f"{target}:1,efitype=4m,pre-enrolled-keys=0"}
    for number, nic in enumerate(spec.nics):
        out[f"net{number}"] = _nic(nic)
        if nic.address is not None:
            out[f"ipconfig{number}"] = _address(nic.address, cidrs.get(nic.network, ""))
    if spec.ssh_keys or spec.user_data:
        out["ide2"] = f"{storage}:cloudinit"
    if spec.ssh_keys:
        out["sshkeys"] = quote("\n".join(spec.ssh_keys), safe="")
    return out


def vendor_data(keys: tuple[str, ...]) -> str:
    """Cloud-init data that lets the keys in, beside user data of somebody's own."""
    return "#cloud-config\n" + json.dumps({"ssh_authorized_keys": list(keys)}) + "\n"


def disk_slots(disks: tuple[DiskPlace, ...]) -> tuple[tuple[str, DiskPlace], ...]:
    """Each disk with the slot of its bus, in boot order; Invalid when a bus is full."""
    used = dict.fromkeys(DiskBus, 0)
    out = []
    for place in disks:
        if used[place.bus] >= _PER_BUS[place.bus]:
            raise Invalid(
                f"more than {_PER_BUS[place.bus]} disks on bus {place.bus}: use another bus"
            )
        out.append((f"{place.bus}{used[place.bus]}", place))
        used[place.bus] += 1
    return tuple(out)


def checked(spec: InstanceSpec) -> InstanceSpec:
    """The wish if Proxmox VE can be asked for it; else Invalid."""
    named(spec.name)
    if spec.size.memory % MIB or spec.size.memory < 16 * MIB or spec.size.cpus < 1:
        raise Invalid("memory must be whole MiB, 16 or more, and there must be a cpu: change it")
    if len(spec.disks) > LIMITS.disks_max or len(spec.nics) > LIMITS.nics_max:
        raise Invalid(f"at most {LIMITS.disks_max} disks and {LIMITS.nics_max} nics: take fewer")
    for place in spec.disks:
        if place.volume is not None:
            raise Invalid("volumes are made with the instance here: name an image, or none")
        if not 0 < place.size <= LIMITS.disk_max:
            raise Invalid(f"a disk of {place.size} bytes cannot be: 1 to {LIMITS.disk_max}")
    return spec


def named(name: str) -> str:
    """The name if Proxmox VE takes it; else Invalid."""
    if not 1 <= len(name) <= LIMITS.name_length:
        raise Invalid(
            f"name {name[:20]!r} has {len(name)} characters; Proxmox VE sites take 1 to"
            f" {LIMITS.name_length}: shorten it"
        )
    if not _NAME.fullmatch(name):
        raise Invalid(f"name {name!r} is no DNS name: use letters, digits, '-' and '.'")
    return name


def rounded(size: int) -> int:
    return -(-size // LIMITS.disk_step) * LIMITS.disk_step


def _drive(place: DiskPlace, storage: str) -> str:
    target = place.storage or storage
    discard = ",discard=on" if place.bus in {DiskBus.SCSI, DiskBus.VIRTIO} else ""
    if place.image is not None:
        return f"{target}:0,import-from={place.image}{discard}"
    return f"{target}:{gibibytes(rounded(place.size))}{discard}"


def _nic(nic: NicSpec) -> str:
    mac = f"={nic.mac.upper()}" if nic.mac else ""
    return f"virtio{mac},bridge={nic.network}" + (",link_down=1" if nic.isolated else "")


def _address(address: str, cidr: str) -> str:
    prefix = ip_network(cidr, strict=False).prefixlen if cidr else 24
    return f"ip={address}/{prefix}"


# -- what is seen ------------------------------------------------------------------------------


def disks(config: Config) -> tuple[tuple[str, DiskSeen], ...]:
    """The disks by slot, those of the boot order first."""
    found = {}
    for key, value in config.items():
        drive = properties(value, first="file") if _SLOT.fullmatch(key) else {}
        if drive and drive.get("media") != "cdrom" and drive.get("file", "none") != "none":
            bus = DiskBus(re.sub(r"\d", "", key))
            size = size_bytes(drive.get("size", ""))
            found[key] = DiskSeen(volume=drive["file"], size=size, bus=bus)
    order = properties(config.get("boot", ""), first="legacy").get("order", "").split(";")
    slots = [slot for slot in order if slot in found]
    slots += sorted(slot for slot in found if slot not in slots)
    return tuple((slot, found[slot]) for slot in slots)


def instance_seen(vmid: int, config: Config, status: Mapping[str, object]) -> InstanceSeen:
    """A VM of ours from its configuration and its current status."""
    owner, notes = marks.owner_of(config.get("tags")), marks.read_notes(config.get("description"))
    shown = str(status.get("status", ""))
    power = {"running": Power.ON, "stopped": Power.OFF}.get(shown)
    busy = config.get("lock") not in {None, "", LOCK}
    return InstanceSeen(
        ref=str(vmid),
        name=str(config.get("name", "")),
        state=InstanceState.WORKING if busy else InstanceState.READY,
        power=power,
        epoch=owner.epoch if owner else 0,
        size=Size(
            cpus=_number(config.get("cores", 1)) * _number(config.get("sockets", 1)),
            memory=_number(properties(config.get("memory", 512), first="current")["current"]) * MIB,
        ),
        disks=tuple(disk for _, disk in disks(config)),
        nics=tuple(nic_seen(key, value, config) for key, value in nics(config).items()),
        fenced=is_fenced(config, notes),
        why=f"VM is locked ({config.get('lock')})" if busy else "",
    )


def firmware(config: Config) -> Firmware:
    return Firmware.UEFI if config.get("bios") == "ovmf" else Firmware.BIOS


def nic_seen(key: str, value: str, config: Config) -> NicSeen:
    nic = properties(value, first="model")
    mac = next((nic[m] for m in ("virtio", "e1000", "vmxnet3", "rtl8139") if m in nic), "")
    addressed = properties(config.get(f"ipconfig{key[3:]}", ""), first="_")
    address = addressed.get("ip", "").partition("/")[0]
    return NicSeen(
        network=nic.get("bridge", ""),
        mac=(nic.get("macaddr") or mac).lower(),
        address=address if address not in {"", "dhcp"} else None,
        isolated=nic.get("link_down") == "1",
    )


def is_fenced(config: Config, notes: marks.Notes) -> bool:
    """Whether a fence of ours stands: its note and what makes it true."""
    if notes.fence is None or _number(config.get("onboot", 0)):
        return False
    if notes.fence.level is FenceLevel.CANNOT_START:
        return config.get("lock") == LOCK
    return all("link_down=1" in value for value in nics(config).values())


def networks(listing: Iterable[Mapping[str, object]]) -> tuple[NetworkSeen, ...]:
    return tuple(
        NetworkSeen(
            ref=str(bridge["iface"]), name=str(bridge["iface"]), cidr=_network(bridge.get("cidr"))
        )
        for bridge in listing
    )


def _network(cidr: object) -> str:
    """`10.0.4.1/24`, the bridge's own address, as the network it is in."""
    return str(ip_network(str(cidr), strict=False)) if cidr else ""


def _number(value: object) -> int:
    return int(str(value))
