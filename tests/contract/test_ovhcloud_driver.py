"""What the OVHcloud driver does beyond the contract's suite."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import MIB, DiskFormat, DiskSource, ExportStage, ImageState
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
from controlplane.domain.instance import (
    DiskPlace,
    Firmware,
    InstanceSeen,
    InstanceSpec,
    InstanceState,
    Power,
)
from controlplane.domain.network import NicSpec
from controlplane.domain.owner import OwnerTag
from drivers.ovhcloud import mapping
from drivers.ovhcloud.driver import OvhcloudDriver
from drivers.ovhcloud.mapping import Boot, NicNote, Notes
from drivers.simulators.faults import STEADY, Direction, LostAnswer, Status
from drivers.simulators.guest import lost_writes, read_journal
from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.ovhcloud.estate import TAGGED, Server
from drivers.simulators.witness import Witness
from tests.contract.images import Gateway, pattern
from tests.contract.test_ovhcloud import access_to
from tests.simulators.opennebula.test_life import journal_disk
from tests.simulators.ovhcloud import schema as published

ADDRESS = "203.0.113.1"


def tag(epoch: int = 1, like: OwnerTag | None = None) -> OwnerTag:
    return OwnerTag(
        artefact=ArtefactId(uuid4()),
        instance=like.instance if like else InstanceId(uuid4()),
        operation=like.operation if like else OperationId(uuid4()),
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
def sim(tmp_path: Path) -> Iterator[OvhSim]:
    with OvhSim(tmp_path / "ovh", profile=STEADY, seed=1, servers=3) as sim:
        yield sim


@pytest.fixture
def driver(sim: OvhSim) -> Iterator[OvhcloudDriver]:
    driver = OvhcloudDriver(access_to(sim))
    yield driver
    driver.close()


def wished(driver: OvhcloudDriver, image: str | None = None, **more) -> InstanceSpec:
    (sku,) = driver.catalogue().skus
    return InstanceSpec(
        **{
            "name": "web-1",
            "size": sku.size,
            "sku": sku.name,
            "disks": (DiskPlace(size=4 * MIB, image=image),),
        }
        | more
    )


def seen(
    driver: OvhcloudDriver, owner: OwnerTag, state: InstanceState = InstanceState.READY
) -> InstanceSeen:
    def look():
        answer = driver.find(owner)
        return isinstance(answer, Seen) and answer.it.state is state and answer.it

    return eventually(look)


def made(driver: OvhcloudDriver, image: str | None = None, **more) -> OwnerTag:
    owner, spec = tag(), wished(driver, image, **more)
    insisted(lambda: driver.create(owner, spec))
    seen(driver, owner)
    return owner


def staged(driver: OvhcloudDriver, source, owner: OwnerTag | None = None):
    owner = owner or tag()
    insisted(lambda: driver.pull_image(owner, "guest", source))

    def look():
        answer = driver.find_image(owner)
        done = isinstance(answer, Seen) and answer.it.state is not ImageState.WORKING
        return done and answer.it

    return owner, eventually(look)


def power(driver: OvhcloudDriver, owner: OwnerTag, wish: Power) -> InstanceSeen:
    insisted(lambda: driver.set_power(owner, wish))
    return eventually(lambda: (it := seen(driver, owner)).power is wish and it)


def gone(driver: OvhcloudDriver, owner: OwnerTag) -> None:
    insisted(lambda: driver.delete(owner))
    eventually(lambda: driver.find(owner) == Absent())


def server_of(sim: OvhSim, driver: OvhcloudDriver, owner: OwnerTag) -> Server:
    return sim.estate.servers[seen(driver, owner).ref]


def shown_off(sim: OvhSim, server: Server) -> None:
    """The API tells that it is off, and its last task is forgotten."""
    eventually(lambda: not server.shown_on and not sim.estate.of(server.name))


def content(driver: OvhcloudDriver, owner: OwnerTag) -> bytes:
    """The whole disk as an export shows it."""
    it, export = seen(driver, owner), tag(like=owner)
    source = DiskSource(volume=it.disks[0].volume, instance=it.ref)
    eventually(lambda: driver.prepare_export(export, source).stage is ExportStage.READY)
    with closing(driver.open_export(export)) as reader:
        found = reader.read(0, reader.size)
    insisted(lambda: driver.release_export(export))
    return found


# -- images ------------------------------------------------------------------------------------


def test_an_image_lies_on_a_server_that_becomes_the_instance_and_boots_when_wished(
    sim: OvhSim, driver: OvhcloudDriver, gateway: Gateway
):
    image, it = staged(driver, gateway.publish(journal_disk(), DiskFormat.RAW).source)
    assert [f.kind for f in driver.owned()] == [ArtefactKind.IMAGE]
    owner = made(driver, it.ref)
    assert seen(driver, owner).ref == it.ref.partition("/")[0]
    assert content(driver, owner)[: 4 * MIB] == journal_disk(), "it did not boot meanwhile"
    driver.delete_image(image)
    assert driver.find_image(image) == Absent()
    assert not sim.guests.is_on(seen(driver, owner).ref)
    power(driver, owner, Power.ON)
    eventually(lambda: sim.guests.is_up(seen(driver, owner).ref))


def test_an_image_beyond_the_memory_is_fetched_in_rescue(
    sim: OvhSim, driver: OvhcloudDriver, gateway: Gateway
):
    for server in sim.estate.servers.values():
        server.memory_mib = 3 * 1024
    _, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    assert it.state is ImageState.READY
    assert "reinstallServer" not in {task.function for task in sim.estate.tasks.values()}
    owner = made(driver, it.ref)
    disk = content(driver, owner)
    assert disk[: len(pattern())] == pattern()
    with pytest.raises(Unsupported) as caught:
        driver.pull_image(tag(), "guest", gateway.publish(pattern(), DiskFormat.QCOW2).source)
    assert caught.value.reason == "pull-refused"


def test_an_image_that_is_longer_than_the_disk_claims_no_server(
    driver: OvhcloudDriver, gateway: Gateway
):
    source = gateway.publish(bytes(12 * MIB), DiskFormat.QCOW2).source
    with pytest.raises(Unsupported, match="choose another site"):
        driver.pull_image(tag(), "guest", source)
    assert driver.quota().instances == 3


def test_what_was_fetched_in_rescue_is_proven_too(
    sim: OvhSim, driver: OvhcloudDriver, gateway: Gateway
):
    for server in sim.estate.servers.values():
        server.memory_mib = 3 * 1024
    sim.faults.corrupt(Direction.IN, offset=70_000)
    owner, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    assert (it.state, it.damaged) == (ImageState.FAILED, True)
    insisted(lambda: driver.delete_image(owner))
    eventually(lambda: driver.find_image(owner) == Absent())
    assert driver.quota().instances == 3


def test_damage_on_the_way_is_told_and_the_same_tag_serves_again(
    sim: OvhSim, driver: OvhcloudDriver, gateway: Gateway
):
    source = gateway.publish(pattern(), DiskFormat.RAW).source
    sim.faults.corrupt(Direction.IN, offset=70_000)
    owner, it = staged(driver, source)
    assert (it.state, it.damaged) == (ImageState.FAILED, True)
    assert source.url not in it.why
    insisted(lambda: driver.delete_image(owner))
    eventually(lambda: driver.find_image(owner) == Absent())
    assert staged(driver, source, owner)[1].state is ImageState.READY


def test_the_disk_holds_the_image_and_nothing_else_whatever_is_wished_besides(
    sim: OvhSim, driver: OvhcloudDriver, gateway: Gateway
):
    """A move proves the disk to its very end; that keys do not go in is told by `check`."""
    _, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    owner = made(driver, it.ref, ssh_keys=("ssh-ed25519 AAAA me",), user_data="#cloud-config")
    disk = content(driver, owner)
    assert disk[: len(pattern())] == pattern()
    assert not any(disk[len(pattern()) :])
    assert any("user data" in warning for warning in driver.check().warnings)


def test_an_image_makes_one_instance_and_goes_with_it(driver: OvhcloudDriver, gateway: Gateway):
    image, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    owner = made(driver, it.ref)
    with pytest.raises(Conflict, match="stage the image again"):
        driver.create(tag(), wished(driver, it.ref, name="web-2"))
    gone(driver, owner)
    assert driver.find_image(image) == Absent()
    with pytest.raises(NotFound, match="stage it again"):
        driver.create(tag(), wished(driver, it.ref))


@pytest.mark.parametrize(
    ("mode", "firmware", "good"),
    [
        ("uefi", Firmware.BIOS, False),
        ("legacy", Firmware.UEFI, False),
        ("legacy", Firmware.BIOS, True),
        ("uefi", Firmware.UEFI, True),
    ],
)
def test_firmware_decides_what_a_server_can_be(
    sim: OvhSim,
    driver: OvhcloudDriver,
    gateway: Gateway,
    mode: str,
    firmware: Firmware,
    good: bool,  # noqa: FBT001  # a parameter
):
    for server in sim.estate.servers.values():
        server.boot_mode = mode
    _, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    server = sim.estate.servers[it.ref.partition("/")[0]]
    assert server.efi == (None if mode == "legacy" else "\\EFI\\BOOT\\BOOTX64.EFI")
    if good:
        made(driver, it.ref, firmware=firmware)
        return
    with pytest.raises(Unsupported):
        driver.create(tag(), wished(driver, it.ref, firmware=firmware))


# -- the pool ----------------------------------------------------------------------------------


def test_a_pool_that_is_used_up_is_exhausted_and_a_release_frees(driver: OvhcloudDriver):
    owners = [made(driver) for _ in range(3)]
    assert driver.quota().instances == 0
    with pytest.raises(Exhausted):
        driver.reserve(tag())
    gone(driver, owners[1])
    assert driver.quota().instances == 1
    assert driver.reserve(tag()) is not None


def test_the_last_free_server_is_reserved_where_the_image_lies(
    driver: OvhcloudDriver, gateway: Gateway
):
    for _ in range(2):
        made(driver)
    image, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    owner = tag(like=image)
    anchor = driver.reserve(owner)
    assert anchor == it.ref.partition("/")[0]
    assert insisted(lambda: driver.create(owner, wished(driver, it.ref, anchor=anchor))) == anchor


def test_a_released_server_is_wiped_and_keeps_only_tags_of_others(
    sim: OvhSim, driver: OvhcloudDriver, gateway: Gateway
):
    _, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    owner = made(driver, it.ref, nics=(NicSpec(network="pn-100"),))
    server = server_of(sim, driver, owner)
    server.tags["team"] = "shop"
    gone(driver, owner)
    assert not any(sim.estate.file(server).read_bytes())
    assert server.tags == {**TAGGED, "team": "shop"}
    assert [nic.vrack for nic in server.interfaces] == [None, None]


def test_the_pool_may_be_named_and_is_of_one_kind(sim: OvhSim, driver: OvhcloudDriver):
    names = sorted(sim.estate.servers)
    named = OvhcloudDriver(
        access_to(sim, options={"ssh_at": sim.ssh_at, "servers": ",".join(names[:2])})
    )
    with closing(named):
        assert named.quota().instances == 2
        sim.estate.servers[names[2]].kind = "SCALE-1"
        named.check()
        with pytest.raises(NotFound):
            named.create(tag(), wished(named, anchor=names[2]))
    with pytest.raises(Invalid, match="SCALE-1"):
        driver.check()
    lost = OvhcloudDriver(access_to(sim, options={"servers": "ns0"}))
    with closing(lost), pytest.raises(Unavailable, match="ns0"):
        list(lost.owned())


def test_a_server_whose_owner_never_gave_it_away_is_never_claimed_nor_wiped(
    sim: OvhSim, driver: OvhcloudDriver, tmp_path: Path
):
    """It runs something, it is in the pool by its name, and it bears no tag at all."""
    names = sorted(sim.estate.servers)
    foreign = sim.estate.servers[names[0]]
    with sim.estate.changing():
        foreign.tags.clear()
        sim.estate.file(foreign).write_bytes(b"precious" * (foreign.disk // 8))
        sim.estate.boot(foreign)
    boots = foreign.boots
    with closing(
        OvhcloudDriver(access_to(sim, options={"ssh_at": sim.ssh_at, "servers": names[0]}))
    ) as one:
        assert one.quota().instances == 0
        assert any(names[0] in warning for warning in one.check().warnings)
        with pytest.raises(Exhausted):
            one.reserve(tag())
        with pytest.raises(Conflict) as caught:
            one.create(tag(), wished(one, anchor=names[0]))
        assert caught.value.reason == "anchor-taken"
    taken = {driver.reserve(tag()) for _ in range(40)}
    assert taken == set(names[1:])
    foreign.tags["fedctl-pool"] = "no"
    assert driver.quota().instances == len(names) - 1
    assert foreign.boots == boots
    assert sim.estate.file(foreign).read_bytes().startswith(b"precious")
    assert foreign.tags == {"fedctl-pool": "no"}


def test_the_word_that_a_release_left_behind_hinders_no_claim(sim: OvhSim, driver: OvhcloudDriver):
    for server in sim.estate.servers.values():
        server.tags["fedctl-leaving"] = "yes"
    assert driver.quota().instances == len(sim.estate.servers)
    owner = made(driver)
    assert seen(driver, owner).state is InstanceState.READY
    assert "fedctl-leaving" not in server_of(sim, driver, owner).tags


def test_who_writes_the_tag_last_has_the_server(
    sim: OvhSim, driver: OvhcloudDriver, monkeypatch: pytest.MonkeyPatch
):
    """Two claim the same server at once: the slower one's tag stays, and the faster one sees it."""
    anchor, other = driver.reserve(tag()), tag()
    written = driver._tag

    def outdone(rented, tags):
        done = written(rented, tags)
        sim.estate.servers[rented.name].tags["fedctl-owner"] = other.text()
        return done

    monkeypatch.setattr(driver, "_tag", outdone)
    with pytest.raises(Conflict) as caught:
        driver.create(tag(), wished(driver, anchor=anchor))
    assert caught.value.reason == "anchor-taken"


