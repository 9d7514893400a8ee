"""A move breaks at each of its steps, over the wires of every kind of provider.

An instance goes to and fro between a site of the kind and another site. In each move just one call of
an activity fails for good, there and home: each of them after its effect, and those that change a
site before it, too. Wherever the instance is afterwards, the next move leaves from there.
`tests/workflows` shows the same in seconds at fake sites; this takes minutes for each kind.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import pytest
from temporalio.worker import ActivityInboundInterceptor, Interceptor

from controlplane.domain.artefact import ArtefactState, Found
from controlplane.domain.ids import SiteName
from controlplane.domain.resource import ResourceKey
from controlplane.domain.site import ProviderKind, SiteAccess
from controlplane.planning.provision import DiskWish
from controlplane.store.tx import Tx
from drivers.registry import connect
from drivers.simulators.faults import STEADY
from drivers.simulators.journal import Journal
from drivers.simulators.sites import EVERY, OPENSTACK, PROXMOX
from tests.e2e.census import census
from tests.e2e.images import MIB
from tests.e2e.shop import Shop
from tests.e2e.system import System, running, until
from tests.workflows.faults import Fault, FaultAt
from tests.workflows.running import Steps, counted
from workflows.activities import wishes

PARTS = 4  # each in minutes, and on a busy machine in the time that a test may take
_LONGEST = 240.0
_SOON = 10.0  # listings of the sites are stale for a moment after each change
_SWITCH = ("switch_home", 1)
_EFFECTS = {
    "set_power",
    "fence",
    "prepare_export",
    "release_export",
    "copy_beside",
    "pull_image",
    "push_image",
    "create_volume",
    "create_instance",
    "switch_home",
    "connect_nics",
    "give_up_nics",
    "remove",
}


class Breaks(Interceptor):
    """What is to break now, in a worker that is running already."""

    def __init__(self) -> None:
        self.now = _watch()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return self.now.intercept_activity(next)


def _watch() -> FaultAt:
    return FaultAt("none", 0, None)


@pytest.fixture(scope="module", params=EVERY)
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """A site of the kind, and another; nothing fails but what the test breaks."""
    kind = str(request.param)
    with running(STEADY, names=(kind, OPENSTACK if kind == PROXMOX else PROXMOX)) as made:
        made.pause = 0.2
        yield made


@pytest.fixture(scope="module")
def breaks(system: System) -> Breaks:
    made = Breaks()
    system.stop_worker()
    system.interceptors.append(made)
    system.start_worker()
    return made


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of 1 GB has 64 MiB, where a site has such: to read holes took most of the time."""
    wished = wishes._disk_wish

    def small(tx: Tx, key: ResourceKey) -> DiskWish:
        return replace(wished(tx, key), size=64 * MIB)

    monkeypatch.setattr(wishes, "_disk_wish", small)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_fault_at_any_step_of_a_move_leaves_nothing_unaccounted_for(
    shop: Shop, breaks: Breaks, part: int
) -> None:
    kind, other = shop.system.sites.described()
    away = {kind: other, other: kind}
    name = shop.instance(kind, image=shop.image(shop.file(size=32 * MIB, data=2 * MIB)))
    trial = Trial(shop, name, breaks)
    steps = {at: trial.steps(away[at]) for at in (kind, other)}
    left = {at: sorted(_cases(steps[at]), key=str)[part::PARTS] for at in steps}
    while any(left.values()):
        at = shop.home(name)
        if left[at]:
            step, fault = left[at].pop(0)
            trial.broken(away[at], FaultAt(*step, fault), _end(steps[at], step, fault))
        else:
            assert sorted(trial.steps(away[at])) == sorted(steps[at])


def _cases(steps: Steps) -> list[tuple[tuple[str, int], Fault]]:
    """Each step after its effect; and before it where an undo then finds nothing at a site."""
    after = product(steps, [Fault.AFTER])
    return [*after, *((step, Fault.BEFORE) for step in steps if step[0] in _EFFECTS)]


def _end(steps: Steps, step: tuple[str, int], fault: Fault) -> str:
    """How a move ends that breaks there."""
    begun, switched = steps.index(("take_lease", 1)), steps.index(_SWITCH)
    number = steps.index(step)
    if number > switched or (number == switched and fault is Fault.AFTER):
        return "succeeded"
    return "rolled-back" if number >= begun else "failed"


