"""Which recovery points are kept, and why: the newest of so many hours, days, weeks and so on."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import PointId

FORM = "counts of last, hourly, daily, weekly, monthly and yearly, such as last:3,daily:7,weekly:4"
NEWEST = "the newest"
_MOST = 10_000
_PART = re.compile(r"([a-z]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many to keep: the newest `last`, and the newest of each of so many hours, days, ...

    Only hours, days, ... that have a point count, so that an instance of which no more points are
    made keeps those it has. They begin in UTC, weeks on Monday.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __str__(self) -> str:
        return ",".join(f"{name}:{count}" for name, count in asdict(self).items() if count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A recovery point, and when it was made."""

    point: PointId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`why` are the reasons to keep it; without one it is to be forgotten."""

    point: PointId
    why: tuple[str, ...]

    @property
    def keep(self) -> bool:
        return bool(self.why)


_BUCKETS: Mapping[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda at: (at.year, at.month, at.day, at.hour),
    "daily": lambda at: (at.year, at.month, at.day),
    "weekly": lambda at: tuple(at.isocalendar())[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: (at.year,),
}


def parse(text: str) -> Policy:
    """`last:3,daily:7` as a policy; Invalid for anything else, or where nothing is counted."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        name, count = (found[1], int(found[2])) if found else ("", 0)
        if name not in _NAMES or name in counts or not 0 < count <= _MOST:
            raise Invalid(f"the retention {text[:80]!r} is not understood: write {FORM}")
        counts[name] = count
    return Policy(**counts)


def verdicts(
    points: Iterable[Taken], policy: Policy, needed: Mapping[PointId, Sequence[str]]
) -> tuple[Verdict, ...]:
    """Of each point, newest first.

    Kept are the newest, what a rule keeps, and what is needed for the reasons given.
    """
    newest_first = sorted(points, key=lambda taken: (taken.at, taken.point), reverse=True)
    why: dict[PointId, list[str]] = {taken.point: [] for taken in newest_first}
    for taken in newest_first[:1]:
        why[taken.point].append(NEWEST)
    for number, taken in enumerate(newest_first[: policy.last], start=1):
        why[taken.point].append(f"last {number} of {policy.last}")
    for name, bucket in _BUCKETS.items():
        most: int = getattr(policy, name)
        seen: set[tuple[int, ...]] = set()
        for taken in newest_first:
            place = bucket(taken.at.astimezone(UTC))
            if place not in seen and len(seen) < most:
                seen.add(place)
                why[taken.point].append(f"{name} {len(seen)} of {most}")
    for point, reasons in needed.items():
        if point in why:
            why[point] += reasons
    return tuple(Verdict(point=point, why=tuple(reasons)) for point, reasons in why.items())


_NAMES = frozenset({"last", *_BUCKETS})
