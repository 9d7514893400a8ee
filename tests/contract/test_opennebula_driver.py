"""What the OpenNebula driver does beyond the contract's suite."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.disk import (
    MIB,
    DiskBus,
    DiskFormat,
    DiskSource,
    ExportStage,
    ImageState,
    VolumeSpec,
    VolumeState,
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
)
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import (
    DiskPlace,
    Firmware,
    InstanceSpec,
    InstanceState,
    Power,
    Size,
)
from controlplane.domain.network import NicSpec, Span
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability
from drivers.opennebula import mapping
from drivers.opennebula.client import Record
from drivers.opennebula.driver import OpenNebulaDriver
from drivers.opennebula.mapping import NicNote, Notes
from drivers.simulators.faults import STEADY, Direction, LostAnswer, Reset, Status
from drivers.simulators.guest import lost_writes, read_journal
from drivers.simulators.opennebula import OpenNebulaSim, vms
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.template import parsed, vectors
from drivers.simulators.witness import Witness
from tests.contract.images import Gateway, pattern
from tests.contract.test_opennebula import access_to
from tests.simulators.opennebula.test_life import journal_disk

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
    return eventually(lambda: (call(), True))[0]


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[OpenNebulaSim]:
    with OpenNebulaSim(tmp_path / "one", profile=STEADY, seed=1) as sim:
        yield sim


@pytest.fixture
def driver(sim: OpenNebulaSim) -> Iterator[OpenNebulaDriver]:
    driver = OpenNebulaDriver(access_to(sim))
    yield driver
    driver.close()


def volume(driver: OpenNebulaDriver, image: str | None = None, size: int = 4 * MIB) -> str:
    owner = tag()
    spec = VolumeSpec(name="disk-0", size=size, image=image)
    insisted(lambda: driver.create_volume(owner, spec))
    return volume_ready(driver, owner).ref


def volume_ready(driver: OpenNebulaDriver, owner: OwnerTag):
    def look():
        answer = driver.find_volume(owner)
        return isinstance(answer, Seen) and answer.it.state is VolumeState.READY and answer.it

    return eventually(look)


def wished(driver: OpenNebulaDriver, image: str | None = None, **more) -> InstanceSpec:
    disks = (DiskPlace(size=4 * MIB, volume=volume(driver, image)),)
    return InstanceSpec(name="web-1", size=SIZE, disks=disks, **more)


def made(driver: OpenNebulaDriver, spec: InstanceSpec | None = None, epoch: int = 1) -> OwnerTag:
    owner = tag(epoch)
    insisted(lambda: driver.create(owner, spec or wished(driver)))
    return owner


def seen(driver: OpenNebulaDriver, owner: OwnerTag):
    """What is there: a look may settle a nic, and while the answer to that is lost it is Unknown."""
    answer = eventually(lambda: not isinstance(it := driver.find(owner), Unknown) and it)
    assert isinstance(answer, Seen), answer
    return answer.it


def powered(driver: OpenNebulaDriver, owner: OwnerTag, power: Power) -> None:
    insisted(lambda: driver.set_power(owner, power))
    eventually(
        lambda: (it := seen(driver, owner)).power is power and it.state is InstanceState.READY
    )


def staged(driver: OpenNebulaDriver, gateway: Gateway, raw: bytes, form=DiskFormat.RAW) -> str:
    owner = tag()
    insisted(lambda: driver.pull_image(owner, "image", gateway.publish(raw, form).source))

    def ready():
        answer = driver.find_image(owner)
        return isinstance(answer, Seen) and answer.it.state is ImageState.READY and answer.it.ref

    return eventually(ready)


def exported(driver: OpenNebulaDriver, source: DiskSource, length: int) -> bytes:
    export = tag()
    assert insisted(lambda: driver.prepare_export(export, source)).stage is ExportStage.READY
    reader = driver.open_export(export)
    try:
        return reader.read(0, length)
    finally:
        reader.close()
        driver.release_export(export)


# -- once, whatever became of the answer -------------------------------------------------------


def test_a_create_whose_answer_was_lost_is_found_and_not_made_twice(sim, driver):
    owner, spec = tag(), wished(driver)
    sim.faults.fail(LostAnswer(), path="one.vm.allocate")
    ref = driver.create(owner, spec)
    assert sim.faults.fired
    assert driver.create(owner, spec) == ref
    assert list(sim.oned.vms) == [int(ref)]


def test_volumes_let_no_second_create_through_even_when_the_first_does_not_show(sim, driver):
    owner, spec = tag(), wished(driver)
    first = driver.create(owner, spec)
    listing = driver._lookup
    looks = iter([None])
    driver._lookup = lambda asked: next(looks, listing(asked))
    assert driver.create(owner, spec) == first
    assert len(sim.oned.vms) == 1
    with pytest.raises(Conflict, match="persistent and already in use"):
        driver.create(tag(), replace(spec, name="other"))


def test_a_second_image_or_volume_of_a_tag_is_refused_by_its_name(sim, driver, gateway):
    owner, source = tag(), gateway.publish(pattern(), DiskFormat.RAW).source
    sim.faults.fail(LostAnswer(), path="one.image.allocate")
    with pytest.raises(Unavailable):
        driver.pull_image(owner, "image", source)
    found = driver._for
    looks = iter([None])
    driver._for = lambda asked, kind: next(looks, found(asked, kind))
    assert driver.pull_image(owner, "image", source) == "0"
    assert [image.name for image in sim.oned.images.values()] == [mapping.key(owner)]


@pytest.mark.parametrize("lost", ["one.image.clone", "one.image.update", "one.image.persistent"])
def test_a_clone_that_broke_off_is_finished_and_never_taken_for_its_image(
    sim, driver, gateway, lost
):
    image = staged(driver, gateway, pattern())
    owner, spec = tag(), VolumeSpec(name="disk-0", size=5 * MIB, image=image)
    sim.faults.fail(LostAnswer(), path=lost)
    sim.faults.fail(Reset(), path="one.image.update")
    listed = insisted(lambda: list(driver.owned()))
    insisted(lambda: driver.create_volume(owner, spec))
    listed = list(driver.owned())
    assert sorted(found.kind for found in listed) == ["image", "volume"]
    assert len({found.owner.artefact for found in listed}) == 2
    assert volume_ready(driver, owner).size == 5 * MIB
    image_of = sim.oned.images[int(driver.create_volume(owner, spec))]
    assert image_of.persistent
    assert len(sim.oned.images) == 2
    assert sim.oned.file(image_of.source).stat().st_size == 5 * MIB


@pytest.mark.parametrize("seed", range(3))
def test_lost_answers_make_no_second_of_anything(tmp_path, gateway, seed):
    """Every step is asked until it is answered; a fifth of the answers are lost."""
    profile = replace(STEADY, lost_answers=0.2)
    with OpenNebulaSim(tmp_path / "one", profile=profile, seed=seed) as sim:
        driver = OpenNebulaDriver(access_to(sim))
        _whole_life(sim, driver, gateway)
        driver.close()


def _whole_life(sim: OpenNebulaSim, driver: OpenNebulaDriver, gateway: Gateway) -> None:
    image, disk, instance, export = tag(), tag(), tag(), tag()
    source = gateway.publish(pattern(), DiskFormat.QCOW2).source
    insisted(lambda: driver.pull_image(image, "image", source))
    ready = eventually(
        lambda: (
            isinstance(a := driver.find_image(image), Seen)
            and a.it.state is ImageState.READY
            and a.it
        )
    )
    wish = VolumeSpec(name="disk", size=4 * MIB, image=ready.ref)
    insisted(lambda: driver.create_volume(disk, wish))
    place = DiskPlace(size=4 * MIB, volume=volume_ready(driver, disk).ref)
    nics = (NicSpec(network="0", isolated=True), NicSpec(network="0"))
    spec = InstanceSpec(name="web-1", size=SIZE, disks=(place,), nics=nics)
    insisted(lambda: driver.create(instance, spec))
    insisted(lambda: driver.connect_nics(instance))
    for power in (Power.ON, Power.OFF):
        powered(driver, instance, power)
    insisted(lambda: driver.fence(instance))
    assert seen(driver, instance).fenced
    eventually(lambda: driver.give_up_nics(instance))
    disk_source = DiskSource(volume=place.volume, instance=seen(driver, instance).ref)
    insisted(lambda: driver.prepare_export(export, disk_source))
    reader = insisted(lambda: driver.open_export(export))
    assert reader.read(0, 3 * MIB) == pattern()
    reader.close()
    kinds = sorted(found.kind for found in insisted(lambda: list(driver.owned())))
    assert kinds == ["export", "image", "instance", "volume"]
    for remove, find, owner in (
        (driver.release_export, driver.find_export, export),
        (driver.delete, driver.find, instance),
        (driver.delete_volume, driver.find_volume, disk),
        (driver.delete_image, driver.find_image, image),
    ):
        eventually(lambda r=remove, f=find, o=owner: (r(o), f(o) == Absent())[1])
    assert insisted(lambda: list(driver.owned())) == []
    assert not sim.oned.images
    assert not sim.oned.networks[0].leases
    assert {vm.state for vm in sim.oned.vms.values()} == {one.DONE}


# -- bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tm", ["local", "shared"])
def test_a_guests_journal_is_whole_at_the_end_of_an_export(tmp_path, gateway, tm):
    """Of a VM that ran on a local datastore the image datastore's file would be stale."""
    identity = b"one's own guest!"
    witness = Witness(tmp_path / "witness.db")
    profile = replace(STEADY, journal_rate=200.0)
    with OpenNebulaSim(tmp_path / "one", profile=profile, witness=witness, seed=1, tm=tm) as sim:
        driver = OpenNebulaDriver(access_to(sim))
        image = staged(driver, gateway, journal_disk(identity))
        owner = made(driver, wished(driver, image))
        powered(driver, owner, Power.ON)
        eventually(lambda: witness.highest(identity.hex()) > 5)
        powered(driver, owner, Power.OFF)
        it = seen(driver, owner)
        source = DiskSource(volume=it.disks[0].volume, instance=it.ref)
        data = exported(driver, source, 4 * MIB)
        journal = read_journal(lambda offset, length: data[offset : offset + length])
        driver.close()
    assert journal.identity == identity
    assert (
        lost_writes(
            journal,
            witness.durable(identity.hex())
            and [record.sequence for record in witness.durable(identity.hex())],
        )
        == ()
    )
    witness.close()


