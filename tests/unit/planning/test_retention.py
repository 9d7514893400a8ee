"""Retention keeps what its rules say, always the newest, and never takes a decision back."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import PointId
from controlplane.planning.retention import NEWEST, Policy, Taken, parse, verdicts

START = datetime(2026, 1, 1, tzinfo=UTC)
counts = st.integers(0, 5)
policies = st.builds(
    Policy, last=counts, hourly=counts, daily=counts, weekly=counts, monthly=counts, yearly=counts
)
moments = st.one_of(
    st.integers(0, 60 * 24 * 3),  # crowded: several an hour
    st.integers(0, 60 * 24 * 900),
).map(lambda minutes: START + timedelta(minutes=minutes))
taken = st.builds(Taken, point=st.uuids(version=4).map(PointId), at=moments)
histories = st.lists(taken, max_size=40, unique_by=lambda t: t.point)


def kept(points, policy, needed=None) -> set[PointId]:
    return {v.point for v in verdicts(points, policy, needed or {}) if v.keep}


def at(*moment: int) -> Taken:
    return Taken(point=PointId(uuid4()), at=datetime(*moment, tzinfo=UTC))


@given(histories, policies)
def test_the_newest_is_always_kept_and_every_point_is_judged_once(points, policy):
    judged = verdicts(points, policy, {})
    assert sorted(v.point for v in judged) == sorted(t.point for t in points)
    if points:
        newest = max(points, key=lambda t: (t.at, t.point))
        assert newest.point in kept(points, policy)
        assert NEWEST in judged[0].why


@given(histories, policies)
def test_what_was_kept_once_is_kept_when_asked_again(points, policy):
    first = kept(points, policy)
    assert kept([t for t in points if t.point in first], policy) == first


@given(histories, histories, policies)
def test_newer_points_never_bring_a_forgotten_one_back(points, more, policy):
    last = max((t.at for t in points), default=START)
    newer = [Taken(point=t.point, at=last + (t.at - START) + timedelta(seconds=1)) for t in more]
    forgotten = {t.point for t in points} - kept(points, policy)
    assert not forgotten & kept([*points, *newer], policy)


@given(histories, policies)
def test_all_rules_together_keep_what_each_keeps_alone(points, policy):
    alone = [kept(points, Policy(**{name: count})) for name, count in asdict(policy).items()]
    assert kept(points, policy) == set().union(*alone)


@given(histories, policies)
def test_no_more_are_kept_than_the_rules_count(points, policy):
    assert len(kept(points, policy)) <= max(sum(asdict(policy).values()), 1)
    if policy.last:
        assert len(kept(points, policy)) >= min(policy.last, len(points))


@given(histories, policies, st.data())
def test_what_is_needed_is_kept_and_changes_nothing_for_others(points, policy, data):
    needed = data.draw(st.sets(st.sampled_from([t.point for t in points]))) if points else set()
    reasons = {point: ["a retained copy equals it"] for point in needed} | {
        PointId(UUID(int=1)): ["not of this instance"]
    }
    assert kept(points, policy, reasons) == kept(points, policy) | needed


def test_buckets_are_of_utc_and_the_newest_of_each_wins():
    east = timezone(timedelta(hours=14))
    late = Taken(point=PointId(uuid4()), at=datetime(2026, 3, 2, 1, 0, tzinfo=east))  # 1 March
    early, noon, next_day = at(2026, 3, 1, 0, 5), at(2026, 3, 1, 12), at(2026, 3, 2, 3)
    points = [early, late, noon, next_day]
    assert kept(points, Policy(daily=2)) == {noon.point, next_day.point}
    assert kept(points, Policy(daily=1)) == {next_day.point}


def test_weeks_begin_on_monday_also_across_a_year():
    sunday, monday, new_year = at(2025, 12, 28), at(2025, 12, 29), at(2026, 1, 1)
    points = [sunday, monday, new_year]
    assert kept(points, Policy(weekly=9)) == {sunday.point, new_year.point}
    assert kept(points, Policy(yearly=9)) == {monday.point, new_year.point}


def test_reasons_say_which_rule_and_how_far():
    points = [at(2026, 3, day) for day in (1, 2, 3)]
    judged = verdicts(points, Policy(last=1, daily=2), {points[0].point: ["held"]})
    assert [v.why for v in judged] == [
        (NEWEST, "last 1 of 1", "daily 1 of 2"),
        ("daily 2 of 2",),
        ("held",),
    ]


@given(policies.filter(lambda policy: policy != Policy()))
def test_a_policy_reads_as_it_is_written(policy):
    assert parse(str(policy)) == policy


@pytest.mark.parametrize(
    "text",
    ["", "daily", "daily:", "daily:0", "daily:-1", "daily:x", "often:3", "daily:1,daily:2",
     "last:99999", "last:3;daily:7", "Last:3", "last:\uff13"],
)  # fmt: skip
def test_what_is_no_policy_is_refused_with_an_example(text):
    with pytest.raises(Invalid, match="last:3,daily:7"):
        parse(text)
