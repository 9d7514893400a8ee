"""An instance goes from Proxmox VE to XCP-ng, on to OpenStack, and home, with every byte."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from drivers.simulators.faults import FAST
from drivers.simulators.journal import Journal, lost_writes
from drivers.simulators.sites import XCPNG, xcpng_described
from drivers.simulators.xcpng import XcpngSim
from tests.e2e.images import MIB
from tests.e2e.shop import NETWORK, Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, running, until

pytestmark = pytest.mark.timeout(600)
NETWORKS = {**NETWORK, XCPNG: "shop-net"}
_LONGEST = 240.0  # an image is read back by whoever stages it
MAC = "02:fe:00:12:34:56"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running() as made:
        site = XcpngSim(made.folder / XCPNG, name=XCPNG, profile=FAST, witness=made.sites.witness)
        with site:
            made.xcpng = site
            assert made.register(XCPNG, xcpng_described(site))["outcome"] == "succeeded"
            yield made
            made.stop_worker()


def journal(shop: Shop, name: str) -> Journal:
    site, native = shop.native(name)
    if site == XCPNG:
        return shop.system.xcpng.guests.journals()[native]
    return shop.journal(name)


@pytest.mark.long
def test_an_instance_goes_around_with_every_byte(shop: Shop) -> None:
    name = shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)), mac=MAC)
    until(lambda: journal(shop, name).last > 3, "the guest writes")
    at = PROXMOX
    for to in (XCPNG, OPENSTACK, XCPNG, PROXMOX):
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


@pytest.fixture(params=["over NBD", "as a VHD stream"])
def way(request: pytest.FixtureRequest, system: System) -> Iterator[str]:
    """How the pool's disks leave; it has a network for NBD, or none."""
    pool = system.xcpng.pool
    (network,) = pool.where("network", name_label="shop-net")
    purpose = pool.row("network", network)["purpose"]
    if "NBD" not in request.param:
        pool.put("network", network, purpose=[])
    yield request.param
    pool.put("network", network, purpose=purpose)


@pytest.mark.long
def test_a_running_instance_comes_and_leaves_warm(shop: Shop, way: str) -> None:
    """It leaves by what changed between snapshots, and each step of its exports says how."""
    name = shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)), mac=MAC)
    until(lambda: journal(shop, name).last > 3, "the guest writes")
    for at, to in ((PROXMOX, XCPNG), (XCPNG, PROXMOX)):
        before = journal(shop, name)
        networks = [{"from": NETWORKS[at], "to": NETWORKS[to]}]
        checks = [{"kind": "powered"}]
        status = shop.moved(
            name, to, networkMap=networks, checks=checks, method="warm", seconds=_LONGEST
        )
        until(lambda seen=before.last: journal(shop, name).last > seen, "the guest writes on")
        promised = shop.system.sites.promised(before.identity.hex())
        assert lost_writes(journal(shop, name), promised) == ()
        assert status["result"]["passes"], "one at least while it ran"
    told = {s["name"]: s["message"] for s in status["steps"]}
    exports = {name: told[name] for name in told if re.fullmatch(r"pass \d+ export \d+", name)}
    assert len(exports) > 1
    assert {name for name, message in exports.items() if way not in message} == set()
    assert shop.system.sites.witness.twins() == ()


def test_a_move_there_and_home_bears_that_answers_are_lost(shop: Shop) -> None:
    """A tenth of what changes something at the pool happens without a word."""
    name = shop.instance(PROXMOX, image=shop.image(shop.file(size=64 * MIB, data=6 * MIB)), mac=MAC)
    until(lambda: journal(shop, name).last > 3, "the guest writes")
    faults = shop.system.xcpng.faults
    faults.profile = replace(FAST, lost_answers=0.1)
    try:
        for at, to in ((PROXMOX, XCPNG), (XCPNG, PROXMOX)):
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
    pool = shop.system.xcpng.pool
    assert not pool.tables["VDI"]
    assert [vm["name_label"] for vm in pool.tables["VM"].values() if "fedctl" in str(vm)] == []
