"""Which size, disk and network of a site serve a need."""

from controlplane.domain.disk import GIB
from controlplane.domain.finding import Finding
from controlplane.domain.instance import Size
from controlplane.domain.network import NetworkSeen
from controlplane.domain.site import Limits, QuotaSeen, SiteFacts, Sku
from controlplane.planning.findings import blocker, unseen


def smallest_sku(site: SiteFacts, need: Size) -> Sku | None:
    """The cheapest sku that holds `need`: least memory, then least cpus, then name."""
    fitting = [
        sku
        for sku in site.catalogue.skus
        if sku.size.cpus >= need.cpus and sku.size.memory >= need.memory
    ]
    return min(fitting, key=lambda s: (s.size.memory, s.size.cpus, s.name), default=None)


def rounded(size: int, limits: Limits) -> int:
    """`size` bytes rounded up to the site's step."""
    steps = -(-size // limits.disk_step)
    return max(steps, 1) * limits.disk_step


def network_for(
    site: SiteFacts, wished: str, rules: dict[str, str]
) -> tuple[NetworkSeen | None, str]:
    """The site's network for a wished name, and how it was chosen.

    First an explicit rule, then the same name, then the site's only network.
    """
    by_name = {network.name: network for network in site.catalogue.networks}
    if wished in rules:
        return by_name.get(rules[wished]), "rule"
    if wished in by_name:
        return by_name[wished], "name"
    if len(by_name) == 1:
        return next(iter(by_name.values())), "only network"
    return None, "none fits"


def gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def check_room(quota: QuotaSeen, size: Size, disks: tuple[int, ...], site: str) -> list[Finding]:
    """TGT01: what the site's quota leaves against what is needed."""
    short: list[str] = []

    def need(what: str, free: int | None, wanted: int, *, in_bytes: bool = False) -> None:
        if free is not None and free < wanted:
            shown = (gib(free), gib(wanted)) if in_bytes else (str(free), str(wanted))
            short.append(f"{what}: {shown[0]} free, {shown[1]} needed")

    need("instances", quota.instances, 1)
    need("cpus", quota.cpus, size.cpus)
    need("memory", quota.memory, size.memory, in_bytes=True)
    need("volumes", quota.volumes, len(disks))
    need("disk", quota.disk, sum(disks), in_bytes=True)
    if not short:
        return []
    return [
        blocker(
            "TGT01",
            site,
            f"the quota of {site} is too small ({'; '.join(short)})",
            "raise the quota, free something there, or choose another site",
        )
    ]


def check_disks(limits: Limits, sizes: tuple[int, ...], site: str) -> list[Finding]:
    """TGT04: number and size of disks against what the site allows."""
    found: list[Finding] = []
    if len(sizes) > limits.disks_max:
        found.append(
            blocker(
                "TGT04",
                site,
                f"{len(sizes)} disks; {site} takes at most {limits.disks_max}",
                "detach disks or choose another site",
            )
        )
    found.extend(
        blocker(
            "TGT04",
            f"disk {index}",
            f"disk {index} has {gib(size)}; {site} takes at most {gib(limits.disk_max)}",
            "choose a site that takes larger disks",
        )
        for index, size in enumerate(sizes)
        if rounded(size, limits) > limits.disk_max
    )
    return found


def check_nics(limits: Limits, count: int, site: str) -> list[Finding]:
    """TGT04: the number of nics against what the site allows."""
    if count <= limits.nics_max:
        return []
    return [
        blocker(
            "TGT04",
            site,
            f"{count} nics; {site} takes at most {limits.nics_max}",
            "take nics away or choose another site",
        )
    ]


def check_space(site: SiteFacts, sizes: tuple[int, ...]) -> list[Finding]:
    """TGT02: whether a storage of the site has room for the disks; no site tells of its hosts."""
    if not sizes or not site.catalogue.storages:
        return []
    free = [storage.free for storage in site.catalogue.storages]
    known = [each for each in free if each is not None]
    if len(known) < len(free):
        return [
            unseen("TGT02", site.site, f"{site.site} does not tell what its storages have free")
        ]
    most = max(known)
    if most >= sum(sizes):
        return []
    return [
        blocker(
            "TGT02",
            site.site,
            f"no storage of {site.site} has more than {gib(most)} free, {gib(sum(sizes))} are"
            " needed",
            "free something there, or choose another site",
        )
    ]


def check_name(limits: Limits, name: str, site: str) -> list[Finding]:
    """MAP03: the name as the target would have to carry it."""
    if len(name) <= limits.name_length:
        return []
    return [
        blocker(
            "MAP03",
            name[:80],
            f"the name has {len(name)} characters; {site} takes at most {limits.name_length}",
            "use an instance with a shorter name there",
        )
    ]
