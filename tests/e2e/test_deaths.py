"""What breaks in the middle of a move: a worker, a disk's bytes, a site.

On a whole system with real bytes: each takes the seconds of a move or two.
"""

import pytest

from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, until


@pytest.mark.parametrize(("home", "to"), [(OPENSTACK, PROXMOX), (PROXMOX, OPENSTACK)])
def test_a_worker_that_is_killed_in_the_copy_is_followed_by_another(
    system: System, shop: Shop, home: str, to: str
) -> None:
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
