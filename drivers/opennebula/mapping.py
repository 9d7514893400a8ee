"""What oned's records mean in our nouns, and our wishes in its words. Pure."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address, ip_network
from typing import Protocol, Self
from uuid import UUID

from controlplane.domain.disk import GIB, MIB, DiskBus, DiskFormat
from controlplane.domain.errors import Conflict, Invalid
from controlplane.domain.fence import FenceLevel
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import (
    DiskSeen,
    Firmware,
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Power,
    Size,
)
from controlplane.domain.network import NetworkSeen, NicSeen, Span
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Changes, CreateOrder, Limits

LIMITS = Limits(
    name_length=128,
    disk_step=MIB,
    disk_max=64 * 1024 * GIB,
    disks_max=16,
    nics_max=16,
    formats=frozenset({DiskFormat.RAW, DiskFormat.QCOW2}),
    firmware=frozenset({Firmware.BIOS, Firmware.UEFI}),
    create_order=CreateOrder.DISKS_FIRST,
    settle_seconds=5.0,
    fence_level=FenceLevel.CANNOT_START,
    buses=frozenset({DiskBus.VIRTIO, DiskBus.SCSI, DiskBus.IDE}),
    changes=Changes.TOLD,
)
PENDING, HOLD, ACTIVE, DONE, POWEROFF, UNDEPLOYED = 1, 2, 3, 6, 8, 9
STOPPED, SUSPENDED, CLONING, CLONING_FAILURE = 4, 5, 10, 11
RUNNING = 3
OFF = {HOLD, POWEROFF, UNDEPLOYED}
BACKING_UP = {69, 70}
ENDING = {11, 12, 23}  # epilog, shutdown, cleanup
STOPPING = {18, 29, 30}  # shutdown to be powered off or undeployed, its epilog
FAILURES = {14, *range(36, 43), 44, *range(46, 51), 61}
READY, USED, LOCKED, ERROR, CLONE, DELETE, USED_PERS = 1, 2, 4, 5, 6, 7, 8
_PREFIX = {DiskBus.VIRTIO: "vd", DiskBus.SCSI: "sd", DiskBus.IDE: "hd"}
ADOPTED = "adopted "  # and the artefact: in place of the digest of a wish
NOBODY = OwnerTag(
    artefact=ArtefactId(UUID(int=0)),
    instance=InstanceId(UUID(int=0)),
    operation=OperationId(UUID(int=0)),
    epoch=1,
)
_FORBIDDEN = re.compile(r"[/&\"\x00-\x1f\U00010000-\U0010ffff]")
_ADDRESS = re.compile(r"https?://[^\s'\"<>]+")


class Record(Protocol):
    """As much of a record as is read here."""

    def text(self, path: str, default: str = "") -> str: ...
    def number(self, path: str, default: int | None = None) -> int: ...
    def all(self, path: str) -> Sequence[Self]: ...
    def has(self, path: str) -> bool: ...


# -- templates ---------------------------------------------------------------------------------

Attributes = Mapping[str, "str | Mapping[str, str] | Sequence[Mapping[str, str]]"]


def template(attributes: Attributes) -> str:
    """A template in its XML form, which no quote and no backslash breaks."""
    parts = []
    for key, value in attributes.items():
        if isinstance(value, str):
            parts.append(_leaf(key, value))
            continue
        for vector in [value] if isinstance(value, Mapping) else value:
            inner = "".join(_leaf(k, v) for k, v in vector.items())
            parts.append(f"<{key}>{inner}</{key}>")
    return f"<TEMPLATE>{''.join(parts)}</TEMPLATE>"


def _leaf(key: str, value: str) -> str:
    if "]]>" in value:
        raise Invalid(f"{key} has ']]>' in it, which OpenNebula cannot keep: leave it out")
    return f"<{key}><![CDATA[{value}]]></{key}>"


# -- names and tags ----------------------------------------------------------------------------


def named(name: str) -> str:
    """The name if oned takes it; else Invalid."""
    if not 1 <= len(name) <= LIMITS.name_length:
        raise Invalid(
            f"name {name[:20]!r} has {len(name)} characters; OpenNebula sites take 1 to"
            f" {LIMITS.name_length}: shorten it"
        )
    if _FORBIDDEN.search(name):
        raise Invalid(f"name {name[:40]!r} has a '/', '&', quote or other sign: leave it out")
    return name


def key(owner: OwnerTag) -> str:
    """The name of an image of ours, which no second one of the same user can have."""
    return owner.text().rpartition(".")[0]


def owner_of(text: str) -> OwnerTag | None:
    try:
        return OwnerTag.parse(text)
    except Invalid:
        return None


def rounded(size: int) -> int:
    return -(-size // LIMITS.disk_step) * LIMITS.disk_step


def said(text: str) -> str:
    """The site's own words without the secret addresses of images."""
    return _ADDRESS.sub("(an address)", text).strip()