def test_of_two_that_claim_at_once_at_most_one_has_the_server(
    sim: OvhSim, driver: OvhcloudDriver, monkeypatch: pytest.MonkeyPatch
):
    """Both saw it free; whichever order their calls come in, they never both go on."""
    anchor = driver.reserve(tag())
    one, two = tag(), tag()
    second, spec = OvhcloudDriver(access_to(sim)), wished(driver, anchor=anchor)
    looked = driver._again
    outcomes: list[str] = []

    def meanwhile(rented):
        monkeypatch.setattr(driver, "_again", looked)
        found = looked(rented)
        with pytest.raises(Busy):
            second.create(two, spec)
        outcomes.append("the second let go")
        return found

    monkeypatch.setattr(driver, "_again", meanwhile)
    with closing(second):
        assert insisted(lambda: driver.create(one, spec)) == anchor
        assert outcomes
        with pytest.raises(Conflict) as caught:
            second.create(two, spec)
    assert caught.value.reason == "anchor-taken"
    assert not any("claim" in key for key in sim.estate.servers[anchor].tags)


def test_a_claim_that_nobody_follows_up_does_not_hold_a_server(sim: OvhSim, driver: OvhcloudDriver):
    anchor = driver.reserve(tag())
    tags = sim.estate.servers[anchor].tags
    tags["fedctl-claim-" + "0" * 32] = f"{time.time() - 10:.0f}"
    with pytest.raises(Busy):
        driver.create(tag(), wished(driver, anchor=anchor))
    tags["fedctl-claim-" + "0" * 32] = f"{time.time() - 1000:.0f}"
    assert insisted(lambda: driver.create(tag(), wished(driver, anchor=anchor))) == anchor


