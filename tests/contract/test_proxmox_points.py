"""Points in time of running VMs: frozen, told apart by what changed, gone with their process."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import MIB, BlockReader, DiskSource, ExtentKind, Mark
from controlplane.domain.errors import Conflict, NotFound, Unavailable
from controlplane.domain.instance import DiskPlace, InstanceSpec, Manner, Power
from controlplane.domain.owner import OwnerTag
from drivers.proxmox.driver import ProxmoxDriver
from drivers.proxmox.qmp import Qmp
from drivers.simulators.faults import STEADY, LostAnswer
from drivers.simulators.guest import read_journal
from drivers.simulators.proxmox import ProxmoxSim
from tests.contract.images import Gateway
from tests.contract.test_proxmox import access_to
from tests.contract.test_proxmox_driver import SIZE, eventually, made, powered, seen, staged, tag
from tests.e2e.images import raw_image


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
def vm(sim: ProxmoxSim, driver: ProxmoxDriver, gateway: Gateway, tmp_path: Path) -> OwnerTag:
    """A running VM whose guest keeps a journal."""
    raw = raw_image(tmp_path / "guest.raw", seed=3).read_bytes()
    disks = (DiskPlace(size=len(raw), image=staged(driver, gateway, raw)),)
    owner = made(driver, InstanceSpec(name="web-1", size=SIZE, disks=disks))
    powered(driver, owner, Power.ON)
    written(sim, driver, owner, 3)
    return owner


def written(sim: ProxmoxSim, driver: ProxmoxDriver, owner: OwnerTag, records: int) -> None:
    """Wait until the guest has written so many more records."""
    native = seen(driver, owner).ref

    def last() -> int:
        journal = sim.node.guests.journals().get(native)
        return journal.last if journal else 0

    goal = eventually(last) + records
    eventually(lambda: last() >= goal)


def taken(driver: ProxmoxDriver, owner: OwnerTag) -> tuple[OwnerTag, Mark]:
    point = tag()
    ref = eventually(lambda: driver.create_snapshot(point, seen(driver, owner).ref))
    answer = driver.find_snapshot(point)
    assert isinstance(answer, Seen)
    assert answer.it.ready
    return point, Mark(text=ref)


@contextmanager
def shown(
    driver: ProxmoxDriver, owner: OwnerTag, point: OwnerTag, since: Mark | None = None
) -> Iterator[tuple[OwnerTag, BlockReader]]:
    volume = seen(driver, owner).disks[0].volume
    export = tag()
    driver.prepare_export(export, DiskSource(volume=volume, snapshot=point.artefact), since)
    with closing(driver.open_export(export)) as reader:
        yield export, reader


def content(driver: ProxmoxDriver, owner: OwnerTag, point: OwnerTag) -> bytes:
    with shown(driver, owner, point) as (_, reader):
        return whole(reader)


def tells_changes(driver: ProxmoxDriver, export: OwnerTag) -> bool:
    answer = driver.find_export(export)
    assert isinstance(answer, Seen)
    return bool(answer.it.changed_only)


def whole(reader: BlockReader) -> bytes:
    return b"".join(
        reader.read(at, min(MIB, reader.size - at)) for at in range(0, reader.size, MIB)
    )


def gone(driver: ProxmoxDriver, point: OwnerTag) -> None:
    def step() -> bool:
        driver.delete_snapshot(point)
        return isinstance(driver.find_snapshot(point), Absent)

    eventually(step)


def test_a_point_stays_as_it_was_while_the_guest_writes(sim, driver, vm):
    point, _ = taken(driver, vm)
    with shown(driver, vm, point) as (_, reader):
        before = whole(reader)
        written(sim, driver, vm, 20)
        assert whole(reader) == before


def test_changes_laid_over_one_point_make_the_next(sim, driver, vm):
    first, mark = taken(driver, vm)
    copy = bytearray(content(driver, vm, first))
    written(sim, driver, vm, 20)
    second, _ = taken(driver, vm)
    written(sim, driver, vm, 5)
    told = 0
    with shown(driver, vm, second, mark) as (export, changes):
        assert tells_changes(driver, export)
        for extent in changes.extents():
            if extent.kind is not ExtentKind.UNCHANGED:
                told += extent.length
                data = changes.read(extent.offset, extent.length)
                copy[extent.offset : extent.offset + extent.length] = data
    assert 0 < told < len(copy) // 4
    assert content(driver, vm, second) == copy
    journal = read_journal(lambda offset, length: bytes(copy[offset : offset + length]))
    assert journal.damaged == ()


def test_a_paused_guest_writes_nothing_and_its_last_changes_are_told(sim, driver, vm):
    first, mark = taken(driver, vm)
    written(sim, driver, vm, 3)
    driver.pause(vm, timedelta(minutes=5))
    last, _ = taken(driver, vm)
    with shown(driver, vm, last, mark) as (_, reader):
        assert {ExtentKind.UNCHANGED, ExtentKind.DATA} <= {e.kind for e in reader.extents()}
    frozen = content(driver, vm, last)
    driver.set_power(vm, Power.OFF, Manner.HARD)
    eventually(lambda: seen(driver, vm).power is Power.OFF)
    [file] = [v.file for v in sim.node.volumes_of(sim.node.vm(int(seen(driver, vm).ref)))]
    assert file.read_bytes() == frozen
    gone(driver, first)
    gone(driver, last)


def test_a_point_and_its_changes_are_lost_with_the_process(sim, driver, vm):
    point, mark = taken(driver, vm)
    driver.set_power(vm, Power.OFF, Manner.HARD)
    eventually(lambda: seen(driver, vm).power is Power.OFF)
    assert driver.find_snapshot(point) == Absent()
    with pytest.raises(NotFound):
        content(driver, vm, point)
    # The scraps are on the books until they are deleted.
    assert [f.kind for f in driver.owned() if f.owner == point] == [ArtefactKind.SNAPSHOT]
    gone(driver, point)
    assert [f for f in driver.owned() if f.owner == point] == []
    powered(driver, vm, Power.ON)
    later, _ = taken(driver, vm)
    with shown(driver, vm, later, mark) as (export, _):
        assert not tells_changes(driver, export)


def test_what_a_point_takes_is_given_back(sim, driver, vm):
    point, _ = taken(driver, vm)
    with shown(driver, vm, point) as (export, reader):
        kinds = {f.kind for f in driver.owned() if f.owner in {point, export}}
        assert kinds == {ArtefactKind.SNAPSHOT, ArtefactKind.EXPORT}
        driver.release_export(export)
        assert driver.find_export(export) == Absent()
        with pytest.raises(Unavailable):
            reader.read(0, 512)
    gone(driver, point)
    assert [f for f in driver.owned() if f.owner in {point, export}] == []
    [live] = sim.node.live.values()
    assert (live.scraps, live.exports) == ({}, {})
    assert all(drive.bitmaps == {} for drive in live.drives.values())
    assert list(sim.node.translated("x").parent.iterdir()) == []


@pytest.mark.parametrize("command", ["touch", "qemu-img", "mkdir", "rm"])
def test_an_answer_lost_while_a_point_is_made_or_given_back_makes_no_second(
    sim, driver, vm, command
):
    sim.faults.fail(LostAnswer(), method="SSH", path=f"^{command}")
    point, _ = taken(driver, vm)
    taken_twice = driver.create_snapshot(point, seen(driver, vm).ref)
    assert taken_twice
    [live] = sim.node.live.values()
    assert len(live.scraps) == len(live.jobs()) == 1
    gone(driver, point)
    assert live.scraps == {}
    assert list(sim.node.translated("x").parent.iterdir()) == []


def test_the_tag_of_a_point_is_of_one_vm(sim, driver, vm):
    point, _ = taken(driver, vm)
    other = made(driver, InstanceSpec(name="web-2", size=SIZE, disks=(DiskPlace(size=4 * MIB),)))
    with pytest.raises(Conflict):
        driver.create_snapshot(point, seen(driver, other).ref)


def test_a_paused_guest_goes_on_by_itself_when_nobody_is_left_to_resume_it(sim, driver, vm):
    """A second passes: the node's timers count whole ones."""
    driver.pause(vm, timedelta(seconds=1))
    driver.close()
    written(sim, ProxmoxDriver(access_to(sim)), vm, 3)