def test_a_volume_is_longer_than_its_image_from_the_first_moment(driver, gateway):
    image = staged(driver, gateway, pattern(), DiskFormat.QCOW2)
    ref = volume(driver, image, 9 * MIB)
    data = exported(driver, DiskSource(volume=ref), 9 * MIB)
    assert data == pattern().ljust(9 * MIB, b"\0")
    with pytest.raises(Invalid, match="larger"):
        driver.create_volume(tag(), VolumeSpec(name="small", size=MIB, image=image))


def test_one_flipped_bit_fails_an_image_and_is_called_damage(sim, driver, gateway):
    owner = tag()
    sim.faults.corrupt(Direction.IN, offset=70_000)
    driver.pull_image(owner, "image", gateway.publish(pattern(), DiskFormat.RAW).source)
    failed = eventually(
        lambda: (
            isinstance(a := driver.find_image(owner), Seen)
            and a.it.state is ImageState.FAILED
            and a.it
        )
    )
    assert failed.damaged
    assert "SHA-256" in failed.why


def test_a_full_datastore_is_exhausted_and_a_failed_fetch_tells_no_address(sim, driver, gateway):
    published = gateway.publish(pattern(), DiskFormat.RAW)
    sim.faults.fill_disk()
    with pytest.raises(Exhausted):
        driver.create_volume(tag(), VolumeSpec(name="disk", size=MIB))
    sim.faults.free_disk()
    owner = tag()
    driver.pull_image(owner, "image", published.source)
    with sim.oned.changing():
        image = next(iter(sim.oned.images.values()))
        image.state = one.ERROR
        image.template["ERROR"] = [f"Error copying {published.source.url}: No space left"]
    answer = driver.find_image(owner)
    assert answer.it.state is ImageState.FAILED
    assert answer.it.why == "Error copying (an address) No space left"


