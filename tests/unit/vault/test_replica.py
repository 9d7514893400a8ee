"""A second store: what it holds can be read at any moment, and mends the first."""

import random
from pathlib import Path

import pytest

from controlplane.domain.errors import Denied, Integrity, Unavailable
from controlplane.domain.vault import Damage, Depth
from controlplane.vault.checking import CheckOrder
from controlplane.vault.homes import Homes
from controlplane.vault.lives import Lives
from controlplane.vault.local import LocalObjects
from controlplane.vault.memory import MemoryRecords
from controlplane.vault.vault import Vault
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    Seal,
    World,
    copy,
    new_point,
    read_all,
    some_disk,
)
from tests.unit.vault.test_collection import HOUR
from tests.unit.vault.test_damage import flip
from tests.unit.vault.test_homes import home
from tests.unit.vault.test_recall import backup, domain_of

SIGNERS = {"homes": Seal(), "incarnations": Seal()}


class Counts:
    """Counts what is written; `left` writes are done before it is away, if that is a number."""

    left: int | None = None

    def __init__(self, where: object) -> None:
        super().__init__(where)
        self.written: list[str] = []

    def upload(self, name):
        if self.left is not None:
            if self.left == 0:
                raise Unavailable("the replica is away")
            self.left -= 1
        self.written.append(name)
        return super().upload(name)


class Counting(Counts, LocalObjects):
    pass


@pytest.fixture
def replica(tmp_path):
    return Counting(tmp_path / "replica")


@pytest.fixture
def vault(world, replica):
    return world.vault(replica=replica, signers=SIGNERS)


def fresh(world: World, replica: LocalObjects) -> Vault:
    return world.vault(replica=replica, signers=SIGNERS)


def contents(objects: LocalObjects) -> dict[str, bytes]:
    folders = ("keys", "packs", "index", "points", "heads", "homes", "incarnations", "gone")
    return {name: objects.get(name) for folder in folders for name in objects.names(folder)}


def recalled(replica: LocalObjects, tmp_path: Path, name: str):
    """A vault made from the replica alone, by records that know nothing."""
    other = World(tmp_path / name, replica)
    other.records = MemoryRecords()
    vault = other.vault()
    return other, vault, vault.recall(domain_of)


# Copying


def test_a_copy_holds_everything_and_stands_on_its_own(world, vault, replica, tmp_path):
    data = [some_disk(seed, "RTZ") for seed in (1, 2)]
    points = [world.take(vault, each)[0] for each in data]
    world.objects.put("keys/vault-data/acme/000001", b'{"id": 1}')
    Lives(world.objects, Seal()).claim(points[0])
    done = vault.replicate()
    assert contents(replica) == contents(world.objects)
    assert (done.behind, done.oldest, done.troubles, done.mended) == (0, None, (), ())
    assert (done.copied, done.bytes) == (
        len(contents(replica)),
        sum(map(len, contents(replica).values())),
    )
    other, copy, told = recalled(replica, tmp_path, "other")
    assert (told.points, told.unreadable) == (2, ())
    assert [read_all(copy, point) for point in points] == data
    other.close()


def test_a_second_round_writes_nothing_and_a_third_only_what_is_new(world, vault, replica):
    world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    replica.written.clear()
    assert vault.replicate().copied == 0
    assert replica.written == []
    world.take(vault, some_disk(2, "R"))
    vault.replicate()
    assert {name.partition("/")[0] for name in replica.written} == {
        "packs",
        "index",
        "points",
        "heads",
    }
    assert len(replica.written) == 4


def test_whenever_it_breaks_off_what_is_there_can_be_read_and_it_goes_on(
    world, vault, replica, tmp_path
):
    """After each number of writes: about twenty recalls from the copy as it was then."""
    data = {world.take(vault, some_disk(seed, "RT"))[0]: some_disk(seed, "RT") for seed in range(5)}
    rounds = 0
    while True:
        replica.left = 1
        rounds += 1
        try:
            done = vault.replicate()
        except Unavailable:
            done = None
        other, copy, told = recalled(replica, tmp_path, f"other-{rounds}")
        assert told.unreadable == ()
        for record in other.records.points():
            assert read_all(copy, record.point) == data[record.point]
        usable = len(other.records.points())
        other.close()
        if done is not None:
            break
        assert usable < len(data) or rounds > 15
    assert usable == len(data)
    assert done.behind == 0
    assert rounds == len(contents(replica)) or rounds == len(contents(replica)) + 1
    assert sorted(replica.written) == sorted(contents(replica))


