"""What the XCP-ng driver does beyond the contract's suite."""

import random
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import (
    MIB,
    DiskFormat,
    DiskSource,
    ExtentKind,
    Mark,
    VolumeSpec,
    VolumeState,
    is_forward,
)
from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Exhausted,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import DiskPlace, InstanceSpec, InstanceState, Power, Size
from controlplane.domain.network import NicSpec
from controlplane.domain.owner import OwnerTag
from drivers.simulators.faults import STEADY, Direction, LostAnswer
from drivers.simulators.xcpng import XcpngSim
from drivers.simulators.xcpng.vms import checked
from drivers.xcpng import mapping, seed
from drivers.xcpng.client import XapiClient
from drivers.xcpng.driver import XcpngDriver
from tests.contract.images import Gateway, Published, pattern
from tests.contract.relay import Manner, Relay
from tests.contract.test_xcpng import access_to
from tests.contract.world import chunks

BOTH_HOSTS = pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2"])
SIZE = Size(cpus=1, memory=256 * MIB)


def tag(epoch: int = 1) -> OwnerTag:
    return OwnerTag(
        artefact=ArtefactId(uuid4()),
        instance=InstanceId(uuid4()),
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


def insisted(call):
    """What the call answers once it does; lost answers and Busy are asked again."""
    return eventually(lambda: (call(), True))


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[XcpngSim]:
    with XcpngSim(tmp_path / "xcp", profile=STEADY, seed=1, member=True) as sim:
        yield sim


@pytest.fixture
def driver(sim: XcpngSim) -> Iterator[XcpngDriver]:
    driver = XcpngDriver(access_to(sim))
    yield driver
    driver.close()


def ready(driver: XcpngDriver, owner: OwnerTag):
    def look():
        answer = driver.find_volume(owner)
        return isinstance(answer, Seen) and answer.it.state is VolumeState.READY and answer.it

    return eventually(look)


def volume(driver: XcpngDriver, image: str | None = None, size: int = 4 * MIB) -> str:
    owner = tag()
    spec = VolumeSpec(name="disk-0", size=size, image=image)
    insisted(lambda: driver.create_volume(owner, spec))
    return ready(driver, owner).ref


def image(driver: XcpngDriver, file: Published) -> str:
    return driver.push_image(tag(), "image", file.source, chunks(file.data))


def wished(driver: XcpngDriver, image: str | None = None, **more) -> InstanceSpec:
    disks = (DiskPlace(size=4 * MIB, volume=volume(driver, image)),)
    return InstanceSpec(name="vm-1", size=SIZE, disks=disks, **more)


def seen(driver: XcpngDriver, owner: OwnerTag):
    answer = driver.find(owner)
    assert isinstance(answer, Seen), answer
    return answer.it


# -- sessions ----------------------------------------------------------------------------------


@BOTH_HOSTS
def test_a_member_of_the_pool_sends_us_to_the_coordinator(sim: XcpngSim):
    driver = XcpngDriver(access_to(sim, endpoint=sim.member_url))
    assert driver.check().version == "XCP-ng 8.3.0"
    assert driver._api._host == "127.0.0.1"
    driver.close()


def test_a_session_that_ended_is_begun_anew(sim: XcpngSim, driver: XcpngDriver):
    driver.check()
    sim.expire_sessions()
    owner = tag()
    insisted(lambda: driver.create_volume(owner, VolumeSpec(name="v", size=4 * MIB)))
    assert len([f for f in driver.owned() if f.owner == owner]) == 1


def test_a_wrong_password_is_denied_without_showing_it(sim: XcpngSim):
    wrong = {"username": "fedctl", "password": "wrong-and-secret"}
    driver = XcpngDriver(access_to(sim, secrets=wrong))
    with pytest.raises(Denied) as caught:
        driver.check()
    assert "wrong-and-secret" not in str(caught.value) + repr(caught.value.__cause__)


def test_another_certificate_is_an_integrity_error(sim: XcpngSim):
    driver = XcpngDriver(access_to(sim, pins={"tls": "AB:" * 31 + "AB"}))
    with pytest.raises(Integrity, match="not the registered one"):
        driver.check()
    two = f"{'AB:' * 31}AB,{sim.credentials.fingerprint}"
    trusting = XcpngDriver(access_to(sim, pins={"tls": two}))
    assert trusting.check().version
    trusting.close()


def test_closing_logs_out(sim: XcpngSim, driver: XcpngDriver):
    driver.check()
    assert len(sim.pool.sessions) == 1
    driver.close()
    assert not sim.pool.sessions


# -- making ------------------------------------------------------------------------------------


def test_a_create_whose_answer_was_lost_makes_one(sim: XcpngSim, driver: XcpngDriver):
    owner, spec = tag(), wished(driver)
    for call in ("VM.create", "add_to_other_config", "VBD.create"):
        sim.faults.fail(LostAnswer(), method="POST", path=call)
        with pytest.raises(Unavailable):
            driver.create(owner, spec)
        answer = driver.find(owner)
        assert isinstance(answer, Seen)
        assert answer.it.state is InstanceState.WORKING
    ref = driver.create(owner, spec)
    assert seen(driver, owner).ref == ref
    assert seen(driver, owner).state is InstanceState.READY
    assert len(sim.pool.where("VM", name_label="vm-1")) == 1
    assert len(sim.pool.where("VBD", VM=sim.pool.by_uuid("VM", ref))) == 1


def test_of_two_creates_at_once_the_one_with_the_claim_stays(sim: XcpngSim, driver: XcpngDriver):
    """The other connection creates between our look and our own create."""
    owner, spec = tag(), wished(driver)
    other = XcpngDriver(access_to(sim))
    plain = driver._api.text

    def late(method: str, *given):
        if method == "VM.create":
            other.create(owner, spec)
        return plain(method, *given)

    driver._api.text = late
    ref = driver.create(owner, spec)
    assert other.create(owner, spec) == ref
    assert len(sim.pool.where("VM", name_label="vm-1")) == 1
    other.close()


def test_a_volume_is_given_to_one_vm(driver: XcpngDriver):
    spec = wished(driver)
    driver.create(tag(), spec)
    with pytest.raises(Conflict, match="belongs to VM"):
        driver.create(tag(), spec)


def test_a_claim_of_a_vm_that_is_gone_does_not_hold(driver: XcpngDriver):
    first, spec = tag(), wished(driver)
    driver.create(first, spec)
    driver.delete(first)
    second = tag()
    driver.create(second, spec)
    assert seen(driver, second).state is InstanceState.READY


def test_a_vm_whose_notes_were_changed_is_not_touched(sim: XcpngSim, driver: XcpngDriver):
    owner = tag()
    ref = sim.pool.by_uuid("VM", driver.create(owner, wished(driver)))
    config = sim.pool.row("VM", ref)["other_config"]
    sim.pool.put("VM", ref, other_config=config | {mapping.DISKS: "[["})
    with pytest.raises(Conflict, match="changed by hand"):
        driver.set_power(owner, Power.ON)
    assert [f.owner for f in driver.owned() if f.kind is ArtefactKind.INSTANCE] == [owner]


def test_keys_and_user_data_are_on_a_drive_that_goes_with_the_vm(
    sim: XcpngSim, driver: XcpngDriver, tmp_path: Path
):
    owner = tag()
    spec = wished(driver, ssh_keys=("ssh-ed25519 AAAA me",), user_data="#cloud-config\na: 1\n")
    ref = sim.pool.by_uuid("VM", driver.create(owner, spec))
    (vbd,) = sim.pool.where("VBD", VM=ref, userdevice="1")
    drive = sim.pool.file(sim.pool.row("VBD", vbd)["VDI"])
    copy = tmp_path / "drive"
    copy.write_bytes(drive.read_bytes())
    with warnings.catch_warnings(action="ignore"):
        from pyfatfs.PyFatFS import PyFatFS

        files = PyFatFS(str(copy), read_only=True)
        assert files.listdir("/") == ["meta-data", "user-data"]
        assert files.readtext("/user-data") == "#cloud-config\na: 1\n"
        assert "ssh-ed25519 AAAA me" in files.readtext("/meta-data")
        files.close()
    driver.delete(owner)
    assert driver.find(owner) == Absent()
    assert not drive.exists()


def test_user_data_that_does_not_fit_is_invalid():
    with pytest.raises(Invalid, match="shorten"):
        seed.fat({"user-data": bytes(3 * MIB)})


# -- images and volumes ------------------------------------------------------------------------


def test_a_flipped_bit_on_the_way_in_is_found(sim: XcpngSim, driver: XcpngDriver, gateway: Gateway):
    file, owner = gateway.publish(pattern(), DiskFormat.RAW), tag()
    sim.faults.corrupt(Direction.IN, offset=70_000)
    with pytest.raises(Integrity):
        driver.push_image(owner, "image", file.source, chunks(file.data))
    assert driver.push_image(owner, "image", file.source, chunks(file.data))


@pytest.mark.parametrize("odd", [0, 512])
def test_the_zeros_of_an_image_are_not_sent(
    sim: XcpngSim, driver: XcpngDriver, gateway: Gateway, monkeypatch, odd: int
):
    data = bytearray(40 * MIB + odd)
    for at in (0, 17 * MIB - 700, len(data) - 300):
        data[at : at + 300] = random.Random(at).randbytes(300)
    file = gateway.publish(bytes(data), DiskFormat.RAW)
    sent: list[int] = []
    put = XapiClient.put
    monkeypatch.setattr(
        XapiClient, "put", lambda *a, **more: (sent.append(a[3]), put(*a, **more))[1]
    )
    ref = driver.push_image(tag(), "image", file.source, chunks(file.data))
    assert sum(sent) < MIB
    held = sim.pool.file(sim.pool.by_uuid("VDI", ref)).read_bytes()
    assert held[: len(data)] == data
    assert not any(held[len(data) :])


def test_an_image_that_comes_back_short_is_not_ready(
    sim: XcpngSim, driver: XcpngDriver, gateway: Gateway
):
    file, owner = gateway.publish(pattern(), DiskFormat.RAW), tag()
    sim.faults.fail(LostAnswer(), method="GET")
    with pytest.raises(Unavailable):
        driver.push_image(owner, "image", file.source, chunks(file.data))
    assert driver.push_image(owner, "image", file.source, chunks(file.data))


@BOTH_HOSTS
def test_an_image_is_read_where_the_storage_is(
    sim: XcpngSim, driver: XcpngDriver, gateway: Gateway
):
    sim.pool.elsewhere = "127.0.0.2"
    assert image(driver, gateway.publish(pattern(), DiskFormat.RAW))
    assert not sim.pool.elsewhere


def test_a_full_storage_is_exhausted(sim: XcpngSim, driver: XcpngDriver):
    sim.faults.fill_disk()
    with pytest.raises(Exhausted):
        driver.create_volume(tag(), VolumeSpec(name="v", size=4 * MIB))


def test_a_copy_whose_answer_was_lost_is_found_and_ends_once(
    sim: XcpngSim, driver: XcpngDriver, gateway: Gateway
):
    ref, owner = image(driver, gateway.publish(pattern(), DiskFormat.RAW)), tag()
    spec = VolumeSpec(name="v", size=4 * MIB, image=ref)
    sim.faults.fail(LostAnswer(), method="POST", path="Async.VDI.copy")
    with pytest.raises(Unavailable):
        driver.create_volume(owner, spec)
    made = ready(driver, owner)
    vdi = sim.pool.by_uuid("VDI", made.ref)
    assert sim.pool.file(vdi).read_bytes()[: 3 * MIB] == pattern()


def test_a_copy_that_failed_is_told(sim: XcpngSim, driver: XcpngDriver, gateway: Gateway):
    ref, owner = image(driver, gateway.publish(pattern(), DiskFormat.RAW)), tag()
    with sim.pool.holding(sim.pool.by_uuid("VDI", ref), "read"):
        driver.create_volume(owner, VolumeSpec(name="v", size=4 * MIB, image=ref))
        vdi = next(v for v in sim.pool.tables["VDI"].values() if v["name_label"] == "v")
        task = vdi["other_config"][mapping.TASK]
        eventually(lambda: sim.pool.row("task", task)["status"] != "pending")
        sim.pool.finish(task, error=["SR_BACKEND_FAILURE_80", "", "it broke", ""])
        answer = driver.find_volume(owner)
    assert isinstance(answer, Seen)
    assert answer.it.state is VolumeState.FAILED
    assert "it broke" in answer.it.why


# -- power and fences --------------------------------------------------------------------------


def test_a_polite_stop_that_nobody_heard_is_told(sim: XcpngSim, driver: XcpngDriver):
    owner = tag()
    uuid = driver.create(owner, wished(driver))
    driver.set_power(owner, Power.ON)
    eventually(lambda: driver.agent_answers(owner))
    sim.guests.pause(uuid)
    driver.set_power(owner, Power.OFF)
    assert eventually(lambda: "VM_LACKS_FEATURE" in seen(driver, owner).why)
    sim.guests.resume(uuid)
    driver.set_power(owner, Power.OFF)
    eventually(lambda: seen(driver, owner).power is Power.OFF)
    assert not seen(driver, owner).why
    ref = sim.pool.by_uuid("VM", uuid)
    assert mapping.TASK not in sim.pool.row("VM", ref)["other_config"]


def test_a_fence_holds_against_everybody(sim: XcpngSim, driver: XcpngDriver):
    owner = tag()
    ref = sim.pool.by_uuid("VM", driver.create(owner, wished(driver)))
    sim.pool.put("VM", ref, ha_restart_priority="restart")
    config = sim.pool.row("VM", ref)["other_config"]
    sim.pool.put("VM", ref, other_config=config | {"auto_poweron": "true"})
    driver.fence(owner)
    row = sim.pool.row("VM", ref)
    assert row["ha_restart_priority"] == ""
    assert "auto_poweron" not in row["other_config"]
    with pytest.raises(Exception, match="OPERATION_BLOCKED"):
        checked(sim.pool, ref, "start")
    blocked = {k: v for k, v in row["blocked_operations"].items() if k != "resume"}
    sim.pool.put("VM", ref, blocked_operations=blocked)
    with pytest.raises(Conflict) as caught:
        driver.verify_fence(owner)
    assert caught.value.reason == "not-fenced"


def test_another_ones_block_stays_when_a_fence_goes(sim: XcpngSim, driver: XcpngDriver):
    owner = tag()
    ref = sim.pool.by_uuid("VM", driver.create(owner, wished(driver)))
    sim.pool.put("VM", ref, blocked_operations={"destroy": "mine"})
    driver.fence(owner)
    driver.unfence(owner)
    assert sim.pool.row("VM", ref)["blocked_operations"] == {"destroy": "mine"}
    with pytest.raises(Conflict):
        driver.delete(owner)


def test_an_isolated_nic_carries_nothing_while_it_runs(sim: XcpngSim, driver: XcpngDriver):
    owner, net = tag(), driver.catalogue().networks[0].ref
    uuid = driver.create(owner, wished(driver, nics=(NicSpec(network=net),)))
    driver.set_power(owner, Power.ON)
    eventually(lambda: sim.guests.reachable(uuid))
    driver.isolate_nics(owner)
    assert not sim.guests.reachable(uuid)
    driver.connect_nics(owner)
    assert sim.guests.reachable(uuid)


# -- snapshots, exports, imports ---------------------------------------------------------------


def test_between_two_snapshots_only_what_changed_is_read(
    sim: XcpngSim, driver: XcpngDriver, gateway: Gateway
):
    owner = tag()
    ref = image(driver, gateway.publish(pattern(), DiskFormat.RAW))
    spec = wished(driver, ref)
    uuid, disk = driver.create(owner, spec), spec.disks[0].volume or ""
    first, second = tag(), tag()
    mark = Mark(text=driver.create_snapshot(first, uuid))
    writer = driver.open_import(owner, disk)
    writer.write(MIB + 5, b"changed")
    writer.finish()
    writer.close()
    driver.close_import(owner, disk)
    driver.create_snapshot(second, uuid)
    export = tag()
    source = DiskSource(volume=disk, snapshot=second.artefact)
    assert driver.prepare_export(export, source, mark).changed_only
    reader = driver.open_export(export)
    told = list(reader.extents())
    assert [(e.offset, e.length) for e in told if e.kind is ExtentKind.DATA] == [(MIB, 65536)]
    assert {e.kind for e in told} == {ExtentKind.DATA, ExtentKind.UNCHANGED}
    assert sum(e.length for e in told) == reader.size
    assert reader.read(MIB + 5, 7) == b"changed"
    reader.close()
    eventually(lambda: driver.release_export(export) or driver.find_export(export) == Absent())
    vdi = sim.pool.by_uuid("VDI", disk)
    assert sim.pool.row("VDI", vdi)["cbt_enabled"] is True
    insisted(lambda: driver.delete_snapshot(first))
    assert sim.pool.row("VDI", vdi)["cbt_enabled"] is True
    insisted(lambda: driver.delete_snapshot(second))
    assert sim.pool.row("VDI", vdi)["cbt_enabled"] is False
    assert mapping.TRACKED not in sim.pool.row("VDI", vdi)["other_config"]


def test_a_snapshot_and_its_disks_are_not_taken_for_what_they_show(
    sim: XcpngSim, driver: XcpngDriver
):
    owner, point = tag(), tag()
    spec = wished(driver)
    uuid = driver.create(owner, spec)
    driver.create_snapshot(point, uuid)
    assert len(sim.pool.tables["VM"]) == 4  # with the control domain and the template
    kinds = sorted(str(f.kind) for f in driver.owned())
    assert kinds == ["instance", "snapshot", "volume"]
    insisted(lambda: driver.delete_snapshot(point))
    assert not sim.pool.where("VDI", is_a_snapshot=True)


def test_a_writer_that_was_replaced_in_the_middle_writes_nothing_more(
    sim: XcpngSim, driver: XcpngDriver
):
    """It made its task and looked at the key; then another took the key over."""
    owner, spec = tag(), wished(driver)
    driver.create(owner, spec)
    disk = spec.disks[0].volume or ""
    other = XcpngDriver(access_to(sim))
    late = driver.open_import(owner, disk)
    late.write(0, b"late" * 1024)
    plain = driver._api.put

    def after_the_look(*given, **more):
        with pytest.raises(Busy):
            other.open_import(owner, disk)
        other.open_import(owner, disk).close()
        return plain(*given, **more)

    driver._api.put = after_the_look
    with pytest.raises((Conflict, Busy)):
        late.finish()
    assert sim.pool.file(sim.pool.by_uuid("VDI", disk)).read_bytes()[:4] == bytes(4)
    other.close()


def test_an_instance_does_not_start_while_its_disk_is_written(driver: XcpngDriver):
    owner, spec = tag(), wished(driver)
    driver.create(owner, spec)
    disk = spec.disks[0].volume or ""
    driver.open_import(owner, disk).close()
    with pytest.raises(Conflict, match="being written"):
        driver.set_power(owner, Power.ON)
    driver.close_import(owner, disk)
    driver.set_power(owner, Power.ON)


def test_many_small_writes_are_one_transfer(sim: XcpngSim, driver: XcpngDriver):
    owner, spec = tag(), wished(driver)
    driver.create(owner, spec)
    disk = spec.disks[0].volume or ""
    writer = driver.open_import(owner, disk)
    sent, plain = [], driver._api.put
    driver._api.put = lambda *given, **more: (sent.append(1), plain(*given, **more))
    for at in range(0, 2 * MIB, 65536):
        writer.write(at, b"x" * 4096)
    writer.finish()
    writer.close()
    assert sent == [1]
    data = sim.pool.file(sim.pool.by_uuid("VDI", disk)).read_bytes()
    assert data.count(b"x") == 32 * 4096


@pytest.mark.parametrize(
    ("purpose", "way"), [("", "VHD stream"), ("insecure_nbd", "over NBD"), ("nbd", "over NBD")]
)
def test_what_networks_are_for_decides_how_disks_are_read(tmp_path: Path, purpose: str, way: str):
    with XcpngSim(tmp_path / "xcp", profile=STEADY, purpose=purpose) as sim:
        driver = XcpngDriver(access_to(sim))
        health = driver.check()
        assert not health.lacking
        assert ("purpose nbd" in "".join(health.warnings)) is (purpose == "")
        export, disk = tag(), volume(driver)
        assert way in driver.prepare_export(export, DiskSource(volume=disk)).note
        reader = driver.open_export(export)
        assert is_forward(reader) is (purpose == "")
        assert reader.read(0, 512) == bytes(512)
        reader.close()
        driver.close()


# -- disks as VHD streams ----------------------------------------------------------------------


@pytest.fixture
def closed(sim: XcpngSim) -> XcpngSim:
    """A pool whose NBD is offered, and whose port nobody answers."""
    sim._servers[0].stop()
    return sim


def streamed(sim: XcpngSim, driver: XcpngDriver) -> tuple[str, bytes]:
    """A volume of 24 MiB with ten blocks of noise, and what it holds."""
    owner, blocks = tag(), 12
    driver.create_volume(owner, VolumeSpec(name="disk-0", size=blocks * 2 * MIB))
    disk = ready(driver, owner).ref
    noise = [random.Random(n).randbytes(2 * MIB) if n not in {4, 5} else b"" for n in range(blocks)]
    with sim.pool.file(sim.pool.by_uuid("VDI", disk)).open("r+b") as file:
        for n, part in enumerate(noise):
            file.seek(n * 2 * MIB)
            file.write(part)
    return disk, b"".join(part or bytes(2 * MIB) for part in noise)


def all_of(reader, step: int = MIB) -> bytes:
    return b"".join(reader.read(at, step) for at in range(0, reader.size, step))


def test_a_port_that_nobody_answers_is_no_way_out(closed: XcpngSim, driver: XcpngDriver):
    disk, content = streamed(closed, driver)
    export = tag()
    assert "VHD stream" in driver.prepare_export(export, DiskSource(volume=disk)).note
    reader = driver.open_export(export)
    assert all_of(reader) == content
    kinds = [e.kind for e in reader.extents()]
    assert kinds == [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.DATA]
    reader.close()
    eventually(lambda: not closed.pool.senders)


def test_a_disk_that_was_offered_over_nbd_and_is_not_any_more_is_unavailable(
    sim: XcpngSim, driver: XcpngDriver
):
    export, disk = tag(), volume(driver)
    driver.prepare_export(export, DiskSource(volume=disk))
    sim._servers[0].stop()
    with pytest.raises(Unavailable, match="not any more"):
        driver.open_export(export)


def test_a_released_stream_ends_and_lets_its_disk_go(closed: XcpngSim, driver: XcpngDriver):
    """Its reader stands still in the middle, in another process for all that the pool knows."""
    disk, content = streamed(closed, driver)
    export, other = tag(), XcpngDriver(access_to(closed))
    driver.prepare_export(export, DiskSource(volume=disk))
    reader = driver.open_export(export)
    assert reader.read(0, 512) == content[:512]
    assert closed.pool.senders
    eventually(lambda: other.release_export(export) or other.find_export(export) == Absent())
    eventually(lambda: not closed.pool.senders)
    assert not closed.pool.in_use(closed.pool.by_uuid("VDI", disk), writing=True)
    for at in (512, 23 * MIB):
        with pytest.raises((NotFound, Unavailable, Busy)):
            reader.read(at, 512)
    with pytest.raises(NotFound):
        driver.open_export(export)
    reader.close()
    other.close()


def test_a_stream_that_begins_while_its_export_is_released_is_ended_too(
    closed: XcpngSim, driver: XcpngDriver
):
    """It made its task and saw the mark; then the export was released."""
    disk, _ = streamed(closed, driver)
    export, other = tag(), XcpngDriver(access_to(closed))
    driver.prepare_export(export, DiskSource(volume=disk))
    plain, looked = driver._still, list[int]()

    def still(*given) -> None:
        plain(*given)
        looked.append(1)
        other.release_export(export)
        other.release_export(export)

    driver._still = still
    with pytest.raises((Unavailable, Busy)):
        driver.open_export(export)
    assert looked == [1]
    assert not closed.pool.senders
    other.close()


def test_a_stream_that_begins_just_before_the_mark_goes_is_ended_too(
    closed: XcpngSim, driver: XcpngDriver
):
    """Who releases had seen no task by then."""
    disk, _ = streamed(closed, driver)
    export, other = tag(), XcpngDriver(access_to(closed))
    driver.prepare_export(export, DiskSource(volume=disk))
    plain, readers = other._api.call, []

    def call(method: str, *given):
        if method == "VDI.remove_from_other_config":
            readers.append(driver.open_export(export))
        return plain(method, *given)

    other._api.call = call
    other.release_export(export)
    (reader,) = readers
    eventually(lambda: not closed.pool.senders)
    with pytest.raises((NotFound, Unavailable, Busy)):
        all_of(reader)
    reader.close()
    other.close()


def test_a_newer_epoch_ends_the_older_ones_reading(closed: XcpngSim, driver: XcpngDriver):
    disk, _ = streamed(closed, driver)
    export = tag()
    driver.prepare_export(export, DiskSource(volume=disk))
    reader = driver.open_export(export)
    reader.read(0, 512)
    driver.prepare_export(replace(export, epoch=2), DiskSource(volume=disk))
    with pytest.raises(Conflict) as caught:
        reader.read(512, 512)
    assert caught.value.reason == "superseded"
    reader.close()


def test_a_stream_that_failed_is_unavailable_and_read_anew_by_who_asks_again(
    closed: XcpngSim, driver: XcpngDriver
):
    disk, content = streamed(closed, driver)
    export = tag()
    driver.prepare_export(export, DiskSource(volume=disk))
    closed.faults.fail(LostAnswer(), method="GET")
    reader = driver.open_export(export)
    with pytest.raises(Unavailable, match="VDI_IO_ERROR"):
        all_of(reader)
    assert all_of(reader) == content
    assert all_of(reader) == content  # a third stream
    reader.close()
    left = [t for t in closed.pool.tables["task"].values() if "fedctl read" in t["name_label"]]
    assert left == []


@pytest.mark.parametrize("manner", [Manner.DEAF, Manner.DRIPPING])
def test_no_stream_is_waited_for_for_ever(closed: XcpngSim, driver: XcpngDriver, manner: Manner):
    disk, content = streamed(closed, driver)
    export = tag()
    driver.prepare_export(export, DiskSource(volume=disk))
    with Relay(urlsplit(closed.url).port or 0) as relay:
        access = access_to(closed, endpoint=f"https://127.0.0.1:{relay.port}", timeout=1.0)
        far = XcpngDriver(access)
        reader = far.open_export(export)
        assert reader.read(0, 512) == content[:512]
        relay.manner, began = manner, time.monotonic()
        with pytest.raises(Unavailable):
            all_of(reader)
        reader.close()
        assert time.monotonic() - began < 10
        relay.manner = Manner.WELL
        far.close()


@BOTH_HOSTS
def test_a_stream_comes_from_where_the_storage_is(closed: XcpngSim, driver: XcpngDriver):
    disk, content = streamed(closed, driver)
    closed.pool.elsewhere = "127.0.0.2"
    export = tag()
    driver.prepare_export(export, DiskSource(volume=disk))
    reader = driver.open_export(export)
    assert not closed.pool.elsewhere
    assert all_of(reader) == content
    reader.close()


def since(sim: XcpngSim, driver: XcpngDriver) -> tuple[OwnerTag, str, Mark, DiskSource]:
    """An instance with a snapshot, a change of one block, and a source that shows it now."""
    owner, first = tag(), tag()
    disk, _ = streamed(sim, driver)
    place = DiskPlace(size=24 * MIB, volume=disk)
    uuid = driver.create(owner, InstanceSpec(name="vm-1", size=SIZE, disks=(place,)))
    mark = Mark(text=driver.create_snapshot(first, uuid))
    with sim.pool.file(sim.pool.by_uuid("VDI", disk)).open("r+b") as file:
        file.seek(4 * 2 * MIB + 70_000)
        file.write(b"changed")
    return first, disk, mark, DiskSource(volume=disk)


def test_between_two_points_a_stream_has_the_blocks_that_changed(
    closed: XcpngSim, driver: XcpngDriver
):
    _, disk, mark, source = since(closed, driver)
    content = closed.pool.file(closed.pool.by_uuid("VDI", disk)).read_bytes()
    export = tag()
    assert driver.prepare_export(export, source, mark).changed_only
    reader = driver.open_export(export)
    told = [(e.offset, e.length, e.kind) for e in reader.extents()]
    assert told == [
        (0, 8 * MIB, ExtentKind.UNCHANGED),
        (8 * MIB, 2 * MIB, ExtentKind.DATA),
        (10 * MIB, 14 * MIB, ExtentKind.UNCHANGED),
    ]
    before = closed.faults.carried[Direction.OUT]
    assert reader.read(8 * MIB, 2 * MIB) == content[8 * MIB : 10 * MIB]
    assert closed.faults.carried[Direction.OUT] - before <= 2 * MIB + 4096
    # What the vault cannot take over from the point before is read from the whole disk.
    assert all_of(reader) == content
    reader.close()
    eventually(lambda: not closed.pool.senders)


def test_a_base_without_bytes_or_of_another_length_is_none(closed: XcpngSim, driver: XcpngDriver):
    first, disk, mark, source = since(closed, driver)
    pool = closed.pool
    (frozen,) = pool.where("VDI", snapshot_of=pool.by_uuid("VDI", disk))
    pool.put("VDI", frozen, type="cbt_metadata")
    assert not driver.prepare_export(tag(), source, mark).changed_only
    pool.put("VDI", frozen, type="user", virtual_size=22 * MIB)
    assert not driver.prepare_export(tag(), source, mark).changed_only
    pool.put("VDI", frozen, virtual_size=24 * MIB)
    assert driver.prepare_export(tag(), source, mark).changed_only
    insisted(lambda: driver.delete_snapshot(first))


def test_where_no_difference_can_be_told_any_more_the_stream_is_whole(
    closed: XcpngSim, driver: XcpngDriver
):
    _, disk, mark, source = since(closed, driver)
    pool, export = closed.pool, tag()
    content = pool.file(pool.by_uuid("VDI", disk)).read_bytes()
    assert driver.prepare_export(export, source, mark).changed_only
    (frozen,) = pool.where("VDI", snapshot_of=pool.by_uuid("VDI", disk))
    pool.put("VDI", frozen, type="cbt_metadata")
    reader = driver.open_export(export)
    assert ExtentKind.UNCHANGED not in {e.kind for e in reader.extents()}
    assert all_of(reader) == content
    reader.close()
    whole = tag()
    driver.prepare_export(whole, source)
    pool.put("VDI", pool.by_uuid("VDI", disk), type="cbt_metadata")
    with pytest.raises(Unsupported, match="VDI_INCOMPATIBLE_TYPE"):
        driver.open_export(whole)


@pytest.mark.parametrize("asked", [{"format": "raw"}, {"format": "vhd", "base": None}])
def test_another_stream_than_was_asked_for_is_unavailable(
    closed: XcpngSim, driver: XcpngDriver, asked: dict
):
    """Whole where changes were asked for, or no VHD at all: neither is taken for changes."""
    _, _, mark, source = since(closed, driver)
    export, plain = tag(), driver._api.get
    driver.prepare_export(export, source, mark)
    given = {key: value for key, value in asked.items() if value}
    driver._api.get = lambda vdi, *, task, **_: plain(vdi, task=task, **given)
    with pytest.raises(Unavailable, match=r"not asked for|cannot be read"):
        driver.open_export(export)
    eventually(lambda: not closed.pool.senders)


def test_the_edges_of_odd_writes_are_read_without_nbd(closed: XcpngSim, driver: XcpngDriver):
    disk, content = streamed(closed, driver)
    owner, place = tag(), DiskPlace(size=24 * MIB, volume=disk)
    driver.create(owner, InstanceSpec(name="vm-1", size=SIZE, disks=(place,)))
    writer, expected = driver.open_import(owner, disk), bytearray(content)
    for at in (20 * MIB + 5, 100, 9 * MIB - 3):
        writer.write(at, b"odd" * 3)
        expected[at : at + 9] = b"odd" * 3
    insisted(writer.finish)
    writer.close()
    held = closed.pool.file(closed.pool.by_uuid("VDI", disk)).read_bytes()
    assert held == bytes(expected)


def test_zeros_go_over_in_batches_so_that_a_stop_is_soon_heeded(sim: XcpngSim, driver: XcpngDriver):
    owner, disk = tag(), volume(driver, size=40 * MIB)
    place = DiskPlace(size=40 * MIB, volume=disk)
    driver.create(owner, InstanceSpec(name="vm-1", size=SIZE, disks=(place,)))
    file = sim.pool.file(sim.pool.by_uuid("VDI", disk))
    file.write_bytes(b"\xa5" * (40 * MIB))
    writer = driver.open_import(owner, disk)
    writer.zero(0, 40 * MIB)
    held = file.read_bytes()
    assert held == bytes(32 * MIB) + b"\xa5" * (8 * MIB)
    writer.finish()
    writer.close()
    assert file.read_bytes() == bytes(40 * MIB)


# -- more of exports, storages and marks -------------------------------------------------------


def test_a_released_export_leaves_another_one_of_the_same_disk(driver: XcpngDriver):
    disk, one, two = volume(driver), tag(), tag()
    for owner in (one, two):
        driver.prepare_export(owner, DiskSource(volume=disk))
    reader = driver.open_export(two)
    driver.release_export(one)
    assert driver.find_export(one) == Absent()
    assert reader.read(0, 512) == bytes(512)
    reader.close()


def test_an_unknown_storage_is_not_found(sim: XcpngSim):
    driver = XcpngDriver(access_to(sim, options={"storage": "nowhere"}))
    with pytest.raises(NotFound, match="Local storage"):
        driver.create_volume(tag(), VolumeSpec(name="v", size=4 * MIB))
    driver.close()


def test_the_highest_epoch_on_an_object_counts():
    owner = tag(3)
    config = {replace(owner, epoch=n).text(): "volume" for n in (1, 3, 2)} | {"fedctl.x": "?"}
    (stamp,) = mapping.stamps(config).values()
    assert stamp.owner == owner
    assert len(mapping.older(config, owner)) == 2
