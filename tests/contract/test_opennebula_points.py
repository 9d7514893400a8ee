"""Snapshots of OpenNebula VMs: backups that are announced, shown, marked, and sometimes lost."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import MIB, DiskSource, ExportStage
from controlplane.domain.errors import Busy, Conflict, NotFound, Unavailable, Unsupported
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability
from drivers.opennebula import points
from drivers.opennebula.driver import OpenNebulaDriver
from drivers.simulators.faults import STEADY, LostAnswer, Reset
from drivers.simulators.guest import lost_writes, read_journal
from drivers.simulators.opennebula import OpenNebulaSim, backups
from drivers.simulators.opennebula import oned as one
from drivers.simulators.witness import Witness
from tests.contract.images import Gateway
from tests.contract.test_opennebula import access_to
from tests.contract.test_opennebula_driver import (
    eventually,
    insisted,
    made,
    powered,
    seen,
    staged,
    tag,
    wished,
)
from tests.simulators.opennebula.test_life import journal_disk


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[OpenNebulaSim]:
    with OpenNebulaSim(tmp_path / "one", profile=STEADY, seed=1) as sim:
        yield sim


@pytest.fixture
def driver(sim: OpenNebulaSim) -> Iterator[OpenNebulaDriver]:
    driver = OpenNebulaDriver(access_to(sim))
    yield driver
    driver.close()


def ready(driver: OpenNebulaDriver, owner: OwnerTag) -> str:
    def look() -> str | None:
        answer = driver.find_snapshot(owner)
        return answer.it.ref if isinstance(answer, Seen) and answer.it.ready else None

    return eventually(look)


def started(driver: OpenNebulaDriver) -> tuple[OwnerTag, str]:
    owner = made(driver)
    powered(driver, owner, Power.ON)
    return owner, seen(driver, owner).ref


def kinds(driver: OpenNebulaDriver, owner: OwnerTag) -> list[ArtefactKind]:
    return [found.kind for found in driver.owned() if found.owner.artefact == owner.artefact]


def test_a_vm_that_never_ran_and_a_site_without_backups_cannot(sim, driver):
    hold = made(driver)
    with pytest.raises(Unsupported, match="never ran"):
        driver.create_snapshot(tag(), seen(driver, hold).ref)
    assert '"asked"' not in str(sim.oned.vms)
    access = access_to(sim)
    other = OpenNebulaDriver(replace(access, options=access.options | {"backup_datastore": "x"}))
    assert Capability.SNAPSHOTS in other.check().lacking
    powered(other, hold, Power.ON)
    with pytest.raises(Unsupported, match="no backup datastore"):
        other.create_snapshot(tag(), seen(other, hold).ref)
    other.close()


def test_a_snapshot_is_announced_before_it_shows_and_owned_from_then_on(sim, driver, monkeypatch):
    _, ref = started(driver)
    snapshot = tag()
    monkeypatch.setattr(sim.oned, "stale", lambda: 0.7)  # so long it does not show yet
    driver.create_snapshot(snapshot, ref)
    assert kinds(driver, snapshot) == [ArtefactKind.SNAPSHOT]
    with pytest.raises(Busy):
        driver.create_snapshot(tag(), ref)
    with pytest.raises(Busy):
        driver.delete_snapshot(snapshot)
    ready(driver, snapshot)
    assert kinds(driver, snapshot) == [ArtefactKind.SNAPSHOT]
    assert '"asked"' not in str(sim.oned.vms[int(ref)].user_template)


def test_a_backup_that_takes_its_time_is_seen_to_be_made(sim, driver, monkeypatch):
    """A first one of a large VM takes hours, and is no sign that its site is stuck."""
    _, ref = started(driver)
    snapshot = tag()
    monkeypatch.setattr(sim.oned, "stale", lambda: 0.7)  # so long it does not show yet
    driver.create_snapshot(snapshot, ref)
    vm = sim.oned.vms[int(ref)]
    real, vm.lcm = vm.lcm, 69
    answer = driver.find_snapshot(snapshot)
    assert isinstance(answer, Seen)
    assert (answer.it.ready, answer.it.copying) == (False, True)
    vm.lcm = real
    ready(driver, snapshot)
    answer = driver.find_snapshot(snapshot)
    assert isinstance(answer, Seen)
    assert not answer.it.copying


def test_a_backup_whose_answer_or_mark_was_lost_is_not_made_twice(sim, driver):
    _, ref = started(driver)
    snapshot = tag()
    sim.faults.fail(LostAnswer(), path="one.vm.backup")
    with pytest.raises(Unavailable):
        driver.create_snapshot(snapshot, ref)
    sim.faults.fail(LostAnswer(), path="one.image.update")
    sim.faults.fail(Reset(), path="one.vm.update")
    eventually(lambda: (driver.create_snapshot(snapshot, ref), True)[1])
    ready(driver, snapshot)
    insisted(lambda: driver.create_snapshot(snapshot, ref))
    assert len(sim.oned.vms[int(ref)].backups) == 1
    assert kinds(driver, snapshot) == [ArtefactKind.SNAPSHOT]


def test_a_backup_that_oned_lost_in_silence_is_absent_and_asked_for_again(sim, driver, monkeypatch):
    """Of two in one second the second leaves nothing, which only time can tell."""
    _, ref = started(driver)
    monkeypatch.setattr(points, "_LOST_AFTER", 0.3)
    clock = SimpleNamespace(time=lambda: 1000.0, strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(backups, "time", clock)
    vm = sim.oned.vms[int(ref)]
    vm.backup_second = 1000
    snapshot = tag()
    driver.create_snapshot(snapshot, ref)
    eventually(lambda: driver.find_snapshot(snapshot) == Absent())
    assert vm.backups == []
    assert kinds(driver, snapshot) == [ArtefactKind.SNAPSHOT], "what was announced is accounted for"
    vm.backup_second = 0
    driver.create_snapshot(snapshot, ref)
    ready(driver, snapshot)
    assert len(vm.backups) == 1


def test_a_lost_announcement_can_be_taken_back(sim, driver, monkeypatch):
    owner, ref = started(driver)
    monkeypatch.setattr(points, "_LOST_AFTER", 0.0)
    vm = sim.oned.vms[int(ref)]
    snapshot = tag()
    real, vm.lcm = vm.lcm, 69
    with pytest.raises(Busy):
        driver.create_snapshot(snapshot, ref)
    vm.lcm = real
    sim.faults.fail(Reset(), path="one.vm.backup")
    with pytest.raises(Unavailable):
        driver.create_snapshot(snapshot, ref)
    insisted(lambda: driver.delete_snapshot(snapshot))
    assert driver.find_snapshot(snapshot) == Absent()
    assert kinds(driver, snapshot) == []
    assert seen(driver, owner).power is Power.ON


def test_a_backup_of_somebody_else_is_none_of_ours(sim, driver):
    owner, ref = started(driver)
    driver._api.call("vm.backup", int(ref), one.BACKUP_DS, False)  # noqa: FBT003
    eventually(lambda: sim.oned.vms[int(ref)].backups)
    eventually(lambda: seen(driver, owner).power is Power.ON)
    sim.oned.vms[int(ref)].backup_second = 0
    snapshot = tag()
    driver.create_snapshot(snapshot, ref)
    ready(driver, snapshot)
    theirs, ours = sim.oned.vms[int(ref)].backups
    driver.delete_snapshot(snapshot)
    eventually(lambda: driver.find_snapshot(snapshot) == Absent())
    assert list(sim.oned.vms[int(ref)].backups) == [theirs]
    assert ours not in sim.oned.images


def test_a_snapshot_of_a_running_guest_stays_as_it_was_while_the_guest_writes_on(
    tmp_path, gateway: Gateway
):
    identity = b"a guest that ran"
    witness = Witness(tmp_path / "witness.db")
    profile = replace(STEADY, journal_rate=200.0)
    with OpenNebulaSim(tmp_path / "one", profile=profile, witness=witness, seed=1) as sim:
        driver = OpenNebulaDriver(access_to(sim))
        owner = made(driver, wished(driver, staged(driver, gateway, journal_disk(identity))))
        powered(driver, owner, Power.ON)
        eventually(lambda: witness.highest(identity.hex()) > 5)
        it, snapshot, export = seen(driver, owner), tag(), tag()
        promised = witness.highest(identity.hex())
        driver.create_snapshot(snapshot, it.ref)
        ready(driver, snapshot)
        source = DiskSource(volume=it.disks[0].volume, instance=it.ref, snapshot=snapshot.artefact)
        assert insisted(lambda: driver.prepare_export(export, source)).stage is ExportStage.READY
        reader = driver.open_export(export)
        assert reader.size == 4 * MIB
        first = read_journal(reader.read)
        later = witness.highest(identity.hex()) + 10
        eventually(lambda: witness.highest(identity.hex()) > later)
        assert read_journal(reader.read) == first
        assert lost_writes(first, list(range(1, promised + 1))) == ()
        with pytest.raises(Conflict):
            driver.prepare_export(export, replace(source, snapshot=None))
        with pytest.raises(NotFound):
            driver.prepare_export(tag(), replace(source, volume="77"))
        reader.close()
        driver.release_export(export)
        driver.close()
    witness.close()