def test_how_far_behind_it_is_is_told(world, vault, replica):
    world.take(vault, some_disk(1, "R"))
    vault.replicate()
    since = world.clock()
    world.take(vault, some_disk(2, "R"))
    world.clock.pass_by(HOUR)
    world.take(vault, some_disk(3, "R"))
    done = vault.replicate(stopped=lambda: True)
    assert (done.copied, done.behind, done.oldest) == (0, 2, since)
    assert vault.replicate().behind == 0


def test_a_vault_without_a_replica_says_so_and_records_no_deletion(world):
    vault = world.vault()
    point, _ = world.take(vault, some_disk(1, "R"))
    assert vault.replicate() is None
    vault.forget(point)
    assert not world.files("gone")


def test_what_does_not_read_back_from_the_replica_is_not_left_there(world, replica):
    class Lossy(LocalObjects):
        """Keeps one byte too few of every pack."""

        def upload(self, name):
            upload = super().upload(name)
            if name.startswith("packs/"):
                write = upload.write
                upload.write = lambda data: write(data[:-1])
            return upload

    vault = world.vault(replica=Lossy(replica._root), signers=SIGNERS)
    world.take(vault, some_disk(1, "R"))
    done = vault.replicate()
    assert done.behind == 1
    assert "did not read back from the replica" in done.troubles[0]
    assert [name.partition("/")[0] for name in contents(replica)] == ["index", "heads"]


def test_what_the_copy_took_badly_and_keeps_is_a_trouble_and_ends_no_round(world, replica):
    class LossyAndKept(LocalObjects):
        def upload(self, name):
            upload = super().upload(name)
            if name.startswith("packs/"):
                write = upload.write
                upload.write = lambda data: write(data[:-1])
            return upload

        def delete(self, name):
            raise Denied("no key of yours deletes here")

    vault = world.vault(replica=LossyAndKept(replica._root), signers=SIGNERS)
    for seed in (1, 2):
        world.take(vault, some_disk(seed, "R"))
    done = vault.replicate(again=0)
    assert len(done.troubles) == 2
    assert all("no key of yours deletes here" in trouble for trouble in done.troubles)
    assert len(list(replica.names("heads"))) == 2


# What the first store loses is not lost, and what it makes up is not copied


