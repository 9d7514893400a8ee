"""Limits of sites and operations: kept by all copies of a process together."""

import heapq
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest

from controlplane.domain.disk import MIB
from controlplane.domain.errors import Invalid
from controlplane.domain.hours import limit_at, read_hours
from controlplane.domain.ids import OperationId, SiteName
from controlplane.services.bandwidth import Bandwidth, Pace, PacedReader, PacedWriter
from tests.unit.vault.support import Bytes

A, B = SiteName("a"), SiteName("b")
ONE, TWO, THREE = (OperationId(UUID(int=n)) for n in (1, 2, 3))


class Rows:
    """A store whose rows hold these limits."""

    def __init__(self) -> None:
        self.sites: dict[str, float] = {A: 10.0 * MIB}
        self.hours: list[dict[str, object]] = []
        self.operations: dict[OperationId, float] = {TWO: 1.0 * MIB}
        self.resources = SimpleNamespace(find=self._site)
        self.operation = SimpleNamespace(get=self._operation)

    def read(self):
        return self

    def __enter__(self):
        return SimpleNamespace(resources=self.resources, operations=self.operation)

    def __exit__(self, *_):
        return None

    def _site(self, key):
        limit = self.sites.get(key.name)
        spec = {"maxBandwidth": limit, "bandwidthHours": self.hours}
        return None if limit is None else SimpleNamespace(spec=spec)

    def _operation(self, operation):
        limit = self.operations.get(operation)
        return SimpleNamespace(order={"maxBandwidth": limit}, plan={"target": {"site": A}})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bandwidth(rows, clock) -> Bandwidth:
    return Bandwidth(rows, clock)


def test_copies_of_one_site_share_its_limit(bandwidth):
    waits = [bandwidth.owed(A, ONE, 5 * MIB) for _ in range(2)]
    waits.append(bandwidth.to_target_of(ONE, 5 * MIB))
    assert waits == pytest.approx([0.25, 0.75, 1.25])
    assert bandwidth.owed(B, ONE, 5 * MIB) == 0


def test_operations_share_a_site_s_limit_however_many_disks_each_has(bandwidth, clock):
    """One copies four disks, one a single disk; both want all they can get."""
    passed = _raced(bandwidth, clock, {ONE: 4, THREE: 1}, seconds=60)
    assert passed[ONE] == pytest.approx(300 * MIB, rel=0.1)
    assert passed[THREE] == pytest.approx(300 * MIB, rel=0.1)


def test_what_one_operation_does_not_use_is_the_other_s(bandwidth, clock):
    passed = _raced(bandwidth, clock, {ONE: 2, TWO: 1}, seconds=60)
    assert passed[TWO] == pytest.approx(60 * MIB, rel=0.1)  # its own limit
    assert passed[ONE] == pytest.approx(540 * MIB, rel=0.1)


def _raced(bandwidth, clock, disks: dict[OperationId, int], seconds: float) -> Counter:
    """What each operation brought in that time, each disk a mebibyte after the other."""
    began, passed = clock.now, Counter()
    turns = [(began, n, who) for n, who in enumerate(w for w, c in disks.items() for _ in range(c))]
    heapq.heapify(turns)
    while turns[0][0] < began + seconds:
        clock.now, n, who = heapq.heappop(turns)
        passed[who] += MIB
        wait = bandwidth.owed(A, who, MIB)
        heapq.heappush(turns, (clock.now + max(wait, 0.001), n, who))
    return passed


