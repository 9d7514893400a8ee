"""Whether a move is warm, within which bounds, and what that costs in time."""

from dataclasses import dataclass
from datetime import timedelta

from controlplane.domain.finding import Finding
from controlplane.domain.plan import AT_ONCE, Cutover, Method, PassPolicy
from controlplane.domain.site import Capability, Changes, SiteFacts
from controlplane.planning.findings import blocker, told, warning
from controlplane.planning.passes import STOP_AND_START_SECONDS

PASSES_MAX = 8
"""Change passes before a copy counts as one that does not converge."""
BUDGET = timedelta(seconds=0.5)
"""What the last pass is to take at most for its bytes: to read them, write them, prove them."""
_READ_WRITTEN_PROVEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmWish:
    """What was asked of the method; None leaves the choice to the plan."""

    method: Method | None = None
    cutover: Cutover = AT_ONCE
    max_downtime: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds in all and of downtime."""

    seconds: float
    downtime: float


def pauses(source: SiteFacts) -> bool:
    """Whether a warm move out of this site pauses the guest for its last pass."""
    whole = Capability.PAUSING in source.capabilities
    return whole and source.limits.changes is Changes.WHILE_ALIVE


def policy(
    source: SiteFacts,
    target: SiteFacts,
    wish: WarmWish,
    *,
    runs: bool,
    agent: bool | None = None,
) -> tuple[PassPolicy, list[Finding]]:
    """How the disks are copied: warm where it was asked for, or where it saves downtime.

    `agent` tells whether the guest's agent answers; None while that is not known.
    """
    able = Capability.SNAPSHOTS in source.capabilities
    seeded = Capability.DISK_IMPORT in target.capabilities
    paused = pauses(source)
    tracked = paused or source.limits.changes is Changes.TOLD
    useful = able and (seeded or tracked)
    # Of an instance that is off there is no downtime to save.
    if not runs or wish.method is Method.COLD or (wish.method is None and not useful):
        return PassPolicy(beside=seeded), []
    found: list[Finding] = []
    if not able:
        found.append(
            blocker(
                "SRC05",
                source.site,
                f"{source.site} cannot snapshot a running instance, which a warm move begins with",
                "move it cold (--method cold), or give the account the rights named in the"
                " provider's card",
            )
        )
    if not tracked:
        found.append(
            told(
                "SRC05",
                source.site,
                f"{source.site} cannot list what changed: each pass reads the disks whole,"
                " the last one while the instance is down",
            )
        )
    if paused:
        found.append(_quiescing(source.site, agent=agent))
    if not seeded:
        found.append(
            told(
                "PTH08",
                target.site,
                f"{target.site} takes disks in only as whole images: the import is part of"
                " the downtime",
            )
        )
    # Where the target takes only whole images, a pass is measured by its reading alone.
    limit = wish.max_downtime and wish.max_downtime / (1 if seeded else _READ_WRITTEN_PROVEN)
    return (
        PassPolicy(
            warm=True,
            passes_max=PASSES_MAX if tracked else 1,
            budget=min(BUDGET, limit or BUDGET) if tracked else None,
            tracked=tracked,
            seeded=seeded,
            beside=seeded,
            paused=paused,
            limit=limit if tracked else None,
            cutover=wish.cutover,
        ),
        found,
    )


def _quiescing(source: str, *, agent: bool | None) -> Finding:
    pause = "the guest is paused for the last pass and then cut"
    crash = "what a loss of power leaves (crash-consistent)"
    if agent:
        return told("GST10", source, f"{pause}: its agent answers, and freezes its disks before")
    if agent is None:
        return told(
            "GST10",
            source,
            f"{pause}: its agent freezes its disks before; whether it answers could not be seen,"
            f" and without it the copy is {crash}",
        )
    return warning(
        "GST10",
        source,
        f"{pause}, and no agent answers in it: the copy is {crash}",
        "start qemu-guest-agent in the guest (and enable it at the site), so that its disks"
        " are frozen before; or move it cold (--method cold)",
    )


def times(passes: PassPolicy, size: int, rate: float, calls: float) -> Times:
    """What copying `size` bytes at `rate` takes; `calls` seconds pass in provider calls."""
    whole = size / rate
    if passes.early and not passes.warm:
        # Read and written at once, and read back; its target is made while the source runs.
        return Times(seconds=2 * whole + calls, downtime=2 * whole + calls / 2)
    if not passes.warm:
        # Read at the source, brought into the target, and read back for the proof.
        return Times(seconds=3 * whole + calls, downtime=3 * whole + calls)
    last = whole
    if passes.tracked and passes.budget is not None:
        last = min(_READ_WRITTEN_PROVEN * whole, passes.budget.total_seconds())
    brought = STOP_AND_START_SECONDS if passes.seeded else 2 * whole + calls / 2
    downtime = last + brought
    first = (2 if passes.beside else 3) * whole
    return Times(
        seconds=first + (whole if not passes.tracked else last) + calls + downtime,
        downtime=downtime,
    )
