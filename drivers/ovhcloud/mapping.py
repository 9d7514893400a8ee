"""What the API's answers mean in our nouns, and our wishes in its words. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from controlplane.domain.disk import (
    GIB,
    MIB,
    SECTOR,
    DiskBus,
    DiskFormat,
    ImageSource,
)
from controlplane.domain.errors import Invalid, Unsupported
from controlplane.domain.fence import FenceLevel
from controlplane.domain.instance import Firmware, InstanceSpec, Size, Trait, Traits, TraitSeen
from controlplane.domain.network import NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import CreateOrder, Limits, Sku

LIMITS = Limits(
    name_length=63,
    disk_step=SECTOR,
    disk_max=64 * 1024 * GIB,
    disks_max=1,
    nics_max=8,
    formats=frozenset({DiskFormat.RAW, DiskFormat.QCOW2}),
    firmware=frozenset({Firmware.BIOS, Firmware.UEFI}),
    create_order=CreateOrder.INSTANCE_FIRST,
    settle_seconds=60.0,
    fence_level=FenceLevel.ISOLATED,
    buses=frozenset(),
    user_data=False,
    ssh_keys=False,
)
_TOLD = frozenset(
    {
        *(Trait.LOCKED, Trait.PROTECTED, Trait.SNAPSHOTS),
        *(Trait.SHARED_DISK, Trait.EPHEMERAL_DISK, Trait.PLACEMENT),
    }
)
PUBLIC = "public"
HARDDISK, RESCUE, INSTALL = "harddisk", "rescue", "install"
OPEN = {"init", "todo", "doing"}
FAILED = {"customerError", "ovhError"}
BYOI = "byoi_64"
_RESERVED = 3 * GIB  # what an installation needs of the memory beside the image
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_VALUE = re.compile(r"[A-Za-z0-9 _.:/=+@-]{1,256}")
_UNITS = {"B": 1, "KB": 1 << 10, "MB": MIB, "GB": GIB, "TB": 1 << 40}
_ADDRESS = re.compile(r"https?://[^\s'\"<>]+")


# -- what we keep in a server's tags -----------------------------------------------------------

OWNER, IMAGE, SPEC, NAME, SIZE, DISK = "owner", "image", "spec", "name", "size", "disk"
BOOT, HOST, FENCE, LEAVING, SUM = "boot", "host", "fence", "leaving", "sum"
EXPORT, NIC, FETCH = "export", "nic", "fetch"
POOL = "pool"  # the customer's own: the server may be claimed, and is wiped then
_MAY = "yes"
_PREFIX = "fedctl-"
_CLAIM = "claim-"
_CLAIM_SECONDS = 600  # what became of one that was announced so long ago is known
_BEFORE_OWNER = (LEAVING, OWNER, IMAGE)  # what goes last when a server is given back


@dataclass(frozen=True, slots=True, kw_only=True)
class NicNote:
    """A nic as it is to be: on a vRack, or an additional address of the public network."""

    network: str
    address: str | None = None
    isolated: bool = False

    def text(self) -> str:
        return f"{self.network} {self.address or '-'} {'isolated' if self.isolated else 'on'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What we had a server boot last, and the task that did it."""

    mode: str
    task: int

    def text(self) -> str:
        return f"{self.mode}.{self.task}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Everything of ours on a server, by our own short keys."""

    tags: Mapping[str, str]

    def get(self, key: str) -> str:
        return self.tags.get(key, "")

    @property
    def nobodys(self) -> bool:
        """Nothing of ours is on it; somebody else's may be."""
        return not (self.get(OWNER) or self.get(IMAGE))  # which goes after the wiping

    @property
    def free(self) -> bool:
        """It may be claimed and wiped, because the customer said so: silence is no consent."""
        return self.nobodys and self.get(POOL) == _MAY

    def claims(self, now: float) -> set[str]:
        """Those that were announced lately; `now` in seconds of the clock."""
        return {
            key
            for key, value in self.tags.items()
            if key.startswith(_CLAIM) and value.isdecimal() and now - int(value) < _CLAIM_SECONDS
        }

    @property
    def leftovers(self) -> list[str]:
        """What does not belong on a free server."""
        return [key for key in self.tags if key != POOL and not key.startswith(_CLAIM)]

    @property
    def owner(self) -> OwnerTag | None:
        return owner_of(self.get(OWNER))

    @property
    def image(self) -> OwnerTag | None:
        return owner_of(self.get(IMAGE))

    @property
    def export(self) -> OwnerTag | None:
        return owner_of(self.get(EXPORT))

    @property
    def fenced(self) -> bool:
        return self.get(FENCE) == "yes"

    @property
    def boot(self) -> Boot | None:
        mode, _, task = self.get(BOOT).partition(".")
        return Boot(mode=mode, task=int(task)) if task.isdecimal() else None

    @property
    def size(self) -> Size:
        cpus, _, memory = self.get(SIZE).partition(".")
        known = cpus.isdecimal() and memory.isdecimal()
        return Size(cpus=int(cpus), memory=int(memory)) if known else Size(cpus=1, memory=MIB)

    @property
    def disk(self) -> int:
        """Bytes of the first disk, 0 until rescue told."""
        return int(self.get(DISK)) if self.get(DISK).isdecimal() else 0

    @property
    def nics(self) -> tuple[NicNote, ...]:
        found = []
        for number in range(LIMITS.nics_max):
            words = self.get(f"{NIC}-{number}").split(" ")
            if len(words) == 3:  # noqa: PLR2004  # the words of text()
                address = None if words[1] == "-" else words[1]
                found.append(
                    NicNote(network=words[0], address=address, isolated=words[2] == "isolated")
                )
        return tuple(found)


