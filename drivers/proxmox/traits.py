"""What a VM's configuration holds that another site cannot give it. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from controlplane.domain.instance import Trait, Traits, TraitSeen
from drivers.proxmox.mapping import Config, disks, properties

_DRIVE = re.compile(r"(virtio|scsi|sata|ide)\d+")
_DEVICE = re.compile(r"(hostpci|usb|parallel|serial)\d+")
_UNUSED = re.compile(r"unused\d+")
_SOCKETS = {"socket", "spice"}
_SET = {
    "protection": Trait.PROTECTED,
    "arch": Trait.MACHINE,
    **dict.fromkeys(("affinity", "args", "cpuunits", "hugepages", "numa"), Trait.PLACEMENT),
}
_UNSET = {"", "0"}
_PLAIN = {"arch": {"x86_64"}}
_WORDS = {
    Trait.PROTECTED: "protection={value}",
    Trait.TPM: "a vTPM ({key})",
    Trait.SECURE_BOOT: "efidisk0 with pre-enrolled keys",
    Trait.MACHINE: "the architecture {value}",
}
# Of a disk that two VMs name, neither one's configuration says so.
_LOOKED = frozenset(Trait) - {Trait.SHARED_DISK}


def traits(config: Config, snapshots: Iterable[Mapping[str, object]]) -> Traits:
    """`snapshots` are the VM's own listing; ours are named `fedctl...`."""
    return Traits(looked=_LOOKED, found=(*_configured(config), *_taken(snapshots)))


def _configured(config: Config) -> Iterator[TraitSeen]:
    for key in sorted(config):
        value = str(config[key])
        if _DRIVE.fullmatch(key):
            yield from _of_drive(key, properties(value, first="file"))
        elif (trait := _trait(key, value)) is not None:
            words = _WORDS.get(trait, "{key}: {value}").format(key=key, value=value)
            yield TraitSeen(trait=trait, words=words)


def _trait(key: str, value: str) -> Trait | None:
    """What a line of the configuration that is no drive stands for."""
    if _DEVICE.fullmatch(key):
        plugged = properties(value, first="host").get("host") not in _SOCKETS
        return Trait.DEVICE if plugged else None
    if key.startswith("tpmstate"):
        return Trait.TPM
    if key == "efidisk0":
        enrolled = properties(value, first="file").get("pre-enrolled-keys") == "1"
        return Trait.SECURE_BOOT if enrolled else None
    if _UNUSED.fullmatch(key):
        return Trait.DETACHED_DISK
    return _SET[key] if key in _SET and value not in _PLAIN.get(key, _UNSET) else None


def _of_drive(key: str, drive: Mapping[str, str]) -> Iterator[TraitSeen]:
    place = drive.get("file", "")
    if drive.get("media") == "cdrom":
        if place != "none" and "cloudinit" not in place:
            yield TraitSeen(trait=Trait.DISC, words=f"{key}: {place}")
    elif drive.get("ro") == "1":
        yield TraitSeen(trait=Trait.READ_ONLY_DISK, words=f"{key}, which is read-only")
    if place.startswith("/dev/"):
        yield TraitSeen(trait=Trait.RAW_DISK, words=f"{key} is the node's {place}")


def of_volumes(config: Config, shared: Collection[str]) -> Iterator[TraitSeen]:
    """Of a VM that others made; `shared` are the volumes that several VMs have."""
    for slot, disk in disks(config):
        if disk.volume in shared:
            words = f"{slot}, which another VM has as well"
            yield TraitSeen(trait=Trait.SHARED_DISK, words=words)
        elif not disk.size:
            yield TraitSeen(trait=Trait.HIDDEN_DISK, words=f"{slot}, whose size is not told")


def _taken(snapshots: Iterable[Mapping[str, object]]) -> Iterator[TraitSeen]:
    names = [str(each.get("name")) for each in snapshots]
    if others := [n for n in names if n != "current" and not n.startswith("fedctl")]:
        yield TraitSeen(trait=Trait.SNAPSHOTS, words=f"snapshots {', '.join(others)}")