def test_of_two_writers_that_start_at_once_one_is_left(driver):
    owner = made(driver)
    ref = seen(driver, owner).disks[0].volume
    stored = driver._volume(ref)
    image = driver._image(stored, driver._path(stored, "a test"))
    for _ in range(2):
        driver._shell.serve(owner, ref, image, writable=True)
    sockets = [export.socket for export in driver._shell.served()]
    with pytest.raises(Busy):
        driver._only_writer(ref, sockets[0])
    assert [export.socket for export in driver._shell.served()] == sockets[1:]
    driver.close_import(owner, ref)
    assert driver._shell.served() == []


# -- power, fences, nics -----------------------------------------------------------------------


def test_nothing_starts_beside_a_writer(driver):
    owner = made(driver)
    ref = seen(driver, owner).disks[0].volume
    writer = driver.open_import(owner, ref)
    with pytest.raises(Conflict, match="written"):
        driver.set_power(owner, Power.ON)
    writer.close()
    driver.close_import(owner, ref)
    powered(driver, owner, Power.ON)


def test_a_failed_start_is_told_with_oneds_words_and_can_be_deleted(sim, driver):
    owner = made(driver)
    (vm,) = sim.oned.vms.values()
    disk = vectors(vm.template, "DISK")[0]
    sim.oned.writers = lambda: {sim.oned.file(vms.disk_path(vm, disk)).resolve()}
    driver.set_power(owner, Power.ON)
    failed = eventually(lambda: (it := seen(driver, owner)).state is InstanceState.FAILED and it)
    assert 'Failed to get "write" lock' in failed.why
    assert failed.power is Power.OFF
    with pytest.raises(Conflict, match="failed to start"):
        driver.set_power(owner, Power.ON)
    driver.set_power(owner, Power.OFF)
    driver.fence(owner)
    assert driver.verify_fence(owner).level is mapping.LIMITS.fence_level
    driver.delete(owner)
    eventually(lambda: driver.find(owner) == Absent())


