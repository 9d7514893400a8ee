"""What OpenStack says, as our nouns, and our marks as OpenStack keeps them; pure."""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from ipaddress import ip_network
from typing import Any, Final

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.disk import (
    GIB,
    DiskBus,
    ImageSeen,
    ImageState,
    VolumeSeen,
    VolumeState,
)
from controlplane.domain.errors import Invalid
from controlplane.domain.ids import ArtefactId
from controlplane.domain.instance import (
    DiskSeen,
    Firmware,
    InstanceSeen,
    InstanceState,
    Power,
    Size,
)
from controlplane.domain.network import NicSeen, Span
from controlplane.domain.owner import OwnerTag

Payload = Mapping[str, Any]

MIB: Final = 1 << 20
OURS: Final = "fedctl"  # a tag, and the key of the owner's text in metadata
FENCED: Final = "fedctl.fenced"
NEW: Final = "fedctl.new"  # the site starts what it creates: to be stopped as soon as it runs
FRESH: Final = "fedctl.fresh"  # stopped after its creation, never started by us
_MARK: Final = re.compile(r"fedctl\.[0-9a-f]{32}")
_EPOCH: Final = re.compile(r"fedctl\.epoch\.(\d+)")

VOLUME_ID: Final = "fedctl-volume"  # metadata keys: which object of ours this is
EXPORT_ID: Final = "fedctl-export"
SNAPSHOT_ID: Final = "fedctl-snapshot"
SOURCE: Final = "fedctl-source"  # what an export or a snapshot was made of
BESIDE: Final = "fedctl-beside"  # how many volumes were to be snapshotted together
IMAGE_OWNER: Final = "fedctl_owner"  # properties of images
IMAGE_SOURCE: Final = "fedctl_source"
IMAGE_SHA512: Final = "fedctl_sha512"
IMAGE_SIZE: Final = "fedctl_size"

_ON: Final = {"ACTIVE", "PAUSED", "REBOOT", "HARD_REBOOT", "PASSWORD", "VERIFY_RESIZE"}
_OFF: Final = {"SHUTOFF", "SHELVED", "SHELVED_OFFLOADED", "SUSPENDED"}
_HELD: Final = {"in-use", "attaching", "detaching", "reserved"}


# Marks.


def mark(artefact: ArtefactId) -> str:
    """The text by which all parts of one artefact are found."""
    return f"{OURS}.{artefact.hex}"


def is_mark(tag: str) -> bool:
    return bool(_MARK.fullmatch(tag))


def epoch_tag(epoch: int) -> str:
    return f"fedctl.epoch.{epoch}"


def owner_of(text: object) -> OwnerTag | None:
    """The owner that a mark names, if it is one of ours."""
    try:
        return OwnerTag.parse(str(text))
    except Invalid:
        return None


def owner_in(tags: Iterable[str]) -> OwnerTag | None:
    """The owner among tags; the one of the highest epoch while there are two."""
    owners = [owner for tag in tags if (owner := owner_of(tag))]
    return max(owners, key=lambda owner: owner.epoch, default=None)


def server_owner(server: Payload) -> OwnerTag | None:
    """Whose a server is; its tags tell the epoch, because they can be set while it is locked."""
    owner = owner_of((server.get("metadata") or {}).get(OURS, ""))
    if owner is None:
        return None
    tags = server.get("tags") or ()
    epochs = [int(found[1]) for tag in tags if (found := _EPOCH.fullmatch(tag))]
    return replace(owner, epoch=max([owner.epoch, *epochs]))


def old_epochs(server: Payload, epoch: int) -> list[str]:
    """The epoch tags of a server that a higher one has replaced."""
    tags = server.get("tags") or ()
    return [t for t in tags if (found := _EPOCH.fullmatch(t)) and int(found[1]) < epoch]


def metadata_owner(record: Payload) -> OwnerTag | None:
    return owner_of((record.get("metadata") or {}).get(OURS, ""))


def port_name(owner: OwnerTag, number: int) -> str:
    """The name of a port: whose it is, and which nic; so even an untagged one can be told."""
    return f"{owner.text()}.{number}"


