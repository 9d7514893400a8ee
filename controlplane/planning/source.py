"""Whether the source lets the instance go: held, shown, ready, fenced."""

from controlplane.domain.finding import Finding
from controlplane.domain.instance import InstanceState
from controlplane.domain.site import Capability
from controlplane.planning import sizing
from controlplane.planning.facts import MoveFacts
from controlplane.planning.findings import blocker, unseen

GROWTH = 0.1
"""What a running guest is taken to change of its disks while they are copied."""


def reached(facts: MoveFacts) -> list[Finding]:
    """The source shows the instance, and its account may do what a move needs."""
    source = facts.source.site
    found = [
        blocker(
            "SRC01",
            source,
            f"{source} lacks {capability}, which a move out of it needs",
            "give the account the rights named in the provider's card, then verify the site",
        )
        for capability in (Capability.INSTANCES, Capability.DISK_EXPORT)
        if capability not in facts.source.capabilities
    ]
    if facts.seen is None:
        found.append(
            blocker(
                "SRC01",
                facts.name,
                f"{source} does not show {facts.name}: {facts.unseen_why}",
                f"look at the site (fedctl site verify {source}), then ask again",
            )
        )
    return found


def ready(facts: MoveFacts) -> list[Finding]:
    """Its state at the source allows it."""
    seen = facts.seen
    if seen is None or (seen.state is InstanceState.READY and seen.power is not None):
        return []
    return [
        blocker(
            "SRC02",
            facts.name,
            f"{facts.name} is {seen.state} at {facts.source.site}"
            + (f" ({seen.why})" if seen.why else ""),
            "wait until it is ready, or repair it",
        )
    ]


def free(facts: MoveFacts) -> list[Finding]:
    """No other operation works on it."""
    if not facts.busy_with:
        return []
    return [
        blocker(
            "SRC12",
            facts.name,
            f"{facts.name} is held by operation {facts.busy_with}",
            "wait for it or cancel it",
        )
    ]


def fenced(facts: MoveFacts) -> list[Finding]:
    """The source can be kept from starting beside the target."""
    if Capability.FENCING in facts.source.capabilities:
        return []
    source = facts.source.site
    return [
        blocker(
            "RET02",
            source,
            f"{source} cannot fence: the source could start beside the target",
            "give the account what the provider's card names for fencing, then verify the site",
        )
    ]


def elsewhere(facts: MoveFacts) -> list[Finding]:
    """The target is another site than the source."""
    if facts.source.site != facts.target.site:
        return []
    return [
        blocker(
            "PLN02",
            facts.name,
            f"{facts.name} is at {facts.source.site} already",
            "name another site",
        )
    ]


def headroom(facts: MoveFacts, *, warm: bool) -> list[Finding]:
    """Room at the source for what its snapshots grow by while the copy goes on."""
    if not warm or facts.seen is None:
        return []
    source, places = facts.source.site, facts.source.catalogue.storages
    used = {disk.volume.partition(":")[0] for disk in facts.seen.disks}
    own = [place for place in places if place.name in used] or list(places)
    known = [place.free for place in own if place.free is not None]
    if not known:
        return [unseen("SRC06", source, f"{source} does not tell what its storages have free")]
    need = int(sum(disk.size for disk in facts.seen.disks) * GROWTH)
    if max(known) >= need:
        return []
    return [
        blocker(
            "SRC06",
            source,
            f"{sizing.gib(max(known))} are free for snapshots at {source}; {sizing.gib(need)}"
            f" ({GROWTH:.0%} of the disks) are counted with while they are copied",
            "free something there, or move it cold (--method cold)",
        )
    ]