def test_a_stamp_on_a_fenced_vm_leaves_it_locked(sim, driver):
    owner = made(driver)
    driver.fence(owner)
    later = replace(owner, epoch=4)
    proof = driver.fence(later)
    assert proof.epoch == 4
    (vm,) = sim.oned.vms.values()
    assert vm.lock == 1
    with pytest.raises(Conflict):
        driver.set_power(later, Power.ON)
    assert vm.lock == 1


def test_a_lock_of_somebody_else_is_a_conflict_and_no_fence(sim, driver):
    owner = made(driver)
    (vm,) = sim.oned.vms.values()
    vm.lock, vm.lock_owner = 1, 0
    assert not seen(driver, owner).fenced
    with pytest.raises(Conflict, match="locked"):
        driver.set_power(owner, Power.ON)
    with pytest.raises(Conflict):
        driver.fence(owner)


def test_a_scheduled_action_must_go_before_a_fence(sim, driver):
    owner = made(driver)
    (vm,) = sim.oned.vms.values()
    vm.template["SCHED_ACTION"] = [{"ACTION": "resume", "TIME": "1"}]
    with pytest.raises(Conflict, match="scheduled"):
        driver.fence(owner)
    assert not seen(driver, owner).fenced


def test_a_fence_is_not_taken_from_a_start_that_did_not_show_yet(driver):
    owner = made(driver)
    driver.set_power(owner, Power.ON)
    with suppress(Busy, Conflict):
        driver.fence(owner)  # the old state may still be read here

    def told() -> bool:
        with pytest.raises(Conflict) as caught:
            driver.verify_fence(owner)
        return caught.value.reason == "not-fenced"

    eventually(lambda: seen(driver, owner).power is Power.ON)
    assert told()


