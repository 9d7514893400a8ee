"""An instance goes over every ordered pair of kinds of provider, cold and warm, with every byte.

One system with a site of each kind. The route passes each of the 20 pairs once, so that a circuit
costs 20 moves and no setup between them: minutes, which nothing shorter shows.
"""

from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import Any

import pytest

from drivers.simulators.sites import EVERY, OPENNEBULA, OPENSTACK, OVHCLOUD, PROXMOX, XCPNG
from tests.e2e.images import MIB
from tests.e2e.shop import Shop
from tests.e2e.system import System, running

_THERE = (
    PROXMOX, OPENSTACK, OPENNEBULA, XCPNG, OVHCLOUD,
    PROXMOX, OPENNEBULA, OVHCLOUD, OPENSTACK, XCPNG, PROXMOX,
)  # fmt: skip
ROUTE = (*_THERE, *_THERE[-2::-1])
_LONGEST = 240.0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running(names=EVERY) as made:
        yield made


def test_the_route_passes_every_ordered_pair_once() -> None:
    assert sorted(pairwise(ROUTE)) == sorted(permutations(EVERY, 2))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_pair_moves_cold(shop: Shop) -> None:
    name = _instance(shop)
    for at, to in pairwise(ROUTE):
        assert shop.home(name) == at
        _moved(shop, name, to, "cold")
        _finalized(shop)
    assert shop.placement(name)["retained"] == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_pair_moves_warm_where_the_source_can_snapshot(shop: Shop) -> None:
    name = _instance(shop)
    for at, to in pairwise(ROUTE):
        if at == OVHCLOUD:
            _, planned = shop.plan(name, to, method="warm")
            blockers = [f for f in planned["findings"] if f["severity"] == "blocker"]
            assert [(f["id"], f["subject"]) for f in blockers] == [("SRC05", OVHCLOUD)]
            assert "cannot snapshot" in blockers[0]["evidence"]
        status = _moved(shop, name, to, "cold" if at == OVHCLOUD else "warm")
        passes = status["result"].get("passes")
        assert bool(passes) is (at != OVHCLOUD)
        if at not in {OPENSTACK, OVHCLOUD}:
            assert status["result"]["bytesRead"] < 2 * passes[0]["read"], "then what changed"
        _finalized(shop)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_kind_whose_disks_can_be_written_to_takes_a_direct_move(shop: Shop) -> None:
    """Each from another kind, once; OpenStack is only left by it."""
    name = _instance(shop)
    for to in (OPENNEBULA, XCPNG, OVHCLOUD, PROXMOX):
        assert _moved(shop, name, to, "direct")["result"]["method"] == "direct"
        _finalized(shop)
    _moved(shop, name, OPENSTACK, "cold")
    _moved(shop, name, XCPNG, "direct")


def _instance(shop: Shop) -> str:
    return shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)))


def _finalized(shop: Shop) -> None:
    """So that the next visit finds no old copy, and brings all of the disk."""
    shop.system.done(shop.http.post(f"{shop.move_path(shop.last_move)}/finalize"))


def _moved(shop: Shop, name: str, to: str, method: str) -> dict[str, Any]:
    """Digests are equal, the guest's journal is complete, and it is written on over there."""
    before = shop.writing(name)
    status = shop.moved(name, to, seconds=_LONGEST, method=method)
    assert status["result"]["downtimeSeconds"] > 0
    assert before.boots < shop.written_on(name, before).boots
    return status
