"""Snapshots of a group are asked for so that their moments lie close; what is said of them is true."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.finding import Severity
from controlplane.domain.ids import InstanceId, SiteName
from controlplane.domain.site import Capability
from controlplane.domain.vault import Moment
from controlplane.planning.grouping import (
    AT_ONCE,
    LONGEST,
    SECONDS,
    Candidate,
    Manner,
    Order,
    manner,
    may_copy,
    order,
    refusals,
    spread,
    too_long,
    usual,
)

BEGAN = datetime(2026, 11, 30, tzinfo=UTC)
SITES = (SiteName("north"), SiteName("south"), SiteName("west"))


def candidate(number: int, site: SiteName = SITES[0], **more: object) -> Candidate:
    given = {
        "instance": InstanceId(UUID(int=number)), "name": f"web-{number}", "site": site,
        "manner": Manner.LIVE, **more,
    }  # fmt: skip
    return Candidate(**given)  # type: ignore[arg-type]


@st.composite
def groups(draw: st.DrawFn) -> list[Candidate]:
    at_once = {site: draw(st.none() | st.integers(1, 4)) for site in SITES}
    sites = draw(st.lists(st.sampled_from(SITES), min_size=1, max_size=14))
    return [
        candidate(n, site, at_once=at_once[site], seconds=draw(st.none() | st.floats(0.001, 60)))
        for n, site in enumerate(sites)
    ]


def seconds(members: list[Candidate]) -> dict[InstanceId, float]:
    return {m.instance: SECONDS if m.seconds is None else m.seconds for m in members}


def bounds(planned: Order, took: dict[InstanceId, float]) -> list[tuple[float, float]]:
    return [
        (ask.after.total_seconds(), ask.after.total_seconds() + took[ask.instance])
        for lane in planned.lanes
        for ask in lane.asks
    ]


@given(groups())
def test_each_is_asked_for_once_and_no_site_for_more_than_it_takes(members) -> None:
    planned, took = order(members), seconds(members)
    asked = Counter(ask.instance for lane in planned.lanes for ask in lane.asks)
    assert asked == Counter(m.instance for m in members)
    homes = {m.instance: m.site for m in members}
    assert all(homes[a.instance] == lane.site for lane in planned.lanes for a in lane.asks)
    lanes = Counter(lane.site for lane in planned.lanes)
    for member in members:
        assert lanes[member.site] <= (member.at_once or AT_ONCE)
    for lane in planned.lanes:
        for before, after in zip(lane.asks, lane.asks[1:], strict=False):
            waited = (after.after - before.after).total_seconds()
            assert waited == pytest.approx(took[before.instance], abs=1e-5)
    assert min(a.after for lane in planned.lanes for a in lane.asks) == timedelta()


@given(groups())
def test_no_two_may_lie_further_apart_than_was_expected(members) -> None:
    planned = order(members)
    known = bounds(planned, seconds(members))
    apart = [
        late[1] - early[0]
        for n, early in enumerate(known)
        for m, late in enumerate(known)
        if n != m
    ]
    assert planned.expected.total_seconds() == pytest.approx(max(apart, default=0.0), abs=1e-5)


@given(groups())
def test_it_is_never_worse_than_asking_all_lanes_at_once(members) -> None:
    planned, took = order(members), seconds(members)
    at_once = [
        (a.after - lane.asks[0].after, took[a.instance])
        for lane in planned.lanes
        for a in lane.asks
    ]
    naive = [(after.total_seconds(), after.total_seconds() + s) for after, s in at_once]
    apart = [
        late[1] - early[0]
        for n, early in enumerate(naive)
        for m, late in enumerate(naive)
        if n != m
    ]
    assert planned.expected.total_seconds() <= max(apart, default=0.0) + 1e-5


def test_what_is_quick_is_asked_for_in_the_middle_of_what_is_slow() -> None:
    planned = order([candidate(1, seconds=10.0), candidate(2, SITES[1], seconds=1.0)])
    assert {
        a.instance.int: a.after.total_seconds() for lane in planned.lanes for a in lane.asks
    } == {
        1: 0.0,
        2: 4.5,
    }
    assert planned.expected == timedelta(seconds=5.5)


def test_a_site_that_takes_one_at_a_time_is_asked_one_after_another() -> None:
    (lane,) = order([candidate(n, seconds=float(n), at_once=1) for n in (1, 2, 3)]).lanes
    assert [(a.instance.int, a.after.total_seconds()) for a in lane.asks] == [
        (3, 0.0),
        (2, 3.0),
        (1, 5.0),
    ]


def test_one_instance_has_no_spread_however_long_its_site_takes() -> None:
    assert order([candidate(1, seconds=60.0)]).expected == timedelta()
    assert spread([Moment(asked=BEGAN, answered=BEGAN + timedelta(minutes=1))]) == timedelta()
    assert spread([]) == timedelta()


moments = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**8), st.floats(0, 1)),
    min_size=1,
    max_size=8,
)


@given(moments)
def test_wherever_a_moment_lay_the_spread_is_no_larger_than_what_is_said(drawn) -> None:
    known, actual = [], []
    for asked, length, where in drawn:
        since = BEGAN + timedelta(microseconds=asked)
        known.append(Moment(asked=since, answered=since + timedelta(microseconds=length)))
        actual.append(since + timedelta(microseconds=int(length * where)))
    said = spread(known)
    assert max(actual) - min(actual) <= said
    if len(known) > 1:
        # And no smaller number would be true: two may lie at the ends of what is known of them.
        assert any(
            late.answered - early.asked == said
            for n, early in enumerate(known)
            for m, late in enumerate(known)
            if n != m
        )


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({Capability.SNAPSHOTS, Capability.DISK_EXPORT}, Manner.LIVE),
        ({Capability.DISK_EXPORT}, Manner.STOPPED),
        ({Capability.SNAPSHOTS}, Manner.NONE),
    ],
)
def test_only_what_is_copied_while_it_runs_is_taken(able, expected) -> None:
    assert manner(able) is expected
    told = refusals([candidate(1), candidate(2, manner=expected)])
    assert len(told) == (expected is not Manner.LIVE)
    assert all(line.subject == "web-2" and "north" in line.evidence for line in told)
    assert all(line.severity is Severity.BLOCKER and line.remedy for line in told)


def test_one_without_a_disk_is_not_taken() -> None:
    (told,) = refusals([candidate(1, disks=0)])
    assert (told.id, told.subject) == ("SRC07", "web-1")
    assert "north" in told.evidence


def test_the_disks_of_one_instance_may_be_as_far_apart_as_its_snapshot_takes() -> None:
    """Several providers take one after another, within the call."""
    long = Moment(asked=BEGAN, answered=BEGAN + timedelta(seconds=10))
    short = Moment(asked=BEGAN + timedelta(seconds=4), answered=BEGAN + timedelta(seconds=5))
    assert spread([long, short]) == timedelta(seconds=6)
    assert spread([long, long, short]) == spread([long, long]) == timedelta(seconds=10)
    assert order([candidate(1, seconds=10.0, disks=2)]).expected == timedelta(seconds=10)


def test_a_group_that_would_be_held_for_too_long_is_told_where_and_what_to_do() -> None:
    one = LONGEST.total_seconds() / 10
    many = [candidate(n, seconds=one, at_once=1) for n in range(12)]
    assert too_long(order(many[:11])) == too_long(order([])) == ""
    told = too_long(order([*many, candidate(20, SITES[1], seconds=one)]))
    assert "north" in told
    assert "--max-snapshots" in told
    assert too_long(order([candidate(n, seconds=one, at_once=2) for n in range(12)])) == ""
    assert too_long(order([candidate(1, seconds=1.2 * LONGEST.total_seconds())])) == "", "alone"


def test_what_took_long_once_keeps_nobody_waiting() -> None:
    assert usual([]) is None
    assert usual([30.0]) == 30.0
    assert usual([0.5, 30.0, 0.7]) == 0.5
    assert usual([20.0, 30.0, 25.0, 0.5]) == 20.0, "it is slow now"


def test_a_first_snapshot_that_copied_whole_disks_tells_nothing_of_the_next() -> None:
    hours = 2 * 3600.0
    assert usual([hours]) is None
    assert usual([hours, 3.0]) == 3.0
    members = [candidate(1, seconds=usual([hours])), candidate(2, SITES[1], seconds=1.0)]
    assert too_long(order(members)) == ""


@given(
    st.lists(st.sampled_from(SITES), max_size=30), st.integers(1, 6), st.integers(1, 4), st.data()
)
def test_every_disk_gets_its_turn_and_no_more_go_than_may(disks, most, at_a_site, data) -> None:
    waiting, going = list(disks), []
    while waiting or going:
        begin = [s for s in waiting if may_copy(s, going, most=most, at_a_site=at_a_site)]
        assert going or begin, "somebody may always go on"
        if begin:
            site = data.draw(st.sampled_from(begin))
            waiting.remove(site)
            going.append(site)
        else:
            going.remove(data.draw(st.sampled_from(going)))
        assert len(going) <= most
        assert max(Counter(going).values(), default=0) <= at_a_site