@pytest.mark.parametrize("folder", ["packs", "points", "heads", "index"])
def test_damage_in_the_first_store_does_not_reach_the_copy(world, vault, replica, folder):
    world.take(vault, some_disk(1, "RR"))
    (file,) = world.files(folder)
    flip(file, file.stat().st_size // 2)
    done = vault.replicate()
    assert not list(replica.names(folder))
    assert len(done.troubles) == 1
    assert done.behind == (1 if folder in {"packs", "points"} else 0)


def test_a_point_whose_pack_is_lost_is_not_shown_by_the_copy(world, vault, replica):
    world.take(vault, some_disk(1, "RR"))
    (pack,) = world.files("packs")
    kept, _ = world.take(vault, some_disk(2, "RR"))
    pack.unlink()
    done = vault.replicate()
    assert done.behind == 1
    assert [name.split("/")[1] for name in replica.names("points")] == [kept.hex]
    assert len(list(replica.names("heads"))) == 2


def test_a_first_store_that_lost_everything_takes_nothing_from_the_copy(world, vault, replica):
    data = some_disk(1, "RT")
    point, _ = world.take(vault, data)
    vault.replicate()
    before = contents(replica)
    for file in world.files():
        file.unlink()
    done = vault.replicate()
    assert contents(replica) == before
    assert {name.partition("/")[0] for name in done.mended} == {"packs", "points", "heads"}
    assert read_all(world.vault(), point) == data
    assert fresh(world, replica).survey() == ()


def test_what_was_collected_goes_at_the_copy_too_and_only_after_the_holding_time(
    world, vault, replica
):
    gone, _ = world.take(vault, some_disk(1, "RR"))
    kept, _ = world.take(vault, some_disk(2, "RR"))
    vault.replicate()
    vault.forget(gone)
    vault.collect(holding=HOUR)
    assert vault.replicate().removed == 1
    assert [name.split("/")[1] for name in replica.names("points")] == [kept.hex]
    assert len(list(replica.names("packs"))) == 2
    world.clock.pass_by(HOUR)
    assert vault.collect(holding=HOUR).deleted == 1
    assert vault.replicate().removed == 2  # the pack, and the segment of the index that told of it
    assert set(replica.names("packs")) == set(world.objects.names("packs"))
    assert not world.files("gone")
    assert len(list(replica.names("heads"))) == 2
    assert read_all(vault, kept) == some_disk(2, "RR")


def test_a_copy_that_is_away_disturbs_no_collection_and_follows_later(world, vault, replica):
    point, _ = world.take(vault, some_disk(1, "RR"))
    vault.replicate()

    class Away(LocalObjects):
        def names(self, folder):
            raise Unavailable("away")

        delete = size = upload = put = get = names

    without = world.vault(replica=Away(replica._root), signers=SIGNERS)
    without.forget(point)
    without.collect(holding=HOUR)
    world.clock.pass_by(HOUR)
    assert without.collect(holding=HOUR).deleted == 1
    with pytest.raises(Unavailable):
        without.replicate()
    assert len(list(replica.names("packs"))) == 1
    assert vault.replicate().removed == 3
    assert not list(replica.names("packs"))
    assert vault.replicate().removed == 0


def test_a_copy_that_lets_nothing_be_deleted_goes_on_taking_what_is_new(world, vault, replica):
    class Kept(LocalObjects):
        def delete(self, name):
            raise Denied("no key of yours deletes here")

    point, _ = world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    vault.forget(point)
    vault.collect(holding=HOUR)
    world.clock.pass_by(HOUR)
    vault.collect(holding=HOUR)
    world.take(vault, some_disk(2, "RR"))
    appending = world.vault(replica=Kept(replica._root), signers=SIGNERS)
    for _ in range(2):
        done = appending.replicate()
        assert (done.kept, done.removed, done.behind) == (3, 0, 0)
        assert (done.why_kept, done.troubles) == ("no key of yours deletes here", ())
    assert len(list(replica.names("packs"))) == 2
    assert vault.replicate().removed == 3
    assert len(list(replica.names("packs"))) == 1


def test_a_deletion_that_we_did_not_record_is_not_followed(world, vault, replica):
    point, _ = world.take(vault, some_disk(1, "RR"))
    other, _ = world.take(vault, some_disk(2, "RR"))
    vault.replicate()
    vault.forget(other)
    (genuine,) = world.objects.names("gone")
    signed = world.objects.get(genuine)
    pack = next(iter(world.objects.names("packs")))
    for name in (f"gone/points/{point.hex}", f"gone/{pack}", "gone/heads/acme"):
        world.objects.put(name, signed)
    before = set(replica.names("packs")), set(replica.names("heads"))
    done = vault.replicate()
    assert len(done.troubles) == 3
    assert (set(replica.names("packs")), set(replica.names("heads"))) == before
    assert [name.split("/")[1] for name in replica.names("points")] == [point.hex]


def test_a_recorded_deletion_of_what_is_needed_again_is_not_followed(world, vault, replica):
    """As after a restored database: what is on record as needed stays, whoever signed."""
    point, _ = world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    (pack,) = world.objects.names("packs")
    vault._departed.put(pack, world.clock())
    vault._departed.put(f"points/{point.hex}", world.clock())
    done = vault.replicate()
    assert (done.removed, len(done.troubles)) == (0, 2)
    assert list(replica.names("packs")) == [pack]


def segments(objects: LocalObjects) -> set[str]:
    return set(objects.names("index"))


def test_segments_of_the_index_go_when_they_went_at_the_first_store_on_record(
    world, vault, replica
):
    points = []
    for seed in range(12):
        points.append(world.take(vault, some_disk(seed, "R"))[0])
        vault.replicate()
    assert len(segments(world.objects)) < 8  # many became few
    assert segments(replica) == segments(world.objects)
    for point in points:
        vault.forget(point)
    vault.collect(holding=HOUR)
    world.clock.pass_by(HOUR)
    assert vault.collect(holding=HOUR).deleted == 12
    assert segments(world.objects) == set()  # nothing of the domain is there any more
    assert segments(replica)
    vault.replicate()
    assert segments(replica) == set()
    assert not world.files("gone")


def test_a_segment_that_the_first_store_lost_stays_at_the_copy(world, vault, replica):
    for seed in range(2):
        world.take(vault, some_disk(seed, "R"))
    vault.replicate()
    before = segments(replica)
    world.files("index")[0].unlink()
    vault._departed.put(f"{min(before)}0", world.clock())  # a genuine record, of another one
    [genuine] = world.objects.names("gone")
    moved, forged = (f"gone/{name}" for name in sorted(before))
    world.objects.put(moved, world.objects.get(genuine))
    world.objects.put(forged, b"{}")
    done = vault.replicate()
    assert segments(replica) == before
    [first, second] = sorted(done.troubles, key=lambda trouble: forged in trouble)
    assert "somebody moved it" in first
    assert forged in second


def test_a_segment_that_the_copy_keeps_is_tried_again(world, vault, replica):
    class Kept(LocalObjects):
        def delete(self, name):
            raise Denied("no key of yours deletes here")

    for seed in range(7):
        world.take(vault, some_disk(seed, "R"))
    vault.replicate()
    merging = world.vault(replica=Kept(replica._root), signers=SIGNERS)
    world.take(merging, some_disk(7, "R"))
    for _ in range(2):
        done = merging.replicate()
        assert (done.kept, done.troubles, done.behind) == (8, (), 0)
    assert len(segments(replica)) == 8  # seven, and the one that took the place of eight
    vault.replicate()
    assert segments(replica) == segments(world.objects)


@pytest.mark.parametrize("where", ["the first store", "the copy"])
def test_a_domain_that_a_pack_only_claims_gets_no_keys(world, replica, where):
    """Of a domain that has none they are made, durably: a flipped bit must not ask for them."""
    asked = set()

    def keys(domain: str):
        asked.add(domain)
        return world.keys(domain)

    vault = world.vault(replica=replica, signers=SIGNERS, keys=keys)
    world.take(vault, some_disk(1, "RR"))
    (pack,) = world.files("packs")
    if where == "the copy":
        vault.replicate()
        (name,) = replica.names("packs")
        pack = replica._root / name
    flip(pack, 17, 1)
    asked.clear()
    done = vault.replicate()
    assert asked <= {DOMAIN}
    assert done.renewed if where == "the copy" else done.troubles


# Mending


def damages(kind: str):
    """Ways to spoil an object, by its path."""
    return {
        "a flipped bit": lambda path: flip(path, path.stat().st_size // 3, 5),
        "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "empty": lambda path: path.write_bytes(b""),
        "lost": lambda path: path.unlink(),
    }[kind]


@pytest.mark.parametrize("folder", ["packs", "points", "heads"])
@pytest.mark.parametrize("how", ["a flipped bit", "cut off", "empty", "lost"])
def test_what_is_spoilt_is_read_from_the_copy_and_mended(world, vault, replica, folder, how):
    data = some_disk(1, "RTRT")
    point, _ = world.take(vault, data)
    vault.replicate()
    before = contents(world.objects)
    (file,) = world.files(folder)
    damages(how)(file)
    with pytest.raises(Integrity):
        read_all(world.vault(), point)
    assert read_all(fresh(world, replica), point) == data
    assert contents(world.objects) == before
    assert world.records.damaged(DOMAIN) == frozenset()
    assert read_all(world.vault(), point) == data


def test_a_bit_that_flips_anywhere_is_mended(world, vault, replica):
    """A sample of every object's bytes and the ids of keys: a hundred restores take seconds."""
    data = some_disk(2, "TZT") + b"the tail"
    point, _ = world.take(vault, data)
    vault.replicate()
    before = contents(world.objects)
    rng = random.Random(3)
    for path in [file for file in world.files() if "index" not in file.parts]:
        size = path.stat().st_size
        for at in [0, 15, 25, 30, size - 1, *rng.sample(range(size), 25)]:
            flip(path, at, rng.randrange(8))
            reader = fresh(world, replica)
            assert read_all(reader, point) == data, (path, at)
            reader.close()
            world.opened.remove(reader)
            assert contents(world.objects) == before, (path, at)


def test_a_spoilt_segment_of_the_index_is_mended_when_it_is_read(world, vault, replica):
    world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    before = contents(world.objects)
    (segment,) = world.files("index")
    flip(segment, 100)
    other = fresh(world, replica)
    _, copied = world.take(other, some_disk(1, "RR"))
    assert copied.bytes_new == 0
    assert before.items() <= contents(world.objects).items()


def test_a_segment_that_was_tidied_away_meanwhile_is_not_brought_back(world, vault, replica):
    world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    (segment,) = world.files("index")

    class Stale(LocalObjects):
        def names(self, folder):
            found = list(super().names(folder))
            if folder.startswith("index"):
                segment.unlink(missing_ok=True)
            return iter(found)

    other = world.vault(objects=Stale(world.root), replica=replica, signers=SIGNERS)
    _, copied = world.take(other, some_disk(1, "RR"))
    assert copied.bytes_new == 0
    assert not segment.exists()


@pytest.mark.parametrize("folder", ["points", "heads"])
def test_heads_and_roots_are_mended_for_a_check_as_for_any_reader(world, vault, replica, folder):
    world.take(vault, some_disk(1, "R"))
    vault.replicate()
    before = contents(world.objects)
    (file,) = world.files(folder)
    flip(file, 60)
    order = CheckOrder(depth=Depth.STRUCTURE)
    checked = fresh(world, replica).check(order, name=lambda tenant, instance: "x")
    assert checked.findings == ()
    assert contents(world.objects) == before


def test_damage_that_a_check_found_is_mended_in_the_next_round(world, vault, replica):
    point, _ = world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    (pack,) = world.files("packs")
    flip(pack, CHUNK)
    world.records.damage(Damage(domain=DOMAIN, pack=bytes.fromhex(pack.name)))
    assert len(vault.replicate().mended) == 1
    assert world.records.damaged(DOMAIN) == frozenset()
    assert read_all(world.vault(), point) == some_disk(1, "RR")


def test_a_mended_pack_serves_dedup_again(world, vault, replica):
    data = some_disk(1, "RR")
    point, _ = world.take(vault, data)
    vault.replicate()
    (pack,) = world.files("packs")
    flip(pack, CHUNK)
    reader = fresh(world, replica)
    assert read_all(reader, point) == data
    for other in (reader, fresh(world, replica)):
        _, copied = world.take(other, data)
        assert copied.bytes_new == 0


def test_a_copy_that_is_spoilt_too_is_not_used_and_nothing_is_deleted(world, vault, replica):
    data = some_disk(1, "RRR")
    point, _ = world.take(vault, data)
    vault.replicate()
    (pack,) = world.files("packs")
    flip(pack, CHUNK)
    there = replica._root / pack.relative_to(world.root)
    flip(there, CHUNK * 2 + 5000)
    spoilt = pack.read_bytes(), there.read_bytes()
    with pytest.raises(Integrity, match="offset"):
        read_all(fresh(world, replica), point)
    assert (pack.read_bytes(), there.read_bytes()) == spoilt
    assert "no sound copy" in fresh(world, replica).replicate().troubles[0]
    there.unlink()
    with pytest.raises(Integrity, match="offset"):
        read_all(fresh(world, replica), point)
    assert pack.read_bytes() == spoilt[0]


def test_an_old_head_or_another_points_root_at_the_copy_is_not_believed(world, vault, replica):
    world.take(vault, some_disk(1, "R"))
    world.take(vault, some_disk(2, "R"))
    vault.replicate()
    for folder in ("heads", "points"):
        one, two = world.files(folder)
        at = {path: replica._root / path.relative_to(world.root) for path in (one, two)}
        kept = {path: path.read_bytes() for path in (one, two)}
        at[two].write_bytes(kept[one])
        two.unlink()
        broken = fresh(world, replica).survey()
        assert len(broken) == 1
        assert not two.exists()
        at[two].write_bytes(kept[two])
        two.write_bytes(kept[two])


def test_a_store_that_takes_nothing_back_is_read_past(world, vault, replica):
    data = some_disk(1, "RR")
    point, _ = world.take(vault, data)
    vault.replicate()
    (pack,) = world.files("packs")
    flip(pack, CHUNK)
    spoilt = pack.read_bytes()

    class Fixed(LocalObjects):
        def delete(self, name):
            raise Unavailable("the disk is read-only")

    reader = world.vault(objects=Fixed(world.root), replica=replica, signers=SIGNERS)
    assert read_all(reader, point) == data
    assert pack.read_bytes() == spoilt
    assert world.records.damaged(DOMAIN)
    assert read_all(fresh(world, replica), point) == data
    assert world.records.damaged(DOMAIN) == frozenset()


def test_a_round_calls_nothing_mended_that_the_store_did_not_take_back_and_tries_again(
    world, vault, replica
):
    class Stuck(LocalObjects):
        fixed = False

        def delete(self, name):
            if not self.fixed:
                raise Unavailable("the disk is read-only")
            super().delete(name)

    data = some_disk(1, "RR")
    point, _ = world.take(vault, data)
    vault.replicate()
    (pack,) = world.files("packs")
    whole = pack.read_bytes()
    flip(pack, CHUNK)
    store = Stuck(world.root)
    reader = world.vault(objects=store, replica=replica, signers=SIGNERS)
    assert read_all(reader, point) == data
    for _ in range(2):
        done = reader.replicate()
        assert done.mended == ()
        [trouble] = done.troubles
        assert pack.name in trouble
        assert "the disk is read-only" in trouble
        assert world.records.damaged(DOMAIN)
    store.fixed = True
    assert reader.replicate().mended == (pack.relative_to(world.root).as_posix(),)
    assert pack.read_bytes() == whole
    assert world.records.damaged(DOMAIN) == frozenset()
    assert reader.replicate().mended == ()


def test_damage_of_what_is_collected_is_no_trouble_of_a_round(world, vault, replica):
    """Neither on its way out, nor where a copy is under way that will be made again."""
    point, _ = world.take(vault, some_disk(1, "RR"))
    [gone] = world.files("packs")
    world.take(vault, some_disk(2, "RR"))
    [kept] = set(world.files("packs")) - {gone}
    vault.replicate()
    for pack in world.files("packs"):
        world.records.damage(Damage(domain=DOMAIN, pack=bytes.fromhex(pack.name)))
    copy(vault, some_disk(3, "RR"), point=new_point())
    [under_way] = set(world.records.known_packs()) - world.records.verified_packs(DOMAIN)
    world.records.damage(Damage(domain=DOMAIN, pack=under_way))
    world.records.damage(Damage(domain=DOMAIN, pack=bytes(32)))
    world.vault().forget(point)
    world.vault().collect(holding=HOUR)
    done = vault.replicate()
    assert done.troubles == ()
    assert done.mended == (kept.relative_to(world.root).as_posix(),)


@pytest.mark.parametrize("step", ["delete", "upload"])
def test_a_mending_that_dies_on_its_way_is_done_by_the_next_reader(world, vault, replica, step):
    class Killed(BaseException):
        pass

    class Dying(LocalObjects):
        def delete(self, name):
            super().delete(name)
            if step == "delete":
                raise Killed

        def upload(self, name):
            raise Killed

    data = some_disk(1, "RR")
    point, _ = world.take(vault, data)
    vault.replicate()
    before = contents(world.objects)
    (pack,) = world.files("packs")
    flip(pack, CHUNK)
    with pytest.raises(Killed):
        read_all(world.vault(objects=Dying(world.root), replica=replica, signers=SIGNERS), point)
    assert not pack.exists()
    assert read_all(fresh(world, replica), point) == data
    assert contents(world.objects) == before


def test_a_store_that_does_not_answer_is_not_mended(world, vault, replica):
    point, _ = world.take(vault, some_disk(1, "R"))
    vault.replicate()

    class Away(LocalObjects):
        def get(self, name, offset=0, length=None):
            raise Unavailable("away")

    before = contents(world.objects)
    with pytest.raises(Unavailable):
        read_all(world.vault(objects=Away(world.root), replica=replica, signers=SIGNERS), point)
    assert contents(world.objects) == before


def test_a_pack_that_was_collected_is_not_brought_back(world, vault, replica):
    point, _ = world.take(vault, some_disk(1, "R"))
    vault.replicate()
    (pack,) = world.files("packs")
    vault.forget(point)
    vault.collect(holding=HOUR)
    world.clock.pass_by(HOUR)
    vault.collect(holding=HOUR)
    assert fresh(world, replica)._mending.pack(DOMAIN, bytes.fromhex(pack.name)) is not None
    assert not pack.exists()


@pytest.mark.parametrize("folder", ["packs", "points", "heads", "homes"])
def test_what_only_the_copy_has_and_is_spoilt_is_not_put_back(world, vault, replica, folder):
    world.take(vault, some_disk(1, "R"))
    Homes(world.objects, Seal()).put(home(epoch=1))
    vault.replicate()
    (file,) = world.files(folder)
    name = file.relative_to(world.root).as_posix()
    file.unlink()
    flip(replica._root / name, 60)
    done = vault.replicate(again=0)
    assert done.mended == ()
    assert len(done.troubles) == 1
    assert not file.exists()


def test_what_does_not_read_back_as_it_was_put_back_is_not_called_mended(world, vault, replica):
    class Lossy(LocalObjects):
        def upload(self, name):
            upload = super().upload(name)
            write = upload.write
            upload.write = lambda data: write(data[:-1])
            return upload

    world.take(vault, some_disk(1, "R"))
    vault.replicate()
    (file,) = world.files("packs")
    file.unlink()
    lossy = world.vault(objects=Lossy(world.root), replica=replica, signers=SIGNERS)
    done = lossy.replicate(again=0)
    assert done.mended == ()
    assert "does not read back" in done.troubles[0]


def test_homes_and_lives_that_only_the_copy_shows_are_put_back(world, vault, replica):
    world.take(vault, some_disk(1, "R"))
    lives = Lives(world.objects, Seal())
    lives.claim(world.take(vault, b"x")[0])
    vault.replicate()
    for file in world.files("incarnations"):
        file.unlink()
    assert lives.newest() == 1
    assert vault.replicate().mended == ("incarnations/000002",)
    assert lives.newest() == 2


def test_a_spoilt_home_is_mended_when_it_is_read_and_lost_ones_by_the_next_round(
    world, vault, replica
):
    alone = Homes(world.objects, Seal())
    for epoch in (1, 2):
        alone.put(home(epoch=epoch))
    vault.replicate()
    first, second = world.files("homes")
    flip(second, 40)
    with pytest.raises(Integrity):
        list(alone.newest())
    assert [found.epoch for found in Homes(world.objects, Seal(), vault.read).newest()] == [2]
    assert [found.epoch for found in alone.newest()] == [2]
    second.unlink()
    first.unlink()
    assert list(alone.newest()) == []
    assert len(vault.replicate().mended) == 2
    assert [found.epoch for found in alone.newest()] == [2]


def test_a_restored_database_recalls_past_what_the_first_store_damaged(world, vault, replica):
    world.take(vault, some_disk(1, "R"))
    kept = backup(world)
    newer = {world.take(vault, some_disk(seed, "RT"))[0]: seed for seed in (2, 3)}
    vault.replicate()
    before = contents(world.objects)
    for folder in ("heads", "points", "packs"):
        for file in world.files(folder):
            flip(file, file.stat().st_size // 2)
    world.records = kept
    told = fresh(world, replica).recall(domain_of)
    assert (told.points, told.unreadable) == (2, ())
    for point, seed in newer.items():
        assert read_all(fresh(world, replica), point) == some_disk(seed, "RT")
    assert fresh(world, replica).survey() == ()
    fresh(world, replica).replicate()
    spoilt = {n for n, data in contents(world.objects).items() if before[n] != data}
    assert {name.partition("/")[0] for name in spoilt} <= {"packs"}


@pytest.mark.parametrize("folder", ["packs", "index", "points", "heads"])
def test_what_the_copy_damaged_is_found_by_looking_again_and_renewed(world, vault, replica, folder):
    """One of each is looked at in every round, and here there is one."""
    world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    before = contents(replica)
    (name,) = replica.names(folder)
    flip(replica._root / name, 100)
    assert vault.replicate(again=0).renewed == ()
    assert vault.replicate().renewed == (name,)
    assert contents(replica) == before
    assert vault.replicate().renewed == ()


def test_what_both_damaged_is_left_alone_and_told(world, vault, replica):
    world.take(vault, some_disk(1, "RR"))
    vault.replicate()
    (name,) = replica.names("packs")
    for root, at in ((world.root, CHUNK), (replica._root, CHUNK + 9000)):
        flip(root / name, at)
    before = contents(replica), contents(world.objects)
    done = vault.replicate()
    assert done.renewed == ()
    assert name in done.troubles[0]
    assert (contents(replica), contents(world.objects)) == before