def test_isolated_nics_are_not_plugged_and_hold_no_lease(sim, driver):
    nics = (
        NicSpec(network="0", mac="02:fe:00:00:00:01", isolated=True),
        NicSpec(network="0", isolated=True),
    )
    owner = made(driver, wished(driver, nics=nics))
    assert not sim.oned.networks[0].leases
    powered(driver, owner, Power.ON)
    (vm,) = sim.oned.vms.values()
    assert vectors(vm.template, "NIC") == []
    insisted(lambda: driver.connect_nics(owner))
    it = eventually(lambda: (it := seen(driver, owner)).state is InstanceState.READY and it)
    assert [nic.isolated for nic in it.nics] == [False, False]
    assert it.nics[0].mac == "02:fe:00:00:00:01"
    second = it.nics[1]
    insisted(lambda: driver.isolate_nics(owner))
    eventually(lambda: vectors(vm.template, "NIC") == [])
    assert not sim.oned.networks[0].leases
    insisted(lambda: driver.connect_nics(owner))
    eventually(lambda: len(vectors(vm.template, "NIC")) == 2)
    again = eventually(lambda: (it := seen(driver, owner)).state is InstanceState.READY and it)
    assert (again.nics[1].mac, again.nics[1].address) == (second.mac, second.address)


def test_a_vm_that_never_ran_does_not_start_with_a_nic_that_is_to_be_isolated(driver):
    owner = made(driver, wished(driver, nics=(NicSpec(network="0"),)))
    driver.isolate_nics(owner)
    assert [nic.isolated for nic in seen(driver, owner).nics] == [True]
    with pytest.raises(Conflict, match="never ran"):
        driver.set_power(owner, Power.ON)
    driver.connect_nics(owner)
    powered(driver, owner, Power.ON)
    assert [nic.isolated for nic in seen(driver, owner).nics] == [False]


@pytest.mark.parametrize("wish", [{"mac": "0a:00:00:00:00:01"}, {"address": "192.168.7.7"}])
def test_what_no_address_range_holds_is_a_conflict_before_anything_is_made(sim, driver, wish):
    spec = wished(driver, nics=(NicSpec(network="0", isolated=True, **wish),))
    with pytest.raises(Conflict, match="addar"):
        driver.create(tag(), spec)
    assert not sim.oned.vms


def test_an_address_alone_is_asked_for_and_had(driver):
    owner = made(driver, wished(driver, nics=(NicSpec(network="0", address="10.0.4.42"),)))
    (nic,) = seen(driver, owner).nics
    assert (nic.address, bool(nic.mac)) == ("10.0.4.42", True)


# -- the site ----------------------------------------------------------------------------------


def test_quotas_are_told_and_refused_as_exhausted(sim, driver):
    sim.limit(VMS=2, CPU=8, MEMORY=1024, IMAGES=3, SIZE=100)
    made(driver)
    told = driver.quota()
    assert (told.instances, told.cpus, told.memory) == (1, 7, 768 * MIB)
    assert (told.volumes, told.disk) == (2, 96 * MIB)
    made(driver)
    spec = wished(driver)
    with pytest.raises(Exhausted, match="quota"):
        driver.create(tag(), spec)
    with pytest.raises(Exhausted, match="quota"):
        driver.create_volume(tag(), VolumeSpec(name="more", size=MIB))


def test_without_a_shell_no_image_comes_and_no_disk_leaves(sim):
    driver = OpenNebulaDriver(access_to(sim))
    sim.faults.fail(Status(code=255), method="SSH", times=1000)
    lacking = driver.check().lacking
    assert set(lacking) == {
        Capability.IMAGE_PULL,
        Capability.DISK_EXPORT,
        Capability.DISK_IMPORT,
    }
    driver.close()
    access = access_to(sim)
    with pytest.raises(Invalid, match="ssh"):
        OpenNebulaDriver(replace(access, pins={}))
    other = replace(access, pins={"ssh": "SHA256:" + "A" * 43})
    strange = OpenNebulaDriver(other)
    with pytest.raises(Integrity, match="another host key"):
        strange.check()
    strange.close()


