"""What the Proxmox VE driver does beyond the contract's suite."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.disk import MIB, DiskBus, DiskFormat, DiskSource, ExportStage, ImageState
from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Integrity,
    Invalid,
    Unavailable,
    Unsupported,
)
from controlplane.domain.fence import FenceLevel
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import (
    DiskPlace,
    Firmware,
    InstanceSpec,
    InstanceState,
    Power,
    Size,
)
from controlplane.domain.network import NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability, Changes
from drivers.proxmox import mapping, marks
from drivers.proxmox.driver import ProxmoxDriver
from drivers.proxmox.marks import FenceNote, ImageName, Notes
from drivers.simulators.faults import STEADY, Direction, LostAnswer, Reset
from drivers.simulators.guest import format_journal, lost_writes, read_journal
from drivers.simulators.proxmox import ProxmoxSim
from drivers.simulators.witness import Witness
from tests.contract.images import Gateway, pattern
from tests.contract.test_proxmox import access_to

SIZE = Size(cpus=1, memory=256 * MIB)


SUBJECT = InstanceId(uuid4())


def tag(epoch: int = 1) -> OwnerTag:
    return OwnerTag(
        artefact=ArtefactId(uuid4()),
        instance=SUBJECT,
        operation=OperationId(uuid4()),
        epoch=epoch,
    )


def eventually(look, *, seconds: float = 20):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := look():
                return found
        except (Busy, Unavailable):
            pass
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.005)


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[ProxmoxSim]:
    with ProxmoxSim(tmp_path / "pve", profile=STEADY, seed=1) as sim:
        yield sim


@pytest.fixture
def driver(sim: ProxmoxSim) -> Iterator[ProxmoxDriver]:
    driver = ProxmoxDriver(access_to(sim))
    yield driver
    driver.close()


@pytest.fixture
def keyless(sim: ProxmoxSim) -> Iterator[ProxmoxDriver]:
    """A driver that was given no ssh key."""
    access = access_to(sim)
    secrets = {k: v for k, v in access.secrets.items() if k != "ssh_key"}
    driver = ProxmoxDriver(replace(access, secrets=secrets))
    yield driver
    driver.close()


def made(driver: ProxmoxDriver, spec: InstanceSpec | None = None, epoch: int = 1) -> OwnerTag:
    owner = tag(epoch)
    spec = spec or InstanceSpec(name="web-1", size=SIZE, disks=(DiskPlace(size=4 * MIB),))
    driver.create(owner, replace(spec, anchor=driver.reserve(owner)))
    eventually(lambda: isinstance(driver.find(owner), Seen))
    return owner


def seen(driver: ProxmoxDriver, owner: OwnerTag):
    answer = driver.find(owner)
    assert isinstance(answer, Seen), answer
    return answer.it


def powered(driver: ProxmoxDriver, owner: OwnerTag, power: Power) -> None:
    driver.set_power(owner, power)
    eventually(lambda: seen(driver, owner).power is power)


def staged(driver: ProxmoxDriver, gateway: Gateway, raw: bytes) -> str:
    owner = tag()
    driver.pull_image(owner, "image", gateway.publish(raw, DiskFormat.QCOW2).source)

    def ready():
        answer = driver.find_image(owner)
        return isinstance(answer, Seen) and answer.it.state is ImageState.READY and answer.it.ref

    return eventually(ready)


def test_a_creation_whose_answer_was_lost_is_found_by_its_anchor_and_not_made_twice(sim, driver):
    owner = tag()
    spec = InstanceSpec(
        name="web-1", size=SIZE, disks=(DiskPlace(size=4 * MIB),), anchor=driver.reserve(owner)
    )
    sim.faults.fail(LostAnswer(), method="POST", path="/qemu$")
    with pytest.raises(Unavailable):
        driver.create(owner, spec)
    assert isinstance(driver.find(owner, spec.anchor), Unknown | Seen), "never Absent"
    assert eventually(lambda: driver.create(owner, spec)) == spec.anchor
    assert seen(driver, owner).ref == spec.anchor
    assert len(sim.node.vms) == 1


@pytest.mark.parametrize("seed", range(3))
def test_lost_answers_make_no_second_of_anything(tmp_path, gateway, seed):
    """Takes a second: every step is asked until it is answered, a fifth of the answers are lost."""
    profile = replace(STEADY, lost_answers=0.2)
    with ProxmoxSim(tmp_path / "pve", profile=profile, seed=seed) as sim:
        driver = ProxmoxDriver(access_to(sim))
        _whole_life(sim, driver, gateway)
        driver.close()


def _whole_life(sim: ProxmoxSim, driver: ProxmoxDriver, gateway: Gateway) -> None:
    def insisted(call):
        return eventually(lambda: (call(), True))[0]

    image, instance, export = tag(), tag(), tag()
    source = gateway.publish(pattern(), DiskFormat.QCOW2).source
    insisted(lambda: driver.pull_image(image, "image", source))
    ready = eventually(
        lambda: (
            isinstance(a := driver.find_image(image), Seen)
            and a.it.state is ImageState.READY
            and a.it
        )
    )
    spec = InstanceSpec(
        name="web-1",
        size=SIZE,
        disks=(DiskPlace(size=3 * MIB, image=ready.ref),),
        nics=(NicSpec(network="vmbr0", isolated=True),),
        anchor=driver.reserve(instance),
    )
    insisted(lambda: driver.create(instance, spec))
    eventually(lambda: isinstance(driver.find(instance, spec.anchor), Seen))
    insisted(lambda: driver.connect_nics(instance))
    for power in (Power.ON, Power.OFF):
        insisted(lambda power=power: driver.set_power(instance, power))
        eventually(lambda power=power: seen(driver, instance).power is power)
    insisted(lambda: driver.fence(instance))
    disk = DiskSource(volume=seen(driver, instance).disks[0].volume, instance=spec.anchor)
    insisted(lambda: driver.prepare_export(export, disk))
    reader = insisted(lambda: driver.open_export(export))
    assert reader.read(0, 3 * MIB) == pattern()
    reader.close()
    kinds = sorted(found.kind for found in eventually(lambda: list(driver.owned())))
    assert kinds == ["export", "image", "instance"]
    for remove, find, owner in (
        (driver.release_export, driver.find_export, export),
        (driver.delete, driver.find, instance),
        (driver.delete_image, driver.find_image, image),
    ):
        eventually(lambda r=remove, f=find, o=owner: (r(o), f(o) == Absent())[1])
    eventually(lambda: list(driver.owned()) == [])
    assert sim.node.vms == {}
    assert not any(sim.node.storages.volumes(name) for name in sim.node.storages.names())


def test_a_creation_under_way_is_unknown_not_absent_and_blocks_deletion(sim, driver):
    sim.node.tasks._step = 0.3
    owner = tag()
    spec = InstanceSpec(name="web-1", size=SIZE, disks=(), anchor=driver.reserve(owner))
    driver.create(owner, spec)
    assert isinstance(driver.find(owner), Unknown)
    assert isinstance(driver.find(owner, spec.anchor), Unknown)
    with pytest.raises(Busy):
        driver.delete(owner)
    with pytest.raises(Unavailable):
        list(driver.owned())
    eventually(lambda: isinstance(driver.find(owner), Seen))


def test_a_node_that_does_not_answer_makes_every_listing_unknown(sim, driver):
    owner = made(driver)
    sim.node.peers["pve2"] = "offline"
    stranger = tag()
    assert isinstance(driver.find(stranger), Unknown)
    with pytest.raises(Unavailable):
        list(driver.owned())
    with pytest.raises(Unavailable):
        driver.delete(stranger)
    assert driver.check().warnings == ("nodes that do not answer: pve2",)
    anchor = str(next(iter(sim.node.vms)))
    assert isinstance(driver.find(owner, anchor), Seen), "its own node answers"


def test_check_tells_missing_rights_from_an_empty_site(sim, driver):
    assert driver.check().version == "9.1.2"
    token = sim.credentials.token_id
    sim.node.access.revoke(token, "/")
    with pytest.raises(Denied, match="lacks rights"):
        driver.check()


def test_without_an_ssh_key_disks_do_not_leave_and_a_fence_only_isolates(keyless):
    lacking = keyless.check().lacking
    assert set(lacking) == {
        Capability.DISK_EXPORT, Capability.DISK_IMPORT, Capability.PAUSING,
    }  # fmt: skip
    assert keyless.limits.changes is Changes.UNTOLD
    assert keyless.limits.fence_level is FenceLevel.ISOLATED
    nics = (NicSpec(network="vmbr0"), NicSpec(network="vmbr1", isolated=True))
    owner = made(keyless, InstanceSpec(name="web-1", size=SIZE, disks=(), nics=nics))
    assert keyless.fence(owner).level is FenceLevel.ISOLATED
    assert keyless.verify_fence(owner).level is FenceLevel.ISOLATED
    assert [nic.isolated for nic in seen(keyless, owner).nics] == [True, True]
    with pytest.raises(Conflict):
        keyless.set_power(owner, Power.ON)
    keyless.unfence(owner)
    assert [nic.isolated for nic in seen(keyless, owner).nics] == [False, True]
    with pytest.raises(Unsupported):
        keyless.prepare_export(tag(), DiskSource(volume="local-zfs:vm-100-disk-0", instance="100"))
    keyless.release_export(tag())
    assert list(keyless.owned())


def test_images_are_staged_and_stamped_without_ssh_too(keyless, gateway):
    assert staged(keyless, gateway, pattern()).startswith("local:import/fedctl.")


def test_a_fence_takes_ha_and_autostart_away_and_unfencing_puts_them_back(sim, driver):
    owner = made(driver)
    vmid = int(seen(driver, owner).ref)
    sim.node.ha[f"vm:{vmid}"] = "started"
    sim.node.vms[vmid].config["onboot"] = "1"
    driver.fence(owner)
    assert sim.node.ha[f"vm:{vmid}"] == "ignored"
    assert sim.node.vms[vmid].config["onboot"] == "0"
    assert sim.node.vms[vmid].config["lock"] == "migrate"
    assert driver.fence(replace(owner, epoch=5)).epoch == 5, "a locked VM takes a new stamp"
    assert sim.node.vms[vmid].config["lock"] == "migrate"
    driver.isolate_nics(replace(owner, epoch=6))
    driver.unfence(replace(owner, epoch=7))
    assert "lock" not in sim.node.vms[vmid].config
    assert sim.node.vms[vmid].config["onboot"] == "1"
    assert sim.node.ha[f"vm:{vmid}"] == "started"
    assert seen(driver, owner).epoch == 7


def test_a_lock_that_is_not_ours_is_busy_and_no_fence(sim, driver):
    owner = made(driver)
    vmid = int(seen(driver, owner).ref)
    sim.node.vms[vmid].config["lock"] = "backup"
    for call in (
        lambda: driver.fence(owner),
        lambda: driver.set_power(owner, Power.ON),
        lambda: driver.isolate_nics(replace(owner, epoch=2)),
    ):
        with pytest.raises(Busy):
            call()
    assert not seen(driver, owner).fenced
    assert seen(driver, owner).state is InstanceState.WORKING


def test_a_disk_larger_than_its_image_grows_at_the_first_start(driver, gateway):
    image = staged(driver, gateway, pattern())
    disks = (DiskPlace(size=16 * MIB, image=image, bus=DiskBus.SCSI),)
    owner = made(driver, InstanceSpec(name="web-1", size=SIZE, disks=disks))
    assert seen(driver, owner).disks[0].size == 3 * MIB
    powered(driver, owner, Power.ON)
    assert seen(driver, owner).disks[0].size == 16 * MIB
    small = InstanceSpec(name="web-2", size=SIZE, disks=(DiskPlace(size=MIB, image=image),))
    with pytest.raises(Invalid, match="larger disk"):
        driver.create(tag(), small)


def test_user_data_lies_in_snippets_as_long_as_the_vm(sim, driver, keyless):
    spec = InstanceSpec(
        name="web-1",
        size=SIZE,
        disks=(),
        user_data="#cloud-config\n{}\n",
        ssh_keys=("ssh-ed25519 AAAA me",),
    )
    owner = made(driver, spec)
    config = sim.node.vms[int(seen(driver, owner).ref)].config
    assert config["ide2"] == f"local-zfs:vm-{seen(driver, owner).ref}-cloudinit,media=cdrom"
    user, vendor = sorted((sim.folder / "snippets").iterdir())
    assert user.read_text() == spec.user_data
    assert "ssh-ed25519 AAAA me" in vendor.read_text()
    assert config["cicustom"].startswith(f"user=local:snippets/{user.name},vendor=")
    driver.delete(owner)
    eventually(lambda: driver.find(owner) == Absent())
    assert list((sim.folder / "snippets").iterdir()) == []
    with pytest.raises(Unsupported, match="snippet"):
        keyless.create(tag(), spec)


def test_a_full_storage_fails_the_image_with_its_own_words(sim, driver, gateway):
    sim.faults.fill_disk()
    owner = tag()
    source = gateway.publish(pattern(), DiskFormat.RAW).source
    driver.pull_image(owner, "image", source)

    def failed():
        answer = driver.find_image(owner)
        return isinstance(answer, Seen) and answer.it.state is ImageState.FAILED and answer.it.why

    assert "No space left" in eventually(failed)
    sim.faults.free_disk()
    driver.pull_image(owner, "image", source)
    eventually(lambda: not failed())
    driver.delete_image(owner)
    eventually(lambda: driver.find_image(owner) == Absent())


def test_one_flipped_bit_fails_a_pull_and_a_push(sim, driver, gateway):
    file = gateway.publish(pattern(), DiskFormat.RAW)
    sim.faults.corrupt(Direction.IN, offset=MIB)
    pulled, pushed = tag(), tag()
    driver.pull_image(pulled, "image", file.source)

    def failed(owner):
        answer = driver.find_image(owner)
        return isinstance(answer, Seen) and answer.it.state is ImageState.FAILED

    eventually(lambda: failed(pulled))
    sim.faults.corrupt(Direction.IN, offset=MIB)
    try:
        driver.push_image(pushed, "image", file.source, iter([file.data]))
    except Integrity:
        return
    eventually(lambda: failed(pushed))


def test_an_upload_that_ends_too_early_is_invalid_and_can_be_begun_anew(driver, gateway):
    file, owner = gateway.publish(pattern(), DiskFormat.RAW), tag()
    with pytest.raises(Invalid, match="ended after"):
        driver.push_image(owner, "image", file.source, iter([file.data[:1000]]))
    assert driver.find_image(owner) == Absent()
    driver.push_image(owner, "image", file.source, iter([file.data]))
    eventually(lambda: isinstance(driver.find_image(owner), Seen))


def test_a_handshake_that_breaks_off_is_no_word_about_the_certificate(sim):
    """As when the node goes down in its middle: the step is tried again, nothing is unwound."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        driver = ProxmoxDriver(replace(access_to(sim), endpoint=url))
        with pytest.raises(Unavailable):
            driver.check()
        driver.close()
        server.shutdown(socket.SHUT_RDWR)


