"""What a driver must do with the bytes of disks: out as readers, in as writers."""

from dataclasses import replace

import pytest

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.disk import (
    MIB,
    BlockReader,
    DiskSource,
    ExportStage,
    ExtentKind,
    Mark,
)
from controlplane.domain.errors import Conflict, FedctlError
from controlplane.domain.instance import Power
from controlplane.domain.site import Capability
from drivers.contract import Snapshots, Volumes
from tests.contract.images import CLUSTER
from tests.contract.suite_base import Ground
from tests.contract.suite_compute import refused_as_superseded
from tests.contract.world import World

ZEROS = bytes(CLUSTER)


def content(reader: BlockReader) -> dict[int, bytes]:
    """The pages of a disk that hold something, read by its extents; checks these on the way."""
    pages: dict[int, bytearray] = {}
    at = 0
    for extent in reader.extents():
        assert extent.offset == at, "extents have no gaps and no overlaps"
        assert extent.length > 0
        at += extent.length
        if extent.kind is ExtentKind.ZERO:
            probe = min(extent.length, 4096)
            for start in (extent.offset, at - probe):
                assert reader.read(start, probe) == ZEROS[:probe]
            continue
        assert extent.kind is ExtentKind.DATA, "nothing is unchanged without a mark"
        for start in range(extent.offset, at, MIB):
            data = reader.read(start, min(MIB, at - start))
            assert len(data) == min(MIB, at - start)
            _lay(pages, start, data)
    assert at == reader.size, "extents cover the whole length"
    return {page: bytes(data) for page, data in pages.items()}


def expected(data: bytes) -> dict[int, bytes]:
    pages: dict[int, bytearray] = {}
    _lay(pages, 0, data)
    return {page: bytes(part) for page, part in pages.items()}


def _lay(pages: dict[int, bytearray], start: int, data: bytes) -> None:
    """Put what is not zero onto its pages."""
    at = 0
    while at < len(data):
        page, inside = divmod(start + at, CLUSTER)
        part = data[at : at + CLUSTER - inside]
        if part != ZEROS[: len(part)]:
            pages.setdefault(page, bytearray(CLUSTER))[inside : inside + len(part)] = part
        at += len(part)


class DiskExportContract(Ground):
    facet = Capability.DISK_EXPORT

    def _reads_the_guest(self, world: World, source: DiskSource) -> None:
        owner = world.prepare(source)
        reader = world.driver.open_export(owner)
        try:
            assert reader.size >= len(world.guest)
            assert reader.size % world.driver.limits.disk_step == 0
            # Compared as one truth value: a diff of megabytes would take longer than the test.
            same = content(reader) == expected(world.guest)
            assert same, "the bytes that went in come out, and zeros after them"
            part = reader.read(CLUSTER - 700, CLUSTER + 1400)
            assert (part == world.guest[CLUSTER - 700 : 2 * CLUSTER + 700]) is True
        finally:
            reader.close()
        world.release(owner)

    def test_a_stopped_instances_disk_comes_out_as_it_went_in(self, world: World):
        self._reads_the_guest(world, world.first_disk(world.loaded()))

    def test_an_unattached_volume_comes_out_as_it_went_in(self, world: World):
        if not isinstance(world.driver, Volumes):
            pytest.skip("volumes come with the instance here")
        volume = world.volume(image=world.image())
        self._reads_the_guest(world, DiskSource(volume=volume.ref))

    def test_a_snapshot_comes_out_as_the_disk_was(self, world: World):
        if not isinstance(world.driver, Snapshots):
            pytest.skip("the site has no snapshots")
        disk, snapshot = world.first_disk(world.loaded()), world.tag("snapshot")
        world.do(lambda: world.driver.create_snapshot(snapshot, disk.instance))
        world.until(
            lambda: (
                isinstance(found := world.driver.find_snapshot(snapshot), Seen) and found.it.ready
            ),
            "the snapshot is ready",
        )
        self._reads_the_guest(world, replace(disk, snapshot=snapshot.artefact))

    def test_a_running_instances_disk_is_not_exported(self, world: World):
        instance = world.loaded()
        disk = world.first_disk(instance)
        world.power(instance, Power.ON)
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.prepare_export(world.tag("export"), disk))

    def test_preparing_again_and_finding_tell_the_same(self, world: World):
        disk = world.first_disk(world.loaded())
        owner = world.prepare(disk)
        seen = world.driver.prepare_export(owner, disk)
        assert seen.stage is ExportStage.READY
        assert world.driver.find_export(owner) == Seen(seen)
        assert not seen.changed_only

    def test_owned_shows_what_preparing_made(self, world: World):
        owner = world.prepare(world.first_disk(world.loaded()))
        assert world.owned_kinds(owner)

    def test_the_same_tag_for_another_source_conflicts(self, world: World):
        first, second = world.first_disk(world.loaded()), world.first_disk(world.instance())
        owner = world.prepare(first)
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.prepare_export(owner, second))

    def test_a_lost_mark_falls_back_to_everything(self, world: World):
        owner = world.prepare(world.first_disk(world.loaded()), Mark(text="nobody-knows-this"))
        match world.driver.find_export(owner):
            case Seen(it):
                assert not it.changed_only
            case answer:
                pytest.fail(f"the export is {answer}")
        reader = world.driver.open_export(owner)
        try:
            same = content(reader) == expected(world.guest)
            assert same
        finally:
            reader.close()

    def test_a_reader_fails_after_its_export_was_released(self, world: World):
        owner = world.prepare(world.first_disk(world.loaded()))
        reader = world.driver.open_export(owner)
        try:
            assert reader.read(0, 512) == world.guest[:512]
            world.release(owner)
            with pytest.raises(FedctlError):
                reader.read(CLUSTER, 512)
        finally:
            reader.close()

    def test_releasing_twice_or_what_never_was_is_fine(self, world: World):
        owner = world.tag("export")
        world.driver.release_export(owner)
        assert world.driver.find_export(owner) == Absent()
        world.prepare(world.first_disk(world.loaded()), owner=owner)
        world.release(owner)
        world.driver.release_export(owner)
        assert world.driver.find_export(owner) == Absent()
        world.until(lambda: world.owned_kinds(owner) == [], "owned hides the released")

    def test_a_released_export_leaves_the_source_as_it_was(self, world: World):
        instance = world.loaded()
        before = world.seen(instance)
        world.release(world.prepare(world.first_disk(instance)))
        assert world.seen(instance) == before
        assert world.power(instance, Power.ON).power is Power.ON

    def test_epochs_guard_an_export(self, world: World):
        disk = world.first_disk(world.loaded())
        owner = world.prepare(disk, owner=world.tag("export", epoch=5))
        late = replace(owner, epoch=4)
        refused_as_superseded(lambda: world.driver.prepare_export(late, disk))
        refused_as_superseded(lambda: world.driver.release_export(late))
        assert world.driver.prepare_export(replace(owner, epoch=6), disk).epoch == 6
        refused_as_superseded(lambda: world.driver.release_export(owner))