@dataclass
class Trial:
    """One instance, and what its sites have of it when nothing else is left: by its home."""

    shop: Shop
    name: str
    breaks: Breaks
    alone: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def steps(self, to: str) -> Steps:
        """The activities of a move there in which nothing breaks, as they ended."""
        before = self.shop.writing(self.name)
        watch = _watch()
        assert self._moved(to, watch) == "succeeded"
        self._finalized(before)
        assert _SWITCH in counted(watch.calls)
        return counted(watch.calls)

    def broken(self, to: str, fault: FaultAt, end: str) -> None:
        """A move in which that breaks, and which ends so."""
        at = self.shop.home(self.name)
        before = self.shop.writing(self.name)
        outcome = ""
        try:
            outcome = self._moved(to, fault)
            assert fault.hit
            assert outcome == end
            assert self.shop.home(self.name) == (to if end == "succeeded" else at)
            self._accounted()
            self._finalized(before)
        except BaseException as e:
            e.add_note(f"{fault.activity} {fault.nth} {fault.fault}; from {at}, {outcome}")
            raise

    def _moved(self, to: str, fault: FaultAt) -> str:
        """How the move ended; what needed attention is mended."""
        shop, system = self.shop, self.shop.system
        self.breaks.now = fault
        path = shop.unplanned(self.name, to)
        outcome = str(system.ended(path, _LONGEST)["outcome"])
        self.breaks.now = _watch()
        if outcome == "needs-attention":
            shop.http.post(f"{shop.move_path(shop.last_move)}/retry").raise_for_status()
            until(lambda: system.look(path)["status"]["outcome"] != outcome, f"{path} is mended")
            outcome = str(system.look(path)["status"]["outcome"])
        return outcome

    def _accounted(self) -> None:
        """Whatever carries a tag of ours is on record as something that has not gone."""
        for site in self.shop.system.sites.described():
            _becomes(partial(self._unaccounted, site), [])

    def _finalized(self, before: Journal) -> None:
        """It writes on at home and nowhere else, and then nothing but it is left anywhere."""
        shop, system = self.shop, self.shop.system
        shop.written_on(self.name, before)
        assert shop.power(self.name) == "on"
        running = system.sites.witness.running(before.identity.hex())
        assert [(run.site, run.native) for run in running] == [shop.native(self.name)]
        assert all(run.connected for run in running)
        system.done(shop.http.post(f"{shop.move_path(shop.last_move)}/finalize"))
        home = shop.home(self.name)
        for site in system.sites.described():
            _becomes(partial(self._retained, site), [])
            assert bool(self._owned(site)) == (site == home)
        usual = self.alone.setdefault(home, self._books())
        _becomes(self._books, usual)

    def _unaccounted(self, site: str) -> list[Found]:
        return self._owned_but(site, frozenset(ArtefactState) - {ArtefactState.RELEASED})

    def _retained(self, site: str) -> list[Found]:
        return self._owned_but(site, frozenset({ArtefactState.ATTACHED}))

    def _owned_but(self, site: str, states: frozenset[ArtefactState]) -> list[Found]:
        """What carries a tag of ours there, and is not on record in one of these states."""
        with self.shop.system.parts.store.read() as tx:
            known = {a.id for a in tx.artefacts.list(site=SiteName(site)) if a.state in states}
        return [each for each in self._owned(site) if each.owner.artefact not in known]

    def _books(self) -> dict[str, dict[str, int]]:
        sites = self.shop.system.sites
        return {site: census(sites, site) for site in sites.described()}

    def _owned(self, site: str) -> list[Found]:
        known = self.shop.system.sites.described()[site]
        access = SiteAccess(
            site=SiteName(site),
            provider=ProviderKind(known["provider"]),
            endpoint=known["endpoint"],
            secrets=known["credentials"],
            options=known["options"],
            pins=known["pins"],
        )
        with closing(connect(access)) as driver:
            return list(driver.owned())


def _becomes(look: Callable[[], object], wanted: object) -> None:
    with suppress(AssertionError):
        until(lambda: look() == wanted, "as it should be", _SOON, every=0.1)
    assert look() == wanted