def notes(tags: Mapping[str, Any] | None) -> Notes:
    ours = {
        key.removeprefix(_PREFIX): str(value)
        for key, value in (tags or {}).items()
        if key.startswith(_PREFIX)
    }
    return Notes(tags=ours)


def claim(owner: OwnerTag) -> str:
    """The key of the tag that announces a claim."""
    return f"{_CLAIM}{owner.artefact.hex}"


def tag_key(key: str) -> str:
    return f"{_PREFIX}{key}"


def tag_value(key: str, value: str) -> str:
    """The value if a tag can hold it; else Invalid."""
    if not _VALUE.fullmatch(value):
        raise Invalid(f"the {key} {value[:40]!r} does not fit into a tag: shorten or change it")
    return value


def last_first(keys: Iterable[str]) -> list[str]:
    """Our keys in the order in which they may go: what says whose it is goes last."""
    rest = [key for key in keys if key not in {*_BEFORE_OWNER, POOL}]
    return [*sorted(rest), IMAGE, OWNER, LEAVING]


def owner_of(text: str) -> OwnerTag | None:
    try:
        return OwnerTag.parse(text)
    except Invalid:
        return None


def said(text: str) -> str:
    """The site's own words without the secret addresses of images."""
    return _ADDRESS.sub("(an address)", text).strip()


# -- wishes ------------------------------------------------------------------------------------


def named(name: str) -> str:
    """The name if a server can be called so; else Invalid."""
    if len(name) > LIMITS.name_length or not _NAME.fullmatch(name):
        raise Invalid(
            f"name {name[:20]!r} is no host name of 1 to {LIMITS.name_length} letters, digits and"
            " hyphens: change it"
        )
    return name


def checked(spec: InstanceSpec) -> InstanceSpec:
    """The wish if a server can be asked for it; else Invalid."""
    named(spec.name)
    if len(spec.disks) != 1 or len(spec.nics) > LIMITS.nics_max:
        raise Invalid(f"a server has one disk here and up to {LIMITS.nics_max} nics: change it")
    if spec.disks[0].volume is not None:
        raise Invalid("a server comes with its disk: name an image, or none")
    for nic in spec.nics:
        _checked_nic(nic)
    return spec


def _checked_nic(nic: NicSpec) -> None:
    if nic.network == PUBLIC and nic.address is None:
        raise Invalid("a nic on the public network is an additional address here: name the address")
    tag_value("network", f"{nic.network} {nic.address or '-'} isolated")


