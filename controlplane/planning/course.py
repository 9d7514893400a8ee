"""How long a move takes, what proves that its target works, and what stands against that."""

from datetime import datetime, timedelta

from controlplane.domain.disk import MIB
from controlplane.domain.finding import Finding
from controlplane.domain.instance import Power
from controlplane.domain.plan import AcceptanceCheck, CheckKind, DiskPlan, Estimate, PassPolicy
from controlplane.domain.site import Capability
from controlplane.planning import sizing, warm
from controlplane.planning.facts import MoveFacts, MoveWish
from controlplane.planning.findings import blocker, told, unseen, warning

ASSUMED_RATE = 40 * MIB
PROVIDER_CALLS_SECONDS = 20.0


def estimate(facts: MoveFacts, disks: tuple[DiskPlan, ...], passes: PassPolicy) -> Estimate:
    size = sum(disk.size for disk in disks)
    rate = facts.rate.bytes_per_second or ASSUMED_RATE
    limited = facts.bandwidth is not None and facts.bandwidth < rate
    rate = min(rate, facts.bandwidth or rate)
    expected = warm.times(passes, size, rate, PROVIDER_CALLS_SECONDS)
    basis = (
        f"limited to {rate / MIB:.1f} MiB/s"
        if limited
        else f"measured {rate / MIB:.0f} MiB/s on {facts.rate.seen}"
        if facts.rate.bytes_per_second
        else f"assumed {ASSUMED_RATE // MIB} MiB/s; nothing was measured on this pair yet"
    )
    return Estimate(
        seconds=round(expected.seconds, 1),
        downtime_seconds=round(expected.downtime, 1),
        bytes_read=size,
        bytes_sent=size,
        basis=basis,
    )


def acceptance(
    facts: MoveFacts, wish: MoveWish
) -> tuple[tuple[AcceptanceCheck, ...], list[Finding]]:
    """What proves that the target works: what was wished, else the best that the site shows."""
    if wish.checks:
        return wish.checks, []
    seen = {Capability.CONSOLE_LOG, Capability.GUEST_AGENT}
    if seen & facts.target.capabilities:
        return (AcceptanceCheck(kind=CheckKind.BOOTED),), []
    return (AcceptanceCheck(kind=CheckKind.POWERED),), [
        warning(
            "TGT09",
            facts.target.site,
            f"{facts.target.site} shows neither console nor guest agent:"
            " that it is powered on will be the only proof that the target works",
            "watch the first minutes after the move",
        )
    ]


def in_time(
    expected: Estimate, passes: PassPolicy, wish: MoveWish, now: datetime | None
) -> list[Finding]:
    """Downtime and duration fit what was allowed."""
    found: list[Finding] = []
    if wish.max_downtime and expected.downtime_seconds > wish.max_downtime.total_seconds():
        found.append(
            blocker(
                "PTH03",
                "downtime",
                f"a {passes.method} move is down for about"
                f" {expected.downtime_seconds:.0f} s"
                f" ({expected.basis}); at most {wish.max_downtime.total_seconds():.0f} s are"
                " allowed",
                "allow more downtime",
            )
        )
    if expected.seconds > wish.deadline.total_seconds():
        found.append(
            blocker(
                "PTH03",
                "deadline",
                f"the move takes about {expected.seconds:.0f} s ({expected.basis}); the deadline"
                f" is {wish.deadline.total_seconds():.0f} s",
                "set a later deadline",
            )
        )
    end = wish.cutover.not_after
    ready = timedelta(seconds=expected.seconds - expected.downtime_seconds)
    if passes.warm and end is not None and now is not None and now + ready > end:
        found.append(
            blocker(
                "PTH03",
                "window",
                f"the copy takes about {ready.total_seconds():.0f} s ({expected.basis}), and the"
                f" cutover may not be after {end:%d %b %H:%M} UTC",
                "set a later end (--cutover-until)",
            )
        )
    return found


def measured(facts: MoveFacts) -> list[Finding]:
    """Whether the estimate rests on anything."""
    if facts.rate.bytes_per_second:
        return []
    pair = f"{facts.source.site} to {facts.target.site}"
    why = f"nothing was copied from {pair} yet, {ASSUMED_RATE // MIB} MiB/s are assumed"
    return [unseen("PTH02", pair, why)]


def capped(facts: MoveFacts) -> list[Finding]:
    """What the limits on bandwidth leave."""
    rate = facts.rate.bytes_per_second or ASSUMED_RATE
    if facts.bandwidth is None or facts.bandwidth >= rate:
        return []
    evidence = (
        f"a limit lets {facts.bandwidth / MIB:.1f} MiB/s through, where {rate / MIB:.0f} could be"
    )
    remedy = "raise the limit (--max-bandwidth, or that of site or tenant)"
    return [warning("PTH05", facts.source.site, evidence, remedy)]


def returns(wish: MoveWish) -> list[Finding]:
    """The source is kept long enough to come back to."""
    if wish.retain > timedelta():
        return []
    return [
        blocker(
            "RET04",
            "retention",
            "the old copy would be let go of at once: there would be no way back",
            "keep it for a while (--retain), or waive it",
        )
    ]


def works_now(facts: MoveFacts, checks: tuple[AcceptanceCheck, ...]) -> list[Finding]:
    """Whether what is to prove the target can be seen at the source now.

    A console keeps its last lines only: what is missing there is no proof of a fault.
    """
    asked = [check for check in checks if check.kind is CheckKind.BOOTED]
    if not asked or facts.seen is None or facts.seen.power is not Power.ON:
        return []
    if facts.proof is None:
        return [unseen("APP02", facts.name, facts.proof_why or "the source was not asked")]
    missing = [c.pattern for c in asked if not facts.proof or c.pattern not in facts.proof]
    return [
        warning(
            "APP02",
            facts.name,
            f"{facts.source.site} shows no {pattern!r} of {facts.name} now"
            if pattern
            else f"{facts.source.site} shows nothing of {facts.name} that proves it booted",
            "see that the check is what the guest prints when it boots",
        )
        for pattern in missing
    ]


def borders(facts: MoveFacts) -> list[Finding]:
    """Which country the instance is in afterwards."""
    source, target = facts.source, facts.target
    dumb = [site.site for site in (source, target) if not site.country]
    if dumb:
        return [unseen("POL01", target.site, f"in which country {' and '.join(dumb)} is")]
    if source.country == target.country:
        return []
    evidence = f"it leaves {source.country} for {target.country}"
    remedy = "see that its data may: no policy is written down that could tell"
    return [warning("POL01", target.site, evidence, remedy)]


def leaving(facts: MoveFacts, expected: Estimate) -> list[Finding]:
    """What leaves the source, which some providers charge for."""
    if not expected.bytes_read:
        return []
    size = sizing.gib(expected.bytes_read)
    return [told("PTH07", facts.source.site, f"up to {size} leave {facts.source.site}")]
