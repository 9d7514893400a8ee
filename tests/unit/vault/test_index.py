"""The local index is a cache: kept between runs, thrown away without loss."""

import errno
from dataclasses import replace
from datetime import timedelta

import pytest

from controlplane.domain.errors import Integrity
from controlplane.vault.nouns import (
    CopyProgress,
)
from controlplane.vault.published import Published
from controlplane.vault.segment import SHORT, Segment, number_of, row
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    Bytes,
    commit,
    copy,
    keys,
    new_point,
    read_all,
    some_disk,
)


def test_a_cache_file_serves_the_next_process(world, tmp_path):
    data = some_disk(1, "RR")
    path = tmp_path / "index.db"
    first = world.vault(index=path)
    world.take(first, data)
    first.close()
    for file in world.files("index"):
        file.unlink()
    assert copy(world.vault(index=path), data, point=new_point()).bytes_new == 0


@pytest.mark.parametrize("spoilt", [b"not a database" * 100, b"SQLite format 3\0" + b"x" * 5000])
def test_a_spoilt_cache_file_is_made_anew(world, tmp_path, spoilt):
    data = some_disk(2, "RR")
    world.take(world.vault(), data)
    path = tmp_path / "index.db"
    path.write_bytes(spoilt)
    assert copy(world.vault(index=path), data, point=new_point()).bytes_new == 0


def test_a_cache_that_lies_breaks_no_point(world, tmp_path):
    data = some_disk(3, "RRR")
    path = tmp_path / "index.db"
    vault = world.vault(index=path)
    world.take(vault, data)
    vault.close()
    (file,) = path.glob("*.segment")
    told = Segment.open(file)
    lies = [
        row(told_row[:SHORT], number_of(told_row), {0: 2, 1: 10, 2: 0}[told_row[-1]])
        for part in told.parts()
        for told_row in part
    ]
    Segment.write(file, domain=DOMAIN, packs=told.packs, parts=[lies])
    point, copied = world.take(world.vault(index=path), data)
    assert copied.bytes_new >= 2 * CHUNK
    assert read_all(world.vault(), point) == data


def test_a_key_that_is_away_is_no_damage(world, vault):
    data = some_disk(4, "RR")
    point, _ = world.take(vault, data)
    without = world.vault(keys=lambda d: replace(keys(d), data_key_id="new", data_key=bytes(32)))
    with pytest.raises(Integrity, match="keyring does not have"):
        read_all(without, point)
    assert world.records.damaged(DOMAIN) == frozenset()
    assert copy(world.vault(), data, point=new_point()).bytes_new == 0


def test_progress_goes_forward_to_the_whole(world, vault):
    seen: list[CopyProgress] = []
    data = some_disk(5, "R" * 20 + "Z" * 1000 + "R")
    copied = copy(vault, Bytes(data), point=new_point(), progress=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == len(data)
    assert seen[-1].fresh == copied.bytes_new == 21 * CHUNK


def test_a_second_process_on_the_same_folder_keeps_its_own_in_memory(world, tmp_path):
    path, data = tmp_path / "index", some_disk(6, "RR")
    first = world.vault(index=path)
    world.take(first, data)
    files = sorted(path.iterdir())
    second = world.vault(index=path)
    assert copy(second, data, point=new_point()).bytes_new == 0
    assert sorted(path.iterdir()) == files


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(world, tmp_path, monkeypatch):
    """The disk of the cache is full."""
    data = some_disk(7, "RR")
    monkeypatch.setattr(Segment, "write", no_room)
    vault = world.vault(index=tmp_path / "index")
    point, _ = world.take(vault, data)
    assert not list((tmp_path / "index").glob("*-*"))
    assert read_all(vault, point) == data
    monkeypatch.undo()
    assert copy(vault, data, point=new_point()).bytes_new == 0


def no_room(*_, **__) -> None:
    raise OSError(errno.ENOSPC, "no space left")


def test_many_small_segments_in_the_store_become_few(world, vault):
    for seed in range(20):
        world.take(vault, some_disk(seed, "R"))
    assert len(world.files("index")) < 8
    fresh = world.vault()
    for pack in world.files("packs"):
        pack.rename(pack.with_suffix(".away"))
    fresh._index.refresh(DOMAIN)
    assert len(fresh._index._caches[DOMAIN].packs()) == 20


def test_two_that_put_few_in_the_place_of_many_lose_nothing(world):
    """Both read the same segments, and both replace them; a third reads while they do."""
    first, second, reader = world.vault(), world.vault(), world.vault()
    for seed in range(7):
        world.take(first, some_disk(seed, "R"))
    for vault in (first, second, reader):
        vault._index.refresh(DOMAIN)
        vault._index._published.heads(DOMAIN)
    world.take(first, some_disk(7, "R"))
    second._index._published._replace(
        DOMAIN, dict(second._index._published._heads), second._index._on_record
    )
    reader._index.refresh(DOMAIN)
    for vault in (reader, world.vault()):
        for seed in range(8):
            assert copy(vault, some_disk(seed, "R"), point=new_point()).bytes_new == 0


def test_one_new_pack_does_not_make_a_cache_read_large_segments(world, vault):
    """A segment of 40 packs has one that is not known yet: its own table is read."""
    point = new_point()
    copy(vault, some_disk(8, "R"), point=point)
    copy_of_many = {bytes([n]) * 32: [(bytes([n]) * 32, 0)] for n in range(40)}
    world.take(vault, some_disk(9, "R"))
    commit(vault, point)
    for path in world.files("index"):
        path.unlink()
    (one, _) = sorted(world.records.verified_packs(DOMAIN))
    vault._index._published.write(DOMAIN, {**copy_of_many, one: [(b"x" * 32, 0)]})
    fresh = world.vault()
    asked = []
    get = world.objects.get
    world.objects.get = lambda name, *rest: asked.append((name, *rest)) or get(name, *rest)
    fresh._index.refresh(DOMAIN)
    assert {name for name, *rest in asked if rest[1:] == [] and name.startswith("index/")} == set()
    assert len(fresh._index._caches[DOMAIN].packs()) == 2


def test_collection_takes_what_segments_say_of_deleted_packs(world, vault):
    points = [world.take(vault, some_disk(seed, "R"))[0] for seed in range(10)]
    for point in points[:9]:
        vault.forget(point)
    for _ in range(2):
        vault.collect(holding=timedelta(0))
    told = Published(world.objects, keys).heads(DOMAIN).values()
    assert {pack for head in told for pack in head.packs} >= world.records.verified_packs(DOMAIN)
    assert sum(len(head.packs) for head in told) <= 2
    vault.forget(points[9])
    for _ in range(2):
        vault.collect(holding=timedelta(0))
    assert world.files("index") == []


@pytest.mark.parametrize("harm", [b"", b"\0\0\0\5", b"x" * 900])
def test_a_segment_that_cannot_be_read_costs_time_and_goes_with_the_next_tidying(
    world, vault, harm
):
    data = some_disk(11, "RR")
    world.take(vault, data)
    (path,) = world.files("index")
    path.write_bytes(harm)
    fresh = world.vault()
    assert copy(fresh, data, point=new_point()).bytes_new == 0
    fresh.tidy_index(DOMAIN)
    assert world.files("index") == []
