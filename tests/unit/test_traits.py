"""What each provider's records say of an instance that another site cannot give it."""

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from controlplane.domain.instance import Trait, Traits
from drivers.opennebula import traits as opennebula
from drivers.opennebula.client import Record as OneRecord
from drivers.openstack import traits as openstack
from drivers.ovhcloud import mapping as ovhcloud
from drivers.proxmox import traits as proxmox
from drivers.xcpng import traits as xcpng
from drivers.xcpng.client import NULL
from drivers.xcpng.client import Record as XenRecord
from drivers.xcpng.mapping import FENCE, STARTS


def kinds(told: Traits) -> list[Trait]:
    return [each.trait for each in told.found]


@pytest.mark.parametrize(
    ("config", "trait"),
    [
        ({"protection": 1}, Trait.PROTECTED),
        ({"hostpci0": "0000:01:00.0,pcie=1"}, Trait.DEVICE),
        ({"usb0": "host=1234:5678"}, Trait.DEVICE),
        ({"tpmstate0": "local-zfs:vm-100-disk-2,version=v2.0"}, Trait.TPM),
        ({"efidisk0": "local-zfs:vm-100-disk-1,pre-enrolled-keys=1"}, Trait.SECURE_BOOT),
        ({"scsi1": "/dev/disk/by-id/ata-X,size=20G"}, Trait.RAW_DISK),
        ({"numa": 1}, Trait.PLACEMENT),
        ({"arch": "aarch64"}, Trait.MACHINE),
        ({"unused0": "local-zfs:vm-100-disk-7"}, Trait.DETACHED_DISK),
        ({"ide2": "local:iso/debian.iso,media=cdrom"}, Trait.DISC),
        ({"scsi1": "local-zfs:vm-100-disk-1,size=4G,ro=1"}, Trait.READ_ONLY_DISK),
        ({"affinity": "0-3"}, Trait.PLACEMENT),
    ],
)
def test_a_proxmox_configuration_tells_each_trait(config: dict[str, Any], trait: Trait):
    assert kinds(proxmox.traits(config, [])) == [trait]


def test_what_every_proxmox_vm_has_is_no_trait():
    plain = {
        "scsi0": "local-zfs:vm-100-disk-0,size=20G", "ide2": "local-zfs:cloudinit,media=cdrom",
        "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0", "protection": 0, "numa": 0,
        "serial0": "socket", "usb0": "spice", "efidisk0": "local-zfs:1,pre-enrolled-keys=0",
    }  # fmt: skip
    ours = [{"name": "current"}, {"name": f"fedctl{'a' * 32}"}]
    assert kinds(proxmox.traits(plain, ours)) == []
    [told] = proxmox.traits(plain, [*ours, {"name": "before-upgrade"}]).found
    assert (told.trait, told.words) == (Trait.SNAPSHOTS, "snapshots before-upgrade")


def of_openstack(**server: Any) -> list[Trait]:
    volumes, ports = server.pop("volumes", []), server.pop("ports", [])
    return kinds(openstack.traits(server, volumes, ports, server.pop("snapshots", [])))


@pytest.mark.parametrize(
    ("server", "trait"),
    [
        ({"locked": True, "tags": []}, Trait.LOCKED),
        ({"flavor": {"swap": 512}}, Trait.SWAP_DISK),
        ({"volumes": [{"id": "v"}]}, Trait.HIDDEN_DISK),
        ({"volumes": [{"size": 1, "encrypted": True}]}, Trait.ENCRYPTED_DISK),
        ({"volumes": [{"size": 1, "metadata": {"readonly": "True"}}]}, Trait.READ_ONLY_DISK),
        (
            {"volumes": [{"size": 1, "volume_image_metadata": {"hw_architecture": "aarch64"}}]},
            Trait.MACHINE,
        ),
        ({"image": {"id": "i"}}, Trait.EPHEMERAL_DISK),
        ({"flavor": {"ephemeral": 20}}, Trait.EPHEMERAL_DISK),
        ({"flavor": {"extra_specs": {"pci_passthrough:alias": "a:1"}}}, Trait.DEVICE),
        ({"flavor": {"extra_specs": {"hw:tpm_version": "2.0"}}}, Trait.TPM),
        ({"flavor": {"extra_specs": {"os:secure_boot": "required"}}}, Trait.SECURE_BOOT),
        ({"flavor": {"extra_specs": {"hw:numa_nodes": "2"}}}, Trait.PLACEMENT),
        ({"server_groups": ["g-1"]}, Trait.PLACEMENT),
        ({"ports": [{"binding:vnic_type": "direct"}]}, Trait.DEVICE),
        ({"volumes": [{"size": 1, "attachments": [{}, {}]}]}, Trait.SHARED_DISK),
        ({"volumes": [{"size": 1, "volume_image_metadata": {"hw_tpm_version": "2.0"}}]}, Trait.TPM),
        ({"snapshots": [{"name": "nightly", "metadata": {}}]}, Trait.SNAPSHOTS),
    ],
)
def test_a_server_of_openstack_tells_each_trait(server: dict[str, Any], trait: Trait):
    assert of_openstack(**server) == [trait]


