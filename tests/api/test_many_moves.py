"""Many moves at once: those that may not begin say what they wait for, and one too many is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.domain.admission import Bounds
from controlplane.domain.operation import Operation
from tests.api.test_moves import at, wish
from tests.api.world import FEDERATION, World, world


@pytest.fixture
def w(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, bounds=Bounds(at_once=2, waiting=3)) as made:
        yield made


@pytest.fixture
def shop(w: World) -> str:
    return w.workspace()


@pytest.fixture
def sites(w: World) -> tuple[str, str]:
    return w.site("openstack"), w.site("proxmox")


def ask(w: World, shop: str, sites: tuple[str, str], name: str) -> Operation:
    web = w.running_instance(shop, sites[0])
    return w.operation(w.put(at(w, shop, name), wish(web, sites[1])))


def shown(w: World, path: str) -> dict:
    return w.http.get(path).json()["status"]


def listed(w: World, path: str) -> list[str]:
    items = w.http.get(path.rpartition("/")[0]).json()["items"]
    return [each["status"].get("waitsFor", "") for each in items]


def test_a_move_that_waits_says_where_it_stands_and_for_what(w: World, shop: str, sites):
    ops = [ask(w, shop, sites, f"m-{number}") for number in range(4)]
    w.admit()
    expected = ["", ""] + [
        f"{place} of 2 waiting: this control plane runs 2 of 2 moves" for place in ("1st", "2nd")
    ]
    assert [shown(w, at(w, shop, f"m-{n}"))["waitsFor"] for n in (2, 3)] == expected[2:]
    assert listed(w, at(w, shop)) == expected
    places = [w.in_workspace(FEDERATION, shop, f"operations/{op.name}") for op in ops]
    assert [shown(w, place)["waitsFor"] for place in places] == expected
    assert [each for each in listed(w, places[0]) if each] == expected[:1:-1], "newest first"
    w.end(ops[0])
    w.admit()
    assert shown(w, places[2])["waitsFor"] == ""
    assert shown(w, places[3])["waitsFor"].startswith("1st of 1 waiting")


def test_a_site_s_own_limit_holds_at_both_ends_of_a_move(w: World, shop: str, sites):
    path = w.site_path(sites[0])
    spec = w.http.get(path).json()["spec"]
    before = w.http.get(path).json()["status"]["health"]
    assert w.put(path, {**spec, "maxMoves": 1}).status_code == 200
    assert w.http.get(path).json()["status"]["health"] == before, "nothing to verify"
    ask(w, shop, sites, "m-0")
    ask(w, shop, sites, "m-1")
    w.admit()
    assert shown(w, at(w, shop, "m-1"))["waitsFor"] == (
        f"1st of 1 waiting: site {sites[0]} runs 1 of 1 moves"
    )
    assert w.put(path, {**spec, "maxMoves": -1}).status_code == 412


def test_one_too_many_is_refused_and_changes_nothing(w: World, shop: str, sites):
    """Two may begin, three more may wait; it does not matter whether the two were told yet."""
    for number in range(5):
        ask(w, shop, sites, f"m-{number}")
    web = w.running_instance(shop, sites[0])
    refused = w.put(at(w, shop, "m-9"), wish(web, sites[1]))
    assert refused.status_code == 507
    assert refused.json()["meta"]["code"] == "exhausted"
    assert "FEDCTL_MOVES_WAITING" in refused.json()["detail"]
    assert w.http.get(at(w, shop, "m-9")).status_code == 404
    w.admit()
    planned = w.put(at(w, shop, "m-9"), wish(web, sites[1], planOnly=True))
    assert planned.status_code == 201, "a plan waits for nothing"
    w.end(w.operation(planned))
    assert w.put(at(w, shop, "m-9"), wish(web, sites[1])).status_code == 507
    assert w.http.post(f"{at(w, shop, 'm-4')}/cancel").status_code == 202
    assert w.put(at(w, shop, "m-9"), wish(web, sites[1])).status_code == 200


def test_cancelling_one_that_waits_lets_it_begin_only_to_end(w: World, shop: str, sites):
    first, _, third = [ask(w, shop, sites, f"m-{number}") for number in range(3)]
    w.admit()
    assert w.http.post(f"{at(w, shop, 'm-2')}/cancel").status_code == 202
    assert (third.id, "start") in w.outbox()
    assert (third.id, "cancel") not in w.outbox()
    assert (first.id, "start") in w.outbox()
    assert listed(w, at(w, shop)) == ["", "", ""]
