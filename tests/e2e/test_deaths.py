"""What breaks in the middle of a move: a worker, a disk's bytes, a site.

On a whole system with real bytes: each takes the seconds of a move or two.
"""

import pytest

from drivers.simulators.faults import Direction
from tests.e2e.images import MIB
from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, until


@pytest.mark.parametrize(("home", "to"), [(OPENSTACK, PROXMOX), (PROXMOX, OPENSTACK)])
def test_a_worker_that_is_killed_in_the_copy_is_followed_by_another(
    system: System, shop: Shop, home: str, to: str
) -> None:
    """Proxmox VE takes what is read while it is read for the vault; OpenStack an image of it."""
    name = shop.instance(home)
    with system.killable_worker() as worker:
        _, path = shop.begin_move(name, to)
        shop.step(path, "copy 0", state="any")
        worker.kill()
        worker.start()
        status = system.done(path)
        assert all(proof["equal"] for proof in status["result"]["proof"])
    assert shop.home(name) == to
    seen = shop.journal(name).last
    until(lambda: shop.journal(name).last > seen, "the guest writes on")
    assert shop.journal(name).damaged == ()


def test_a_worker_that_is_killed_in_short_steps_is_followed_soon(
    system: System, shop: Shop
) -> None:
    """Each death costs the ten seconds after which a silent worker counts as dead."""
    name = shop.instance(OPENSTACK)
    with system.killable_worker() as worker:
        _, path = shop.begin_move(name, PROXMOX)
        for short in ("stop source", "power on isolated"):
            shop.step(path, short, state="any")
            worker.kill()
            worker.start()
        system.done(path)
    assert (shop.home(name), shop.power(name)) == (PROXMOX, "on")


@pytest.mark.parametrize(
    ("home", "to", "at", "way"),
    [
        (OPENSTACK, PROXMOX, PROXMOX, Direction.IN),
        (PROXMOX, OPENSTACK, OPENSTACK, Direction.IN),
        (OPENSTACK, PROXMOX, OPENSTACK, Direction.OUT),
    ],
)
def test_one_flipped_byte_on_the_way_fails_the_move(
    system: System, shop: Shop, home: str, to: str, at: str, way: Direction
) -> None:
    """The source runs again at home with all its writes; what was copied is retained or gone."""
    name = shop.instance(home)
    system.faults(at).corrupt(way, offset=1 * MIB + 4711)
    try:
        status = shop.move(name, to)
    finally:
        system.faults(at).clear()
    assert status["outcome"] in {"rolled-back", "failed"}, status
    assert status["problem"]["code"] == "integrity", status["problem"]
    assert (shop.home(name), shop.power(name)) == (home, "on")


def test_a_target_that_goes_away_in_a_move_is_waited_for(system: System, shop: Shop) -> None:
    name = shop.instance(OPENSTACK)
    _, path = shop.begin_move(name, PROXMOX)
    shop.step(path, "copy 0", state="any")
    system.faults(PROXMOX).go_down()
    try:
        shop.step(path, "copy 0", state="failed")
        assert not system.look(path)["status"].get("outcome")
    finally:
        system.faults(PROXMOX).come_back()
    status = system.done(path)
    assert all(proof["equal"] for proof in status["result"]["proof"])
    assert shop.home(name) == PROXMOX


def test_a_cancel_in_the_copy_brings_the_source_back(system: System, shop: Shop) -> None:
    name = shop.instance(OPENSTACK)
    _, path = shop.begin_move(name, PROXMOX)
    shop.step(path, "copy 0", state="any")
    shop.http.post(f"{shop.move_path(shop.last_move)}/cancel").raise_for_status()
    status = system.ended(path)
    assert status["outcome"] == "cancelled", status.get("problem")
    assert (shop.home(name), shop.power(name)) == (OPENSTACK, "on")
