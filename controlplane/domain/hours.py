"""Limits that hold at some hours of some days: what a site's `bandwidthHours` say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from typing import cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from controlplane.domain.errors import Invalid

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """`limit` in bytes a second from `start` until before `end`, on the clock of `zone`.

    Where `end` is not after `start` it is of the next day; `days` are those that hours begin on.
    """

    days: frozenset[int]
    start: time
    end: time
    zone: ZoneInfo
    limit: float

    def hold(self, now: datetime) -> bool:
        there = now.astimezone(self.zone)
        at, today = there.time(), there.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= at < self.end
        return (today in self.days and at >= self.start) or (
            (today - 1) % 7 in self.days and at < self.end
        )


def read_hours(told: Iterable[Mapping[str, object]]) -> tuple[Hours, ...]:
    """What a site's spec says. Invalid when a zone is none of the IANA database's."""
    return tuple(_one(each) for each in told)


def limit_at(now: datetime, always: float | None, hours: Iterable[Hours]) -> float | None:
    """The least of what holds now, in bytes a second; None when nothing does."""
    held = [each.limit for each in hours if each.hold(now)]
    return min([*held, *([always] if always else [])], default=None)


def _one(told: Mapping[str, object]) -> Hours:
    zone, days = str(told.get("timeZone", "UTC")), told.get("days", DAYS)
    try:
        found = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as e:
        raise Invalid(f"there is no time zone {zone!r}: write one such as Europe/Paris") from e
    return Hours(
        days=frozenset(DAYS.index(day) for day in cast("Iterable[str]", days)),
        start=time.fromisoformat(str(told["from"])),
        end=time.fromisoformat(str(told["to"])),
        zone=found,
        limit=float(str(told["maxBandwidth"])),
    )