def test_plain_http_is_warned_of(driver):
    assert "plain http" in driver.check().warnings[0]


def test_a_wrong_token_is_denied_and_an_image_in_the_way_is_busy(sim, driver, gateway):
    access = access_to(sim)
    wrong = OpenNebulaDriver(replace(access, secrets=access.secrets | {"token": "0" * 40}))
    with pytest.raises(Denied):
        wrong.check()
    wrong.close()
    image = staged(driver, gateway, pattern())
    owner = next(found.owner for found in driver.owned() if found.kind == "image")
    sim.oned.profile = replace(sim.oned.profile, step_seconds=2.0)  # long enough to be seen
    driver.create_volume(tag(), VolumeSpec(name="disk", size=4 * MIB, image=image))
    with pytest.raises(Busy, match="being copied"):
        driver.delete_image(owner)


@pytest.mark.parametrize("notes", ["[{", "7", '[{"net": 1}]', "{}x"])
def test_notes_that_were_changed_by_hand_are_a_conflict_of_that_vm_alone(sim, driver, notes):
    owner, other = made(driver), made(driver)
    next(iter(sim.oned.vms.values())).user_template["FEDCTL_NICS"] = [notes]
    with pytest.raises(Conflict, match="by hand"):
        driver.find(owner)
    with pytest.raises(Conflict, match="by hand"):
        driver.set_power(owner, Power.ON)
    assert seen(driver, other).power is Power.OFF
    assert sorted(found.kind for found in driver.owned()) == ["instance"] * 2 + ["volume"] * 2


def test_a_lease_that_somebody_else_took_is_told_and_had_when_it_is_free(sim, driver):
    nics = (NicSpec(network="0", mac="02:fe:00:00:00:09", isolated=True),)
    owner = made(driver, wished(driver, nics=nics))
    powered(driver, owner, Power.ON)
    sim.oned.networks[0].leases["02:fe:00:00:00:09"] = 99
    with pytest.raises(Conflict, match="lease"):
        driver.connect_nics(owner)
    it = seen(driver, owner)
    assert (it.state, it.power) == (InstanceState.WORKING, Power.ON)
    assert "lease" in it.why
    sim.oned.networks[0].leases.clear()
    eventually(lambda: seen(driver, owner).state is InstanceState.READY)


def test_what_a_nic_may_have_is_what_its_network_has_ranges_of(driver):
    (network,) = driver.catalogue().networks
    assert network.addresses == (Span(first="10.0.4.10", last="10.0.4.209"),)
    assert network.macs is not None
    for mac in ("02:00:0a:00:04:0a", "02:fe:00:00:00:00", "02:fe:00:ff:ff:ff"):
        with_it = (NicSpec(network="0", mac=mac),)
        assert any(span.holds(mac) for span in network.macs)
        assert seen(driver, made(driver, wished(driver, nics=with_it))).nics[0].mac == mac
    for other in ("02:00:0a:00:04:09", "bc:24:11:6e:4b:5b"):
        assert not any(span.holds(other) for span in network.macs)
        with pytest.raises(Conflict, match="range"):
            driver.create(tag(), wished(driver, nics=(NicSpec(network="0", mac=other),)))


@pytest.mark.parametrize("wish", [{"mac": "no mac"}, {"address": "fe80::1"}])
def test_macs_and_addresses_of_a_wrong_shape_are_invalid(driver, wish):
    spec = wished(driver, nics=(NicSpec(network="0", **wish),))
    with pytest.raises(Invalid):
        driver.create(tag(), spec)


def test_refs_that_are_no_numbers_are_not_found(driver):
    with pytest.raises(NotFound):
        driver.create(tag(), wished(driver, nics=(NicSpec(network="vmbr0"),)))
    with pytest.raises(NotFound):
        driver.create_volume(tag(), VolumeSpec(name="disk", size=MIB, image="abc"))


def test_a_partial_answer_is_unknown_and_no_absence(sim, driver):
    owner = made(driver)
    sim.faults.fail(Reset(), path="infoextended")
    assert isinstance(driver.find(owner), Unknown)