def test_only_servers_of_the_sites_kind_are_given(driver: OvhcloudDriver):
    spec = wished(driver)
    for wrong in (
        replace(spec, sku="scale-1"),
        replace(spec, size=replace(spec.size, cpus=3)),
        replace(spec, disks=(DiskPlace(size=1 << 40),)),
        replace(spec, disks=(*spec.disks, *spec.disks)),
        replace(spec, nics=(NicSpec(network="pn-100"), NicSpec(network="pn-100"))),
        replace(spec, nics=(NicSpec(network="public"),)),
        replace(spec, name="web_1"),
    ):
        with pytest.raises(Invalid):
            driver.create(tag(), wrong)
    assert driver.quota().instances == 3


# -- power, rescue, fences ---------------------------------------------------------------------


def test_every_promised_write_is_read_out_after_the_cut(tmp_path: Path, gateway: Gateway):
    witness = Witness(tmp_path / "w.db")
    with OvhSim(tmp_path / "o", profile=STEADY, seed=1, servers=2, witness=witness) as sim:
        driver = OvhcloudDriver(access_to(sim))
        with closing(driver):
            _, it = staged(driver, gateway.publish(journal_disk(), DiskFormat.RAW).source)
            owner = made(driver, it.ref, nics=(NicSpec(network="pn-100"),))
            power(driver, owner, Power.ON)
            name = seen(driver, owner).ref
            eventually(lambda: (j := sim.guests.journals().get(name)) and j.last > 3)
            power(driver, owner, Power.OFF)
            disk = content(driver, owner)
        journal = read_journal(lambda offset, length: disk[offset : offset + length])
        promised = [r.sequence for r in witness.durable(journal.identity.hex())]
        assert len(promised) > 3
        assert lost_writes(journal, promised) == ()
        assert witness.twins() == ()
    witness.close()