def test_another_certificate_or_host_key_is_an_integrity_error(sim):
    access = access_to(sim)
    other = access.pins["tls"].replace("A", "B").replace("1", "2")
    driver = ProxmoxDriver(replace(access, pins=access.pins | {"tls": other}))
    with pytest.raises(Integrity):
        driver.check()
    driver.close()
    unpinned = ProxmoxDriver(replace(access, pins={"ssh": access.pins["ssh"]}))
    with pytest.raises(Denied, match="not trusted"):
        unpinned.check()
    unpinned.close()
    with pytest.raises(Invalid, match="pinned host key"):
        ProxmoxDriver(replace(access, pins={}))
    moved = ProxmoxDriver(replace(access, pins=access.pins | {"ssh": "SHA256:" + "A" * 43}))
    with pytest.raises(Integrity):
        moved.check()
    moved.close()
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    locked_out = ProxmoxDriver(replace(access, secrets=access.secrets | {"ssh_key": stranger}))
    assert "authorise" in locked_out.check().lacking[Capability.DISK_EXPORT]
    locked_out.close()


@pytest.mark.parametrize(
    "secrets", [{}, {"token_id": "root", "token_secret": "x"}, {"token_id": "a@pve!bc"}]
)
def test_credentials_of_a_wrong_shape_are_invalid(sim, secrets):
    with pytest.raises(Invalid):
        ProxmoxDriver(replace(access_to(sim), secrets=secrets))


