"""Only what nothing may need is deleted, and never in a hurry."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain.errors import Conflict, Denied, NotFound
from controlplane.vault.local import LocalObjects
from tests.unit.vault.support import CHUNK, commit, copy, new_point, read_all, some_disk

HOUR = timedelta(hours=1)


def test_a_forgotten_point_is_freed_after_the_holding_time(world, vault):
    point, _ = world.take(vault, some_disk(1, "RR"))
    assert vault.collect(holding=HOUR).condemned == 0
    vault.forget(point)
    vault.forget(point)
    with pytest.raises(NotFound):
        vault.open(point, 0)
    assert vault.collect(holding=HOUR).condemned == 1
    world.clock.pass_by(HOUR - timedelta(seconds=1))
    assert vault.collect(holding=HOUR).deleted == 0
    world.clock.pass_by(timedelta(seconds=1))
    assert vault.collect(holding=HOUR).deleted == 1
    assert world.files("packs") == world.files("points") == []
    vault.tidy_index("acme/shop")
    assert world.files("index") == []
    assert len(world.files("heads")) == 1


def test_what_a_later_point_needs_stays(world, vault):
    data = some_disk(2, "RR")
    first, _ = world.take(vault, data)
    second, _ = world.take(vault, data)
    vault.forget(first)
    vault.collect(holding=timedelta(0))
    vault.collect(holding=timedelta(0))
    assert read_all(world.vault(), second) == data


def test_condemned_packs_serve_no_dedup(world, vault):
    data = some_disk(3, "RR")
    point, _ = world.take(vault, data)
    vault.forget(point)
    vault.collect(holding=HOUR)
    for process in (vault, world.vault()):
        assert copy(process, data, point=new_point()).bytes_new == 2 * CHUNK


def test_an_open_session_of_an_earlier_time_keeps_packs_and_cannot_commit_them(world, vault):
    data = some_disk(4, "RR")
    old, _ = world.take(vault, data)
    point = new_point()
    assert copy(vault, data, point=point).bytes_new == 0
    vault.forget(old)
    assert vault.collect(holding=timedelta(0)).condemned == 1
    assert vault.collect(holding=timedelta(0)).deleted == 0
    with pytest.raises(Conflict) as caught:
        commit(vault, point)
    assert caught.value.reason == "condemned"
    assert copy(vault, data, point=point).bytes_new == 2 * CHUNK
    commit(vault, point)
    # The condemned pack, and the one with the page of the first try.
    assert vault.collect(holding=timedelta(0)).deleted == 2
    assert read_all(world.vault(), point) == data


def test_a_session_begun_after_condemning_does_not_hold_it_up(world, vault):
    old, _ = world.take(vault, some_disk(5, "R"))
    vault.forget(old)
    vault.collect(holding=HOUR)
    copy(vault, some_disk(6, "R"), point=new_point())
    world.clock.pass_by(HOUR)
    assert vault.collect(holding=HOUR).deleted == 1


def test_packs_of_an_open_copy_stay_until_it_is_abandoned(world, vault):
    point = new_point()
    copy(vault, some_disk(7, "RR"), point=point)
    assert vault.collect(holding=timedelta(0)).condemned == 0
    vault.abandon(point)
    vault.collect(holding=timedelta(0))
    assert world.files("packs") == []
    with pytest.raises(Conflict) as caught:
        commit(vault, point)
    assert caught.value.reason in {"superseded", ""}


def test_objects_on_no_record_are_reported_and_kept(world, vault):
    world.objects.put("packs/ab/abcd", b"from another incarnation")
    vault.collect(holding=timedelta(0))
    assert vault.unknown_packs() == ("packs/ab/abcd",)
    assert world.objects.get("packs/ab/abcd")


def test_a_pack_whose_delete_was_cut_short_is_deleted_again(world, vault):
    point, _ = world.take(vault, some_disk(8, "R"))
    vault.forget(point)
    vault.collect(holding=HOUR)
    for path in world.files("packs"):
        path.unlink()
    world.clock.pass_by(HOUR)
    assert vault.collect(holding=HOUR).deleted == 1
    assert world.records.known_packs() == frozenset()


def test_copying_forgetting_and_collecting_at_once_loses_nothing(world):
    """Writers share chunks while a collector with no patience runs; what is retained is whole."""
    pool = [some_disk(seed, "R") for seed in range(6)]
    retained: dict[object, bytes] = {}
    done = threading.Event()

    def write(seed: int) -> None:
        rng, vault = random.Random(seed), world.vault()
        mine = []
        for _ in range(10):
            data, point = b"".join(rng.choices(pool, k=4)), new_point()
            for _ in range(50):
                copy(vault, data, point=point)
                try:
                    commit(vault, point)
                    break
                except Conflict as e:
                    if e.reason not in {"condemned", "raced"}:
                        raise
            retained[point] = data
            mine.append(point)
            if rng.random() < 0.7:
                gone = mine.pop(rng.randrange(len(mine)))
                del retained[gone]
                vault.forget(gone)

    def collect() -> None:
        vault = world.vault()
        while not done.wait(0.001):
            vault.collect(holding=timedelta(0))

    with ThreadPoolExecutor(4) as threads:
        collector = threads.submit(collect)
        try:
            list(threads.map(write, range(3)))
        finally:
            done.set()
        collector.result()
    assert len(retained) >= 3
    fresh = world.vault()
    for point, data in retained.items():
        assert read_all(fresh, point) == data
    fresh.collect(holding=timedelta(0))
    fresh.collect(holding=timedelta(0))
    held = {ref for p in world.records.points() for ref in world.records._points[p.point][1]}
    assert {path.name for path in world.files("packs")} == {pack.hex() for pack in held}


def test_what_the_store_locked_stays_and_the_others_go(world, vault):
    for seed in range(3):
        point, _ = world.take(vault, some_disk(seed, "R"))
        vault.forget(point)
    vault.collect(holding=HOUR)
    world.clock.pass_by(HOUR)
    locked = world.files("packs")[1]

    class Locking(LocalObjects):
        def delete(self, name):
            if name.endswith(locked.name):
                raise Denied("locked until Friday")
            super().delete(name)

    other = world.vault(objects=Locking(world.root))
    collected = other.collect(holding=HOUR)
    assert (collected.deleted, collected.locked) == (2, 1)
    assert collected.why_locked == "locked until Friday"
    assert world.files("packs") == [locked]
    assert other.collect(holding=HOUR).locked == 1
    later = vault.collect(holding=HOUR)
    assert (later.deleted, later.locked) == (1, 0)
    assert world.files("packs") == []


def test_a_store_that_deletes_nothing_lets_points_be_made_and_forgotten(world):
    class Locked(LocalObjects):
        def delete(self, name):
            raise Denied("locked until Friday")

    vault = world.vault(objects=Locked(world.root))
    data = {seed: some_disk(seed, "R") for seed in range(10)}
    points = [world.take(vault, each)[0] for each in data.values()]
    assert len(world.files("index")) <= len(points) + 1  # what others take the place of stays
    vault.forget(points[0])
    assert vault.stands(points[1])
    assert not vault.stands(points[0])
    assert vault.collect(holding=timedelta(0)).condemned == 1
    told = vault.collect(holding=timedelta(0))
    assert (told.deleted, told.locked) == (0, 1)
    assert read_all(world.vault(), points[9]) == data[9]


def test_uploads_that_never_ended_are_swept_when_they_are_old(world, vault):
    left = world.objects.upload("packs/aa/aab")
    world.clock.now = datetime.now(UTC) + 2 * HOUR
    assert vault.sweep(older=3 * HOUR) == 0
    assert vault.sweep(older=HOUR) == 1
    left.abort()