def test_our_lock_and_our_snapshots_are_no_traits_at_openstack():
    assert of_openstack(locked=True, tags=["fedctl.fenced"]) == []
    assert of_openstack(snapshots=[{"metadata": {"fedctl-snapshot": "a"}}]) == []
    flavor = {"ephemeral": 0, "swap": 0, "extra_specs": {"hw:watchdog_action": "none"}}
    ports = [{"binding:vnic_type": "normal"}, {}]
    assert of_openstack(image="", flavor=flavor, ports=ports, locked=False) == []


def of_opennebula(inner: str, *, fenced: bool = False) -> list[Trait]:
    return kinds(
        opennebula.traits(OneRecord(ET.fromstring(f"<VM>{inner}</VM>"), "a test"), fenced=fenced)
    )


@pytest.mark.parametrize(
    ("inner", "trait"),
    [
        ("<LOCK><LOCKED>1</LOCKED></LOCK>", Trait.LOCKED),
        ("<TEMPLATE><PCI><SHORT_ADDRESS>01:00.0</SHORT_ADDRESS></PCI></TEMPLATE>", Trait.DEVICE),
        ("<TEMPLATE><TPM><MODEL>tpm-crb</MODEL></TPM></TEMPLATE>", Trait.TPM),
        ("<TEMPLATE><OS><FIRMWARE_SECURE>YES</FIRMWARE_SECURE></OS></TEMPLATE>", Trait.SECURE_BOOT),
        ("<TEMPLATE><DISK><TYPE>fs</TYPE></DISK></TEMPLATE>", Trait.EPHEMERAL_DISK),
        ("<TEMPLATE><DISK><SHAREABLE>YES</SHAREABLE></DISK></TEMPLATE>", Trait.SHARED_DISK),
        ("<TEMPLATE><DISK><SOURCE>/dev/sdb</SOURCE></DISK></TEMPLATE>", Trait.RAW_DISK),
        ("<SNAPSHOTS><SNAPSHOT/></SNAPSHOTS>", Trait.SNAPSHOTS),
        ("<TEMPLATE><TOPOLOGY/></TEMPLATE>", Trait.PLACEMENT),
        ("<TEMPLATE><DISK><TYPE>swap</TYPE></DISK></TEMPLATE>", Trait.SWAP_DISK),
        ("<TEMPLATE><DISK><TYPE>CDROM</TYPE></DISK></TEMPLATE>", Trait.DISC),
        ("<TEMPLATE><DISK><READONLY>YES</READONLY></DISK></TEMPLATE>", Trait.READ_ONLY_DISK),
        ("<TEMPLATE><OS><ARCH>i686</ARCH></OS></TEMPLATE>", Trait.MACHINE),
    ],
)
def test_a_vm_of_opennebula_tells_each_trait(inner: str, trait: Trait):
    assert of_opennebula(inner) == [trait]


def test_our_fence_and_plain_disks_are_no_traits_at_opennebula():
    disk = "<DISK><IMAGE_ID>3</IMAGE_ID><TYPE>FILE</TYPE><SOURCE>/var/lib/one/3</SOURCE></DISK>"
    plain = f"<LOCK><LOCKED>1</LOCKED></LOCK><TEMPLATE>{disk}</TEMPLATE>"
    assert of_opennebula(plain, fenced=True) == []


VM: dict[str, Any] = {
    "blocked_operations": {}, "platform": {}, "affinity": NULL, "VCPUs_params": {},
    "other_config": {}, "HVM_boot_policy": "BIOS order",
}  # fmt: skip
VDI: dict[str, Any] = {"name_label": "data", "sharable": False, "SR": "sr"}


def of_xcpng(vm: dict[str, Any], vdi: dict[str, Any], storage: str = "ext") -> list[Trait]:
    disk = XenRecord("vdi", VDI | vdi, "a test")
    places = {"sr": XenRecord("sr", {"type": storage}, "a test")}
    return kinds(xcpng.traits(XenRecord("vm", VM | vm, "a test"), [disk], [], places))