def test_a_fenced_server_is_in_no_network_and_every_boot_leads_to_rescue(
    sim: OvhSim, driver: OvhcloudDriver
):
    owner = made(
        driver,
        nics=(NicSpec(network="pn-100"), NicSpec(network="public", address=ADDRESS)),
    )
    server = server_of(sim, driver, owner)
    assert server.interfaces[1].vrack == "pn-100"
    assert sim.estate.addresses[f"{ADDRESS}/32"].routed == server.name
    proof = insisted(lambda: driver.fence(owner))
    assert sim.rescues.system(server.name).ssh.host_key.get_fingerprint() in proof.observer
    assert server.interfaces[1].vrack is None
    assert sim.estate.addresses[f"{ADDRESS}/32"].routed is None
    with pytest.raises(Conflict, match="fenced"):
        driver.connect_nics(owner)
    with sim.estate.changing():
        sim.estate.boot(server)  # by hand, or by a failure of power
    assert server.runs == "rescue"
    eventually(lambda: "another ssh host key" in driver.find(owner).it.why)
    with pytest.raises(Integrity):
        driver.verify_fence(owner)
    power(driver, owner, Power.OFF)
    driver.verify_fence(owner)
    insisted(lambda: driver.unfence(owner))
    eventually(lambda: server.interfaces[1].vrack == "pn-100")
    assert not any(nic.isolated for nic in seen(driver, owner).nics)


