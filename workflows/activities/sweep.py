"""Finds what a site holds under our tags and no record accounts for."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio import activity

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState, Found
from controlplane.domain.ids import SiteName
from controlplane.domain.resource import Kind
from controlplane.store.engine import Store
from drivers.contract import Driver
from workflows.activities.records import operation_id
from workflows.activities.steps import Steps

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


def compare(
    found: tuple[Found, ...], recorded: tuple[Artefact, ...], now: datetime, settle: timedelta
) -> tuple[int, list[str], list[str]]:
    """How many are accounted for; what is there without a record; what is recorded and not there.

    An object whose creation is younger than the settle time may not be listed yet. Without a ref
    nothing was ever seen of it: its creation failed or its answer was lost.
    """
    kept = {a.id: a for a in recorded if a.state is not ArtefactState.RELEASED}
    here = {f.owner.artefact for f in found}
    strange = [f"{f.kind} {f.ref}" for f in found if f.owner.artefact not in kept]
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
    def __init__(
        self,
        store: Store,
        steps: Steps,
        connect: Callable[[SiteName], Driver],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._steps = steps
        self._connect = connect
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
            with meter.calling(), closing(self._connect(order.site)) as driver:
                found = tuple(driver.owned())
                settle = timedelta(seconds=driver.limits.settle_seconds)
            with self._store.read() as tx:
                recorded = tuple(tx.artefacts.list(site=order.site))
            accounted, strange, missing = compare(found, recorded, self._clock(), settle)
            return Swept(
                site=order.site,
                accounted=accounted,
                unaccounted=tuple(strange),
                missing=tuple(missing),
            )
