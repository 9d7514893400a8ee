"""What a plan makes of an instance, and what it says against that."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.disk import GIB, MIB, DiskBus
from controlplane.domain.finding import Finding, Severity, blocking
from controlplane.domain.ids import ArtefactId, InstanceId, RegionName, SiteName
from controlplane.domain.instance import (
    DiskSeen,
    Firmware,
    InstanceSeen,
    InstanceState,
    Power,
    Size,
    Trait,
    Traits,
    TraitSeen,
)
from controlplane.domain.network import NetworkSeen, NicSeen
from controlplane.domain.plan import AcceptanceCheck, CheckKind, Cutover, Method, MovePlan
from controlplane.domain.site import (
    Capability,
    Catalogue,
    Changes,
    ProviderKind,
    QuotaSeen,
    SiteFacts,
    Sku,
    StorageSeen,
)
from controlplane.planning.checks import CHECKS
from controlplane.planning.differences import as_agreed, in_the_way
from controlplane.planning.facts import MoveFacts, MoveWish, Rate, Waiver
from controlplane.planning.move import move
from drivers.fake.driver import LIMITS
from drivers.ovhcloud.mapping import LIMITS as RENTED

NETWORKS = (
    NetworkSeen(ref="n1", name="shop", cidr="10.0.4.0/24"),
    NetworkSeen(ref="n2", name="office", cidr="10.0.5.0/24"),
    NetworkSeen(ref="n3", name="dark"),
)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def site(name: str, **changes: object) -> SiteFacts:
    plain = SiteFacts(
        site=SiteName(name), provider=ProviderKind.FAKE, region=RegionName("eu-fr"),
        capabilities=frozenset(Capability), limits=LIMITS,
        catalogue=Catalogue(networks=NETWORKS, storages=(StorageSeen(name="ssd", free=900 * GIB),)),
        quota=QuotaSeen(), country="FR",
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields of its own


def nic(network: str = "n1", address: str | None = "10.0.4.12", number: int = 1) -> NicSeen:
    mac = f"02:00:00:00:00:{number:02x}"
    return NicSeen(network=network, mac=mac, address=address, isolated=False)


SEEN = InstanceSeen(
    ref="vm-1", name="web-1", state=InstanceState.READY, power=Power.ON, epoch=1,
    size=Size(cpus=2, memory=4 * GIB),
    disks=(DiskSeen(volume="ssd:1", size=20 * GIB, bus=DiskBus.VIRTIO),), nics=(nic(),),
)  # fmt: skip
FACTS = MoveFacts(
    instance=InstanceId(UUID(int=1)), name="web-1", source=site("north"), target=site("south"),
    copy=ArtefactId(UUID(int=2)), seen=SEEN, rate=Rate(bytes_per_second=50 * MIB, seen="today"),
    traits=Traits(looked=frozenset(Trait)), proof="login:", now=NOW, agent=True,
)  # fmt: skip


def found(plan: MovePlan, id_: str) -> list[Finding]:
    return [each for each in plan.findings if each.id == id_]


def severities(facts: MoveFacts, id_: str, wish: MoveWish | None = None) -> list[Severity]:
    return [each.severity for each in found(move(facts, wish or MoveWish()), id_)]


def test_nothing_stands_against_a_move_between_equals():
    plan = move(FACTS, MoveWish(method=None))
    assert {each.severity for each in plan.findings} <= {Severity.INFO}
    assert plan.target.nics[0].address == "10.0.4.12"
    assert plan.target.nics[0].mac == SEEN.nics[0].mac


# Traits


def having(trait: Trait, *, warm: bool = False) -> list[tuple[str, Severity]]:
    told = Traits(looked=frozenset(Trait), found=(TraitSeen(trait=trait, words="seen like this"),))
    wish = MoveWish(method=Method.WARM if warm else Method.COLD)
    plan = move(replace(FACTS, traits=told), wish)
    return [(f.id, f.severity) for f in plan.findings if "seen like this" in f.evidence]


@pytest.mark.parametrize(
    ("trait", "id_", "severity"),
    [
        (Trait.LOCKED, "SRC02", Severity.BLOCKER),
        (Trait.PROTECTED, "SRC03", Severity.BLOCKER),
        (Trait.SNAPSHOTS, "SRC04", Severity.WARNING),
        (Trait.SHARED_DISK, "SRC07", Severity.BLOCKER),
        (Trait.RAW_DISK, "SRC07", Severity.BLOCKER),
        (Trait.EPHEMERAL_DISK, "SRC07", Severity.WARNING),
        (Trait.SWAP_DISK, "SRC07", Severity.WARNING),
        (Trait.DETACHED_DISK, "SRC07", Severity.WARNING),
        (Trait.DISC, "SRC07", Severity.WARNING),
        (Trait.HIDDEN_DISK, "SRC07", Severity.BLOCKER),
        (Trait.ENCRYPTED_DISK, "SRC07", Severity.BLOCKER),
        (Trait.READ_ONLY_DISK, "SRC07", Severity.BLOCKER),
        (Trait.MACHINE, "TGT04", Severity.BLOCKER),
        (Trait.DEVICE, "SRC08", Severity.WARNING),
        (Trait.TPM, "SRC09", Severity.BLOCKER),
        (Trait.SECURE_BOOT, "SRC09", Severity.WARNING),
        (Trait.PLACEMENT, "SRC10", Severity.WARNING),
    ],
)
def test_each_trait_is_one_finding_in_the_site_s_words(trait, id_, severity):
    assert having(trait) == [(id_, severity)]


def test_snapshots_of_others_block_a_warm_move():
    assert having(Trait.SNAPSHOTS, warm=True) == [("SRC04", Severity.BLOCKER)]


def test_a_check_that_cannot_look_says_so_and_stops_no_other():
    plan = move(
        replace(FACTS, traits=None, traits_why="no answer", proof=None, proof_why="no console"),
        MoveWish(checks=(AcceptanceCheck(kind=CheckKind.BOOTED),)),
    )
    dumb = {each.id for each in plan.findings if each.severity is Severity.UNSEEN}
    assert dumb == {"SRC02", "SRC03", "SRC04", "SRC07", "SRC08", "SRC09", "SRC10", "TGT04", "APP02"}
    assert blocking(plan.findings) == ()
    partly = replace(FACTS, traits=Traits(looked=frozenset(Trait) - {Trait.TPM}))
    [told] = found(move(partly, MoveWish()), "SRC09")
    assert (told.severity, "vTPM" in told.evidence) == (Severity.UNSEEN, True)


# Mapping


def test_an_address_outside_of_the_network_warns_until_a_rule_gives_a_new_one():
    facts = replace(FACTS, seen=replace(SEEN, nics=(nic(address="192.168.7.7"),)))
    assert severities(facts, "TGT07") == [Severity.WARNING]
    plan = move(facts, MoveWish(readdressed=frozenset({"shop"})))
    assert [each.severity for each in found(plan, "TGT07")] == [Severity.INFO]
    assert plan.target.nics[0].address is None


def test_a_network_that_tells_no_addresses_is_not_seen():
    facts = replace(FACTS, seen=replace(SEEN, nics=(nic("n3"),)))
    assert severities(facts, "TGT07") == [Severity.UNSEEN]


def test_rented_hardware_keeps_no_mac_no_bus_no_user_data_and_the_plan_says_so():
    networks = tuple(replace(network, macs=()) for network in NETWORKS)
    rented = site(
        "rbx", limits=RENTED, provider=ProviderKind.OVHCLOUD, catalogue=Catalogue(networks=networks)
    )
    plan = move(
        replace(FACTS, target=rented, user_data="#cloud-config", ssh_keys=("k",)), MoveWish()
    )
    for id_ in ("MAP02", "MAP04", "MAP06"):
        assert [each.severity for each in found(plan, id_)] == [Severity.WARNING], id_
    assert (plan.target.nics[0].mac, plan.target.user_data, plan.target.ssh_keys) == (None, "", ())


def test_the_smallest_sku_that_holds_it_is_chosen_and_explained():
    skus = tuple(
        Sku(name=name, size=Size(cpus=cpus, memory=gib * GIB))
        for name, cpus, gib in (("xl", 8, 64), ("s", 1, 2), ("l", 4, 8), ("m", 2, 4))
    )
    offered = site("south", catalogue=Catalogue(skus=skus, networks=NETWORKS))
    facts = replace(FACTS, target=offered)
    plan = move(facts, MoveWish())
    assert plan.target.sku == "m"
    assert "smallest of 4" in found(plan, "TGT03")[0].evidence
    assert severities(facts, "TGT03", MoveWish(sku="s")) == [Severity.WARNING]
    assert severities(facts, "TGT03", MoveWish(sku="none")) == [Severity.BLOCKER]


nics = st.lists(
    st.builds(
        nic,
        st.sampled_from(["n1", "n2", "n3", "gone"]),
        st.sampled_from([None, "10.0.4.9", "10.0.5.9", "fe80::1", "not one"]),
        st.integers(1, 99),
    ),
    max_size=6,
).map(tuple)
disks = st.lists(
    st.builds(
        DiskSeen,
        volume=st.sampled_from(["ssd:1", "x"]),
        size=st.integers(1, 64 * 1024 * GIB),
        bus=st.sampled_from(DiskBus),
    ),
    max_size=6,
).map(tuple)
targets = st.builds(
    lambda limits, names, buses, macs, seeds: site(
        "south",
        limits=replace(limits, buses=buses, user_data=seeds),
        catalogue=Catalogue(
            networks=tuple(
                replace(n, macs=None if macs else ()) for n in NETWORKS if n.name in names
            )
        ),
    ),
    st.sampled_from([LIMITS, RENTED]),
    st.frozensets(st.sampled_from(["shop", "office", "dark"])),
    st.frozensets(st.sampled_from(DiskBus)),
    st.booleans(),
    st.booleans(),
)
wishes = st.builds(
    MoveWish,
    networks=st.sampled_from([(), (("shop", "office"),), (("office", "nowhere"),)]),
    readdressed=st.frozensets(st.sampled_from(["shop", "office"])),
    method=st.sampled_from([None, Method.COLD, Method.WARM]),
)


@given(
    nics=nics,
    disks=disks,
    target=targets,
    wish=wishes,
    firmware=st.sampled_from(Firmware),
    power=st.sampled_from([None, *Power]),
)
def test_every_plan_keeps_each_disk_and_nic_in_order_or_is_blocked(  # what varies
    nics, disks, target, wish, firmware, power
):
    seen = replace(SEEN, nics=nics, disks=disks, power=power)
    facts = replace(FACTS, seen=seen, target=target, firmware=firmware)
    plan = move(facts, wish)
    assert plan == move(facts, wish)
    assert [disk.volume for disk in plan.target.disks] == [disk.volume for disk in disks]
    assert [disk.index for disk in plan.target.disks] == list(range(len(disks)))
    assert all(p.target_size >= d.size for p, d in zip(plan.target.disks, disks, strict=True))
    lost = {each.subject for each in found(plan, "MAP01") if each.severity is Severity.BLOCKER}
    kept = [each for number, each in enumerate(nics) if f"nic {number}" not in lost]
    assert len(plan.target.nics) == len(kept)
    assert len(found(plan, "MAP02")) == sum(each.mac is None for each in plan.target.nics)
    for planned, was in zip(plan.target.nics, kept, strict=True):
        assert planned.address in {None, was.address}
        if was.address and planned.address is None:
            assert planned.source_network in wish.readdressed
    assert all(each.id in CHECKS for each in plan.findings)


# The way, and back


@pytest.mark.parametrize(
    ("facts", "wish", "id_", "severity"),
    [
        (replace(FACTS, rate=Rate()), MoveWish(), "PTH02", Severity.UNSEEN),
        (replace(FACTS, bandwidth=1 * MIB), MoveWish(), "PTH05", Severity.WARNING),
        (replace(FACTS, target=site("south", country="DE")), MoveWish(), "POL01", Severity.WARNING),
        (replace(FACTS, target=site("south", country="")), MoveWish(), "POL01", Severity.UNSEEN),
        (FACTS, MoveWish(retain=timedelta()), "RET04", Severity.BLOCKER),
        (
            FACTS,
            MoveWish(checks=(AcceptanceCheck(kind=CheckKind.BOOTED, pattern="shop is open"),)),
            "APP02",
            Severity.WARNING,
        ),
        (
            FACTS,
            MoveWish(method=Method.WARM, cutover=Cutover(not_after=NOW + timedelta(seconds=9))),
            "PTH03",
            Severity.BLOCKER,
        ),
        (
            replace(
                FACTS, source=site("north", catalogue=Catalogue(
                    networks=NETWORKS, storages=(StorageSeen(name="ssd", free=1 * GIB),)
                ))
            ),
            MoveWish(method=Method.WARM),
            "SRC06",
            Severity.BLOCKER,
        ),
        (
            replace(FACTS, target=site("south", catalogue=Catalogue(
                networks=NETWORKS, storages=(StorageSeen(name="ssd", free=1 * GIB),)
            ))),
            MoveWish(),
            "TGT02",
            Severity.BLOCKER,
        ),
    ],
)  # fmt: skip
def test_what_stands_against_the_way_is_said(facts, wish, id_, severity):
    assert severities(facts, id_, wish) == [severity]
    assert severities(FACTS, id_, MoveWish()) == []


# Waivers


@pytest.mark.parametrize("id_", ["SRC03", "SRC12"])
def test_only_what_may_be_waived_is(id_):
    facts = replace(
        FACTS,
        busy_with="move-1",
        traits=Traits(
            looked=frozenset(Trait), found=(TraitSeen(trait=Trait.PROTECTED, words="a flag"),)
        ),
    )
    plan = move(facts, MoveWish(waivers=(Waiver(id=id_, reason="we know", by="ada"),)))
    [told] = found(plan, id_)
    if CHECKS[id_].waivable:
        assert told.severity is Severity.WARNING
        assert told.evidence.endswith("waived by ada: we know")
    else:
        assert told.severity is Severity.BLOCKER
        assert "ada" not in told.evidence


# Differences


def test_a_plan_that_is_as_it_was_runs_as_agreed():
    agreed = move(FACTS, MoveWish())
    assert as_agreed(agreed, move(FACTS, MoveWish())) == agreed
    assert in_the_way(agreed, move(replace(FACTS, again=True, made=True), MoveWish())) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seen": replace(SEEN, power=Power.OFF)}, "was_on"),
        ({"seen": replace(SEEN, nics=(nic(), nic(number=2)))}, "nics"),
        ({"seen": replace(SEEN, disks=(*SEEN.disks, *SEEN.disks))}, "disks"),
        ({"busy_with": "move-9"}, "SRC12 became a blocker"),
        ({"agent": False}, "GST10 became a warning"),
        (
            {
                "traits": Traits(
                    looked=frozenset(Trait),
                    found=(TraitSeen(trait=Trait.LOCKED, words="a lock"),),
                )
            },
            "SRC02 became a blocker",
        ),
    ],
)
def test_what_changed_or_got_worse_stands_in_the_way(changes, words):
    alive = replace(
        FACTS, source=site("north", limits=replace(LIMITS, changes=Changes.WHILE_ALIVE))
    )
    wish = MoveWish(method=Method.WARM)
    agreed = move(alive, wish)
    now = move(replace(alive, again=True, made=True, **changes), wish)
    assert words in in_the_way(agreed, now)
    again = as_agreed(agreed, move(replace(alive, **changes), wish))
    assert blocking(again.findings)


def test_a_check_that_could_not_look_before_may_warn_now():
    dumb = move(replace(FACTS, traits=None), MoveWish())
    told = Traits(looked=frozenset(Trait), found=(TraitSeen(trait=Trait.DEVICE, words="a GPU"),))
    now = move(replace(FACTS, traits=told), MoveWish())
    assert found(now, "SRC08")
    assert in_the_way(dumb, now) == ""
