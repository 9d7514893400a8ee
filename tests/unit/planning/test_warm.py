"""Which moves are warm, and what a plan says of their downtime."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controlplane.domain.disk import GIB, MIB
from controlplane.domain.finding import Severity
from controlplane.domain.ids import RegionName, SiteName
from controlplane.domain.plan import Method
from controlplane.domain.site import (
    Capability,
    Catalogue,
    Changes,
    ProviderKind,
    QuotaSeen,
    SiteFacts,
)
from controlplane.planning.warm import BUDGET, WarmWish, policy, times
from drivers.fake.driver import LIMITS

ALL = frozenset(Capability)


def site(
    name: str, *, changes: Changes = Changes.TOLD, without: Capability | None = None
) -> SiteFacts:
    return SiteFacts(
        site=SiteName(name), provider=ProviderKind.FAKE, region=RegionName("eu-fr"),
        capabilities=ALL - {without}, limits=replace(LIMITS, changes=changes),
        catalogue=Catalogue(), quota=QuotaSeen(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "without", "warm"),
    [
        (Changes.TOLD, None, True),
        (Changes.UNTOLD, None, True),
        (Changes.WHILE_ALIVE, Capability.DISK_IMPORT, True),
        # It would read all of it at the cutover and import all of it: warm saves nothing.
        (Changes.UNTOLD, Capability.DISK_IMPORT, False),
    ],
)
def test_a_move_is_warm_where_that_saves_downtime(changes, without, warm):
    chosen, found = policy(
        site("a", changes=changes), site("b", without=without), WarmWish(), runs=True
    )
    assert chosen.warm is warm
    assert all(f.severity is Severity.INFO for f in found)
    if warm:
        assert chosen.tracked is (changes is not Changes.UNTOLD)
        assert chosen.seeded is (without is None)
        assert chosen.budget == (BUDGET if chosen.tracked else None)


def test_what_is_off_or_wished_cold_is_moved_cold():
    assert not policy(site("a"), site("b"), WarmWish(), runs=False)[0].warm
    assert not policy(site("a"), site("b"), WarmWish(method=Method.COLD), runs=True)[0].warm


def test_a_site_that_cannot_snapshot_blocks_a_warm_move_and_nothing_else():
    source = site("a", without=Capability.SNAPSHOTS)
    assert not policy(source, site("b"), WarmWish(), runs=True)[0].warm
    _, found = policy(source, site("b"), WarmWish(method=Method.WARM), runs=True)
    assert [(f.id, f.severity) for f in found] == [("SRC05", Severity.BLOCKER)]


@pytest.mark.parametrize(
    ("agent", "severity", "words"),
    [
        (True, Severity.INFO, "its agent answers"),
        (None, Severity.INFO, "could not be seen"),
        (False, Severity.WARNING, "no agent answers"),
    ],
)
def test_a_guest_to_be_paused_is_warned_of_when_no_agent_answers_in_it(agent, severity, words):
    source = site("a", changes=Changes.WHILE_ALIVE)
    _, found = policy(source, site("b"), WarmWish(), runs=True, agent=agent)
    assert [(f.id, f.severity) for f in found] == [("GST10", severity)]
    assert words in found[0].evidence
    assert bool(found[0].remedy) is (severity is Severity.WARNING)


def test_the_budget_follows_the_downtime_that_is_allowed():
    wish = WarmWish(method=Method.WARM, max_downtime=timedelta(seconds=60))
    chosen, _ = policy(site("a"), site("b"), wish, runs=True)
    assert (chosen.limit, chosen.budget) == (timedelta(seconds=60), BUDGET)
    images = site("b", without=Capability.DISK_IMPORT)
    assert policy(site("a"), images, wish, runs=True)[0].limit == timedelta(seconds=20)
    tight = WarmWish(method=Method.WARM, max_downtime=timedelta(seconds=0.5))
    assert policy(site("a"), site("b"), tight, runs=True)[0].budget == timedelta(seconds=0.5)


def test_downtime_is_told_for_what_it_is():
    """Least where changes are told and the target follows, most where it is cold and by an image."""
    rate, size = 50 * MIB, 4 * GIB
    downs = [
        times(policy(site("a", changes=c), site("b", without=w), WarmWish(method=m), runs=True)[0],
              size, rate, 20.0).downtime
        for c, w, m in (
            (Changes.TOLD, None, None),
            (Changes.UNTOLD, None, None),
            (Changes.TOLD, None, Method.COLD),
            (Changes.TOLD, Capability.DISK_IMPORT, None),
            (Changes.TOLD, Capability.DISK_IMPORT, Method.COLD),
        )
    ]  # fmt: skip
    assert downs == sorted(downs)
    assert downs[1] > size / rate
