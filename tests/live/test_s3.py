"""The S3 store and the vault at a real server, which `LIVE_S3` names (docs/live.md).

The tests are those that run on moto: what every object store keeps to, what goes wrong on the way
to it, and the vault's own with a bucket in the folder's place.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.domain.vault import Depth
from controlplane.vault.checking import CheckOrder
from tests.live.s3world import bucket, opened, served, server, site, way  # noqa: F401  # fixtures
from tests.unit.vault.conftest import vault  # noqa: F401
from tests.unit.vault.objects_contract import ObjectsContract
from tests.unit.vault.support import World, read_all, some_disk
from tests.unit.vault.test_on_s3 import *  # noqa: F403  # they run here, too
from tests.unit.vault.test_s3 import (  # noqa: F401
    TestWhatPasses,
    behind,
    test_a_store_that_is_away_for_a_while_is_waited_for,
    test_a_store_that_stays_away_ends_in_unavailable_and_nothing_is_there,
    test_an_answer_that_is_cut_for_good_is_never_taken_for_the_object,
    test_conditions_are_proven_once_and_a_later_process_asks_once_more,
    test_every_upload_carries_its_checksum,
    test_the_end_of_a_long_upload_is_looked_up_when_its_answer_is_lost,
    test_what_passes_while_conditions_are_proven_is_not_heard_of,
    test_why_we_are_refused_is_told_whatever_was_asked,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
HOUR = timedelta(hours=1)


class TestRealObjects(ObjectsContract):
    @pytest.fixture
    def objects(self, server, opened):  # noqa: F811
        return opened(server)


@pytest.fixture
def world(server: str, opened, tmp_path: Path) -> Iterator[World]:  # noqa: F811
    world = World(tmp_path, opened(server))
    yield world
    world.close()


def test_more_names_than_a_page_holds_are_all_shown(server, opened):  # noqa: F811
    """Two and a half thousand small objects take some seconds."""
    objects = opened(server)
    names = {f"homes/{'acme' if i % 2 else 'acme-2'}/{i:04d}" for i in range(2500)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: objects.put(name, b"x"), names))
    found = list(objects.names("homes"))
    assert (len(found), set(found)) == (2500, names)
    assert set(objects.names("homes/acme")) == {n for n in names if n.startswith("homes/acme/")}


def test_points_are_copied_checked_collected_and_restored(world, vault):  # noqa: F811
    data = [some_disk(seed, "RTZ" * 60) for seed in (1, 2, 3)]
    points = [world.take(vault, each)[0] for each in data]
    order = CheckOrder(depth=Depth.FULL)
    checked = vault.check(order, name=lambda tenant, _: tenant)
    assert (checked.findings, checked.packs) == ((), 3)
    vault.forget(points[1])
    vault.collect(holding=HOUR)
    world.clock.pass_by(HOUR)
    assert vault.collect(holding=HOUR).deleted == 1
    assert len(list(world.objects.names("packs"))) == 2
    other = world.vault()
    assert [read_all(other, point) for point in points[::2]] == data[::2]
    assert other.check(order, name=lambda tenant, _: tenant).findings == ()
    assert vault.unknown_packs() == ()