def test_a_fence_that_was_undone_by_hand_is_told(sim: OvhSim, driver: OvhcloudDriver):
    owner = made(driver, nics=(NicSpec(network="pn-100"),))
    insisted(lambda: driver.fence(owner))
    server = server_of(sim, driver, owner)
    for undo, redo in (
        (lambda: setattr(server, "boot", 1), lambda: setattr(server, "boot", 1122)),
        (
            lambda: setattr(server.interfaces[1], "vrack", "pn-100"),
            lambda: setattr(server.interfaces[1], "vrack", None),
        ),
    ):
        undo()
        with pytest.raises(Conflict) as caught:
            driver.verify_fence(owner)
        assert caught.value.reason == "not-fenced"
        redo()
        driver.verify_fence(owner)
    with sim.estate.changing():
        sim.estate.halt(server)
    with pytest.raises(Conflict) as caught:
        driver.verify_fence(owner)
    assert caught.value.reason == "not-fenced"


def test_an_address_moves_with_the_instance(sim: OvhSim, driver: OvhcloudDriver):
    nic = NicSpec(network="public", address=ADDRESS)
    old = made(driver, nics=(nic,))
    new = made(driver, nics=(replace(nic, isolated=True),))
    eventually(lambda: driver.give_up_nics(old))
    insisted(lambda: driver.connect_nics(new))
    routed = sim.estate.addresses[f"{ADDRESS}/32"]
    eventually(lambda: routed.routed == seen(driver, new).ref)
    (shown,) = seen(driver, new).nics
    assert (shown.network, shown.address, shown.isolated) == ("public", ADDRESS, False)
    assert [each.isolated for each in seen(driver, old).nics] == [True]