def test_a_reset_connection_is_unavailable_and_names_no_secret(sim, driver):
    sim.faults.fail(Reset(), path="/version$")
    with pytest.raises(Unavailable) as caught:
        driver.check()
    assert sim.credentials.token_secret not in str(caught.value) + caught.value.detail


def test_a_guests_journal_is_whole_at_the_end_of_an_export(tmp_path, gateway):
    identity = uuid4().bytes
    raw = bytearray(4 * MIB)
    raw[510:512], raw[450] = b"\x55\xaa", 0xDA
    raw[454:462] = (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    raw[MIB : 3 * MIB] = format_journal(identity, 2 * MIB)
    witness = Witness(tmp_path / "witness.db")
    profile = replace(STEADY, journal_rate=200.0)
    with ProxmoxSim(tmp_path / "pve", profile=profile, witness=witness, seed=1) as sim:
        driver = ProxmoxDriver(access_to(sim))
        image = staged(driver, gateway, bytes(raw))
        disks = (DiskPlace(size=4 * MIB, image=image),)
        nics = (NicSpec(network="vmbr0", address="10.0.4.12"),)
        spec = InstanceSpec(name="web-1", size=SIZE, disks=disks, nics=nics, firmware=Firmware.UEFI)
        owner = made(driver, spec)
        powered(driver, owner, Power.ON)
        eventually(lambda: driver.probe_boot(owner))
        eventually(lambda: witness.highest(identity.hex()) > 5)
        powered(driver, owner, Power.OFF)
        it = seen(driver, owner)
        export = tag()
        source = DiskSource(volume=it.disks[0].volume, instance=it.ref)
        assert driver.prepare_export(export, source).stage is ExportStage.READY
        reader = driver.open_export(export)
        journal = read_journal(reader.read)
        reader.close()
        driver.close()
    assert journal.identity == identity
    assert lost_writes(journal, (r.sequence for r in witness.durable(identity.hex()))) == ()
    witness.close()


def test_of_two_writers_that_start_at_once_one_is_left(driver):
    owner = made(driver)
    volume = seen(driver, owner).disks[0].volume
    rival = driver._shell.serve(
        replace(owner, epoch=2), volume, snapshot="", size=4 * MIB, writable=True
    )
    driver._revoke = lambda volume: False  # as if the rival had started after the look
    with pytest.raises(Busy):
        driver.open_import(owner, volume)
    assert [export.socket for export in driver._shell.served()] == [rival]
    del driver._revoke
    driver.open_import(owner, volume).close()
    assert [export.owner.epoch for export in driver._shell.served()] == [1]
    driver.close_import(owner, volume)
    assert driver._shell.served() == []


def test_quota_is_what_the_storage_has_left(sim, driver):
    before = driver.quota().disk
    made(driver)
    assert driver.quota().disk == before - 4 * MIB
    sim.resize_storage("local-zfs", 0)
    owner = tag()
    spec = InstanceSpec(name="db", size=SIZE, disks=(DiskPlace(size=4 * MIB),))
    driver.create(owner, replace(spec, anchor=driver.reserve(owner)))
    eventually(lambda: driver.find(owner) == Absent())  # its disk could not be made


TAGS = st.builds(
    OwnerTag,
    artefact=st.uuids().map(ArtefactId),
    instance=st.uuids().map(InstanceId),
    operation=st.uuids().map(OperationId),
    epoch=st.integers(1, 10**6),
)


@given(
    owner=TAGS,
    spec=st.sampled_from(["", "ab12"]),
    grow=st.lists(st.tuples(st.sampled_from(["scsi0", "virtio3"]), st.integers(1, 10**12))),
    fence=st.none()
    | st.builds(
        FenceNote,
        level=st.sampled_from(FenceLevel),
        onboot=st.booleans(),
        ha=st.sampled_from(["", "started"]),
        links=st.lists(st.sampled_from(["net0", "net1"])).map(tuple),
    ),
    other=st.sampled_from(["", "somebody's words", "two\nlines"]),
)
def test_notes_in_a_description_read_back(owner, spec, grow, fence, other):
    notes = Notes(owner=owner, spec=spec, grow=tuple(grow), fence=fence, other=other)
    assert marks.read_notes(marks.write_notes(notes)) == notes


@given(owner=TAGS, digest=st.integers(0, 2**64 - 1), size=st.integers(0, 2**50))
def test_an_images_file_name_reads_back(owner, digest, size):
    name = ImageName(owner=owner, digest=f"{digest:016x}", size=size, format=DiskFormat.QCOW2)
    assert ImageName.parse(name.text()) == name
    assert marks.stamp_in(name.text()) is None
    assert marks.stamp_in(f"{owner.text()}.raw") == owner


@given(mib=st.integers(1, 2**27))
def test_a_size_in_gibibytes_is_exact(mib):
    text = mapping.gibibytes(mib * MIB)
    assert int(float(text) * mapping.GIB) == mib * MIB


def test_somebody_elses_description_and_tags_stay():
    notes = marks.read_notes("hands off\nfedctl-owner: nonsense\nfedctl-fence: {}")
    assert notes.owner is None
    assert notes.fence is None
    assert notes.other == "hands off\nfedctl-owner: nonsense\nfedctl-fence: {}"
    owner = tag()
    assert marks.tags_with("prod;web", owner) == f"prod;web;{owner.text()}"
    newer = replace(owner, epoch=9)
    assert marks.tags_with(marks.tags_with("prod", owner), newer) == f"prod;{newer.text()}"
    assert marks.owner_of(f"fedctl.x;{owner.text()};{newer.text()}") == newer