def native(driver: ProxmoxDriver, owner: OwnerTag) -> str:
    return seen(driver, owner).ref


def test_the_agent_freezes_what_is_paused_and_thaws_what_goes_on(sim, driver, vm):
    assert driver.pause(vm, timedelta(minutes=5))
    assert sim.node.guests.is_frozen(native(driver, vm))
    assert driver.pause(vm, timedelta(minutes=5)), "paused already: as it was told before"
    driver.resume(vm)
    assert not sim.node.guests.is_frozen(native(driver, vm))
    written(sim, driver, vm, 2)
    assert not sim.timers()


def test_what_was_kept_paused_thaws_when_it_goes_on(sim, driver, vm):
    driver.pause(vm, timedelta(minutes=5))
    driver.keep_paused(vm)
    assert not sim.timers()
    driver.resume(vm)
    written(sim, driver, vm, 2)


def test_a_guest_whose_driver_dies_once_it_is_frozen_thaws_by_itself(sim, driver, vm, monkeypatch):
    """Three seconds pass: the node's timers count whole ones."""

    def dies(self: Qmp) -> None:
        raise Unavailable("the control plane is gone")

    monkeypatch.setattr(Qmp, "stop", dies)
    with pytest.raises(Unavailable):
        driver.pause(vm, timedelta(seconds=1))
    assert sim.node.guests.is_frozen(native(driver, vm))
    written(sim, ProxmoxDriver(access_to(sim)), vm, 3)


def test_a_guest_without_an_agent_is_paused_as_it_is(sim, driver, vm):
    sim.node.vms[int(native(driver, vm))].config["agent"] = "0"
    assert not driver.pause(vm, timedelta(minutes=5))
    driver.resume(vm)
    written(sim, driver, vm, 2)
    assert not sim.timers()


def test_an_agent_that_hangs_leaves_nothing_frozen(sim, driver, vm):
    sim.node.guests.hanging.add(native(driver, vm))
    assert not driver.pause(vm, timedelta(minutes=5))
    assert not sim.node.guests.is_frozen(native(driver, vm))
    driver.resume(vm)
    written(sim, driver, vm, 2)


def test_a_guest_that_went_on_by_itself_is_told_before_it_is_cut(sim, driver, vm):
    """A second passes: the node's timers count whole ones."""
    driver.pause(vm, timedelta(seconds=1))
    written(sim, driver, vm, 1)
    with pytest.raises(Conflict, match="went on"):
        driver.keep_paused(vm)


def test_what_is_kept_paused_stays_so_after_its_time(sim, driver, vm):
    driver.pause(vm, timedelta(seconds=1))
    driver.keep_paused(vm)
    assert not sim.timers()
    driver.pause(vm, timedelta(minutes=5))
    driver.resume(vm)
    assert not sim.timers()
