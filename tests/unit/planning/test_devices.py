"""What an instance keeps of its size, disks and nics where it comes to."""

from dataclasses import replace

import pytest

from controlplane.domain.disk import GIB, DiskBus, DiskFormat
from controlplane.domain.finding import Severity
from controlplane.domain.ids import RegionName, SiteName
from controlplane.domain.instance import DiskSeen, Size
from controlplane.domain.network import NetworkSeen, NicSeen, Span
from controlplane.domain.plan import Delivery, DiskPlan
from controlplane.domain.site import Catalogue, ProviderKind, QuotaSeen, SiteFacts, Sku
from controlplane.planning.devices import bus_on, needed, nic_on, unlike
from drivers.opennebula.mapping import LIMITS as ONE
from drivers.ovhcloud.mapping import LIMITS as METAL

SITE = SiteName("there")
MAC, ADDRESS = "BC:24:11:6e:4b:5b", "10.0.4.12"
OURS = Span(first="bc:24:11:00:00:00", last="bc:24:11:ff:ff:ff")


def planned(mac: str = MAC, address: str | None = ADDRESS, **told: tuple[Span, ...] | None):
    nic = NicSeen(network="here", mac=mac, address=address, isolated=False)
    network = NetworkSeen(ref="7", name="shop-net", **told)
    plan, found = nic_on(0, nic, network, SITE, came_from="vmbr0")
    assert (plan.network, plan.network_name, plan.source_network) == ("7", "shop-net", "vmbr0")
    return (plan.mac, plan.address), found


@pytest.mark.parametrize("told", [{}, {"macs": (OURS,)}, {"macs": None, "addresses": None}])
def test_what_the_network_can_have_is_kept_without_a_word(told) -> None:
    assert planned(**told) == ((MAC, ADDRESS), [])


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ((Span(first="10.0.4.10", last="10.0.4.12"),), True),
        (
            (Span(first="10.0.4.13", last="10.0.4.99"), Span(first="10.0.4.2", last="10.0.4.12")),
            True,
        ),
        ((Span(first="10.0.4.13", last="10.0.4.99"),), False),
        ((Span(first="::", last="ffff::"),), False),
        ((), False),
    ],
)
def test_an_address_is_kept_where_a_span_holds_it(spans, kept) -> None:
    (mac, address), found = planned(addresses=spans)
    assert (mac, address) == (MAC, ADDRESS if kept else None)
    assert [(f.id, f.severity) for f in found] == ([] if kept else [("TGT07", Severity.WARNING)])


@pytest.mark.parametrize(
    "spans", [(), (Span(first="02:00:00:00:00:00", last="02:00:00:00:00:ff"),)]
)
def test_a_mac_that_the_network_cannot_have_is_told_before_the_move(spans) -> None:
    (mac, address), found = planned(macs=spans)
    assert (mac, address) == (None, ADDRESS)
    assert [(f.id, f.severity) for f in found] == [("MAP02", Severity.WARNING)]
    assert MAC in found[0].evidence
    assert "shop-net at there" in found[0].evidence


def test_a_nic_without_a_mac_or_address_loses_none() -> None:
    assert planned(mac="", address=None, macs=(), addresses=()) == ((None, None), [])


def site(*skus: Sku) -> SiteFacts:
    return SiteFacts(
        site=SITE, provider=ProviderKind.OVHCLOUD, region=RegionName("eu"), limits=METAL,
        capabilities=frozenset(), catalogue=Catalogue(skus=skus), quota=QuotaSeen(),
    )  # fmt: skip


SMALL, LARGE = Size(cpus=2, memory=4 * GIB), Size(cpus=8, memory=32 * GIB)
SERVER = Sku(name="rise-1", size=LARGE, disk=2 * GIB)


@pytest.mark.parametrize(
    ("seen", "wished", "skus", "need"),
    [
        (LARGE, SMALL, (SERVER,), SMALL),  # the smallest there was more than was wished
        (LARGE, SMALL, (), LARGE),  # sizes are free there: somebody made it larger
        (LARGE, SMALL, (SERVER, Sku(name="s", size=SMALL)), LARGE),  # or chose a larger one
        (SMALL, LARGE, (SERVER, Sku(name="s", size=SMALL)), SMALL),
        (LARGE, None, (SERVER,), LARGE),
    ],
)
def test_a_size_that_a_site_had_to_round_up_is_not_carried_on(seen, wished, skus, need) -> None:
    assert needed(seen, wished, site(*skus)) == need


def test_a_disk_keeps_its_bus_or_gets_the_one_most_like_it() -> None:
    assert [bus_on(bus, METAL) for bus in DiskBus] == list(DiskBus)
    assert bus_on(DiskBus.SATA, ONE) is DiskBus.SCSI
    assert bus_on(DiskBus.IDE, ONE) is DiskBus.IDE


@pytest.mark.parametrize(
    ("size", "bus", "there", "ids"),
    [
        (GIB, DiskBus.SATA, DiskBus.SATA, ["MAP05"]),
        (2 * GIB, DiskBus.SATA, DiskBus.SATA, []),
        (2 * GIB, DiskBus.SATA, DiskBus.SCSI, ["MAP04"]),
        (3 * GIB, DiskBus.SATA, DiskBus.SATA, ["TGT04"]),
    ],
)
def test_what_becomes_of_a_disk_is_told(size, bus, there, ids) -> None:
    disk = DiskPlan(
        index=0, size=size, target_size=size, bus=there, format=DiskFormat.RAW,
        delivery=Delivery.PULL,
    )  # fmt: skip
    was = DiskSeen(volume="v", size=size, bus=bus)
    assert [f.id for f in unlike((was,), (disk,), site(SERVER), "rise-1")] == ids
    free = replace(SERVER, disk=None)
    assert [f.id for f in unlike((was,), (disk,), site(free), "rise-1")] == [
        each for each in ids if each == "MAP04"
    ]
