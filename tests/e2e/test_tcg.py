"""A guest that QEMU really runs boots at each kind of VM provider in turn, and counts its boots.

One story of four moves: nothing shorter shows that what a simulated site holds can be booted.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.simulators.sites import OPENNEBULA, OPENSTACK, PROXMOX, XCPNG
from tests.e2e.shop import Shop, start_shop
from tests.e2e.system import System, running, until
from tests.e2e.tcg import QEMU, TcgGuests
from tests.live import guest

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed"),
]
SITES = (OPENSTACK, PROXMOX, XCPNG, OPENNEBULA)
MAKERS = ("openstack.sim", "proxmox.node", "xcpng.pool", "opennebula.oned")
# Nova starts what it creates, for the moment until it is stopped.
ONCE_MORE = {OPENSTACK: 1}


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    for maker in MAKERS:
        module = importlib.import_module(f"drivers.simulators.{maker}")
        monkeypatch.setattr(module, "Guests", TcgGuests)
    with running(names=SITES) as made:
        yield made


def boots(shop: Shop, name: str) -> int | None:
    """How often the guest booted, as its console at its home says."""
    site, native = shop.native(name)
    guests = shop.system.sites.guests(site)
    vm = native if site != XCPNG else next(reversed(guests._consoles))
    return guest.told(guests.console(vm))


def told(shop: Shop, name: str, after: int = 0) -> int:
    found = until(lambda: (boots(shop, name) or 0) > after and boots(shop, name), "it boots", 60)
    assert found is not None
    return int(found)


def test_a_guest_boots_at_each_kind_in_turn(system: System, tmp_path: Path) -> None:
    shop = start_shop(system, "tcg", tmp_path)
    file = tmp_path / "guest.raw"
    file.write_bytes(guest.counting(seed=9, journal=False))
    name = shop.fresh("web")
    system.done(shop.ask_instance(name, shop.image(file), OPENSTACK))
    system.done(shop.act(name, "start"))
    last = told(shop, name)
    for to in (*SITES[1:], OPENSTACK):
        shop.moved(name, to, checks=[{"kind": "powered"}])
        now = told(shop, name, after=last)
        assert now <= last + 1 + ONCE_MORE.get(to, 0), f"at {to}"
        last = now
    assert system.sites.witness.twins() == ()
    shop.clear()
    assert system.swept() == []