# -- mapping -----------------------------------------------------------------------------------


def record(text: str) -> Record:
    return Record(ET.fromstring(text), "a test")


@pytest.mark.parametrize(
    ("state", "lcm", "power", "seen_as"),
    [
        (1, 0, None, InstanceState.WORKING),
        (2, 0, Power.OFF, InstanceState.READY),
        (3, 3, Power.ON, InstanceState.READY),
        (3, 18, None, InstanceState.WORKING),
        (3, 36, Power.OFF, InstanceState.FAILED),
        (3, 69, None, InstanceState.WORKING),
        (3, 70, None, InstanceState.WORKING),
        (3, 71, None, InstanceState.WORKING),
        (3, 99, None, InstanceState.WORKING),
        (5, 0, None, InstanceState.READY),
        (8, 0, Power.OFF, InstanceState.READY),
        (9, 0, Power.OFF, InstanceState.READY),
        (11, 0, None, InstanceState.FAILED),
    ],
)
def test_states_are_understood_beyond_those_that_pyone_knows(state, lcm, power, seen_as):
    vm = record(f"<VM><STATE>{state}</STATE><LCM_STATE>{lcm}</LCM_STATE></VM>")
    assert (mapping.power(vm), mapping.state(vm)) == (power, seen_as)


texts = st.text(
    st.characters(max_codepoint=0xFFFF, exclude_categories=("Cs", "Cc")), max_size=30
).filter(lambda text: "]]>" not in text)


@given(texts, texts)
def test_a_template_carries_any_text_as_it_is(one_text, other_text):
    read = parsed(mapping.template({"A": one_text, "B": [{"C": other_text}]}))
    assert read == {"A": [one_text], "B": [{"C": other_text}]}


@given(
    st.lists(
        st.builds(
            NicNote,
            network=st.integers(0, 99).map(str),
            mac=st.none() | st.just("02:fe:00:00:00:01"),
            address=st.none() | st.just("10.0.4.12"),
            isolated=st.booleans(),
        ),
        max_size=4,
    ).map(tuple),
    st.booleans(),
)
def test_notes_read_back(nics, fenced):
    notes = Notes(
        owner=tag(7), spec="abc", disks=(("3", 4 * MIB, DiskBus.SCSI),), nics=nics, fenced=fenced
    )
    inner = mapping.template(notes.attributes()).replace("TEMPLATE>", "USER_TEMPLATE>")
    assert mapping.notes(record(f"<VM>{inner}</VM>")) == notes


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"},
        {"name": "\U0001f600"},
        {"name": "a\x01"},
        {"size": Size(cpus=1, memory=MIB + 1)},
        {"disks": ()},
        {"disks": (DiskPlace(size=MIB, image="1"),)},
        {"disks": (DiskPlace(size=MIB, volume="1", bus=DiskBus.SATA),)},
    ],
)
def test_a_wish_that_oned_cannot_be_asked_for_is_invalid(change):
    good = InstanceSpec(name="web-1", size=SIZE, disks=(DiskPlace(size=MIB, volume="1"),))
    mapping.checked(good)
    with pytest.raises(Invalid):
        mapping.checked(replace(good, **change))


def test_firmware_keys_and_user_data_are_in_the_template():
    spec = InstanceSpec(
        name="web-1",
        size=SIZE,
        disks=(DiskPlace(size=MIB, volume="7", bus=DiskBus.SCSI),),
        firmware=Firmware.UEFI,
        ssh_keys=("ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"),
        user_data='#cloud-config\n"quotes" & more ]]>',
    )
    read = parsed(mapping.creation(tag(), spec, []))
    assert read["OS"] == [{"BOOT": "disk0", "FIRMWARE": "UEFI"}]
    assert read["DISK"] == [{"IMAGE_ID": "7", "DEV_PREFIX": "sd"}]
    (context,) = vectors(read, "CONTEXT")
    assert context["SSH_PUBLIC_KEY"].splitlines() == list(spec.ssh_keys)
    assert context["USERDATA_ENCODING"] == "base64"
    assert "quotes" not in context["USERDATA"]