def port_number(port: Payload) -> int:
    """Which nic a port is; 0 for one that was not made by us."""
    whose, _, number = str(port.get("name")).rpartition(".")
    return int(number) if number.isdecimal() and owner_of(whose) else 0


def port_owner(port: Payload) -> OwnerTag | None:
    named = owner_of(str(port.get("name")).rpartition(".")[0])
    return owner_in(port.get("tags") or ()) or named


def image_tags(owner: OwnerTag) -> list[str]:
    return [OURS, mark(owner.artefact), owner.text()]


def image_owner(image: Payload) -> OwnerTag | None:
    return owner_of(image.get(IMAGE_OWNER, ""))


# Sizes.


def gib(size: int) -> int:
    """Bytes as whole GiB, rounded up."""
    return -(-size // GIB)


def flavor_size(flavor: Payload) -> Size:
    return Size(cpus=int(flavor.get("vcpus") or 0), memory=int(flavor.get("ram") or 0) * MIB)


# What is seen.


def is_fenced(server: Payload) -> bool:
    return bool(server.get("locked")) and FENCED in (server.get("tags") or ())


def task(server: Payload) -> str:
    return str(server.get("OS-EXT-STS:task_state") or "")


def power(server: Payload) -> Power | None:
    """Whether a server runs; None while that changes or cannot be told."""
    status = server.get("status")
    if task(server) or status not in _ON | _OFF:
        return None
    return Power.ON if status in _ON else Power.OFF


def state(server: Payload) -> InstanceState:
    if server.get("status") == "ERROR":
        return InstanceState.FAILED
    tags = server.get("tags") or ()
    if task(server) or (NEW in tags and power(server) is Power.ON):
        return InstanceState.WORKING
    return InstanceState.READY if power(server) else InstanceState.WORKING


def bus(volume: Payload) -> DiskBus:
    told = (volume.get("volume_image_metadata") or {}).get("hw_disk_bus")
    return DiskBus(told) if told in set(DiskBus) else DiskBus.VIRTIO


def firmware_of(volume: Payload) -> Firmware:
    """The firmware that a boot volume's image metadata give its server."""
    told = (volume.get("volume_image_metadata") or {}).get("hw_firmware_type")
    return Firmware.UEFI if told == "uefi" else Firmware.BIOS


def nic(port: Payload) -> NicSeen:
    fixed = port.get("fixed_ips") or ()
    return NicSeen(
        network=str(port.get("network_id")),
        mac=str(port.get("mac_address")),
        address=next((str(f["ip_address"]) for f in fixed if f.get("ip_address")), None),
        isolated=not port.get("admin_state_up"),
    )


def instance(server: Payload, volumes: Iterable[Payload], ports: Iterable[Payload]) -> InstanceSeen:
    """A server with its volumes in boot order and its ports in the order of the wish."""
    owner = server_owner(server)
    fault = server.get("fault") or {}
    return InstanceSeen(
        ref=str(server.get("id")),
        name=str(server.get("name")),
        state=state(server),
        power=power(server),
        epoch=owner.epoch if owner else 0,
        size=flavor_size(server.get("flavor") or {}),
        disks=tuple(
            DiskSeen(volume=str(v.get("id")), size=int(v.get("size") or 0) * GIB, bus=bus(v))
            for v in volumes
        ),
        nics=tuple(nic(port) for port in ports),
        fenced=is_fenced(server),
        why=str(fault.get("message") or ""),
    )


def volume_refs(server: Payload) -> list[str]:
    """The volumes of a server in boot order; empty while it is being built."""
    held = server.get("os-extended-volumes:volumes_attached") or ()
    return [str(volume["id"]) for volume in held]


def volume_state(volume: Payload) -> VolumeState:
    status = str(volume.get("status"))
    if status == "available":
        return VolumeState.READY
    if status in _HELD:
        return VolumeState.IN_USE
    return VolumeState.FAILED if status.startswith("error") else VolumeState.WORKING


def beside(snapshot: Payload) -> int:
    """How many volumes were to be snapshotted with this one; itself where it does not say."""
    said = str(snapshot["metadata"].get(BESIDE, ""))
    return int(said) if said.isdecimal() else 1


def attached_to(volume: Payload) -> str | None:
    held = volume.get("attachments") or ()
    return next((str(a["server_id"]) for a in held if a.get("server_id")), None)


def volume(payload: Payload) -> VolumeSeen:
    owner = metadata_owner(payload)
    seen = volume_state(payload)
    return VolumeSeen(
        ref=str(payload.get("id")),
        size=int(payload.get("size") or 0) * GIB,
        state=seen,
        epoch=owner.epoch if owner else 0,
        attached_to=attached_to(payload),
        why=str(payload.get("status")) if seen is VolumeState.FAILED else "",
    )


def image(payload: Payload) -> ImageSeen:
    """A staged image; one whose digest is not what was sent is a failed one."""
    status = str(payload.get("status"))
    owner = owner_in(payload.get("tags") or ())
    found, why = ImageState.WORKING, ""
    if status == "active":
        found = ImageState.READY
        if payload.get("os_hash_value") != payload.get(IMAGE_SHA512):
            found, why = ImageState.FAILED, "the site's sha512 is not that of what was sent"
    elif payload.get("os_glance_failed_import"):
        found, why = ImageState.FAILED, "the site's import task failed"
    elif status in {"killed", "deleted", "pending_delete", "deactivated"}:
        found, why = ImageState.FAILED, f"the image is {status}"
    return ImageSeen(
        ref=str(payload.get("id")),
        state=found,
        damaged=status == "active" and found is ImageState.FAILED,
        epoch=owner.epoch if owner else 0,
        length=payload.get("size"),
        why=why,
    )


def listed(kind: ArtefactKind, owner: OwnerTag, payload: Payload) -> Found:
    """One line of `owned`."""
    on = power(payload) if kind is ArtefactKind.INSTANCE else None
    return Found(
        owner=owner,
        kind=kind,
        ref=str(payload.get("id")),
        power_on=None if on is None else on is Power.ON,
    )


# What is asked for.


def firmware(wish: Firmware) -> dict[str, str]:
    """The image metadata of a boot volume that give a server its firmware."""
    if wish is Firmware.UEFI:
        return {"hw_firmware_type": "uefi", "hw_machine_type": "q35"}
    return {}


def disk_bus(wish: DiskBus) -> dict[str, str]:
    scsi = {"hw_scsi_model": "virtio-scsi"} if wish is DiskBus.SCSI else {}
    return {"hw_disk_bus": wish.value, **scsi}


def block_devices(disks: Iterable[tuple[str, DiskBus]]) -> list[dict[str, Any]]:
    """Volumes that were made before, the first to boot from; none of them dies with the server."""
    return [
        {
            "uuid": ref,
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": 0 if number == 0 else -1,
            "delete_on_termination": False,
            "disk_bus": wished.value,
        }
        for number, (ref, wished) in enumerate(disks)
    ]


def addresses(cidrs: Iterable[str]) -> tuple[Span, ...] | None:
    """What the subnets of a network hold; None where one of them cannot be read."""
    try:
        nets = [ip_network(cidr, strict=False) for cidr in cidrs]
    except ValueError:
        return None
    return tuple(Span(first=str(net[0]), last=str(net[-1])) for net in nets)


def user_data(ssh_keys: Iterable[str], given: str) -> str | None:
    """What cloud-init reads: the wished data, the keys, or both in one message; base64."""
    keys = list(ssh_keys)
    config = ""
    if keys:
        lines = "".join(f"  - {key.strip()}\n" for key in keys)
        config = f"#cloud-config\nssh_authorized_keys:\n{lines}"
    if config and given:
        message = MIMEMultipart(boundary="==fedctl==")
        kind = "x-shellscript" if given.startswith("#!") else "cloud-config"
        message.attach(MIMEText(config, "cloud-config", "utf-8"))
        message.attach(MIMEText(given, kind, "utf-8"))
        config = message.as_string()
    text = config or given
    return base64.b64encode(text.encode()).decode() if text else None
