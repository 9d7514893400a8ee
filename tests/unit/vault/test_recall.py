"""Records of an earlier day are brought up to what the store shows."""

from copy import deepcopy
from datetime import timedelta

import pytest

from controlplane.domain.errors import Conflict, Integrity
from controlplane.domain.ids import PointId
from controlplane.vault.memory import MemoryRecords
from tests.unit.vault.support import CHUNK, DOMAIN, INSTANCE, TENANT, Bytes, World, new_point


def domain_of(key: str) -> str | None:
    return DOMAIN if key == f"{DOMAIN}-1" else None


def made(world: World, content: bytes, point: PointId | None = None) -> PointId:
    point = point or new_point()
    vault = world.vault()
    vault.copy(Bytes(content), point=point, disk=0, domain=DOMAIN, subject="web-1", attempt=1)
    vault.commit(
        point, disks=(0,), domain=DOMAIN, tenant=TENANT, instance=INSTANCE, mark=None, attempt=1
    )
    return point


def backup(world: World) -> MemoryRecords:
    lock = world.records._lock
    world.records._lock = None  # type: ignore[assignment]  # a lock is not copied
    kept = deepcopy(world.records)
    world.records._lock, kept._lock = lock, lock
    return kept


def content(seed: int) -> bytes:
    return bytes([seed]) * CHUNK + bytes(CHUNK) + bytes([seed + 1]) * CHUNK


def test_newer_points_are_usable_again_and_the_chain_goes_on(world: World) -> None:
    made(world, content(1))
    kept = backup(world)
    newer = [made(world, content(seed)) for seed in (10, 20)]
    world.records = kept
    vault = world.vault()
    recalled = vault.recall(domain_of)
    assert (recalled.points, recalled.forgotten, recalled.packs_gone) == (2, 0, 0)
    assert recalled.unreadable == ()
    assert vault.open(newer[1], 0).read(0, 3 * CHUNK) == content(20)
    assert vault.recall(domain_of).points == 0
    third = made(world, content(30))
    record = kept.last(TENANT, INSTANCE)
    assert record is not None
    assert (record.point, record.sequence) == (third, 4)
    assert vault.survey() == ()


def test_recalled_points_bear_the_times_when_they_were_made(world: World) -> None:
    kept = backup(world)
    times = []
    for seed in (1, 10):
        world.clock.pass_by(timedelta(days=1))
        made(world, content(seed))
        times.append(world.clock())
    world.clock.pass_by(timedelta(days=30))
    world.records = kept
    world.vault().recall(domain_of)
    assert [record.committed_at for record in kept.points()] == times


def test_what_went_after_the_backup_is_not_relied_upon(world: World) -> None:
    gone = made(world, content(1))
    kept = backup(world)
    vault = world.vault()
    vault.forget(gone)
    vault.collect(holding=-world.clock.now.resolution)
    assert not list(world.objects.names("packs"))
    world.records = kept
    recalled = world.vault().recall(domain_of)
    assert (recalled.forgotten, recalled.packs_gone) == (1, 1)
    again = made(world, content(1))
    assert world.vault().open(again, 0).read(0, CHUNK) == content(1)[:CHUNK]


def test_a_copy_that_ran_when_the_backup_was_taken_is_given_up(world: World) -> None:
    point = new_point()
    world.vault().copy(
        Bytes(content(1)), point=point, disk=0, domain=DOMAIN, subject="web-1", attempt=1
    )
    world.vault().recall(domain_of)
    with pytest.raises(Conflict):
        world.vault().copy(
            Bytes(content(1)), point=point, disk=0, domain=DOMAIN, subject="web-1", attempt=2
        )


def test_a_point_that_was_committed_after_the_backup_of_its_copy_stands(world: World) -> None:
    point = new_point()
    world.vault().copy(
        Bytes(content(1)), point=point, disk=0, domain=DOMAIN, subject="web-1", attempt=1
    )
    kept = backup(world)
    made(world, content(1), point)
    world.records = kept
    vault = world.vault()
    assert vault.recall(domain_of).points == 1
    vault.collect(holding=-world.clock.now.resolution)
    assert vault.open(point, 0).read(0, CHUNK) == content(1)[:CHUNK]


def test_a_point_whose_key_is_lost_keeps_its_number_and_its_packs(world: World) -> None:
    kept = backup(world)
    made(world, content(1))
    packs = set(world.objects.names("packs"))
    world.records = kept
    vault = world.vault()
    recalled = vault.recall(lambda _: None)
    assert recalled.points == 0
    assert "its key is not known" in recalled.unreadable[0]
    vault.collect(holding=-world.clock.now.resolution)
    assert set(world.objects.names("packs")) == packs
    record = kept.last(TENANT, INSTANCE)
    assert record is not None
    assert record.sequence == 1


def test_a_point_with_a_lost_pack_is_named(world: World) -> None:
    kept = backup(world)
    made(world, content(1))
    for name in list(world.objects.names("packs")):
        world.objects.delete(name)
    world.records = kept
    recalled = world.vault().recall(domain_of)
    assert recalled.points == 0
    assert str(INSTANCE) in recalled.unreadable[0]


def test_a_store_of_an_earlier_day_is_refused(world: World) -> None:
    for seed in (1, 10, 20):
        made(world, content(seed))
    for name in sorted(world.objects.names("heads"))[1:]:
        world.objects.delete(name)
    with pytest.raises(Integrity, match="older state"):
        world.vault().recall(domain_of)


def test_an_empty_store_is_refused_and_nothing_is_forgotten(world: World) -> None:
    point = made(world, content(1))
    for name in list(world.objects.names("heads")):
        world.objects.delete(name)
    with pytest.raises(Integrity, match="no recovery point at all"):
        world.vault().recall(domain_of)
    assert world.records.point(point) is not None


def test_a_hidden_point_is_noticed(world: World) -> None:
    kept = backup(world)
    for seed in (1, 10, 20):
        made(world, content(seed))
    world.objects.delete(sorted(world.objects.names("heads"))[1])
    world.records = kept
    with pytest.raises(Integrity, match="does not follow"):
        world.vault().recall(domain_of)
