"""Who may begin now, and that no bound is broken, nobody waits for nothing, nobody for ever."""

from collections import Counter
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.admission import Admission, Bounds
from controlplane.domain.ids import OperationId, ResourceId, SiteName, TenantName
from controlplane.planning.admission import judged, next_turn, place, to_begin

SITES = ("gra", "par", "lyo", "waw")
TENANTS = ("acme", "bolt", "coop")


def move(
    tenant: str = "acme", source: str = "gra", target: str = "par", turn: int = 1
) -> Admission:
    return Admission(
        operation=OperationId(uuid4()),
        move=ResourceId(uuid4()),
        tenant=TenantName(tenant),
        sites=(SiteName(source), SiteName(target)),
        turn=turn,
    )


moves = st.lists(
    st.builds(
        lambda tenant, sites: move(tenant, *sites),
        st.sampled_from(TENANTS),
        st.permutations(SITES).map(lambda found: found[:2]),
    ),
    max_size=40,
)
bounds = st.builds(
    Bounds,
    at_once=st.integers(1, 12),
    per_site=st.integers(1, 8),
    per_tenant=st.integers(1, 8),
    of_site=st.dictionaries(st.sampled_from(SITES).map(SiteName), st.integers(0, 6)),
)


def fits(running: list[Admission], limits: Bounds) -> bool:
    sites = Counter(site for each in running for site in each.sites)
    tenants = Counter(each.tenant for each in running)
    return (
        len(running) <= limits.at_once
        and all(count <= limits.per_tenant for count in tenants.values())
        and all(count <= limits.of_site.get(site, limits.per_site) for site, count in sites.items())
    )


@given(waiting=moves, limits=bounds)
def test_no_bound_is_broken_and_nobody_waits_who_could_begin(waiting, limits):
    chosen = set(to_begin([], waiting, limits))
    running = [each for each in waiting if each.operation in chosen]
    assert fits(running, limits)
    for each in waiting:
        if each.operation not in chosen:
            assert not fits([*running, each], limits)


@given(before=moves, waiting=moves, limits=bounds)
def test_what_runs_over_a_bound_that_was_lowered_goes_on_and_nobody_joins_it(
    before, waiting, limits
):
    """Whoever begins fits beside what runs, as far as the bounds that it touches go."""
    running = list(before)
    for each, why in judged(before, waiting, limits):
        if why:
            continue
        running.append(each)
        assert len(running) <= limits.at_once
        assert sum(a.tenant == each.tenant for a in running) <= limits.per_tenant
        for site in each.sites:
            there = sum(site in a.sites for a in running)
            assert there <= limits.of_site.get(site, limits.per_site)


@given(waiting=moves, limits=bounds)
def test_a_tenant_s_moves_between_the_same_sites_begin_in_the_order_in_which_they_wait(
    waiting, limits
):
    chosen = set(to_begin([], waiting, limits))
    held = set()
    for each in waiting:
        like = (each.tenant, frozenset(each.sites))
        assert not (like in held and each.operation in chosen)
        if each.operation not in chosen:
            held.add(like)


@given(asked=st.lists(st.sampled_from(TENANTS), max_size=60), reached=st.integers(0, 100))
def test_tenants_take_turns_however_much_each_of_them_asks_for(asked, reached):
    """As long as several wait, none of them is more than one move ahead of another."""
    line: list[tuple[int, int, str]] = []
    for number, tenant in enumerate(asked):
        turn = next_turn(reached, (turn for turn, _, of in line if of == tenant))
        line.append((turn, number, tenant))
    left, begun = Counter(asked), Counter()
    for _, _, tenant in sorted(line):
        begun[tenant] += 1
        left[tenant] -= 1
        still = [begun[each] for each in TENANTS if left[each]]
        assert not still or max(begun.values()) - min(still) <= 1


def test_a_stream_of_short_moves_does_not_keep_another_tenant_out_of_a_full_site():
    """Each time that its move ends bolt asks for two more; acme waits for the same place, once."""
    limits, reached = Bounds(per_site=1), 0
    waiting = [move("bolt", turn=1), move("bolt", turn=2), move("acme", turn=1)]
    begun: list[str] = []
    while "acme" not in begun and len(begun) < 10:
        waiting.sort(key=lambda each: each.turn)
        (chosen,) = to_begin([], waiting, limits)
        ran = next(each for each in waiting if each.operation == chosen)
        waiting.remove(ran)
        begun.append(ran.tenant)
        reached = max(reached, ran.turn)
        for _ in range(2):
            own = (each.turn for each in waiting if each.tenant == "bolt")
            waiting.append(move("bolt", turn=next_turn(reached, own)))
    assert begun == ["bolt", "acme"]


def test_a_full_site_holds_back_its_own_moves_only():
    limits = Bounds(of_site={SiteName("par"): 1})
    running = [move()]
    blocked, free = move(), move(source="gra", target="lyo")
    assert to_begin(running, [blocked, free], limits) == [free.operation]


def test_what_is_in_the_way_is_named():
    par = {SiteName("par"): 1}
    running = [move()]

    def why(limits: Bounds, each: Admission) -> str:
        return next(judged(running, [each], limits))[1]

    assert why(Bounds(of_site=par), move()) == "site par runs 1 of 1 moves"
    assert why(Bounds(of_site={SiteName("lyo"): 0}), move(target="lyo")) == (
        "site lyo takes no moves (its limit is 0)"
    )
    assert why(Bounds(per_tenant=1), move(source="lyo", target="waw")) == (
        "tenant acme runs 1 of 1 moves"
    )
    assert why(Bounds(at_once=1), move("bolt", "lyo", "waw")) == (
        "this control plane runs 1 of 1 moves"
    )
    assert why(Bounds(), move()) == ""


def test_a_place_is_told_in_words():
    assert place(3, 12, "site par runs 4 of 4 moves") == (
        "3rd of 12 waiting: site par runs 4 of 4 moves"
    )
    assert [place(n, 500, "x").split()[0] for n in (1, 2, 4, 11, 12, 13, 21, 111, 122)] == [
        "1st", "2nd", "4th", "11th", "12th", "13th", "21st", "111th", "122nd",
    ]  # fmt: skip
    assert place(1, 1, "").endswith("it is about to begin")