class DiskImportContract(Ground):
    facet = Capability.DISK_IMPORT

    def test_random_writes_and_zeros_come_out_as_written(self, world: World):
        instance = world.loaded()
        disk = world.first_disk(instance)
        image = bytearray(world.guest)
        writer = world.do(lambda: world.driver.open_import(instance, disk.volume))
        try:
            assert writer.size >= len(image)
            for offset, data in (
                (len(image) - MIB, b"late" * 1024),
                (0, b"first" * 512),
                (CLUSTER - 100, b"x" * 300),
            ):
                writer.write(offset, data)
                image[offset : offset + len(data)] = data
            writer.zero(4096, CLUSTER)
            image[4096 : 4096 + CLUSTER] = bytes(CLUSTER)
            writer.finish()
        finally:
            writer.close()
        world.do(lambda: world.driver.close_import(instance, disk.volume))
        owner = world.prepare(disk)
        reader = world.driver.open_export(owner)
        try:
            same = content(reader) == expected(bytes(image))
            assert same
        finally:
            reader.close()

    def test_a_new_writer_revokes_the_earlier_one(self, world: World):
        instance = world.instance()
        volume = world.first_disk(instance).volume
        first = world.do(lambda: world.driver.open_import(instance, volume))
        second = world.do(lambda: world.driver.open_import(instance, volume))
        try:
            with pytest.raises(FedctlError):
                _write_through(first)
            _write_through(second)
        finally:
            first.close()
            second.close()

    def test_a_closed_import_revokes_the_writer_and_closing_twice_is_fine(self, world: World):
        instance = world.instance()
        volume = world.first_disk(instance).volume
        world.do(lambda: world.driver.close_import(instance, volume))
        writer = world.do(lambda: world.driver.open_import(instance, volume))
        try:
            world.do(lambda: world.driver.close_import(instance, volume))
            world.do(lambda: world.driver.close_import(instance, volume))
            with pytest.raises(FedctlError):
                _write_through(writer)
        finally:
            writer.close()
        assert world.power(instance, Power.ON).power is Power.ON

    def test_writing_to_a_running_instance_conflicts(self, world: World):
        instance = world.instance()
        volume = world.first_disk(instance).volume
        world.power(instance, Power.ON)
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.open_import(instance, volume))

    def test_epochs_guard_a_writer(self, world: World):
        instance = world.instance(epoch=5)
        volume = world.first_disk(instance).volume
        late = replace(instance, epoch=4)
        refused_as_superseded(lambda: world.driver.open_import(late, volume))
        refused_as_superseded(lambda: world.driver.close_import(late, volume))


def _write_through(writer) -> None:
    writer.write(0, b"late" * 128)
    writer.finish()
