"""What happens by itself: retained copies expire, sites are swept, vault and events are tidied."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import FedctlError
from controlplane.domain.ids import ResourceId, TenantName
from controlplane.domain.kinds import facts
from controlplane.domain.operation import OperationKind
from controlplane.domain.resource import Kind
from controlplane.services.checks import begin_scheduled, last_scheduled
from controlplane.services.freezing import FROZEN
from controlplane.services.record import start, start_bare
from controlplane.services.sites import ALL_SITES, EVERYWHERE, site_list
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from controlplane.vault.vault import Vault
from workflows.retaining import forget_by_retention
from workflows.rounds import rounds

_log = logging.getLogger(__name__)

CALLER = Caller(subject="fedctl", tenant=TenantName("@system"), request="housekeeping")
HOLDING = timedelta(hours=1)
LEFT_UPLOADS = timedelta(days=1)  # no upload goes on for so long
RETAIN_EVERY = timedelta(minutes=5)
_FIRST_CHECK = timedelta(hours=1)
EVENTS_KEPT = 200_000  # so far back may a listener go on where it was
_KEY = facts(Kind.SITE).key(ALL_SITES, None, None)


def finalize_expired(tx: Tx, now: datetime) -> int:
    """A finalize operation for each instance with expired retained copies and no other work.

    What lies at a frozen site expires once that was surveyed.
    """
    frozen = {site.key.name for site in site_list(tx) if site.status.get(FROZEN)}
    due: dict[UUID, str] = {}
    for artefact in tx.artefacts.list(states={ArtefactState.RETAINED}):
        if artefact.site in frozen:
            continue
        if artefact.expires_at is not None and artefact.expires_at <= now:
            due.setdefault(artefact.instance, now.isoformat())
    begun = 0
    for instance, until in due.items():
        found = tx.resources.find_id(ResourceId(instance))
        if found is not None and tx.operations.open_for(found.id) is None:
            order = {"expiredAt": until}
            start(tx, CALLER, OperationKind.FINALIZE, found, now=now, order=order)
            begun += 1
    return begun


def sweep_all(tx: Tx, now: datetime) -> None:
    """The scheduled sweep of all sites, unless one runs."""
    if tx.operations.open_for(EVERYWHERE) is None:
        start_bare(tx, CALLER, OperationKind.SWEEP, EVERYWHERE, _KEY, now=now)


def check_vault(tx: Tx, now: datetime, every: timedelta, share: float, *, since: datetime) -> None:
    """The scheduled check of a sample, when the last one began so long ago and none runs.

    The first of all begins an hour after `since`, when this worker began.
    """
    last = last_scheduled(tx)
    due = since + min(every, _FIRST_CHECK) if last is None else last + every
    if now >= due:
        begin_scheduled(tx, CALLER, share, now)


class Housekeeping:
    """Runs beside a worker. `sweep_every` and `look_every` are times between rounds.

    Every `check_every` (zero: never) another sample of `check_share` of the vault is read back:
    after `check_every` / `check_share` all of it was.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        clock: Callable[[], datetime],
        *,
        sweep_every: timedelta = timedelta(hours=6),
        look_every: timedelta = timedelta(minutes=1),
        check_every: timedelta = timedelta(0),
        check_share: float = 0.01,
    ) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._sweep_every = sweep_every
        self._look_every = look_every
        self._check_every = check_every
        self._check_share = check_share
        self._began = self._swept = self._retained = clock()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what fails is tried again in the next round."""
        await rounds(stop, self._look_every, lambda: asyncio.to_thread(self.look))

    def look(self) -> None:
        """One round."""
        try:
            self._round()
        except FedctlError as error:
            _log.warning("housekeeping waits: %s", error)

    def _round(self) -> None:
        now = self._clock()
        sweep = now - self._swept >= self._sweep_every
        with self._store.begin() as tx:
            finalize_expired(tx, now)
            tx.events.prune(EVENTS_KEPT)
            if sweep:
                sweep_all(tx, now)
                self._swept = now
            if self._check_every:
                check_vault(tx, now, self._check_every, self._check_share, since=self._began)
        if sweep:
            self._tidy_store()
        if now - self._retained >= RETAIN_EVERY:
            self._retained = now
            self._forget()
        collected = self._vault.collect(holding=HOLDING)
        if collected.deleted:
            _log.info("the vault freed %d packs", collected.deleted)
        if collected.locked:
            _log.warning(
                "%d packs are not needed any more and stay: %s",
                collected.locked,
                collected.why_locked,
            )

    def _tidy_store(self) -> None:
        if unknown := self._vault.unknown_packs():
            _log.warning("%d packs in the vault's store are on no record: they stay", len(unknown))
        try:
            if swept := self._vault.sweep(older=LEFT_UPLOADS):
                _log.info("the vault's store was freed of %d uploads that never ended", swept)
        except FedctlError as error:
            _log.warning("uploads that never ended may take room in the vault's store: %s", error)

    def _forget(self) -> None:
        forgotten = forget_by_retention(self._store, self._vault, CALLER, self._clock)
        if forgotten:
            _log.info("retention forgot %d recovery points", forgotten)
