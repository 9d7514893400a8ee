"""What a VM's template holds that another site cannot give it. Pure."""

from collections.abc import Collection, Iterator, Mapping

from controlplane.domain.instance import Trait, Traits, TraitSeen
from drivers.opennebula import mapping
from drivers.opennebula.client import Record

_PLACED = (
    "TEMPLATE/TOPOLOGY",
    "TEMPLATE/NUMA_NODE",
    "TEMPLATE/SCHED_REQUIREMENTS",
    "TEMPLATE/RAW",
)
_REQUIRED = "USER_TEMPLATE/SCHED_REQUIREMENTS"
_ARCHITECTURES = {"", "x86_64"}


def traits(vm: Record, *, fenced: bool) -> Traits:
    """A lock is what protects a VM here; `fenced`: this one is ours."""
    found = (*_of_vm(vm, fenced=fenced), *_of_disks(vm), *_of_firmware(vm))
    return Traits(looked=frozenset(Trait), found=found)


def of_images(
    vm: Record, images: Mapping[str, Record], shared: Collection[str]
) -> Iterator[TraitSeen]:
    """Of a VM that others made; `shared` are the images that several VMs have."""
    for disk in mapping.own_disks(vm):
        number = disk.text("IMAGE_ID")
        if (image := images.get(number)) is None:
            words = f"image {number}, which this user may not see"
            yield TraitSeen(trait=Trait.HIDDEN_DISK, words=words)
        elif not image.number("PERSISTENT", 0):
            words = f"a disk of image {number}, which is not persistent: it goes with the VM"
            yield TraitSeen(trait=Trait.EPHEMERAL_DISK, words=words)
        elif number in shared:
            words = f"image {number}, which another VM has as well"
            yield TraitSeen(trait=Trait.SHARED_DISK, words=words)


def _of_vm(vm: Record, *, fenced: bool) -> Iterator[TraitSeen]:
    if vm.has("LOCK/LOCKED") and not fenced:
        yield TraitSeen(trait=Trait.LOCKED, words=f"a lock of level {vm.text('LOCK/LOCKED')}")
    for device in vm.all("TEMPLATE/PCI"):
        address = device.text("SHORT_ADDRESS") or device.text("ADDRESS")
        yield TraitSeen(trait=Trait.DEVICE, words=f"PCI device {address}")
    if vm.text("TEMPLATE/OS/ARCH") not in _ARCHITECTURES:
        words = f"the architecture {vm.text('TEMPLATE/OS/ARCH')}"
        yield TraitSeen(trait=Trait.MACHINE, words=words)
    for path in (*_PLACED, _REQUIRED):
        if vm.has(path):
            yield TraitSeen(trait=Trait.PLACEMENT, words=path.partition("/")[2])
    taken = len(vm.all("TEMPLATE/SNAPSHOT")) + len(vm.all("SNAPSHOTS/SNAPSHOT"))
    if taken:
        yield TraitSeen(trait=Trait.SNAPSHOTS, words=f"{taken} snapshots")


def _of_disks(vm: Record) -> Iterator[TraitSeen]:
    for disk in vm.all("TEMPLATE/DISK"):
        number = f"disk {disk.text('DISK_ID')}"
        kind = disk.text("TYPE").lower()
        if kind == "cdrom":
            yield TraitSeen(trait=Trait.DISC, words=f"a CD in {number}")
        elif kind == "swap" and not disk.text("IMAGE_ID"):
            yield TraitSeen(trait=Trait.SWAP_DISK, words=f"{number}, which is volatile swap")
        elif kind == "fs" and not disk.text("IMAGE_ID"):
            words = f"{number}, which is volatile"
            yield TraitSeen(trait=Trait.EPHEMERAL_DISK, words=words)
        if disk.text("READONLY").upper() == "YES" and kind != "cdrom":
            yield TraitSeen(trait=Trait.READ_ONLY_DISK, words=f"{number}, which is read-only")
        if disk.text("SHAREABLE").upper() == "YES":
            yield TraitSeen(trait=Trait.SHARED_DISK, words=f"{number}, which is shareable")
        if disk.text("SOURCE").startswith("/dev/"):
            words = f"{number}, which is the host's {disk.text('SOURCE')}"
            yield TraitSeen(trait=Trait.RAW_DISK, words=words)


def _of_firmware(vm: Record) -> Iterator[TraitSeen]:
    if vm.has("TEMPLATE/TPM"):
        yield TraitSeen(trait=Trait.TPM, words=f"a vTPM ({vm.text('TEMPLATE/TPM/MODEL')})")
    if vm.text("TEMPLATE/OS/FIRMWARE_SECURE").upper() == "YES":
        yield TraitSeen(trait=Trait.SECURE_BOOT, words="FIRMWARE_SECURE=YES")
