"""What a VM's records hold that another site cannot give it. Pure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from controlplane.domain.instance import Trait, Traits, TraitSeen
from drivers.xcpng.client import NULL, Record
from drivers.xcpng.mapping import FENCE, STARTS

_DEVICES = {"attached_PCIs": "PCI devices", "VGPUs": "vGPUs", "VUSBs": "USB devices"}
_ENDS = ("destroy", "clean_shutdown", "hard_shutdown", "shutdown")


def traits(
    vm: Record,
    disks: Iterable[Record],
    snapshots: Iterable[Record],
    storages: Mapping[str, Record],
) -> Traits:
    """`disks` are its VDIs, `snapshots` those of it that are not ours, `storages` SRs by ref."""
    found = [
        *_of_vm(vm),
        *_of_devices(vm),
        *(each for disk in disks for each in _of_disk(disk, storages)),
    ]
    names = [snapshot.text("name_label") for snapshot in snapshots]
    if names:
        found.append(TraitSeen(trait=Trait.SNAPSHOTS, words=f"snapshots {', '.join(names)}"))
    return Traits(looked=frozenset(Trait), found=tuple(found))


def of_drives(
    drives: Iterable[tuple[Record, Record | None]], users: Callable[[str], Collection[Record]]
) -> Iterator[TraitSeen]:
    """`drives` are its VBDs, each with its VDI; `users` tells the VMs that have one."""
    for vbd, vdi in drives:
        place = f"disk {vbd.text('userdevice')}"
        if vbd.text("type") == "CD":
            if not vbd.flag("empty"):
                yield TraitSeen(trait=Trait.DISC, words=f"a CD in drive {vbd.text('userdevice')}")
        elif vdi is None:
            yield TraitSeen(trait=Trait.HIDDEN_DISK, words=f"{place}, which is not told")
        elif len(users(vdi.ref)) > 1:
            words = f"{place}, which another VM has as well"
            yield TraitSeen(trait=Trait.SHARED_DISK, words=words)
        elif vbd.text("mode") != "RW":
            yield TraitSeen(trait=Trait.READ_ONLY_DISK, words=f"{place}, which is read-only")


def _of_vm(vm: Record) -> Iterator[TraitSeen]:
    blocked = vm.map("blocked_operations")
    held = [name for name in STARTS if blocked.get(name, FENCE) != FENCE]
    kept = [name for name in _ENDS if name in blocked]
    if held:
        yield TraitSeen(trait=Trait.LOCKED, words=f"blocked operations: {', '.join(held)}")
    if kept:
        yield TraitSeen(trait=Trait.PROTECTED, words=f"blocked operations: {', '.join(kept)}")
    if not vm.text("HVM_boot_policy"):
        yield TraitSeen(trait=Trait.MACHINE, words="paravirtualisation: it boots on Xen alone")
    if vm.lists("VTPMs") or vm.map("platform").get("vtpm") == "true":
        yield TraitSeen(trait=Trait.TPM, words="a vTPM")
    if vm.map("platform").get("secureboot", "false") not in {"false", ""}:
        words = f"secureboot={vm.map('platform')['secureboot']}"
        yield TraitSeen(trait=Trait.SECURE_BOOT, words=words)
    if vm.text("affinity") not in {NULL, ""}:
        yield TraitSeen(trait=Trait.PLACEMENT, words="a host of its own (affinity)")
    for key, value in sorted(vm.map("VCPUs_params").items()):
        yield TraitSeen(trait=Trait.PLACEMENT, words=f"VCPUs_params {key}={value}")


def _of_devices(vm: Record) -> Iterator[TraitSeen]:
    if "pci" in vm.map("other_config"):
        yield TraitSeen(trait=Trait.DEVICE, words=f"PCI {vm.map('other_config')['pci']}")
    for field, name in _DEVICES.items():
        if vm.lists(field):
            yield TraitSeen(trait=Trait.DEVICE, words=name)


def _of_disk(disk: Record, storages: Mapping[str, Record]) -> Iterator[TraitSeen]:
    name = disk.text("name_label") or disk.uuid
    if disk.flag("sharable"):
        yield TraitSeen(trait=Trait.SHARED_DISK, words=f"disk {name}, which is sharable")
    storage = storages.get(disk.text("SR"))
    if storage is not None and storage.text("type") in {"udev", "rawhba", "iscsi"}:
        words = f"disk {name}, which is a device ({storage.text('type')})"
        yield TraitSeen(trait=Trait.RAW_DISK, words=words)
