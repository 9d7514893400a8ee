"""What the fake offers to tests beyond the contract: faults, staleness, history, real bytes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256

import pytest

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.disk import DiskFormat, ExtentKind, ImageState, Mark
from controlplane.domain.errors import (
    Conflict,
    Denied,
    Exhausted,
    Invalid,
    NotFound,
    Unavailable,
)
from controlplane.domain.instance import InstanceState, Power, Size
from controlplane.domain.network import NicSpec
from controlplane.domain.site import ProviderKind, QuotaSeen, SiteAccess, SiteName, Sku
from drivers.fake.disk import PAGE
from drivers.fake.driver import FakeDriver, FakeInstanceFirstDriver, open_fake
from drivers.fake.history import HISTORY
from drivers.fake.site import FakeSite, fake_site, forget_sites
from drivers.registry import connect
from tests.contract.images import Gateway, pattern
from tests.contract.world import World


def access(name: str, **options: str) -> SiteAccess:
    return SiteAccess(
        site=SiteName(name),
        provider=ProviderKind.FAKE,
        endpoint=f"fake://{name}",
        secrets={},
        options=options,
    )


@pytest.fixture
def site() -> Iterator[FakeSite]:
    yield fake_site("fake://here")
    forget_sites()


@pytest.fixture
def world(site: FakeSite, gateway: Gateway) -> World:
    driver = FakeDriver(access(site.name))
    return World(driver, gateway, guest=pattern(), network="net-1", deadline=5)


def test_the_registry_opens_the_fake_and_connections_share_a_site(world: World):
    owner = world.instance()
    other = connect(access("here"))
    assert isinstance(other, FakeDriver)
    assert isinstance(other.find(owner), Seen)
    assert isinstance(FakeDriver(access("there")).find(owner), Absent)


def test_the_option_order_chooses_the_driver(site: FakeSite):
    assert isinstance(open_fake(access("here", order="instance-first")), FakeInstanceFirstDriver)
    assert isinstance(open_fake(access("here")), FakeDriver)


def test_an_endpoint_of_another_scheme_is_invalid():
    with pytest.raises(Invalid):
        fake_site("https://somewhere")


def test_a_fault_before_the_effect_leaves_nothing(site: FakeSite, world: World):
    owner, spec = world.tag("instance"), world.spec()
    site.fail_next("create", Unavailable("the line broke"))
    with pytest.raises(Unavailable):
        world.driver.create(owner, spec)
    assert world.find(owner) == Absent()
    world.create(owner, spec)


def test_a_fault_after_the_effect_leaves_it_done(site: FakeSite, world: World):
    owner, spec = world.tag("instance"), world.spec()
    site.fail_next("create", Unavailable("the answer was lost"), before_effect=False)
    with pytest.raises(Unavailable):
        world.driver.create(owner, spec)
    assert world.driver.create(owner, spec) == world.seen(owner).ref


def test_a_pull_whose_answer_was_lost_still_ends(site: FakeSite, world: World):
    owner, file = world.tag("image"), world.published()
    site.fail_next("pull_image", Unavailable("the answer was lost"), before_effect=False)
    with pytest.raises(Unavailable):
        world.driver.pull_image(owner, "lost", file.source)
    assert world.image_ready(owner)


def test_a_failed_fetch_shows_on_the_image(world: World):
    owner, file = world.tag("image"), world.published()
    source = replace(file.source, url=file.source.url + ".gone")
    world.driver.pull_image(owner, "gone", source)
    world.driver.find_image(owner)
    match world.driver.find_image(owner):
        case Seen(it):
            assert it.state is ImageState.FAILED
            assert "404" in it.why
        case answer:
            pytest.fail(f"the image is {answer}")


def test_a_push_that_broke_off_is_begun_anew(world: World):
    owner, file = world.tag("image"), world.published()

    def breaking_off() -> Iterator[bytes]:
        yield file.data[:1000]
        raise ConnectionError("the line broke")

    with pytest.raises(ConnectionError):
        world.driver.push_image(owner, "again", file.source, breaking_off())
    ref = world.driver.push_image(owner, "again", file.source, [file.data])
    assert world.image_ready(owner) == ref


def test_a_stale_site_knows_nothing(site: FakeSite, world: World):
    owner = world.instance()
    site.stale_for(2)
    assert isinstance(world.find(owner), Unknown)
    with pytest.raises(Unavailable):
        list(world.driver.owned())
    assert isinstance(world.find(owner), Seen)


def test_a_site_that_is_down_answers_nothing_while_its_guests_run_on(site: FakeSite, world: World):
    owner = world.instance()
    world.power(owner, Power.ON)
    site.down = True
    for call in (world.driver.check, lambda: world.find(owner), world.driver.catalogue):
        with pytest.raises(Unavailable):
            call()
    site.down = False
    assert world.seen(owner).power is Power.ON


def test_a_wrong_token_is_denied(site: FakeSite, world: World):
    site.token = "s3cret-of-the-site"
    with pytest.raises(Denied) as caught:
        world.driver.check()
    assert site.token not in str(caught.value)


def test_effects_settle_after_as_many_looks_as_the_site_says(site: FakeSite, world: World):
    site.settle = 3
    owner = world.tag("instance")
    spec = world.spec()
    world.create(owner, spec)
    states = [world.find(owner) for _ in range(4)]
    assert [s.it.state for s in states if isinstance(s, Seen)] == [
        *[InstanceState.WORKING] * 3,
        InstanceState.READY,
    ]


def test_what_is_not_ready_is_not_used(site: FakeSite, world: World):
    spec = world.spec()
    volume = world.tag("volume")
    site.settle = 1
    wish = site.volume_of(spec.disks[0].volume).spec
    ref = world.driver.create_volume(volume, replace(wish, name="fresh"))
    with pytest.raises(Conflict):
        world.driver.create(
            world.tag("instance"), replace(spec, disks=(replace(spec.disks[0], volume=ref),))
        )


def test_bounds_exhaust(site: FakeSite, world: World):
    spec = world.spec()
    site.bounds = QuotaSeen(instances=1, cpus=1, disk=world.disk_size)
    world.instance(spec)
    assert world.driver.quota() == QuotaSeen(instances=0, cpus=0, disk=0)
    with pytest.raises(Exhausted):
        world.volume()
    with pytest.raises(Exhausted):
        world.driver.create(world.tag("instance"), spec)


def test_a_closed_list_of_skus_is_kept_to(site: FakeSite, world: World):
    size = Size(cpus=2, memory=2**30)
    site.catalogue = replace(site.catalogue, skus=(Sku(name="small", size=size),))
    spec = world.spec()
    assert (spec.sku, spec.size) == ("small", size)
    with pytest.raises(Invalid):
        world.driver.create(world.tag("instance"), replace(spec, sku="huge"))
    assert world.seen(world.instance(spec)).size == size


def test_an_unknown_network_is_not_found(world: World):
    spec = world.spec(nics=(NicSpec(network="net-of-nobody"),))
    with pytest.raises(NotFound):
        world.driver.create(world.tag("instance"), spec)


def test_a_mark_tells_what_changed_since_its_snapshot(site: FakeSite, world: World):
    disk, snapshot = world.first_disk(world.loaded()), world.tag("snapshot")
    mark = Mark(text=world.driver.create_snapshot(snapshot, disk.instance))
    site.write_disk(disk.volume, 5 * PAGE + 10, b"changed")
    owner = world.prepare(disk, mark)
    reader = world.driver.open_export(owner)
    changed = [(e.offset, e.length) for e in reader.extents() if e.kind is not ExtentKind.UNCHANGED]
    assert changed == [(5 * PAGE, PAGE)]
    assert reader.read(5 * PAGE + 10, 7) == b"changed"
    assert world.driver.find_export(owner).it.changed_only


def test_an_export_does_not_see_later_writes(site: FakeSite, world: World):
    disk = world.first_disk(world.loaded())
    owner = world.prepare(disk)
    site.write_disk(disk.volume, 0, b"later")
    assert world.driver.open_export(owner).read(0, 5) == world.guest[:5]
    assert site.read_disk(disk.volume, 0, 5) == b"later"


def test_a_disk_is_digested_like_its_bytes(site: FakeSite, world: World):
    disk = world.first_disk(world.loaded())
    assert site.digest(disk.volume, len(world.guest)) == sha256(world.guest).hexdigest()
    whole = site.read_disk(disk.volume)
    assert site.digest(disk.volume) == sha256(whole).hexdigest()


def test_a_disk_that_is_being_written_does_not_start(world: World):
    owner = world.instance()
    volume = world.first_disk(owner).volume
    world.driver.open_import(owner, volume)
    with pytest.raises(Conflict):
        world.driver.set_power(owner, Power.ON)
    world.driver.close_import(owner, volume)
    world.driver.set_power(owner, Power.ON)


def test_two_copies_that_run_at_once_are_seen(site: FakeSite, world: World, gateway: Gateway):
    there = FakeDriver(access("there"))
    other = World(there, gateway, guest=pattern(), network="net-1", deadline=5)
    one = world.instance()
    two = replace(other.tag("instance"), instance=one.instance)
    other.create(two, other.spec())
    other.seen(two)
    world.power(one, Power.ON)
    world.power(one, Power.OFF)
    other.power(two, Power.ON)
    assert site.running_overlaps() == ()
    world.power(one, Power.ON)
    (overlap,) = site.running_overlaps()
    assert overlap.instance == one.instance
    assert {name for name, _ in overlap.copies} == {"here", "there"}
    assert not overlap.connected, "neither has a nic"
    assert [e.seq for e in HISTORY.events()] == sorted(e.seq for e in HISTORY.events())


def test_a_twin_that_is_isolated_is_told_from_a_connected_one(world: World, gateway: Gateway):
    owners = []
    nic = NicSpec(network="net-1", isolated=True)
    for _ in range(2):
        owner = world.tag("instance")
        owner = replace(owner, instance=owners[0].instance if owners else owner.instance)
        world.create(owner, world.spec(nics=(nic,)))
        world.seen(owner)
        owners.append(owner)
    for owner in owners:
        world.power(owner, Power.ON)
        world.driver.connect_nics(owner)
    assert [o.connected for o in HISTORY.overlaps(owners[0].instance)] == [False, True]


def test_many_threads_make_one_of_each(site: FakeSite, world: World):
    owner, spec = world.tag("instance"), world.spec()

    def create(_: int) -> str:
        return FakeDriver(access("here")).create(owner, spec)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(create, range(64)))) == 1
    assert len(site.instances) == 1


def test_instance_first_volumes_go_with_their_instance(site: FakeSite, gateway: Gateway):
    driver = FakeInstanceFirstDriver(access("here"))
    world = World(driver, gateway, guest=pattern(), network="net-1", deadline=5)
    owner = world.loaded()
    assert site.digest(world.first_disk(owner).volume, len(world.guest))
    driver.delete(owner)
    world.gone(world.find, owner)
    assert site.volumes == {}


def test_an_anchor_of_a_stranger_is_taken(site: FakeSite, gateway: Gateway):
    driver = FakeInstanceFirstDriver(access("here"))
    world = World(driver, gateway, guest=pattern(), network="net-1", deadline=5)
    site.foreign_anchors.add("7")
    with pytest.raises(Conflict) as caught:
        driver.create(world.tag("instance"), replace(world.spec(), anchor="7"))
    assert caught.value.reason == "anchor-taken"


def test_garbage_that_calls_itself_qcow2_is_refused(world: World):
    owner, file = world.tag("image"), world.published(format=DiskFormat.RAW)
    source = replace(file.source, format=DiskFormat.QCOW2)
    with pytest.raises(Invalid):
        world.driver.push_image(owner, "garbage", source, [file.data])