def test_the_hours_of_a_site_hold_while_they_last(rows, clock):
    day = [datetime(2026, 11, 30, 6, 59, tzinfo=UTC)]  # a Monday; Paris is an hour ahead
    bandwidth = Bandwidth(rows, clock, lambda: day[0])
    rows.hours = [
        {"days": ["mon"], "from": "08:00", "to": "18:00", "maxBandwidth": 1.0 * MIB,
         "timeZone": "Europe/Paris"},
    ]  # fmt: skip
    assert bandwidth.owed(A, ONE, 5 * MIB) == pytest.approx(0.25)
    day[0] += timedelta(minutes=1)
    clock.now += 3600
    assert bandwidth.owed(A, ONE, 5 * MIB) == pytest.approx(4.75)
    day[0] += timedelta(hours=10)
    clock.now += 3600
    assert bandwidth.owed(A, ONE, 5 * MIB) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("at", "limit"),
    [
        ("2026-11-27T21:59", None),
        ("2026-11-27T22:00", 1.0),  # a Friday
        ("2026-11-28T05:59", 1.0),
        ("2026-11-28T06:00", None),
        ("2026-11-28T23:00", None),
    ],
)
def test_hours_over_midnight_belong_to_the_day_they_begin_on(at, limit):
    hours = read_hours([{"days": ["fri"], "from": "22:00", "to": "06:00", "maxBandwidth": 1.0}])
    assert limit_at(datetime.fromisoformat(f"{at}+00:00"), None, hours) == limit


def test_hours_follow_the_clock_of_their_zone_through_the_year():
    hours = read_hours(
        [{"from": "08:00", "to": "09:00", "maxBandwidth": 1.0, "timeZone": "Europe/Paris"}]
    )
    assert limit_at(datetime(2026, 7, 1, 6, 30, tzinfo=UTC), 5.0, hours) == 1.0
    assert limit_at(datetime(2026, 12, 1, 6, 30, tzinfo=UTC), 5.0, hours) == 5.0
    assert limit_at(datetime(2026, 12, 1, 7, 30, tzinfo=UTC), 0.5, hours) == 0.5


def test_a_zone_that_is_none_is_refused():
    with pytest.raises(Invalid, match="Europe/Paris"):
        read_hours([{"from": "08:00", "to": "09:00", "maxBandwidth": 1, "timeZone": "Mars/Base"}])


def test_the_narrower_limit_of_site_and_operation_holds(bandwidth):
    assert bandwidth.owed(A, TWO, 5 * MIB) == pytest.approx(4.75)
    assert bandwidth.owed(B, TWO, MIB) == pytest.approx(5.75)


def test_bytes_that_went_in_and_out_count_once_for_the_operation(bandwidth):
    """At both sites, each with its own limit; what goes straight through is one copy."""
    assert bandwidth.owed(B, TWO, MIB) == pytest.approx(0.75)
    assert bandwidth.owed(A, TWO, 5 * MIB, again=True) == pytest.approx(0.25)
    assert bandwidth.owed(B, TWO, MIB) == pytest.approx(1.75)


def test_idleness_saves_up_a_quarter_of_a_second_and_no_more(bandwidth, clock):
    bandwidth.owed(A, ONE, 10 * MIB)
    clock.now += 3600
    assert bandwidth.owed(A, ONE, 10 * MIB) == pytest.approx(0.75)


def test_a_changed_limit_meets_what_runs(bandwidth, rows, clock):
    bandwidth.owed(A, ONE, MIB)
    rows.sites[A] = 1.0 * MIB
    clock.now += 2
    assert bandwidth.owed(A, ONE, MIB) == pytest.approx(0.75)
    del rows.sites[A]
    clock.now += 2
    assert bandwidth.owed(A, ONE, 100 * MIB) == 0


def test_a_copy_that_is_told_to_stop_waits_no_longer(bandwidth):
    told = threading.Event()
    told.set()
    disk = Bytes(bytes(4096))
    pace = Pace(bandwidth, A, TWO, told)
    bandwidth.owed(A, TWO, 1000 * MIB)
    assert PacedReader(disk, pace).read(0, 4096) == bytes(4096)
    written = []
    writer = SimpleNamespace(size=1, write=lambda at, data: written.append((at, data)))
    PacedWriter(writer, pace).write(7, b"x")
    assert written == [(7, b"x")]
