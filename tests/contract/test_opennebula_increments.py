"""What OpenNebula tells of changes: increments of backups, bitmaps, and the ways to lose them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.disk import (
    KIB,
    MIB,
    DiskFormat,
    DiskSource,
    ExtentKind,
    Mark,
)
from controlplane.domain.instance import Manner, Power
from controlplane.domain.owner import OwnerTag
from drivers.opennebula import points
from drivers.opennebula.driver import OpenNebulaDriver
from drivers.simulators.faults import STEADY
from drivers.simulators.opennebula import OpenNebulaSim, bitmaps, vms
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.template import vectors
from tests.contract.images import Gateway, pattern
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
from tests.contract.test_opennebula_points import ready

GRANULE = 64 * KIB
SIZE = 4 * MIB


class Running:
    """A VM that runs, its one disk, and its points."""

    def __init__(self, sim: OpenNebulaSim, driver: OpenNebulaDriver, gateway: Gateway) -> None:
        self.sim, self.driver = sim, driver
        raw = pattern(SIZE // 2).ljust(SIZE, b"\0")
        image = staged(driver, gateway, raw, DiskFormat.QCOW2)
        self.owner = made(driver, wished(driver, image))
        powered(driver, self.owner, Power.ON)
        it = seen(driver, self.owner)
        self.ref, self.volume = it.ref, it.disks[0].volume

    @property
    def vm(self) -> one.Vm:
        return self.sim.oned.vms[int(self.ref)]

    @property
    def file(self) -> Path:
        (disk,) = vectors(self.vm.template, "DISK")
        return self.sim.oned.file(vms.disk_path(self.vm, disk)).resolve()

    def write(self, granule: int, data: bytes) -> None:
        with self.file.open("r+b") as file:
            os.pwrite(file.fileno(), data.ljust(GRANULE, b"\0"), granule * GRANULE)

    def point(self) -> OwnerTag:
        """A new one, not in the second of the one before."""
        self.vm.backup_second = 0
        owner = tag()
        insisted(lambda: self.driver.create_snapshot(owner, self.ref))
        ready(self.driver, owner)
        return owner

    def mark(self, point: OwnerTag) -> Mark:
        return Mark(text=f"{self.ref}/{point.artefact.hex}")

    def told(self, at: OwnerTag | None, since: Mark | None) -> dict[ExtentKind, set[int]] | None:
        """The granules of each kind; None where everything is read. What is read is compared."""
        owner, content = tag(), self._source(at)
        shown = insisted(lambda: self.driver.prepare_export(owner, content, since))
        reader = self.driver.open_export(owner)
        found: dict[ExtentKind, set[int]] = {}
        for extent in reader.extents():
            first, last = extent.offset // GRANULE, (extent.offset + extent.length) // GRANULE
            found.setdefault(extent.kind, set()).update(range(first, last))
        whole = reader.read(0, reader.size)
        reader.close()
        self.driver.release_export(owner)
        for granule in found.get(ExtentKind.ZERO, set()):
            assert whole[granule * GRANULE :][:GRANULE] == bytes(GRANULE)
        self.content = whole
        assert shown.changed_only or ExtentKind.UNCHANGED not in found
        return found if shown.changed_only else None

    def _source(self, at: OwnerTag | None) -> DiskSource:
        snapshot = at.artefact if at else None
        return DiskSource(volume=self.volume, instance=self.ref, snapshot=snapshot)


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[OpenNebulaSim]:
    with OpenNebulaSim(tmp_path / "one", profile=STEADY, seed=1) as sim:
        yield sim


@pytest.fixture
def driver(sim: OpenNebulaSim) -> Iterator[OpenNebulaDriver]:
    driver = OpenNebulaDriver(access_to(sim))
    yield driver
    driver.close()


@pytest.fixture
def running(sim, driver, gateway: Gateway) -> Running:
    return Running(sim, driver, gateway)


def test_an_increment_tells_what_changed_zeros_too_and_shows_the_whole_disk(running):
    running.write(5, b"will be zeros")
    first = running.point()
    running.write(3, b"\1" * GRANULE)
    running.write(40, b"new" * 100)
    running.write(5, b"")
    second = running.point()
    running.write(9, b"later" * 9)
    third = running.point()
    now = running.file.read_bytes()
    since = running.told(third, running.mark(second))
    assert since is not None
    assert since[ExtentKind.DATA] == {9}
    assert running.content == now
    longer = running.told(third, running.mark(first))
    assert longer is not None
    assert (longer[ExtentKind.DATA], longer[ExtentKind.ZERO]) == ({3, 9, 40}, {5})
    assert running.told(first, None) is None
    assert running.content != now
    (image,) = {running.sim.oned.images[n].id for n in running.vm.backups}
    assert len(running.sim.oned.images[image].increments) == 3


def test_of_a_stopped_vm_the_bitmap_tells_what_changed_since_its_last_point(running):
    first = running.point()
    running.write(7, b"\2" * GRANULE)
    second = running.point()
    running.write(11, b"\3" * GRANULE)
    insisted(lambda: running.driver.set_power(running.owner, Power.OFF, Manner.HARD))
    eventually(lambda: seen(running.driver, running.owner).power is Power.OFF)
    insisted(lambda: running.driver.fence(running.owner))
    told = running.told(None, running.mark(second))
    assert told is not None
    assert told[ExtentKind.DATA] == {11}
    assert running.content == running.file.read_bytes()
    assert running.told(None, running.mark(first)) is None, "its bitmap has gone"


def _reset(running: Running) -> None:
    """Somebody begins a chain of their own."""
    running.vm.backup_second = 0
    running.driver._api.call("vm.backup", int(running.ref), one.BACKUP_DS, True)  # noqa: FBT003
    eventually(lambda: len(running.vm.backups) == 2)
    eventually(lambda: seen(running.driver, running.owner).power is Power.ON)


def _switched(running: Running) -> None:
    config = "<TEMPLATE><BACKUP_CONFIG><MODE>FULL</MODE></BACKUP_CONFIG></TEMPLATE>"
    running.driver._api.call("vm.updateconf", int(running.ref), config, 1)


@pytest.mark.parametrize("spoil", [_reset, _switched])
def test_a_chain_that_was_broken_behind_our_back_is_read_whole(running, spoil):
    first = running.point()
    spoil(running)
    running.write(2, b"\4" * GRANULE)
    second = running.point()
    assert running.told(second, running.mark(first)) is None
    assert running.content == running.file.read_bytes()


def test_a_bitmap_that_is_gone_is_no_answer_and_its_increment_a_full_backup(running, monkeypatch):
    first = running.point()
    bitmaps.drop(running.file)
    monkeypatch.setattr(points, "_LOST_AFTER", 0.2)
    running.write(2, b"\4" * GRANULE)
    second = running.point()
    assert running.told(second, running.mark(first)) is None
    assert running.content == running.file.read_bytes()
    bitmaps.drop(running.file)
    insisted(lambda: running.driver.set_power(running.owner, Power.OFF, Manner.HARD))
    eventually(lambda: seen(running.driver, running.owner).power is Power.OFF)
    assert running.told(None, running.mark(second)) is None
    assert running.content == running.file.read_bytes()


def test_a_vm_with_snapshots_of_its_disks_has_full_backups_and_tells_nothing(running):
    running.vm.disk_snapshots = 1
    first, second = running.point(), running.point()
    assert running.vm.backup_mode == one.FULL
    assert len(running.vm.backups) == 2
    assert running.told(second, running.mark(first)) is None


def test_the_image_goes_with_the_last_of_its_points_and_the_mode_with_it(running):
    first = running.point()
    second = running.point()
    (image,) = running.vm.backups
    assert running.vm.backup_mode == one.INCREMENT
    insisted(lambda: running.driver.delete_snapshot(first))
    assert running.driver.find_snapshot(first) == Absent()
    assert isinstance(running.driver.find_snapshot(second), Seen)
    insisted(lambda: running.driver.delete_snapshot(first))
    insisted(lambda: running.driver.delete_snapshot(second))
    eventually(lambda: running.driver.find_snapshot(second) == Absent())
    assert image not in running.sim.oned.images
    assert running.vm.backup_mode == one.FULL


def test_an_increment_of_somebody_else_keeps_the_image(running):
    first = running.point()
    running.vm.backup_second = 0
    running.driver._api.call("vm.backup", int(running.ref), one.BACKUP_DS, False)  # noqa: FBT003
    (image,) = running.vm.backups
    eventually(lambda: len(running.sim.oned.images[image].increments) == 2)
    eventually(lambda: seen(running.driver, running.owner).power is Power.ON)
    insisted(lambda: running.driver.delete_snapshot(first))
    assert running.driver.find_snapshot(first) == Absent()
    assert image in running.sim.oned.images


def test_a_raw_disk_keeps_its_vm_from_increments(sim, driver, gateway: Gateway):
    owner = made(driver, wished(driver, staged(driver, gateway, pattern(MIB), DiskFormat.RAW)))
    powered(driver, owner, Power.ON)
    ref, point = seen(driver, owner).ref, tag()
    insisted(lambda: driver.create_snapshot(point, ref))
    ready(driver, point)
    assert sim.oned.vms[int(ref)].backup_mode == one.FULL


def test_the_last_point_of_a_fenced_vm_goes_and_the_fence_stays(running):
    point = running.point()
    insisted(lambda: running.driver.set_power(running.owner, Power.OFF, Manner.HARD))
    eventually(lambda: seen(running.driver, running.owner).power is Power.OFF)
    insisted(lambda: running.driver.fence(running.owner))
    insisted(lambda: running.driver.delete_snapshot(point))
    eventually(lambda: running.driver.find_snapshot(point) == Absent())
    assert running.vm.backup_mode == one.FULL
    assert seen(running.driver, running.owner).fenced
    assert running.driver.verify_fence(running.owner)