def test_nics_that_were_given_up_leave_the_vrack_and_the_fence_stands(
    sim: OvhSim, driver: OvhcloudDriver
):
    owner = made(driver, nics=(NicSpec(network="pn-100"),))
    power(driver, owner, Power.ON)
    with pytest.raises(Conflict):
        driver.give_up_nics(owner)
    power(driver, owner, Power.OFF)
    insisted(lambda: driver.fence(owner))
    eventually(lambda: driver.give_up_nics(owner))
    driver.verify_fence(owner)
    insisted(lambda: driver.unfence(owner))
    assert server_of(sim, driver, owner).interfaces[1].vrack is None


def test_off_is_what_rescue_says_over_ssh(sim: OvhSim, driver: OvhcloudDriver):
    owner = made(driver)
    server = server_of(sim, driver, owner)
    with sim.estate.changing():
        sim.estate.halt(server)
    answer = driver.find(owner)
    assert isinstance(answer, Seen)
    assert (answer.it.state, answer.it.power) == (InstanceState.WORKING, None)
    with pytest.raises(Busy):
        driver.fence(owner)
    shown_off(sim, server)
    assert power(driver, owner, Power.OFF).power is Power.OFF, "it is asked to boot rescue anew"


def test_a_server_that_went_off_by_itself_is_started_again_when_wished(
    sim: OvhSim, driver: OvhcloudDriver
):
    owner = made(driver)
    power(driver, owner, Power.ON)
    server = server_of(sim, driver, owner)
    with sim.estate.changing():
        sim.estate.halt(server)
    shown_off(sim, server)
    insisted(lambda: driver.set_power(owner, Power.ON))
    eventually(lambda: sim.guests.is_on(server.name))


def test_what_is_told_late_of_the_power_is_no_reason_to_boot_again(
    sim: OvhSim, driver: OvhcloudDriver
):
    owner = made(driver)
    power(driver, owner, Power.ON)
    server = server_of(sim, driver, owner)
    boots, server.shown_on = server.boots, False
    sim.estate.task(server.name, "hardReboot")
    sim.estate.ended(max(sim.estate.of(server.name), key=lambda task: task.id))
    driver.set_power(owner, Power.ON)
    assert not sim.estate.busy(server.name)
    assert server.boots == boots


def test_a_system_that_lets_our_key_in_is_not_taken_for_rescue(sim: OvhSim, driver: OvhcloudDriver):
    owner = made(driver)
    system = sim.rescues.system(server_of(sim, driver, owner).name)
    system.mounted = "/mnt"
    with pytest.raises(Conflict, match="mounted"):
        driver.fence(owner)
    answer = driver.find(owner)
    assert isinstance(answer, Seen)
    assert answer.it.power is None
    system.mounted = ""
    sim.faults.fail(Status(code=0, reason="hostname: No such file"), method="SSH", path="hostname")
    with pytest.raises(NotFound):
        driver.fence(owner)
    insisted(lambda: driver.fence(owner))


def test_another_host_key_within_one_boot_is_another_host(sim: OvhSim, driver: OvhcloudDriver):
    owner = made(driver)
    server = server_of(sim, driver, owner)
    system = sim.rescues.system(server.name)
    sim.rescues.run(system.cut())
    system.ssh.host_key = asyncssh.generate_private_key("ssh-ed25519")
    sim.rescues.run(system.listen())
    fresh = OvhcloudDriver(access_to(sim))
    with closing(fresh), pytest.raises(Integrity):
        fresh.fence(owner)
    power(driver, owner, Power.OFF)
    assert insisted(lambda: driver.fence(owner)).level is driver.limits.fence_level


def test_what_a_task_did_counts_when_it_is_forgotten(sim: OvhSim, driver: OvhcloudDriver):
    owner = made(driver)
    power(driver, owner, Power.ON)
    eventually(lambda: not sim.estate.tasks)
    assert seen(driver, owner).power is Power.ON
    assert power(driver, owner, Power.OFF).power is Power.OFF


