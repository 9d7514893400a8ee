"""The driver's mapping, fed with what a real OpenStack said."""

import base64
import email
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import GIB, DiskBus, ImageState, VolumeState
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import Firmware, InstanceState, Power, Size
from controlplane.domain.owner import OwnerTag
from drivers.openstack import mapping
from tests.simulators.openstack.test_transcripts import RECORDED

OWNER = OwnerTag(
    artefact=ArtefactId(UUID(int=1)),
    instance=InstanceId(UUID(int=2)),
    operation=OperationId(UUID(int=3)),
    epoch=4,
)


def said(name: str, *keys: str) -> Any:
    value = RECORDED[name]["body"]
    for key in keys:
        value = value[key]
    return value


@pytest.mark.parametrize(
    ("name", "power", "state"),
    [
        ("server building", None, InstanceState.WORKING),
        ("server active", Power.ON, InstanceState.READY),
        ("server stopped", Power.OFF, InstanceState.READY),
        ("server locked", Power.OFF, InstanceState.READY),
    ],
)
def test_the_states_of_a_real_server(name: str, power: Power | None, state: InstanceState):
    server = said(name, "server")
    assert mapping.power(server) is power
    assert mapping.state(server) is state


def test_a_real_server_as_an_instance():
    server = said("server active", "server")
    volume, port = said("volume in use", "volume"), said("port bound", "port")
    seen = mapping.instance(server, [volume], [port])
    assert seen.ref == server["id"]
    assert seen.name == "story"
    assert seen.size == Size(cpus=1, memory=128 * mapping.MIB)
    assert [(d.volume, d.size, d.bus) for d in seen.disks] == [
        (volume["id"], 2 * GIB, DiskBus.VIRTIO)
    ]
    assert mapping.volume_refs(server) == [volume["id"]]
    (nic,) = seen.nics
    assert (nic.mac, nic.address, nic.isolated) == ("fa:16:3e:00:00:11", "10.0.8.12", True)
    assert not seen.fenced


def test_a_fence_is_a_lock_with_our_tag():
    server = said("server locked", "server")
    assert server["locked"]
    assert not mapping.is_fenced(server)
    assert mapping.is_fenced({**server, "tags": [mapping.FENCED]})
    assert not mapping.is_fenced({**server, "locked": False, "tags": [mapping.FENCED]})


def test_a_new_server_that_runs_is_still_being_made():
    server = {**said("server active", "server"), "tags": [mapping.NEW]}
    assert mapping.state(server) is InstanceState.WORKING


def test_the_highest_epoch_tag_is_the_stamp():
    server = {
        **said("server active", "server"),
        "metadata": {mapping.OURS: OWNER.text()},
        "tags": [mapping.epoch_tag(4), mapping.epoch_tag(12), mapping.epoch_tag(5), "other"],
    }
    assert mapping.server_owner(server) == replace(OWNER, epoch=12)
    assert mapping.old_epochs(server, 12) == [mapping.epoch_tag(4), mapping.epoch_tag(5)]
    assert mapping.server_owner(said("server active", "server")) is None


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("volume create", VolumeState.WORKING),
        ("volume available", VolumeState.READY),
        ("volume reserved", VolumeState.IN_USE),
        ("volume in use", VolumeState.IN_USE),
        ("volume free again", VolumeState.READY),
    ],
)
def test_the_states_of_a_real_volume(name: str, state: VolumeState):
    seen = mapping.volume(said(name, "volume"))
    assert seen.state is state
    assert seen.size in {GIB, 2 * GIB}
    assert (seen.attached_to is not None) is (name == "volume in use")


def test_a_real_image_is_ready_only_with_the_digest_that_was_sent():
    image = said("image active")
    good = {**image, mapping.IMAGE_SHA512: image["os_hash_value"]}
    assert mapping.image(good).state is ImageState.READY
    assert mapping.image(image).state is ImageState.FAILED
    assert mapping.image(said("image queued")).state is ImageState.WORKING
    assert mapping.image(said("image after the lie")).state is ImageState.WORKING
    assert mapping.image(said("import failed")).state is ImageState.FAILED


def test_a_line_of_owned_tells_whether_an_instance_runs():
    server = said("server stopped", "server")
    found = mapping.listed(ArtefactKind.INSTANCE, OWNER, server)
    assert (found.power_on, found.ref) == (False, server["id"])
    volume = mapping.listed(ArtefactKind.VOLUME, OWNER, said("volume available", "volume"))
    assert volume.power_on is None


def test_strange_payloads_are_survived():
    empty: dict[str, Any] = {"id": "x"}
    assert mapping.power(empty) is None
    assert mapping.state(empty) is InstanceState.WORKING
    assert mapping.volume(empty).state is VolumeState.WORKING
    assert mapping.image(empty).state is ImageState.WORKING
    assert mapping.nic(empty).isolated
    assert mapping.owner_in(["fedctl", "fedctl.1.2.3.4", ""]) is None


def test_every_volume_outlives_its_server_and_the_first_is_booted():
    first, second = mapping.block_devices([("a", DiskBus.VIRTIO), ("b", DiskBus.SCSI)])
    assert (first["boot_index"], second["boot_index"]) == (0, -1)
    assert not first["delete_on_termination"]
    assert second["disk_bus"] == "scsi"


def test_firmware_goes_on_the_boot_volume():
    assert mapping.firmware(Firmware.BIOS) == {}
    assert mapping.firmware(Firmware.UEFI)["hw_firmware_type"] == "uefi"


def test_user_data_holds_keys_and_what_was_wished():
    def decoded(keys: tuple[str, ...], given: str) -> str:
        return base64.b64decode(mapping.user_data(keys, given) or "").decode()

    assert mapping.user_data((), "") is None
    assert decoded((), "#!/bin/sh\n") == "#!/bin/sh\n"
    assert "  - ssh-ed25519 AAAA x\n" in decoded(("ssh-ed25519 AAAA x\n",), "")
    both = email.message_from_string(decoded(("ssh-ed25519 AAAA x",), "#!/bin/sh\necho\n"))
    kinds = [part.get_content_type() for part in both.walk()]
    assert kinds == ["multipart/mixed", "text/cloud-config", "text/x-shellscript"]
