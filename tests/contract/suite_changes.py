"""What a driver must do whose provider tells what changed: read no more, and miss nothing."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.disk import DiskFormat, DiskSource, Mark
from controlplane.domain.ids import PointId
from controlplane.domain.instance import Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability, Changes
from controlplane.domain.vault import DiskCopied
from drivers.contract import DiskExport, Driver, Snapshots, require
from tests.contract.suite_base import Ground
from tests.contract.world import World
from tests.unit.vault import support

MOST = 1.2  # bytes that are read for each of what changed


class Behind(Protocol):
    """A simulated site as its customer does not see it; disks are the first of an instance."""

    losses: Mapping[str, Callable[["Disk"], None]]  # how what was told is lost, by name
    granule: int  # bytes that are told as changed at once

    @property
    def served(self) -> int:
        """Bytes of disks that the site has sent so far."""
        ...

    def write(self, ref: str, offset: int, data: bytes) -> None:
        """As the guest of the instance `ref` would."""
        ...

    def content(self, ref: str) -> bytes: ...


class Disk:
    """The disk of a running instance, on its way into a vault, snapshot after snapshot."""

    def __init__(self, world: World, behind: Behind, store: support.World) -> None:
        self.world, self.behind = world, behind
        self.vault = store.vault()
        # Some sites tell the changes of none but qcow2 disks.
        formats = world.driver.limits.formats
        image = world.image(format=DiskFormat.QCOW2 if DiskFormat.QCOW2 in formats else None)
        self.owner = world.instance(world.spec(image=image))
        self.on()
        self.told = False

    @property
    def ref(self) -> str:
        return self.world.seen(self.owner).ref

    def on(self) -> None:
        self.world.power(self.owner, Power.ON)

    def off(self) -> None:
        self.world.power(self.owner, Power.OFF)

    def dirty(self, *granules: int) -> None:
        for granule in granules:
            self.behind.write(self.ref, granule * self.behind.granule + 100, b"written since" * 50)

    def snapshot(self) -> tuple[OwnerTag, Mark]:
        driver = require(self.world.driver, Snapshots)
        owner, ref = self.world.tag("snapshot"), self.ref
        self.world.do(lambda: driver.create_snapshot(owner, ref))

        def look() -> str | None:
            answer = driver.find_snapshot(owner)
            return answer.it.ref if isinstance(answer, Seen) and answer.it.ready else None

        return owner, Mark(text=self.world.wait(look, "the snapshot is ready"))

    def gone(self, snapshot: OwnerTag) -> None:
        driver = require(self.world.driver, Snapshots)

        def look() -> bool:
            self.world.do(lambda: driver.delete_snapshot(snapshot))
            return isinstance(driver.find_snapshot(snapshot), Absent)

        self.world.until(look, "the snapshot is gone")

    def copy(
        self, snapshot: OwnerTag | None, since: Mark | None = None, base: PointId | None = None
    ) -> tuple[PointId, DiskCopied]:
        """One pass: exported, read into the vault, released. Without a snapshot: as it is now."""
        driver = require(self.world.driver, DiskExport)
        volume = self.world.seen(self.owner).disks[0].volume
        source = DiskSource(volume=volume, snapshot=snapshot.artefact if snapshot else None)
        export = self.world.prepare(source, since)
        answer = driver.find_export(export)
        self.told = isinstance(answer, Seen) and answer.it.changed_only
        point = support.new_point()
        with closing(driver.open_export(export)) as reader:
            copied = support.copy(self.vault, reader, point=point, base=base)
        support.commit(self.vault, point)
        self.world.release(export)
        return point, copied

    def equal(self, point: PointId) -> bool:
        """Whether the vault has what the disk holds."""
        return support.read_all(self.vault, point) == self.behind.content(self.ref)


class ChangesContract(Ground):
    facet = Capability.SNAPSHOTS

    @pytest.fixture
    def behind(self, driver: Driver) -> Behind:
        """Behind the site's back; a driver that tells changes has to give one."""
        if driver.limits.changes is Changes.UNTOLD:
            pytest.skip(f"{type(driver).__name__} is told no changes")
        pytest.fail("give a `behind` fixture: what this driver reads is counted with it")

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[support.World]:
        store = support.World(tmp_path / "vault")
        yield store
        store.close()

    def test_a_pass_of_changes_reads_little_more_than_what_changed(
        self, behind: Behind, world: World, store: support.World
    ):
        disk = Disk(world, behind, store)
        first, mark = disk.snapshot()
        base, _ = disk.copy(first)
        changed = (1, 2, 17, 40)
        disk.dirty(*changed)
        second, _ = disk.snapshot()
        before = behind.served
        point, copied = disk.copy(second, mark, base)
        read, dirty = behind.served - before, len(changed) * behind.granule
        assert disk.told
        assert copied.bytes_read == dirty
        assert dirty <= read <= math.floor(MOST * dirty)
        assert disk.equal(point)

    def test_the_last_pass_of_a_stopped_instance_reads_what_changed_since_its_snapshot(
        self, behind: Behind, world: World, store: support.World
    ):
        if world.driver.limits.changes is not Changes.TOLD:
            pytest.skip("what changed is told while it runs only")
        disk = Disk(world, behind, store)
        first, mark = disk.snapshot()
        base, _ = disk.copy(first)
        disk.dirty(5, 33)
        disk.off()
        before = behind.served
        point, _ = disk.copy(None, mark, base)
        assert disk.told
        assert behind.served - before <= math.floor(MOST * 2 * behind.granule)
        assert disk.equal(point)

    def test_a_snapshot_between_two_others_hides_no_change(
        self, behind: Behind, world: World, store: support.World
    ):
        """One whose taking came to nothing, and somebody else's of the same disk."""
        disk = Disk(world, behind, store)
        first, mark = disk.snapshot()
        base, _ = disk.copy(first)
        disk.dirty(3)
        nothing, _ = disk.snapshot()
        disk.dirty(4)
        disk.gone(nothing)
        disk.dirty(5)
        disk.snapshot()
        disk.dirty(6)
        last, _ = disk.snapshot()
        point, _ = disk.copy(last, mark, base)
        assert disk.told
        assert disk.equal(point)

    def test_what_was_lost_of_changes_is_read_whole_and_nothing_is_missed(
        self, behind: Behind, world: World, store: support.World
    ):
        assert behind.losses, "a driver that tells changes can lose them"
        for name, lose in behind.losses.items():
            disk = Disk(world, behind, store)
            first, mark = disk.snapshot()
            base, _ = disk.copy(first)
            disk.dirty(3)
            lose(disk)
            disk.dirty(21)
            second, _ = disk.snapshot()
            point, _ = disk.copy(second, mark, base)
            assert not disk.told, f"after {name} nobody can tell what changed"
            assert disk.equal(point), f"after {name} all of it is read"
