"""An instance goes from Proxmox VE to OpenNebula, on to OpenStack, and home, with every byte."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from drivers.simulators.faults import FAST
from drivers.simulators.journal import Journal, lost_writes
from drivers.simulators.opennebula import OpenNebulaSim
from drivers.simulators.opennebula.oned import DONE
from drivers.simulators.sites import OPENNEBULA, opennebula_described
from tests.e2e.images import MIB
from tests.e2e.shop import NETWORK, Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, running, until

pytestmark = pytest.mark.timeout(600)
NETWORKS = {**NETWORK, OPENNEBULA: "shop-net"}
_LONGEST = 240.0  # an image is read back by whoever stages it
MAC = "02:fe:00:12:34:56"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running() as made:
        site = OpenNebulaSim(
            made.folder / OPENNEBULA, name=OPENNEBULA, profile=FAST, witness=made.sites.witness
        )
        with site:
            made.opennebula = site
            assert made.register(OPENNEBULA, opennebula_described(site))["outcome"] == "succeeded"
            yield made
            made.stop_worker()


def journal(shop: Shop, name: str) -> Journal:
    site, native = shop.native(name)
    if site == OPENNEBULA:
        return shop.system.opennebula.guests.journals()[native]
    return shop.journal(name)


@pytest.mark.long
def test_an_instance_goes_around_with_every_byte(shop: Shop) -> None:
    name = shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)), mac=MAC)
    until(lambda: journal(shop, name).last > 3, "the guest writes")
    at = PROXMOX
    for to in (OPENNEBULA, OPENSTACK, OPENNEBULA, PROXMOX):
        before = journal(shop, name)
        networks = [{"from": NETWORKS[at], "to": NETWORKS[to]}]
        status = shop.moved(
            name, to, networkMap=networks, checks=[{"kind": "powered"}], seconds=_LONGEST
        )
        assert status["result"]["downtimeSeconds"] > 0
        until(lambda seen=before.last: journal(shop, name).last > seen, "the guest writes on")
        promised = shop.system.sites.promised(before.identity.hex())
        after = journal(shop, name)
        assert after.identity == before.identity
        assert after.boots > before.boots
        assert lost_writes(after, promised) == ()
        assert shop.placement(name)["mac"] == MAC
        assert shop.system.sites.witness.twins() == ()
        at = to
    shop.system.done(shop.http.post(f"{shop.move_path(shop.last_move)}/finalize"))
    assert shop.placement(name)["retained"] == []


@pytest.mark.long
def test_a_running_instance_comes_and_leaves_warm(shop: Shop) -> None:
    """It comes pass by pass into volumes of a VM on hold, and leaves by increments of backups."""
    name = shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)), mac=MAC)
    until(lambda: journal(shop, name).last > 3, "the guest writes")
    for at, to in ((PROXMOX, OPENNEBULA), (OPENNEBULA, PROXMOX)):
        before = journal(shop, name)
        networks = [{"from": NETWORKS[at], "to": NETWORKS[to]}]
        checks = [{"kind": "powered"}]
        status = shop.moved(
            name, to, networkMap=networks, checks=checks, method="warm", seconds=_LONGEST
        )
        until(lambda seen=before.last: journal(shop, name).last > seen, "the guest writes on")
        promised = shop.system.sites.promised(before.identity.hex())
        assert lost_writes(journal(shop, name), promised) == ()
        result = status["result"]
        assert result["passes"], "one at least while it ran"
        assert result["bytesRead"] < 2 * result["passes"][0]["read"], "then what changed"
    assert shop.system.sites.witness.twins() == ()


def test_a_move_there_and_home_bears_that_answers_are_lost(shop: Shop) -> None:
    """A tenth of what changes something at the site happens without a word, by XML-RPC and ssh."""
    name = shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)), mac=MAC)
    until(lambda: journal(shop, name).last > 3, "the guest writes")
    faults = shop.system.opennebula.faults
    faults.profile = replace(FAST, lost_answers=0.1)
    try:
        for at, to in ((PROXMOX, OPENNEBULA), (OPENNEBULA, PROXMOX)):
            before = journal(shop, name)
            networks = [{"from": NETWORKS[at], "to": NETWORKS[to]}]
            shop.moved(
                name, to, networkMap=networks, checks=[{"kind": "powered"}], seconds=_LONGEST
            )
            until(lambda seen=before.last: journal(shop, name).last > seen, "the guest writes on")
            promised = shop.system.sites.promised(before.identity.hex())
            assert lost_writes(journal(shop, name), promised) == ()
        shop.system.done(shop.http.post(f"{shop.move_path(shop.last_move)}/finalize"))
    finally:
        faults.profile = FAST
    assert any("LostAnswer" in fired for fired in faults.fired)
    assert {vm.state for vm in shop.system.opennebula.oned.vms.values()} == {DONE}
    assert not shop.system.opennebula.oned.images