def spec_digest(spec: InstanceSpec) -> str:
    """What tells two wishes apart; the anchor is not part of the wish."""
    wish = asdict(replace(spec, anchor=None))
    return hashlib.sha256(json.dumps(wish, sort_keys=True).encode()).hexdigest()


def image_sum(source: ImageSource) -> str:
    return f"{source.sha256}.{source.length}.{source.size}.{source.format}"


def nic_note(nic: NicSpec) -> NicNote:
    return NicNote(network=nic.network, address=nic.address, isolated=nic.isolated)


def traits(server: Mapping[str, Any]) -> Traits:
    """What a server's record tells; snapshots and such are nowhere on hardware."""
    found = []
    if (state := str(server.get("state") or "ok")) != "ok":
        found.append(TraitSeen(trait=Trait.LOCKED, words=f"the state {state} at OVHcloud"))
    if server.get("noIntervention"):
        words = "noIntervention: nobody may work on it in the data centre"
        found.append(TraitSeen(trait=Trait.PLACEMENT, words=words))
    return Traits(looked=_TOLD, found=tuple(found))


def block(address: str) -> str:
    """An address as the block of one that the API names it by."""
    return address if "/" in address else f"{address}/32"


def reinstall(source: ImageSource, *, loader: str | None) -> dict[str, Any]:
    """The wish for a BYOI installation of exactly the image: no name, no keys, no config drive."""
    custom: dict[str, Any] = {
        "imageURL": source.url,
        "imageType": str(source.format),
        "imageCheckSum": source.sha256,
        "imageCheckSumType": "sha256",
    }
    if loader is not None:
        custom["efiBootloaderPath"] = loader
    return {"operatingSystem": BYOI, "customizations": custom}


# -- tasks and hardware ------------------------------------------------------------------------


def failed(task: Mapping[str, Any], *, since: Boot) -> bool:
    """Whether it is this boot's task, or a later one, that failed; older ones stay listed."""
    number = task.get("taskId")
    return task.get("status") in FAILED and isinstance(number, int) and number >= since.task


def ended_lately(task: Mapping[str, Any] | None, now: datetime) -> bool:
    """Whether what is told of a server's power may still be from before this task."""
    try:
        ended = datetime.fromisoformat(str(task and task.get("doneDate")))
        return (now - ended).total_seconds() < LIMITS.settle_seconds
    except (ValueError, TypeError):
        return False


def amount(told: Any) -> int:  # noqa: ANN401  # a unit and a value, or nothing
    """Bytes of the API's unit and value."""
    unit = str(told["unit"]).upper()
    if unit not in _UNITS:
        raise ValueError(f"the unit {unit[:8]!r} is not known")
    return int(told["value"]) * _UNITS[unit]


def sku(server: Mapping[str, Any], hardware: Mapping[str, Any]) -> Sku:
    """One kind of server; its name is the commercial range's."""
    each, processors = hardware["threadsPerProcessor"], hardware["numberOfProcessors"]
    threads = int(each or 1) * int(processors or 1)
    name = re.sub(r"[^a-z0-9]+", "-", str(server.get("commercialRange") or "server").lower())
    return Sku(
        name=name.strip("-") or "server",
        size=Size(cpus=threads, memory=amount(hardware["memorySize"])),
        disk=room(hardware) or None,
    )


def room(hardware: Mapping[str, Any]) -> int:
    """Bytes of the largest kind of disk, 0 where none is told."""
    groups = hardware["diskGroups"] or []
    return max((amount(each["diskSize"]) for each in groups), default=0)


def fits(length: int, memory: int) -> bool:
    """Whether an installation can hold an image of `length` bytes in its memory."""
    return length < memory - _RESERVED


def boots(mode: str, firmware: Firmware) -> None:
    """Unsupported when a server's boot mode cannot boot it."""
    if firmware is Firmware.UEFI and mode == "legacy":
        raise Unsupported("the servers boot by BIOS only: choose another site or image")
    if firmware is Firmware.BIOS and mode == "uefi":
        raise Unsupported("the servers boot by UEFI only: choose another site or image")


BUS = DiskBus.SATA