# -- what we keep in a VM's own template -------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NicNote:
    """A nic as it is to be; an isolated one is not plugged in at all."""

    network: str
    mac: str | None = None
    address: str | None = None
    isolated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PointNote:
    """A backup that was asked for and is not marked as ours yet: when, and which were there.

    Those by image and number; `increment` tells that it was to build on the last of them.
    """

    owner: str
    asked: float
    before: tuple[tuple[int, int], ...] = ()
    increment: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    owner: OwnerTag
    spec: str = ""
    disks: tuple[tuple[str, int, DiskBus], ...] = ()  # volume, bytes, bus
    nics: tuple[NicNote, ...] = ()
    fenced: bool = False
    point: PointNote | None = None
    tracked: bool = False  # increments were our wish
    damaged: bool = False  # by hand: only the owner is to be relied upon

    def attributes(self) -> dict[str, str]:
        return {
            "FEDCTL_OWNER": self.owner.text(),
            "FEDCTL_SPEC": self.spec,
            "FEDCTL_DISKS": json.dumps(self.disks),
            "FEDCTL_NICS": json.dumps([asdict(nic) for nic in self.nics]),
            "FEDCTL_FENCE": "yes" if self.fenced else "no",
            "FEDCTL_POINT": json.dumps(self.point and asdict(self.point)),
            "FEDCTL_TRACKED": "yes" if self.tracked else "no",
        }


