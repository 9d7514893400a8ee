"""Finds what a site holds unaccounted for under our tags, and releases it on command."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from temporalio import activity

from controlplane.domain.answer import Absent, Unknown
from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState, Found
from controlplane.domain.errors import Conflict, Unavailable
from controlplane.domain.ids import ArtefactId, SiteName
from controlplane.domain.orphan import Orphan
from controlplane.domain.resource import Json, Kind
from controlplane.services.orphans import check_unclaimed
from controlplane.store.engine import Store
from workflows.activities.records import operation_id
from workflows.activities.removal import delete
from workflows.activities.steps import Steps
from workflows.connections import Connect
from workflows.failures import NotYet

_LASTING = frozenset({ArtefactKind.INSTANCE, ArtefactKind.VOLUME})


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSite:
    operation: str
    site: SiteName


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one site holds. `unaccounted` is there without a record; `missing` the other way."""

    site: SiteName
    accounted: int
    unaccounted: tuple[str, ...]
    missing: tuple[str, ...]

    def shown(self) -> dict[str, object]:
        return {
            "site": self.site,
            "accounted": self.accounted,
            "unaccounted": list(self.unaccounted),
            "missing": list(self.missing),
        }


def orphaned(found: tuple[Found, ...], recorded: tuple[Artefact, ...]) -> tuple[Found, ...]:
    """What is there without a record."""
    kept = {a.id for a in recorded if a.state is not ArtefactState.RELEASED}
    return tuple(f for f in found if f.owner.artefact not in kept)


def compare(
    found: tuple[Found, ...], recorded: tuple[Artefact, ...], now: datetime, settle: timedelta
) -> tuple[int, list[str], list[str]]:
    """How many are accounted for; what is there without a record; what is recorded and not there.

    An object whose creation is younger than the settle time may not be listed yet. Without a ref
    nothing was ever seen of it: its creation failed or its answer was lost.
    """
    kept = {a.id: a for a in recorded if a.state is not ArtefactState.RELEASED}
    here = {f.owner.artefact for f in found}
    strange = [f"{f.kind} {f.ref}" for f in orphaned(found, recorded)]
    missing = [
        f"{a.kind} {a.ref or a.id}"
        for a in kept.values()
        if a.kind in _LASTING
        and a.id not in here
        and a.ref is not None
        and a.state is not ArtefactState.INTENDED
        and (a.created_at is None or now - a.created_at > settle)
    ]
    return len(found) - len(strange), strange, missing


class SweepActivities:
    """`look` opens a driver even for a frozen site, which `connect` refuses."""

    def __init__(
        self,
        store: Store,
        steps: Steps,
        connect: Connect,
        look: Connect,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._steps = steps
        self._connect = connect
        self._look = look
        self._clock = clock

    @activity.defn(no_thread_cancel_exception=True)
    def sites_to_sweep(self, operation: str) -> list[SiteName]:
        """The operation's site, or all of them."""
        with self._store.read() as tx:
            op = tx.operations.get(operation_id(operation))
            one = tx.resources.find_id(op.subject)
            if one is not None:
                return [SiteName(one.key.name)]
            return [SiteName(s.key.name) for s in tx.resources.list(Kind.SITE, limit=10_000)]

    @activity.defn(no_thread_cancel_exception=True)
    def sweep_site(self, order: SweepSite) -> Swept:
        op_id = operation_id(order.operation)
        with self._steps.step(op_id, f"sweep {order.site}") as meter:
            with meter.calling(), self._look(order.site) as driver:
                found = tuple(driver.owned())
                settle = timedelta(seconds=driver.limits.settle_seconds)
            now = self._clock()
            with self._store.begin() as tx:
                recorded = tuple(tx.artefacts.list(site=order.site))
                tx.orphans.replace(order.site, orphaned(found, recorded), now)
            accounted, strange, missing = compare(found, recorded, now, settle)
            return Swept(
                site=order.site,
                accounted=accounted,
                unaccounted=tuple(strange),
                missing=tuple(missing),
            )

    @activity.defn(no_thread_cancel_exception=True)
    def release_orphan(self, operation: str) -> None:
        """One object of the last report goes, if it is still as reported; gone already is fine.

        Conflict when it changed, runs, or has become somebody's since.
        """
        op_id = operation_id(operation)
        with self._steps.step(op_id, "release") as meter:
            with self._store.read() as tx:
                op = tx.operations.get(op_id)
                site = SiteName(tx.resources.by_id(op.subject).key.name)
                artefact = ArtefactId(UUID(str(op.order["artefact"])))
                orphan = tx.orphans.find(site, artefact)
            with meter.calling(), self._connect(site) as driver:
                here = [f for f in driver.owned() if _touches(f, op.order)]
                _check_same(here, orphan, f"{op.order['kind']} {op.order['ref']} at {site}")
                if orphan is None:
                    return
                with self._store.read() as tx:
                    check_unclaimed(tx, orphan)
                gone = delete(driver, orphan.found.kind, orphan.found.owner)
                if isinstance(gone, Unknown):
                    raise Unavailable(f"{site} cannot tell whether it is gone: {gone.why}")
                if not isinstance(gone, Absent):
                    raise NotYet(f"{site} is deleting the {orphan.found.kind}")
            with self._store.begin() as tx:
                tx.orphans.forget(orphan)


def _check_same(here: list[Found], orphan: Orphan | None, what: str) -> None:
    """Conflict unless what is there, if anything, is what was reported, and does not run."""
    if here and (orphan is None or len(here) > 1 or not _same(here[0], orphan.found)):
        raise Conflict(
            f"{what} is not as the last sweep reported it, nothing was deleted:"
            " sweep again and look (fedctl orphans list)"
        )
    if here and here[0].power_on:
        raise Conflict(f"{what} runs, nothing was deleted: look whose it is and stop it there")


def _touches(found: Found, order: Json) -> bool:
    """It carries the tag, or the ref, of what is to be released."""
    if str(found.owner.artefact) == order["artefact"]:
        return True
    return (found.kind.value, found.ref) == (order["kind"], order["ref"])


def _same(found: Found, reported: Found) -> bool:
    return (found.owner, found.kind, found.ref) == (reported.owner, reported.kind, reported.ref)
