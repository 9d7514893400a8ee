"""When to ask for the snapshots of a group, so that their moments lie close together. Pure."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from heapq import heapify, heapreplace
from itertools import groupby, permutations

from controlplane.domain.finding import Finding
from controlplane.domain.ids import InstanceId, SiteName
from controlplane.domain.site import Capability
from controlplane.domain.vault import Moment
from controlplane.planning.findings import blocker

SECONDS = 2.0
"""What a snapshot takes at a site where none was measured yet."""
AT_ONCE = 8
"""How many a site is asked for at once where it says nothing else."""
LONGEST = timedelta(minutes=8)
"""Between asking for a group's first snapshot and its last; all members are held for as long."""
_LATEST = 3
COPIES, COPIES_AT_A_SITE = 8, 4
"""How many disks of one group are copied at a time: half of what a worker does, and no site all."""


class Manner(StrEnum):
    """What an instance's site needs for a copy at one moment.

    LIVE: a snapshot, whether it runs or not. STOPPED: the instance must be off for all of the copy.
    """

    LIVE = "live"
    STOPPED = "stopped"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An instance that is to be snapshotted.

    `seconds` pass from asking to the answer, None where none was measured; `at_once` snapshots its
    site takes at a time. It has so many `disks`.
    """

    instance: InstanceId
    name: str
    site: SiteName
    manner: Manner
    seconds: float | None = None
    at_once: int | None = None
    disks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """`instance` is asked for `after` so long since the first of all."""

    instance: InstanceId
    after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Snapshots that one site takes one after another."""

    site: SiteName
    asks: tuple[Ask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """In which order and when all are asked for; `expected` is the spread that this may have."""

    lanes: tuple[Lane, ...]
    expected: timedelta


def manner(able: Iterable[Capability]) -> Manner:
    """How a site that is able to do this lets an instance be copied as of one moment."""
    have = frozenset(able)
    if Capability.DISK_EXPORT not in have:
        return Manner.NONE
    return Manner.LIVE if Capability.SNAPSHOTS in have else Manner.STOPPED


def refusals(members: Iterable[Candidate]) -> tuple[Finding, ...]:
    """Why these cannot be taken together: a blocker for each that stands in the way."""
    return tuple(found for each in members for found in _refusal(each))


def _refusal(each: Candidate) -> Iterator[Finding]:
    if each.manner is Manner.STOPPED:
        yield blocker(
            "SRC05",
            each.name,
            f"its site {each.site} takes no snapshots, and reads disks only while the instance is"
            " stopped, which a recovery point is never worth by itself",
            "move it to a site that takes snapshots, or leave it out",
        )
    if each.manner is Manner.NONE:
        yield blocker(
            "SRC01",
            each.name,
            f"its site {each.site} lets nobody read its disks",
            "give the account the rights named in the provider's card, or leave it out",
        )
    if not each.disks:
        yield blocker(
            "SRC07",
            each.name,
            f"its site {each.site} shows no volume of it, so that a point would hold nothing",
            "wait until its disks are attached, or leave it out",
        )


def order(members: Sequence[Candidate]) -> Order:
    """Every member once, no more at a time at a site than it allows.

    A moment is known only to lie between asking and the answer. So that two of them are as close
    as they can be, all lanes have their middle at the same time: what is quick is asked for in the
    middle of what is slow.
    """
    lanes = [lane for site in _by_site(members) for lane in _lanes(site)]
    longest = max((_length(lane) for lane in lanes), default=0.0)
    planned: list[Lane] = []
    bounds: list[tuple[float, float]] = []
    for lane in lanes:
        at = (longest - _length(lane)) / 2
        asks: list[Ask] = []
        for each in lane:
            asks.append(Ask(instance=each.instance, after=timedelta(seconds=at)))
            bounds += [(at, at + _seconds(each))] * each.disks
            at += _seconds(each)
        planned.append(Lane(site=lane[0].site, asks=tuple(asks)))
    pairs = permutations(bounds, 2)
    expected = max((late[1] - early[0] for early, late in pairs), default=0.0)
    return Order(lanes=tuple(planned), expected=timedelta(seconds=expected))


def too_long(planned: Order) -> str:
    """Why its instances would be held for too long until the last is asked for; empty if not."""
    last = max((lane.asks[-1].after for lane in planned.lanes), default=timedelta())
    if last <= LONGEST:
        return ""
    site = next(lane.site for lane in planned.lanes if lane.asks[-1].after == last)
    return (
        f"the last snapshot of this group would be asked for {_minutes(last)} minutes after the"
        f" first, because {site} takes one after another; all its instances would be held for as"
        f" long, and {_minutes(LONGEST)} minutes are the most: protect fewer together, or let the"
        f" site take more at a time (fedctl site limit {site} --max-snapshots N)"
    )


def _minutes(time: timedelta) -> str:
    return f"{time.total_seconds() / 60:.0f}"


def spread(moments: Iterable[Moment]) -> timedelta:
    """What lies between the earliest and the latest of these moments, one a disk, at most.

    Of two, neither can be further from the other than from one's asking to the other's answer; one
    alone has no spread. That holds for two disks of one snapshot as well: some providers take them
    one after another within a call.
    """
    pairs = permutations(moments, 2)
    return max((late.answered - early.asked for early, late in pairs), default=timedelta())


def usual(latest: Sequence[float]) -> float | None:
    """Seconds that a snapshot takes, from what it took lately, newest first; None: not known.

    The least of the last few. Once it took long because an answer was lost, or because its site
    copied all of the disks for the first time; whoever waits for that to come again waits in vain,
    and is that much too late.
    """
    known = [each for each in latest[:_LATEST] if each <= LONGEST.total_seconds()]
    return min(known, default=None)


def may_copy(site: SiteName, going: Collection[SiteName], *, most: int, at_a_site: int) -> bool:
    """Whether a disk at `site` may be copied beside those that are, by the site of each."""
    return len(going) < most and sum(each == site for each in going) < at_a_site


def _seconds(member: Candidate) -> float:
    return SECONDS if member.seconds is None else member.seconds


def _length(lane: Sequence[Candidate]) -> float:
    return sum(map(_seconds, lane))


def _by_site(members: Sequence[Candidate]) -> list[list[Candidate]]:
    known = sorted(members, key=lambda each: (each.site, each.name, each.instance))
    return [list(each) for _, each in groupby(known, key=lambda each: each.site)]


def _lanes(site: Sequence[Candidate]) -> list[list[Candidate]]:
    """As many as the site takes at once; the longest first, into the lane that is free first."""
    at_once = min((each.at_once or AT_ONCE for each in site), default=AT_ONCE)
    lanes: list[list[Candidate]] = [[] for _ in range(min(at_once, len(site)))]
    free = [(0.0, number) for number in range(len(lanes))]
    heapify(free)
    for each in sorted(site, key=_seconds, reverse=True):
        until, number = free[0]
        lanes[number].append(each)
        heapreplace(free, (until + _seconds(each), number))
    return lanes
