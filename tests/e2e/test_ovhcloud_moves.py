"""An instance goes from Proxmox VE onto a rented server of OVHcloud, and home, with every byte."""

from collections.abc import Iterator

import pytest

from drivers.simulators.faults import FAST
from drivers.simulators.journal import Journal, lost_writes
from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.sites import OVHCLOUD, ovhcloud_described
from tests.e2e.images import MIB
from tests.e2e.shop import NETWORK, Shop
from tests.e2e.system import PROXMOX, System, running, until

_LONGEST = 240.0
pytestmark = pytest.mark.timeout(600)
NETWORKS = {**NETWORK, OVHCLOUD: "pn-100"}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running() as made:
        site = OvhSim(
            made.folder / OVHCLOUD,
            name=OVHCLOUD,
            profile=FAST,
            witness=made.sites.witness,
            servers=3,
            disk=2048 * MIB,
        )
        with site:
            made.ovhcloud = site
            assert made.register(OVHCLOUD, ovhcloud_described(site))["outcome"] == "succeeded"
            yield made
            made.stop_worker()


def journal(shop: Shop, name: str) -> Journal:
    site, native = shop.native(name)
    if site == OVHCLOUD:
        return shop.system.ovhcloud.guests.journals()[native]
    return shop.journal(name)


@pytest.mark.parametrize("method", ["cold", "warm"])
def test_an_instance_goes_onto_bare_metal_and_home(shop: Shop, method: str) -> None:
    name = shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)))
    until(lambda: journal(shop, name).last > 3, "the guest writes")
    for at, to, way in ((PROXMOX, OVHCLOUD, method), (OVHCLOUD, PROXMOX, "cold")):
        before = journal(shop, name)
        networks = [{"from": NETWORKS[at], "to": NETWORKS[to]}]
        status = shop.moved(
            name,
            to,
            networkMap=networks,
            checks=[{"kind": "powered"}],
            method=way,
            seconds=_LONGEST,
        )
        assert status["result"]["downtimeSeconds"] > 0
        until(lambda seen=before.last: journal(shop, name).last > seen, "the guest writes on")
        promised = shop.system.sites.promised(before.identity.hex())
        after = journal(shop, name)
        assert after.identity == before.identity
        assert after.boots == before.boots + 1, "it booted where it was wished to, and only then"
        assert lost_writes(after, promised) == ()
        assert shop.system.sites.witness.twins() == ()
    shop.system.done(shop.http.post(f"{shop.move_path(shop.last_move)}/finalize"))
    assert shop.placement(name)["retained"] == []
    kept = {key for it in shop.system.ovhcloud.estate.servers.values() for key in it.tags}
    assert kept <= {"fedctl-pool", "fedctl-leaving"}, (
        "nothing but the customer's word, and a last one"
    )
