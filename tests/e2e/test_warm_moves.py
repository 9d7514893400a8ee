"""Warm moves between two providers, while the guest writes and people decide.

Each takes the seconds of several copies of a disk.
"""

from typing import Any

import pytest

from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, until

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(("home", "to"), [(OPENSTACK, PROXMOX), (PROXMOX, OPENSTACK)])
def test_a_guest_that_goes_on_writing_is_moved_warm(
    system: System, shop: Shop, home: str, to: str
) -> None:
    name = shop.instance(home)
    until(lambda: shop.journal(name).last > 3, "the guest writes")
    before = shop.journal(name)
    status = shop.moved(name, to, method="warm")
    result = status["result"]
    assert result["method"] == "warm"
    assert len(result["passes"]) >= 1
    # Only what tells its changes to a living process alone is paused.
    assert result.get("quiesced") is (True if home == PROXMOX else None)
    until(lambda: shop.journal(name).last > before.last, "the guest writes on")
    after = shop.journal(name)
    assert (after.identity, after.damaged) == (before.identity, ())
    assert before.boots < after.boots == shop.runs(name)[-1].boots
    assert system.troubles() == []


def test_a_cutover_waits_until_it_is_asked_for(system: System, shop: Shop) -> None:
    name = shop.instance(OPENSTACK)
    called, path = shop.begin_move(name, PROXMOX, method="warm", cutover={"mode": "manual"})

    def waits() -> bool:
        status: dict[str, Any] = system.look(path)["status"]
        assert not status.get("outcome"), status
        phase = system.look(shop.move_path(called))["status"]["phase"]
        return bool(status.get("waitsFor")) and phase in {"changes", "waiting"}

    until(waits, "the move waits for its cutover")
    assert (shop.power(name), shop.home(name)) == ("on", OPENSTACK)
    seen = shop.journal(name).last
    until(lambda: shop.journal(name).last > seen, "the guest writes while the move waits")
    shop.http.post(f"{shop.move_path(called)}/cutover").raise_for_status()
    system.done(path)
    assert shop.home(name) == PROXMOX


def test_a_cold_move_has_no_cutover_to_ask_for(system: System, shop: Shop) -> None:
    name = shop.instance(OPENSTACK)
    called, path = shop.begin_move(name, PROXMOX)
    shop.step(path, "copy 0", state="any")
    answer = shop.http.post(f"{shop.move_path(called)}/cutover")
    assert answer.status_code == 409, answer.text
    assert "cold one does not wait" in answer.text
    system.done(path)
