"""What a driver must do with images, volumes, snapshots and networks of ours."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import ImageState, VolumeSpec, VolumeState
from controlplane.domain.errors import Conflict, Integrity, Invalid, NotFound, Unsupported
from controlplane.domain.instance import Power
from controlplane.domain.network import NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability
from drivers.contract import capabilities
from tests.contract.images import Published, pattern
from tests.contract.suite_base import Ground
from tests.contract.suite_compute import refused_as_superseded
from tests.contract.world import World, chunks

Stage = Callable[[OwnerTag, str, Published], str]


class VolumesContract(Ground):
    facet = Capability.VOLUMES

    def _spec(self, world: World, **wish: object) -> VolumeSpec:
        return replace(VolumeSpec(name=world.name(), size=world.disk_size), **wish)

    def test_create_twice_makes_one_volume(self, world: World):
        owner, spec = world.tag("volume"), self._spec(world)
        ref = world.driver.create_volume(owner, spec)
        assert world.driver.create_volume(owner, spec) == ref
        seen = world.volume_ready(owner)
        assert seen.ref == ref == world.driver.create_volume(owner, spec)
        assert seen.state is VolumeState.READY
        assert seen.attached_to is None
        assert seen.epoch == 1
        assert world.owned_kinds(owner) == [ArtefactKind.VOLUME]

    def test_another_wish_for_a_volume_conflicts(self, world: World):
        owner, spec = world.tag("volume"), self._spec(world)
        world.driver.create_volume(owner, spec)
        with pytest.raises(Conflict):
            world.driver.create_volume(
                owner, replace(spec, size=spec.size + world.driver.limits.disk_step)
            )
        with pytest.raises(Conflict):
            world.driver.create_volume(owner, replace(spec, name=world.name()))

    def test_sizes_are_rounded_up_to_the_step(self, world: World):
        step = world.driver.limits.disk_step
        owner = world.tag("volume")
        world.driver.create_volume(owner, self._spec(world, size=step + 512))
        assert world.volume_ready(owner).size == 2 * step

    def test_a_volume_name_that_is_too_long_is_invalid(self, world: World):
        owner, longest = world.tag("volume"), world.driver.limits.name_length
        with pytest.raises(Invalid):
            world.driver.create_volume(owner, self._spec(world, name="n" * (longest + 1)))
        world.driver.create_volume(owner, self._spec(world, name="n" * longest))
        world.volume_ready(owner)

    def test_an_absent_volume_is_deleted_at_once(self, world: World):
        owner = world.tag("volume")
        world.driver.delete_volume(owner)
        assert world.driver.find_volume(owner) == Absent()

    def test_a_volume_is_deleted_twice_and_gone(self, world: World):
        owner = world.tag("volume")
        world.volume(owner=owner)
        world.do(lambda: world.driver.delete_volume(owner))
        world.do(lambda: world.driver.delete_volume(owner))
        world.gone(world.driver.find_volume, owner)
        world.until(lambda: world.owned_kinds(owner) == [], "owned hides the deleted")

    def test_an_attached_volume_is_not_deleted_and_outlives_its_instance(self, world: World):
        volume = world.tag("volume")
        seen = world.volume(owner=volume)
        spec = world.spec()
        spec = replace(spec, disks=(replace(spec.disks[0], volume=seen.ref, size=seen.size),))
        instance = world.instance(spec)
        attached = world.volume_ready(volume)
        assert attached.state is VolumeState.IN_USE
        assert attached.attached_to == world.seen(instance).ref
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.delete_volume(volume))
        world.do(lambda: world.driver.delete(instance))
        world.gone(world.find, instance)
        world.until(
            lambda: world.volume_ready(volume).state is VolumeState.READY, "the volume is free"
        )

    def test_epochs_guard_a_volume(self, world: World):
        owner, spec = world.tag("volume", epoch=5), self._spec(world)
        ref = world.driver.create_volume(owner, spec)
        world.volume_ready(owner)
        late = replace(owner, epoch=4)
        refused_as_superseded(lambda: world.driver.create_volume(late, spec))
        refused_as_superseded(lambda: world.driver.delete_volume(late))
        assert world.driver.create_volume(replace(owner, epoch=6), spec) == ref
        assert world.volume_ready(owner).epoch == 6
        refused_as_superseded(lambda: world.driver.delete_volume(owner))


class ImagesContract(Ground):
    """Staged images, once for each way in that the driver declares."""

    @pytest.fixture(params=[Capability.IMAGE_PULL, Capability.IMAGE_PUSH])
    def stage(self, request: pytest.FixtureRequest, world: World) -> Stage:
        if request.param not in capabilities(world.driver):
            pytest.skip(f"{type(world.driver).__name__} does not declare {request.param}")
        if request.param is Capability.IMAGE_PULL:
            return lambda owner, name, file: world.do(lambda: self._pull(world, owner, name, file))
        return lambda owner, name, file: world.do(
            lambda: world.driver.push_image(owner, name, file.source, chunks(file.data))
        )

    @staticmethod
    def _pull(world: World, owner: OwnerTag, name: str, file: Published) -> str:
        try:
            return world.driver.pull_image(owner, name, file.source)
        except Unsupported as refused:
            if refused.reason != "pull-refused":
                raise
            pytest.skip(f"this site does not fetch from here: {refused}")

    def test_staging_twice_makes_one_image(self, world: World, stage: Stage):
        owner, name, file = world.tag("image"), world.name(), world.published()
        ref = stage(owner, name, file)
        assert stage(owner, name, file) == ref
        assert world.image_ready(owner) == ref == stage(owner, name, file)
        assert world.owned_kinds(owner) == [ArtefactKind.IMAGE]

    def test_other_bytes_under_the_same_tag_conflict(self, world: World, stage: Stage):
        owner, name = world.tag("image"), world.name()
        stage(owner, name, world.published())
        world.image_ready(owner)
        with pytest.raises(Conflict):
            stage(owner, name, world.published(pattern(seed=8)))

    def test_every_format_of_the_limits_is_taken(self, world: World, stage: Stage):
        for kind in sorted(world.driver.limits.formats):
            owner = world.tag("image")
            stage(owner, world.name(), world.published(format=kind))
            world.image_ready(owner)

    def test_an_image_name_that_is_too_long_is_invalid(self, world: World, stage: Stage):
        owner, longest = world.tag("image"), world.driver.limits.name_length
        with pytest.raises(Invalid):
            stage(owner, "n" * (longest + 1), world.published())
        stage(owner, "n" * longest, world.published())
        world.image_ready(owner)

    def test_an_image_is_deleted_twice_and_gone(self, world: World, stage: Stage):
        owner = world.tag("image")
        world.driver.delete_image(owner)
        assert world.driver.find_image(owner) == Absent()
        stage(owner, world.name(), world.published())
        world.image_ready(owner)
        world.do(lambda: world.driver.delete_image(owner))
        world.do(lambda: world.driver.delete_image(owner))
        world.gone(world.driver.find_image, owner)
        world.until(lambda: world.owned_kinds(owner) == [], "owned hides the deleted")

    def test_epochs_guard_an_image(self, world: World, stage: Stage):
        owner, name, file = world.tag("image", epoch=5), world.name(), world.published()
        ref = stage(owner, name, file)
        world.image_ready(owner)
        late = replace(owner, epoch=4)
        refused_as_superseded(lambda: stage(late, name, file))
        refused_as_superseded(lambda: world.driver.delete_image(late))
        assert stage(replace(owner, epoch=6), name, file) == ref
        match world.driver.find_image(owner):
            case Seen(it):
                assert it.epoch == 6
            case answer:
                pytest.fail(f"the image is {answer}")
        refused_as_superseded(lambda: world.driver.delete_image(owner))

    def test_bytes_with_another_digest_are_never_ready(self, world: World, stage: Stage):
        owner, file = world.tag("image"), world.published()
        source = replace(file.source, sha256="0" * 64, sha512="0" * 128)
        wrong = replace(file, source=source)

        def failed() -> bool:
            match world.driver.find_image(owner):
                case Seen(it):
                    assert it.state is not ImageState.READY
                    return it.state is ImageState.FAILED
                case _:
                    return False

        try:
            stage(owner, world.name(), wrong)
        except Integrity:
            return
        world.until(failed, "the image failed")


class SnapshotsContract(Ground):
    facet = Capability.SNAPSHOTS

    def _snapshot(self, world: World, owner: OwnerTag, ref: str) -> str:
        return world.do(lambda: world.driver.create_snapshot(owner, ref))

    def _ready(self, world: World, owner: OwnerTag) -> str:
        def look() -> str | None:
            match world.driver.find_snapshot(owner):
                case Seen(it):
                    return it.ref if it.ready else None
                case _:
                    return None

        return world.wait(look, "the snapshot is ready")

    def test_snapshot_twice_makes_one(self, world: World):
        instance = world.seen(world.instance())
        owner = world.tag("snapshot")
        ref = self._snapshot(world, owner, instance.ref)
        assert self._ready(world, owner) == ref == self._snapshot(world, owner, instance.ref)
        assert world.owned_kinds(owner) == [ArtefactKind.SNAPSHOT]

    def test_the_same_tag_for_another_instance_conflicts(self, world: World):
        first, second = world.seen(world.instance()), world.seen(world.instance())
        owner = world.tag("snapshot")
        self._snapshot(world, owner, first.ref)
        self._ready(world, owner)
        with pytest.raises(Conflict):
            self._snapshot(world, owner, second.ref)

    def test_a_snapshot_is_deleted_twice_and_gone(self, world: World):
        instance = world.seen(world.instance())
        owner = world.tag("snapshot")
        world.driver.delete_snapshot(owner)
        assert world.driver.find_snapshot(owner) == Absent()
        self._snapshot(world, owner, instance.ref)
        self._ready(world, owner)
        world.do(lambda: world.driver.delete_snapshot(owner))
        world.do(lambda: world.driver.delete_snapshot(owner))
        world.gone(world.driver.find_snapshot, owner)
        world.until(lambda: world.owned_kinds(owner) == [], "owned hides the deleted")

    def test_a_running_instance_is_snapshotted_too(self, world: World):
        instance = world.loaded()
        seen = world.power(instance, Power.ON)
        owner = world.tag("snapshot")
        self._snapshot(world, owner, seen.ref)
        self._ready(world, owner)
        assert world.seen(instance).power is Power.ON

    def test_epochs_guard_a_snapshot(self, world: World):
        instance = world.seen(world.instance())
        owner = world.tag("snapshot", epoch=5)
        ref = self._snapshot(world, owner, instance.ref)
        self._ready(world, owner)
        late = replace(owner, epoch=4)
        refused_as_superseded(lambda: self._snapshot(world, late, instance.ref))
        refused_as_superseded(lambda: world.driver.delete_snapshot(late))
        assert self._snapshot(world, replace(owner, epoch=6), instance.ref) == ref
        refused_as_superseded(lambda: world.driver.delete_snapshot(owner))

    def test_a_snapshot_of_nothing_is_not_found(self, world: World):
        instance = world.instance()
        ref = world.seen(instance).ref
        world.do(lambda: world.driver.delete(instance))
        world.gone(world.find, instance)
        with pytest.raises(NotFound):
            self._snapshot(world, world.tag("snapshot"), ref)


class NetworksContract(Ground):
    facet = Capability.NETWORKS
    cidr = "10.77.8.0/24"

    def _create(self, world: World, owner: OwnerTag, name: str, cidr: str = cidr) -> str:
        return world.do(lambda: world.driver.create_network(owner, name, cidr))

    def test_create_twice_makes_one_network(self, world: World):
        owner, name = world.tag("network"), world.name()
        ref = self._create(world, owner, name)
        assert self._create(world, owner, name) == ref
        world.until(lambda: world.driver.find_network(owner) == Seen(ref), "the network is seen")

    def test_another_wish_for_a_network_conflicts(self, world: World):
        owner, name = world.tag("network"), world.name()
        self._create(world, owner, name)
        with pytest.raises(Conflict):
            self._create(world, owner, name, "10.77.9.0/24")

    def test_a_network_is_deleted_twice_and_gone(self, world: World):
        owner = world.tag("network")
        world.driver.delete_network(owner)
        assert world.driver.find_network(owner) == Absent()
        self._create(world, owner, world.name())
        world.do(lambda: world.driver.delete_network(owner))
        world.do(lambda: world.driver.delete_network(owner))
        world.gone(world.driver.find_network, owner)

    def test_epochs_guard_a_network(self, world: World):
        owner, name = world.tag("network", epoch=5), world.name()
        self._create(world, owner, name)
        late = replace(owner, epoch=4)
        refused_as_superseded(lambda: self._create(world, late, name))
        refused_as_superseded(lambda: world.driver.delete_network(late))

    def test_an_instance_lives_on_a_network_of_ours(self, world: World):
        ref = self._create(world, world.tag("network"), world.name())
        owner = world.instance(world.spec(nics=(NicSpec(network=ref),)))
        assert [nic.network for nic in world.seen(owner).nics] == [ref]