def test_a_reboot_that_failed_is_told_and_the_server_can_still_be_released(
    sim: OvhSim, driver: OvhcloudDriver
):
    owner = made(driver)
    sim.estate.failing.append("no power in rack https://x/secret")
    driver.set_power(owner, Power.ON)
    failed = seen(driver, owner, InstanceState.FAILED)
    assert "no power" in failed.why
    assert "secret" not in failed.why
    power(driver, owner, Power.OFF)
    gone(driver, owner)
    assert driver.quota().instances == 3


def test_an_expired_server_is_denied_with_what_to_do(sim: OvhSim, driver: OvhcloudDriver):
    owner = made(driver)
    server_of(sim, driver, owner).expired = True
    with pytest.raises(Denied, match="renew"):
        driver.set_power(owner, Power.ON)


def test_a_site_beyond_its_rate_or_down_is_unknown(sim: OvhSim, driver: OvhcloudDriver):
    owner = made(driver)
    sim.keys.rate = 1
    assert isinstance(driver.find(owner), Unknown)
    sim.keys.rate = None
    sim.faults.go_down()
    assert isinstance(driver.find(owner), Unknown)
    sim.faults.come_back()
    assert seen(driver, owner).power is Power.OFF


# -- whatever is lost --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_life_bears_that_answers_are_lost(tmp_path: Path, gateway: Gateway, seed: int):
    profile = replace(STEADY, lost_answers=0.15)
    with OvhSim(tmp_path / "o", profile=profile, seed=seed, servers=2) as sim:
        driver = OvhcloudDriver(access_to(sim))
        with closing(driver):
            image, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
            assert it.state is ImageState.READY
            owner, spec = tag(), wished(driver, it.ref, nics=(NicSpec(network="pn-100"),))
            ref = insisted(lambda: driver.create(owner, spec))
            insisted(lambda: driver.delete_image(image))
            power(driver, owner, Power.ON)
            power(driver, owner, Power.OFF)
            insisted(lambda: driver.fence(owner))
            insisted(lambda: driver.unfence(owner))
            assert seen(driver, owner).ref == ref
            assert content(driver, owner)[: len(pattern())] == pattern()
            gone(driver, owner)
            assert list(driver.owned()) == []
            assert driver.quota().instances == 2
        assert any(str(LostAnswer()) in fired for fired in sim.faults.fired)
        # The word that it leaves may stay behind; whoever claims the server takes it away.
        tags = [set(server.tags) - {"fedctl-leaving"} for server in sim.estate.servers.values()]
        assert tags == [set(TAGGED)] * 2


def test_every_call_and_answer_is_in_the_providers_schema(
    sim: OvhSim, driver: OvhcloudDriver, gateway: Gateway
):
    schema, calls = published.schema(), []
    published.watch(sim, calls)
    driver.check()
    image, it = staged(driver, gateway.publish(pattern(), DiskFormat.RAW).source)
    owner = made(
        driver,
        it.ref,
        user_data="#cloud-config",
        nics=(NicSpec(network="pn-100"), NicSpec(network="public", address=ADDRESS)),
    )
    driver.delete_image(image)
    power(driver, owner, Power.ON)
    power(driver, owner, Power.OFF)
    insisted(lambda: driver.fence(owner))
    insisted(lambda: driver.unfence(owner))
    gone(driver, owner)
    faults = published.faults_in(schema, calls)
    assert not faults, "\n".join(faults)


# -- notes -------------------------------------------------------------------------------------

words = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=20)


@given(network=words, address=st.none() | words.filter(lambda w: w != "-"), isolated=st.booleans())
def test_a_nic_is_read_as_it_was_noted(network: str, address: str | None, *, isolated: bool):
    nic = NicNote(network=network, address=address, isolated=isolated)
    assert Notes(tags={"nic-0": mapping.tag_value("nic", nic.text())}).nics == (nic,)


@given(st.dictionaries(words.map("fedctl-{}".format), st.text(max_size=30)))
def test_no_tag_whatever_stands_in_it_is_more_than_a_note(tags: dict[str, str]):
    notes = mapping.notes({**tags, "team": "shop"})
    assert "team" not in notes.tags
    assert notes.boot is None or isinstance(notes.boot, Boot)
    assert notes.disk >= 0
    assert notes.size.cpus >= 0
