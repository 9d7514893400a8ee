"""The local index is a cache: kept between runs, thrown away without loss."""

from dataclasses import replace

import pytest

from controlplane.domain.errors import Integrity
from controlplane.vault.nouns import (
    CopyProgress,
)
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    Bytes,
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
    vault._index._db.execute("UPDATE chunks SET position = 2 - position")
    vault._index._db.execute("UPDATE chunks SET position = position + 9 WHERE position = 1")
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
