"""When another pass is worth it, and what stands before the cutover."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.disk import GIB, MIB
from controlplane.domain.operation import Decision
from controlplane.domain.plan import Cutover, PassPolicy
from controlplane.planning.passes import (
    COPYING,
    Gate,
    Next,
    PassDone,
    downtime,
    gate,
    in_turn,
    next_pass,
    rest,
)

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
SIZE = 4 * GIB
TRACKED = PassPolicy(
    warm=True, passes_max=8, budget=timedelta(seconds=2), tracked=True, seeded=True
)
UNTRACKED = PassPolicy(warm=True, passes_max=1, seeded=True)
FULL = PassDone(read=SIZE, reading=80.0, since=0.0, age=90.0)


def a_pass(read: int, *, reading: float, since: float, age: float) -> PassDone:
    return PassDone(read=read, reading=reading, since=since, age=age)


def test_after_the_full_copy_comes_a_pass_of_changes():
    assert rest(TRACKED, SIZE, [FULL]) is None
    assert next_pass(TRACKED, SIZE, [FULL]) is Next.PASS


def test_a_rest_that_fits_the_budget_is_the_last_pass():
    """90 MiB changed in 90 s; 2 s later that are 2 MiB, and took 5.4 s to read, write and prove."""
    quick = replace(a_pass(90 * MIB, reading=1.8, since=90.0, age=2.0), bringing=3.6)
    assert rest(TRACKED, SIZE, [FULL, quick]) == timedelta(seconds=0.12)
    assert next_pass(TRACKED, SIZE, [FULL, quick]) is Next.FINAL


def test_a_guest_that_writes_faster_than_it_is_copied_stalls_where_downtime_was_bounded():
    racing = a_pass(4 * GIB, reading=80.0, since=80.0, age=80.0)
    assert next_pass(TRACKED, SIZE, [FULL, racing]) is Next.PASS
    done = [FULL, racing, racing]
    assert next_pass(TRACKED, SIZE, done) is Next.FINAL
    assert next_pass(replace(TRACKED, limit=timedelta(seconds=60)), SIZE, done) is Next.STALLED
    assert next_pass(replace(TRACKED, limit=timedelta(seconds=90)), SIZE, done) is Next.FINAL


def test_passes_that_shrink_go_on():
    shrinking = [a_pass(GIB >> n, reading=20.0 / 2**n, since=20.0, age=20.0) for n in range(3)]
    assert next_pass(TRACKED, SIZE, [FULL, *shrinking]) is Next.PASS


def test_a_source_that_cannot_tell_its_changes_is_read_once_and_then_again_at_the_end():
    assert next_pass(UNTRACKED, SIZE, [FULL]) is Next.FINAL
    assert rest(UNTRACKED, SIZE, [FULL]) == timedelta(seconds=80)


def test_the_downtime_that_is_announced_is_what_a_pass_took_and_a_little():
    done = [PassDone(read=SIZE, reading=80.0, since=0.0, age=90.0, whole=95.0)]
    assert downtime(UNTRACKED, SIZE, done) == timedelta(seconds=105)
    assert downtime(TRACKED, SIZE, done) is None
    images_only = PassPolicy(warm=True, tracked=False, seeded=False)
    assert downtime(images_only, SIZE, done) == timedelta(seconds=265)


measured = st.builds(
    PassDone,
    read=st.integers(0, SIZE),
    reading=st.floats(0, 1e5),
    since=st.floats(0, 1e6),
    age=st.floats(0, 1e6),
    bringing=st.floats(0, 1e5),
)


@given(
    st.lists(measured, max_size=12),
    st.booleans(),
    st.sampled_from([None, 20.0]),
    st.sampled_from([None, 0.0, 5.0]),
)
def test_passes_end_and_the_rest_is_never_more_than_the_disk(done, tracked, limit, budget):
    policy = PassPolicy(
        warm=True, passes_max=8, tracked=tracked,
        limit=None if limit is None else timedelta(seconds=limit),
        budget=None if budget is None else timedelta(seconds=budget),
    )  # fmt: skip
    following = next_pass(policy, SIZE, done)
    if len(done) >= 8:
        assert following is not Next.PASS
    needed = rest(policy, SIZE, done)
    if needed is not None and tracked:
        changes = done[1:] or done
        taken = sum(p.reading + p.bringing for p in changes) / max(sum(p.read for p in changes), 1)
        assert needed <= timedelta(seconds=SIZE * taken + 0.001)


def test_bytes_that_take_long_to_bring_count_as_downtime_too():
    slow = replace(a_pass(90 * MIB, reading=1.8, since=90.0, age=60.0), bringing=1.8)
    assert next_pass(TRACKED, SIZE, [FULL, slow]) is Next.PASS
    assert next_pass(TRACKED, SIZE, [FULL, replace(slow, bringing=0.0)]) is Next.FINAL


@pytest.mark.parametrize(
    ("cutover", "following", "decision", "opens", "why"),
    [
        (Cutover(), Next.FINAL, Decision.NONE, True, ""),
        (Cutover(), Next.PASS, Decision.CUTOVER, False, COPYING),
        (Cutover(), Next.FINAL, Decision.HOLD, False, "on hold"),
        (Cutover(manual=True), Next.FINAL, Decision.NONE, False, "when you wish"),
        (Cutover(manual=True), Next.FINAL, Decision.CUTOVER, True, ""),
        (Cutover(), Next.STALLED, Decision.NONE, False, "faster than"),
        (Cutover(), Next.STALLED, Decision.CUTOVER, True, ""),
        (Cutover(not_before=NOON + timedelta(minutes=1)), Next.FINAL, Decision.CUTOVER, False, "may begin"),
        (Cutover(not_before=NOON), Next.FINAL, Decision.NONE, True, ""),
    ],
)  # fmt: skip
def test_what_stands_before_the_cutover(cutover, following, decision, opens, why):
    policy = PassPolicy(warm=True, cutover=cutover)
    answer = gate(policy, following, decision, NOON)
    assert answer.open is opens
    assert why in answer.why
    assert not answer.missed
    assert timedelta(0) < answer.look_again <= timedelta(minutes=10)


def test_a_window_that_has_passed_stays_shut_for_everybody():
    policy = PassPolicy(warm=True, cutover=Cutover(not_after=NOON - timedelta(seconds=1)))
    answer = gate(policy, Next.FINAL, Decision.CUTOVER, NOON)
    assert (answer.open, answer.missed) == (False, True)


@pytest.mark.parametrize(
    ("decision", "others", "opens"),
    [
        (Decision.NONE, 3, True),
        (Decision.NONE, 4, False),
        (Decision.NONE, 9, False),
        (Decision.CUTOVER, 9, True),
    ],
)
def test_a_cutover_waits_for_its_turn_unless_a_person_says_now(decision, others, opens):
    answer = in_turn(Gate(open=True), decision, others, 4)
    assert answer.open is opens
    assert answer.turn is not opens
    assert opens or f"{others} other moves are being cut over" in answer.why


def test_a_gate_that_is_shut_stays_as_it_is():
    shut = Gate(open=False, why="it is on hold")
    assert in_turn(shut, Decision.NONE, 9, 4) == shut
