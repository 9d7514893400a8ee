"""When a move may go straight from source to target, and what its plan says of it."""

from dataclasses import replace

import pytest

from controlplane.domain.disk import GIB
from controlplane.domain.finding import Severity, blocking
from controlplane.domain.ids import ArtefactId, PointId
from controlplane.domain.instance import Power
from controlplane.domain.plan import Cutover, Method
from controlplane.domain.site import Capability
from controlplane.planning import course
from controlplane.planning.differences import as_agreed
from controlplane.planning.facts import MoveFacts, MoveWish
from controlplane.planning.move import move
from controlplane.planning.reuse import Kept
from tests.unit.planning.test_move import FACTS, found

DIRECT = MoveWish(method=Method.DIRECT)


def blockers(facts: MoveFacts, wish: MoveWish = DIRECT) -> list[tuple[str, str]]:
    return [(each.id, each.subject) for each in blocking(move(facts, wish).findings)]


def test_it_is_cold_and_says_what_it_keeps_nothing_for() -> None:
    plan = move(FACTS, DIRECT)
    assert not blocking(plan.findings)
    assert (plan.passes.method, plan.passes.warm) == (Method.DIRECT, False)
    assert [each.severity for each in found(plan, "PTH10")] == [Severity.INFO]
    assert not found(move(FACTS, MoveWish()), "PTH10")


@pytest.mark.parametrize("lacking", [Capability.DISK_IMPORT, Capability.DISK_EXPORT])
def test_both_sites_must_be_able(lacking: Capability) -> None:
    facts = FACTS
    if lacking is Capability.DISK_IMPORT:
        less = replace(facts.target, capabilities=facts.target.capabilities - {lacking})
        assert blockers(replace(facts, target=less)) == [("PTH09", less.site)]
        assert blockers(replace(facts, target=less), MoveWish()) == []
    else:
        less = replace(facts.source, capabilities=facts.source.capabilities - {lacking})
        assert blockers(replace(facts, source=less)) == [("SRC01", less.site)]


@pytest.mark.parametrize("cutover", [Cutover(manual=True), Cutover(not_after=FACTS.now)])
def test_it_waits_for_no_cutover(cutover: Cutover) -> None:
    assert blockers(FACTS, replace(DIRECT, cutover=cutover)) == [("PTH09", "cutover")]


def test_a_kept_copy_is_not_built_on() -> None:
    assert FACTS.seen is not None
    kept = Kept(
        copy=ArtefactId(FACTS.instance), was_home=True, holds=PointId(FACTS.instance), stands=True,
        seen=FACTS.seen,
    )  # fmt: skip
    plan = move(replace(FACTS, kept=kept), DIRECT)
    assert plan.target.reuse is None
    [why] = found(plan, "RET06")
    assert "makes no recovery point" in why.evidence


@pytest.mark.parametrize("method", [Method.COLD, Method.DIRECT])
def test_each_byte_goes_over_twice_instead_of_three_times(method: Method) -> None:
    """Where the target's disks can be written to while the source is read, by the vault or not."""
    assert FACTS.seen is not None
    large = replace(FACTS.seen, disks=(replace(FACTS.seen.disks[0], size=400 * GIB),))
    whole = FACTS.target.capabilities - {Capability.DISK_IMPORT}
    facts = replace(FACTS, seen=large)
    by_image = replace(facts, target=replace(FACTS.target, capabilities=whole))
    here = move(facts, MoveWish(method=method)).estimate
    there = move(by_image, MoveWish(method=Method.COLD)).estimate
    calls = course.PROVIDER_CALLS_SECONDS
    assert here.seconds - calls == pytest.approx((there.seconds - calls) * 2 / 3, abs=1)
    assert here.downtime_seconds < there.downtime_seconds


def test_a_copy_that_stayed_takes_changes_only() -> None:
    assert FACTS.seen is not None
    assert move(FACTS, MoveWish(method=Method.COLD)).passes.beside
    kept = Kept(
        copy=ArtefactId(FACTS.instance), was_home=True, holds=PointId(FACTS.instance), stands=True,
        seen=replace(FACTS.seen, power=Power.OFF),
    )  # fmt: skip
    for method in (Method.COLD, Method.WARM):
        plan = move(replace(FACTS, kept=kept), MoveWish(method=method))
        assert plan.target.reuse is not None
        assert not plan.passes.beside


def test_who_agreed_to_one_way_did_not_agree_to_the_other() -> None:
    agreed, now = move(FACTS, MoveWish()), move(FACTS, DIRECT)
    assert [each.id for each in blocking(as_agreed(agreed, now).findings)] == ["PLN01"]