def notes(vm: Record) -> Notes | None:
    """Ours, or None: it is somebody else's."""
    owner = owner_of(vm.text("USER_TEMPLATE/FEDCTL_OWNER"))
    if owner is None:
        return None
    try:
        disks = json.loads(vm.text("USER_TEMPLATE/FEDCTL_DISKS", "[]"))
        nics = json.loads(vm.text("USER_TEMPLATE/FEDCTL_NICS", "[]"))
        return Notes(
            owner=owner,
            spec=vm.text("USER_TEMPLATE/FEDCTL_SPEC"),
            disks=tuple((str(v), int(size), DiskBus(bus)) for v, size, bus in disks),
            nics=tuple(NicNote(**nic) for nic in nics),
            fenced=vm.text("USER_TEMPLATE/FEDCTL_FENCE") == "yes",
            point=_point(json.loads(vm.text("USER_TEMPLATE/FEDCTL_POINT", "null"))),
            tracked=vm.text("USER_TEMPLATE/FEDCTL_TRACKED") == "yes",
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        return Notes(owner=owner, damaged=True)


def _point(kept: Mapping[str, object] | None) -> PointNote | None:
    if kept is None:
        return None
    before = kept["before"]
    if not isinstance(before, list):
        raise TypeError("before is no list")
    return PointNote(
        owner=str(kept["owner"]),
        asked=float(str(kept["asked"])),
        before=tuple((int(image), int(number)) for image, number in before),
        increment=kept.get("increment") is True,
    )


# -- a wish as a template ----------------------------------------------------------------------


def spec_digest(spec: InstanceSpec) -> str:
    """What tells two wishes apart; the anchor is not part of the wish."""
    wish = asdict(replace(spec, anchor=None))
    return hashlib.sha256(json.dumps(wish, sort_keys=True).encode()).hexdigest()


def checked(spec: InstanceSpec) -> InstanceSpec:
    """The wish if oned can be asked for it; else Invalid."""
    named(spec.name)
    if spec.size.memory % MIB or spec.size.memory < MIB or spec.size.cpus < 1:
        raise Invalid("memory must be whole MiB, and there must be a cpu: change it")
    if not 1 <= len(spec.disks) <= LIMITS.disks_max or len(spec.nics) > LIMITS.nics_max:
        raise Invalid(
            f"1 to {LIMITS.disks_max} disks and at most {LIMITS.nics_max} nics: change it"
        )
    for place in spec.disks:
        if place.volume is None:
            raise Invalid("volumes are made before the instance here: make them first")
        if place.bus not in _PREFIX:
            raise Invalid(f"OpenNebula names no {place.bus} disks: use virtio, scsi or ide")
    return spec


def creation(
    owner: OwnerTag, spec: InstanceSpec, wishes: Sequence[Mapping[str, str] | None]
) -> str:
    """The template of a VM; `wishes` are its nics in order, None for those not to be plugged."""
    kept = Notes(
        owner=owner,
        spec=spec_digest(spec),
        disks=tuple((p.volume or "", rounded(p.size), p.bus) for p in spec.disks),
        nics=tuple(
            NicNote(network=n.network, mac=n.mac, address=n.address, isolated=n.isolated)
            for n in spec.nics
        ),
    )
    context = {"NETWORK": "YES"}
    if spec.ssh_keys:
        context["SSH_PUBLIC_KEY"] = "\n".join(spec.ssh_keys)
    if spec.user_data:
        context["USERDATA"] = base64.b64encode(spec.user_data.encode()).decode()
        context["USERDATA_ENCODING"] = "base64"
    firmware = {"FIRMWARE": "UEFI"} if spec.firmware is Firmware.UEFI else {}
    wish: dict[str, str | Mapping[str, str] | Sequence[Mapping[str, str]]] = {
        "NAME": spec.name,
        "CPU": str(spec.size.cpus),
        "VCPU": str(spec.size.cpus),
        "MEMORY": str(spec.size.memory // MIB),
        "DISK": [{"IMAGE_ID": p.volume or "", "DEV_PREFIX": _PREFIX[p.bus]} for p in spec.disks],
        "NIC": [wish for wish in wishes if wish is not None],
        "OS": {"BOOT": "disk0", **firmware},
        "CONTEXT": context,
        "GRAPHICS": {"TYPE": "VNC", "LISTEN": "127.0.0.1"},
        **kept.attributes(),
    }
    return template(wish)


def nic_wish(number: int, nic: NicNote, network: Record) -> dict[str, str]:
    """A nic's template: by its MAC, its address, or what the network gives."""
    wish = {"NETWORK_ID": nic.network, "FEDCTL_NIC": str(number)}
    if nic.mac is None and nic.address is None:
        return wish
    ranges = network.all("AR_POOL/AR")
    if nic.mac is not None:
        if any(_has_mac(each, nic.mac) for each in ranges):
            return wish | {"MAC": nic.mac.lower()}
    elif any(_has_address(each, nic.address or "") for each in ranges):
        return wish | {"IP": nic.address or ""}
    elif not any(each.text("IP") for each in ranges):
        return wish  # addresses are the guests' own matter there
    asked = nic.mac or nic.address
    raise Conflict(
        f"network {network.text('NAME')} has no address range with {asked}: have one added"
        " (onevnet addar), or leave the choice to the site"
    )


def _has_mac(each: Record, mac: str) -> bool:
    return 0 <= _mac_number(mac) - _mac_number(each.text("MAC", "0")) < each.number("SIZE", 0)


def _mac_number(mac: str) -> int:
    try:
        return int(mac.replace(":", ""), 16)
    except ValueError as e:
        raise Invalid(f"{mac[:40]!r} is no MAC: write six bytes with ':' between") from e


def _has_address(each: Record, address: str) -> bool:
    first = each.text("IP")
    if not first:
        return False
    try:
        at = int(IPv4Address(address)) - int(IPv4Address(first))
    except ValueError as e:
        raise Invalid(f"{address[:40]!r} is no IPv4 address: write one, or none") from e
    return 0 <= at < each.number("SIZE", 0)


# -- what is seen ------------------------------------------------------------------------------


def plugged(vm: Record, kept: Notes) -> dict[int, Record]:
    """The nics of ours that a VM has now, by their number in the wish.

    One that the VM had when it was adopted is known by its MAC, until it was unplugged once.
    """
    nics = vm.all("TEMPLATE/NIC")
    ours = {nic.number("FEDCTL_NIC"): nic for nic in nics if nic.text("FEDCTL_NIC")}
    if kept.spec.startswith(ADOPTED):
        by_mac = {nic.text("MAC").lower(): nic for nic in nics if not nic.text("FEDCTL_NIC")}
        for number, note in enumerate(kept.nics):
            if number not in ours and note.mac in by_mac:
                ours[number] = by_mac[note.mac]
    return ours


def own_disks(vm: Record) -> list[Record]:
    """A VM's disks that are images, in boot order; CDs aside."""
    disks = vm.all("TEMPLATE/DISK")
    images = [d for d in disks if d.text("IMAGE_ID") and d.text("TYPE").upper() != "CDROM"]
    boot = [each.strip() for each in vm.text("TEMPLATE/OS/BOOT").split(",")]

    def place(disk: Record) -> tuple[int, int]:
        name = f"disk{disk.text('DISK_ID')}"
        return boot.index(name) if name in boot else len(boot), disk.number("DISK_ID")

    return sorted(images, key=place)


def bus_of(disk: Record) -> DiskBus | None:
    """None for one that we have no word for."""
    told = disk.text("DEV_PREFIX") or disk.text("TARGET")[:2]
    return next((bus for bus, prefix in _PREFIX.items() if prefix == told), None)


def firmware(vm: Record) -> Firmware:
    told = vm.text("TEMPLATE/OS/FIRMWARE")
    return Firmware.BIOS if told.upper() in {"", "BIOS"} else Firmware.UEFI


def noted(vm: Record, owner: OwnerTag) -> Notes:
    """What we would have noted of a VM that others made, had we made it."""
    return Notes(
        owner=owner,
        spec=f"{ADOPTED}{owner.artefact.hex}",
        disks=tuple(
            (d.text("IMAGE_ID"), d.number("SIZE", 0) * MIB, bus_of(d) or DiskBus.VIRTIO)
            for d in own_disks(vm)
        ),
        nics=tuple(
            NicNote(
                network=nic.text("NETWORK_ID"),
                mac=nic.text("MAC").lower() or None,
                address=nic.text("IP") or None,
            )
            for nic in vm.all("TEMPLATE/NIC")
        ),
    )


def unsettled(vm: Record, kept: Notes) -> list[int]:
    """The nics that are plugged and should not be, or the other way round."""
    now = plugged(vm, kept)
    return [n for n, nic in enumerate(kept.nics) if (n in now) is nic.isolated]


def power(vm: Record) -> Power | None:
    """Of a VM whose start or end failed nothing runs: it is off, and cannot be started."""
    number, lcm = vm.number("STATE"), vm.number("LCM_STATE")
    if number in OFF or (number == ACTIVE and lcm in FAILURES):
        return Power.OFF
    return Power.ON if (number, lcm) == (ACTIVE, RUNNING) else None


def state(vm: Record) -> InstanceState:
    number, lcm = vm.number("STATE"), vm.number("LCM_STATE")
    if number == CLONING_FAILURE or (number == ACTIVE and lcm in FAILURES):
        return InstanceState.FAILED
    if number in OFF | {SUSPENDED, STOPPED} or (number, lcm) == (ACTIVE, RUNNING):
        return InstanceState.READY
    return InstanceState.WORKING


def is_fenced(vm: Record, kept: Notes) -> bool:
    """Whether a fence of ours stands: its note, and the lock that forbids every use."""
    return kept.fenced and vm.number("LOCK/LOCKED", 0) == 1


def instance_seen(vm: Record, kept: Notes) -> InstanceSeen:
    now, seen = plugged(vm, kept), state(vm)
    if power(vm) is Power.ON and unsettled(vm, kept):
        seen = InstanceState.WORKING  # its nics come one after the other
    held = vm.number("STATE") == HOLD
    why = vm.text("USER_TEMPLATE/ERROR") or vm.text("USER_TEMPLATE/SCHED_MESSAGE")
    return InstanceSeen(
        ref=vm.text("ID"),
        name=vm.text("NAME"),
        state=seen,
        power=power(vm),
        epoch=kept.owner.epoch,
        size=Size(cpus=vm.number("TEMPLATE/VCPU", 1), memory=vm.number("TEMPLATE/MEMORY", 0) * MIB),
        disks=tuple(DiskSeen(volume=v, size=size, bus=bus) for v, size, bus in kept.disks),
        nics=tuple(
            NicSeen(
                network=nic.network,
                mac=(now[n].text("MAC") if n in now else nic.mac or "").lower(),
                address=((now[n].text("IP") if n in now else "") or nic.address) or None,
                isolated=nic.isolated if held else n not in now,
            )
            for n, nic in enumerate(kept.nics)
        ),
        fenced=is_fenced(vm, kept),
        why="" if seen is InstanceState.READY else said(why),
    )


def networks(pool: Record) -> tuple[NetworkSeen, ...]:
    return tuple(
        NetworkSeen(
            ref=net.text("ID"),
            name=net.text("NAME"),
            cidr=_cidr(net),
            macs=tuple(_macs(each) for each in net.all("AR_POOL/AR")),
            addresses=_addresses(net),
        )
        for net in pool.all("VNET")
    )


def _macs(each: Record) -> Span:
    first = _mac_number(each.text("MAC", "0"))
    return Span(first=_mac_text(first), last=_mac_text(first + each.number("SIZE", 1) - 1))


def _mac_text(number: int) -> str:
    return number.to_bytes(6, "big").hex(":")


def _addresses(net: Record) -> tuple[Span, ...] | None:
    """None where the ranges have MACs alone, which leaves addresses to the guests."""
    ranges = [each for each in net.all("AR_POOL/AR") if each.text("IP")]
    firsts = [(IPv4Address(each.text("IP")), each.number("SIZE", 1)) for each in ranges]
    return tuple(Span(first=str(first), last=str(first + size - 1)) for first, size in firsts) or (
        None
    )


def _cidr(net: Record) -> str:
    base, mask = net.text("TEMPLATE/NETWORK_ADDRESS"), net.text("TEMPLATE/NETWORK_MASK")
    try:
        return str(ip_network(f"{base}/{mask}", strict=False)) if base and mask else ""
    except ValueError:
        return ""


def left(quotas: Iterable[Record], name: str) -> int | None:
    """What the first quota leaves; None where it has no bound (-1 default, -2 unlimited)."""
    quota = next(iter(quotas), None)
    limit = -1 if quota is None else quota.number(name, -1)
    if quota is None or limit < 0:
        return None
    return max(limit - quota.number(f"{name}_USED", 0), 0)
