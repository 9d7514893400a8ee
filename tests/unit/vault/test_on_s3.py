"""The vault's own tests once more, over a bucket instead of a folder."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.domain.errors import Unavailable
from tests.unit.vault.faulty import BROKEN, CUT_AFTER, CUT_IN_ANSWER, SLOW_DOWN, Way
from tests.unit.vault.support import World, commit, copy, new_point, read_all, some_disk
from tests.unit.vault.test_collection import (  # noqa: F401  # they run here, too
    test_an_open_session_of_an_earlier_time_keeps_packs_and_cannot_commit_them,
    test_condemned_packs_serve_no_dedup,
    test_objects_on_no_record_are_reported_and_kept,
    test_what_a_later_point_needs_stays,
)
from tests.unit.vault.test_homes import (  # noqa: F401
    test_a_key_that_was_made_elsewhere_meanwhile_is_the_key,
    test_a_restored_database_finds_newer_keys_in_the_store,
    test_one_of_two_restores_at_once_gets_the_life,
    test_the_newest_home_of_each_instance_is_found_and_putting_it_twice_is_fine,
)
from tests.unit.vault.test_recall import (  # noqa: F401
    test_a_point_with_a_lost_pack_is_named,
    test_an_empty_store_is_refused_and_nothing_is_forgotten,
    test_newer_points_are_usable_again_and_the_chain_goes_on,
    test_what_went_after_the_backup_is_not_relied_upon,
)
from tests.unit.vault.test_round_trip import (  # noqa: F401
    test_a_disk_comes_out_as_it_went_in,
    test_a_grown_disk_takes_over_what_it_can,
    test_a_rotated_data_key_keeps_old_points_and_dedup,
    test_equal_chunks_are_stored_once_within_and_across_points,
    test_heads_are_numbered_chained_and_carry_the_mark,
    test_unchanged_extents_are_taken_over_without_reading,
)


@pytest.fixture
def world(server: str, opened, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, opened(server))
    yield world
    world.close()


def test_a_copy_through_a_store_that_fails_now_and_then_is_whole(way: Way, opened, tmp_path):
    world = World(tmp_path, opened(way.url))
    turn = [0]

    def every_third(_asked: object) -> object:
        turn[0] += 1
        return (SLOW_DOWN, BROKEN)[turn[0] // 3 % 2] if turn[0] % 3 == 0 else None

    way.fault = every_third
    data = some_disk(1, "RTZ" * 40)
    point, _ = world.take(world.vault(), data)
    assert read_all(world.vault(), point) == data
    world.close()


def test_a_copy_whose_store_goes_away_reports_nothing_and_goes_on_when_it_is_back(
    way: Way, opened, tmp_path
):
    world = World(tmp_path, opened(way.url, patience=timedelta(seconds=0.1)))
    data, point = some_disk(2, "RT" * 60), new_point()
    way.fault = lambda asked: BROKEN if asked.method in {"PUT", "POST"} else None
    with pytest.raises(Unavailable):
        copy(world.vault(), data, point=point)
    assert world.records.sessions(point)[0].copied is None
    way.fault = lambda _: None
    vault = world.vault()
    copy(vault, data, point=point)
    way.fault = lambda asked: BROKEN if asked.method == "PUT" else None
    with pytest.raises(Unavailable):
        commit(vault, point)
    assert world.records.point(point) is None
    way.fault = lambda _: None
    commit(vault, point)
    assert read_all(world.vault(), point) == data
    world.close()


def test_a_replica_in_a_bucket_is_brought_up_over_a_bad_line_and_mends_the_folder(
    way: Way, opened, tmp_path
):
    replica = opened(way.url)
    world = World(tmp_path)
    vault = world.vault(replica=replica)
    data = some_disk(3, "RT" * 50)
    point, _ = world.take(vault, data)
    turn = [0]

    def every_fourth(_asked: object) -> object:
        turn[0] += 1
        return (CUT_AFTER, BROKEN, CUT_IN_ANSWER)[turn[0] // 4 % 3] if turn[0] % 4 == 0 else None

    way.fault = every_fourth
    done = vault.replicate()
    assert (done.behind, done.troubles) == (0, ())
    (pack,) = world.files("packs")
    whole = pack.read_bytes()
    assert replica.get(f"packs/{pack.name[:2]}/{pack.name}") == whole
    pack.write_bytes(whole[: len(whole) // 2])
    assert read_all(world.vault(replica=replica), point) == data
    assert pack.read_bytes() == whole
    world.close()