@pytest.mark.parametrize(
    ("vm", "vdi", "trait"),
    [
        ({"blocked_operations": {"start": "by hand"}}, {}, Trait.LOCKED),
        ({"blocked_operations": {"destroy": "true"}}, {}, Trait.PROTECTED),
        ({"attached_PCIs": ["pci"]}, {}, Trait.DEVICE),
        ({"VGPUs": ["gpu"]}, {}, Trait.DEVICE),
        ({"VTPMs": ["tpm"]}, {}, Trait.TPM),
        ({"HVM_boot_policy": ""}, {}, Trait.MACHINE),
        ({"other_config": {"pci": "0/0000:01:00.0"}}, {}, Trait.DEVICE),
        ({"platform": {"secureboot": "true"}}, {}, Trait.SECURE_BOOT),
        ({"affinity": "OpaqueRef:host"}, {}, Trait.PLACEMENT),
        ({"VCPUs_params": {"mask": "1,2"}}, {}, Trait.PLACEMENT),
        ({}, {"sharable": True}, Trait.SHARED_DISK),
    ],
)
def test_a_vm_of_xcpng_tells_each_trait(vm, vdi, trait: Trait):
    assert of_xcpng(vm, vdi) == [trait]


def test_our_fence_is_no_trait_at_xcpng_and_a_raw_device_is_one():
    assert of_xcpng({"blocked_operations": dict.fromkeys(STARTS, FENCE)}, {}) == []
    assert of_xcpng({}, {}, storage="udev") == [Trait.RAW_DISK]


def test_a_rented_server_tells_its_state_and_not_what_only_vms_have():
    assert kinds(ovhcloud.traits({"state": "ok", "noIntervention": False})) == []
    told = ovhcloud.traits({"state": "hackedBlocked"})
    assert kinds(told) == [Trait.LOCKED]
    assert Trait.TPM not in told.looked


@pytest.mark.parametrize(
    ("images", "shared", "trait"),
    [
        ("", (), Trait.HIDDEN_DISK),
        ("<PERSISTENT>0</PERSISTENT>", (), Trait.EPHEMERAL_DISK),
        ("<PERSISTENT>1</PERSISTENT>", ("3",), Trait.SHARED_DISK),
        ("<PERSISTENT>1</PERSISTENT>", (), None),
    ],
)
def test_images_of_a_vm_of_others_at_opennebula(
    images: str, shared: tuple[str, ...], trait: Trait | None
):
    vm = "<VM><TEMPLATE><DISK><DISK_ID>0</DISK_ID><IMAGE_ID>3</IMAGE_ID></DISK></TEMPLATE></VM>"
    seen = {"3": OneRecord(ET.fromstring(f"<IMAGE>{images}</IMAGE>"), "a test")} if images else {}
    told = opennebula.of_images(OneRecord(ET.fromstring(vm), "a test"), seen, shared)
    assert [each.trait for each in told] == ([] if trait is None else [trait])


@pytest.mark.parametrize(
    ("size", "shared", "trait"),
    [
        (",size=4G", ("local-zfs:vm-9-disk-0",), Trait.SHARED_DISK),
        ("", (), Trait.HIDDEN_DISK),
        (",size=4G", (), None),
    ],
)
def test_volumes_of_a_vm_of_others_at_proxmox(
    size: str, shared: tuple[str, ...], trait: Trait | None
):
    told = proxmox.of_volumes({"scsi0": f"local-zfs:vm-9-disk-0{size}"}, shared)
    assert [each.trait for each in told] == ([] if trait is None else [trait])


@pytest.mark.parametrize(
    ("vbd", "vdi", "users", "trait"),
    [
        ({"type": "CD", "empty": False}, None, 1, Trait.DISC),
        ({"type": "CD", "empty": True}, None, 1, None),
        ({}, None, 1, Trait.HIDDEN_DISK),
        ({}, VDI, 2, Trait.SHARED_DISK),
        ({"mode": "RO"}, VDI, 1, Trait.READ_ONLY_DISK),
        ({}, VDI, 1, None),
    ],
)
def test_drives_of_a_vm_of_others_at_xcpng(
    vbd: dict[str, Any], vdi: dict[str, Any] | None, users: int, trait: Trait | None
):
    drive = {"type": "Disk", "mode": "RW", "userdevice": "0"} | vbd
    disk = None if vdi is None else XenRecord("vdi", vdi, "a test")
    others = [XenRecord("vm", VM, "a test")] * users
    told = xcpng.of_drives([(XenRecord("vbd", drive, "a test"), disk)], lambda _: others)
    assert [each.trait for each in told] == ([] if trait is None else [trait])
