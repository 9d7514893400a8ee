"""Which of the moves that wait begin now, and what the others wait for. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from controlplane.domain.admission import Admission, Bounds
from controlplane.domain.ids import OperationId, SiteName, TenantName

_TEENS = range(11, 14)
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


class _Running:
    """What runs, counted against the bounds."""

    def __init__(self, bounds: Bounds, running: Iterable[Admission]) -> None:
        self._bounds = bounds
        self._all = 0
        self._tenants: Counter[TenantName] = Counter()
        self._sites: Counter[SiteName] = Counter()
        for each in running:
            self.add(each)

    def add(self, each: Admission) -> None:
        self._all += 1
        self._tenants[each.tenant] += 1
        self._sites.update(set(each.sites))

    def in_the_way(self, each: Admission) -> str:
        """The first bound that it would break, in words; empty without one."""
        bounds = self._bounds
        for site in each.sites:
            most = bounds.of_site.get(site, bounds.per_site)
            if self._sites[site] >= most:
                return f"site {site} {_full(self._sites[site], most)}"
        if self._tenants[each.tenant] >= bounds.per_tenant:
            runs = _full(self._tenants[each.tenant], bounds.per_tenant)
            return f"tenant {each.tenant} {runs}"
        if self._all >= bounds.at_once:
            return f"this control plane {_full(self._all, bounds.at_once)}"
        return ""


def judged(
    running: Iterable[Admission], waiting: Sequence[Admission], bounds: Bounds
) -> Iterator[tuple[Admission, str]]:
    """Each that waits, in its order, with what is in its way; nothing where it may begin now.

    Those that may begin are counted before the next is looked at. One that may not stands in
    nobody's way, so a full site or tenant holds back its own moves only.
    """
    counted = _Running(bounds, running)
    for each in waiting:
        why = counted.in_the_way(each)
        if not why:
            counted.add(each)
        yield each, why


def to_begin(
    running: Iterable[Admission], waiting: Sequence[Admission], bounds: Bounds
) -> list[OperationId]:
    """Those that may begin now, in the order in which they should."""
    return [each.operation for each, why in judged(running, waiting, bounds) if not why]


def next_turn(reached: int, of_tenant: Iterable[int]) -> int:
    """The turn of a tenant's next move, so that tenants take turns however much each asks for.

    `reached` is the highest turn that ever began, `of_tenant` are those of the tenant that wait.
    Turns never change and newcomers come after `reached`: nobody is overtaken for ever.
    """
    return max(reached, *of_tenant, 0) + 1


def place(position: int, of: int, why: str) -> str:
    """`3rd of 12 waiting: site par-pve runs 4 of 4 moves`; positions begin at 1."""
    ending = "th" if position % 100 in _TEENS else _ENDINGS.get(position % 10, "th")
    return f"{position}{ending} of {of} waiting: {why or 'it is about to begin'}"


def _full(runs: int, most: int) -> str:
    return f"runs {runs} of {most} moves" if most else "takes no moves (its limit is 0)"
