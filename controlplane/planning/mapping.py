"""What becomes of an instance's size, disks and nics at the target."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from controlplane.domain.finding import Finding
from controlplane.domain.instance import Size
from controlplane.domain.network import NetworkSeen
from controlplane.domain.plan import Delivery, DiskPlan, NicPlan
from controlplane.planning import devices, sizing
from controlplane.planning.facts import MoveFacts, MoveWish
from controlplane.planning.findings import blocker, told, unseen, warning
from controlplane.planning.provision import choose_size, delivery, image_format


def nics(facts: MoveFacts, wish: MoveWish) -> tuple[tuple[NicPlan, ...], list[Finding]]:
    """Each nic on a network of the target, in their order; one without a network is a finding."""
    rules = dict(wish.networks)
    names = {n.ref: n.name for n in facts.source.catalogue.networks}
    planned: list[NicPlan] = []
    found: list[Finding] = []
    for index, nic in enumerate(facts.seen.nics if facts.seen else ()):
        name = names.get(nic.network, nic.network)
        network, how = sizing.network_for(facts.target, name, rules)
        if network is None:
            found.append(_unmapped(facts, index, name, rules))
            continue
        if how == "only network" and network.name != name:
            evidence = f"{name} becomes {network.name}, the only network there"
            found.append(told("MAP01", f"nic {index}", evidence))
        new = name in wish.readdressed
        found += _address(index, nic.address, network, new=new)
        kept = replace(nic, address=None) if new else nic
        there, lost = devices.nic_on(index, kept, network, facts.target.site, came_from=name)
        planned.append(there)
        found += lost
    return tuple(planned), found


def _unmapped(facts: MoveFacts, index: int, name: str, rules: dict[str, str]) -> Finding:
    offered = ", ".join(n.name for n in facts.target.catalogue.networks) or "none"
    wanted = f"{rules[name]!r} for {name!r}" if name in rules else f"for {name!r}"
    return blocker(
        "MAP01",
        f"nic {index}",
        f"{facts.target.site} has no network {wanted} (it has: {offered})",
        f"map it: --network {name}=NETWORK",
    )


def _address(index: int, address: str | None, network: NetworkSeen, *, new: bool) -> list[Finding]:
    """What a rule gives up, and what the network does not tell of the addresses it can have."""
    nic = f"nic {index}"
    if address is None or (network.addresses is not None and not new):
        return []
    if new:
        return [told("TGT07", nic, f"{address} is given up: {network.name} assigns another")]
    if not network.cidr:
        return [unseen("TGT07", nic, f"which addresses {network.name} can have")]
    try:
        within = ip_address(address) in ip_network(network.cidr, strict=False)
    except ValueError:
        return [unseen("TGT07", nic, f"{address} in {network.cidr} cannot be read")]
    if within:
        return []
    return [
        warning(
            "TGT07",
            nic,
            f"{address} is not in {network.cidr}, which {network.name} has",
            "map it to another network, or let the site assign an address: --new-address NETWORK",
        )
    ]


def disks(facts: MoveFacts) -> tuple[tuple[DiskPlan, ...], list[Finding]]:
    """Each disk as the target makes it, in boot order, and what becomes of their buses."""
    way = delivery(facts.target) or Delivery.PUSH
    seen = facts.seen.disks if facts.seen else ()
    planned = tuple(
        DiskPlan(
            index=index,
            size=disk.size,
            target_size=sizing.rounded(disk.size, facts.target.limits),
            bus=devices.bus_on(disk.bus, facts.target.limits),
            format=image_format(facts.target),
            delivery=way,
            volume=disk.volume,
            blank=facts.target.limits.blank,
        )
        for index, disk in enumerate(seen)
    )
    return planned, _own_bus(facts) if planned else []


def _own_bus(facts: MoveFacts) -> list[Finding]:
    """A site that has one bus for all remembers what was wished, for the way back."""
    source, target = facts.source, facts.target
    if target.limits.buses or source.provider is target.provider:
        return []
    return [
        warning(
            "MAP04",
            target.site,
            f"{target.site} has one bus for all disks: their names in the guest change",
            "see that fstab and boot loader name disks by UUID or label",
        )
    ]


def seeds(facts: MoveFacts) -> tuple[tuple[str, ...], str, list[Finding]]:
    """The ssh keys and user data that the target is given, and which of them it does not take."""
    limits = facts.target.limits
    keys, data = facts.ssh_keys, facts.user_data
    lost = [
        name
        for name, there, taken in (
            ("user data", bool(data), limits.user_data),
            ("ssh keys", bool(keys), limits.ssh_keys),
        )
        if there and not taken
    ]
    found = [
        warning(
            "MAP06",
            facts.target.site,
            f"{facts.target.site} gives an instance no {' and no '.join(lost)}: cloud-init finds"
            " no data source there",
            "what it set up before is on the disk; see that it does not wait for a data source",
        )
    ]
    return (
        keys if limits.ssh_keys else (),
        data if limits.user_data else "",
        found if lost else [],
    )


def size(facts: MoveFacts, wish: MoveWish) -> tuple[Size, str | None, list[Finding]]:
    """The size there and its sku: the one that was named, else the smallest that fits."""
    need = Size(cpus=1, memory=0)
    if facts.seen:
        need = devices.needed(facts.seen.size, facts.wished_size, facts.source)
    skus = facts.target.catalogue.skus
    if wish.sku is None:
        chosen, sku, found = choose_size(facts.target, need)
        if sku is not None and len(skus) > 1:
            found.append(_smallest(facts, chosen, sku, need))
        return chosen, sku, found
    named = next((sku for sku in skus if sku.name == wish.sku), None)
    if named is None:
        offered = ", ".join(sku.name for sku in skus) or "none by name"
        missing = blocker(
            "TGT03",
            wish.sku,
            f"{facts.target.site} has no sku {wish.sku!r} (it has: {offered})",
            "name one of these or leave it out",
        )
        return need, None, [missing]
    if named.size.cpus >= need.cpus and named.size.memory >= need.memory:
        return named.size, named.name, []
    less = warning(
        "TGT03",
        wish.sku,
        f"{wish.sku} has {_words(named.size)}, less than the {_words(need)} that"
        f" {facts.name} has now",
        "name a larger one, or see that the guest runs with less",
    )
    return named.size, named.name, [less]


def _smallest(facts: MoveFacts, chosen: Size, sku: str, need: Size) -> Finding:
    offered = len(facts.target.catalogue.skus)
    return told(
        "TGT03",
        sku,
        f"{sku} ({_words(chosen)}) is the smallest of {offered} at {facts.target.site} that holds"
        f" {_words(need)}",
    )


def _words(size: Size) -> str:
    return f"{size.cpus} vCPU and {sizing.gib(size.memory)}"
