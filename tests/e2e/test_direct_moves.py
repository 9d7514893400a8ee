"""Direct moves between two providers, of real bytes: nothing of them stays in the vault.

Each takes the seconds of a move; where a worker is killed, those after which it counts as dead.
"""

import pytest

from controlplane.store.ports import StoredVault
from tests.e2e.images import MIB
from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System

pytestmark = pytest.mark.timeout(240)


def points(system: System) -> int:
    return len(StoredVault(system.parts.store).points())


def test_an_instance_goes_straight_over_and_could_not_come_back_so(
    system: System, shop: Shop
) -> None:
    """OpenStack takes disks in only as whole images, and the plan of the way back says so."""
    name = shop.instance(OPENSTACK)
    before, kept = shop.writing(name), points(system)
    status = shop.moved(name, PROXMOX, method="direct")
    assert status["result"]["method"] == "direct"
    assert points(system) == kept
    assert before.boots < shop.written_on(name, before).boots
    _, planned = shop.plan(name, OPENSTACK, method="direct")
    blockers = [f for f in planned["findings"] if f["severity"] == "blocker"]
    assert [(f["id"], f["subject"]) for f in blockers] == [("PTH09", OPENSTACK)]


def test_a_worker_that_is_killed_in_the_stream_is_followed_by_another(
    system: System, shop: Shop
) -> None:
    image = shop.image(shop.file(size=16 * MIB, data=8 * MIB))
    name = shop.instance(OPENSTACK, image=image)
    before = shop.writing(name)
    with system.killable_worker() as worker:
        _, path = shop.begin_move(name, PROXMOX, method="direct", maxBandwidth=8 * MIB)
        shop.step(path, "stream 0")
        worker.kill()
        worker.start()
        status = system.done(path)
    assert all(proof["equal"] for proof in status["result"]["proof"])
    assert shop.home(name) == PROXMOX
    shop.written_on(name, before)
