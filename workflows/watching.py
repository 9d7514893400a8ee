"""Sites that were away are frozen, and surveyed when they are back, before anything else."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import cast

from controlplane.domain.errors import FedctlError
from controlplane.domain.ids import SiteName
from controlplane.domain.operation import OperationKind
from controlplane.domain.resource import Json, Resource
from controlplane.services.freezing import FROZEN, freeze
from controlplane.services.operations import stamp
from controlplane.services.record import start
from controlplane.services.sites import site_list
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from workflows.connections import Connect
from workflows.housekeeping import CALLER
from workflows.rounds import rounds

_log = logging.getLogger(__name__)

AWAY = "awaySince"
UNANSWERED = "it did not answer for {minutes} minutes"


class SiteWatch:
    """Runs beside a worker and asks each verified site every `look_every` whether it answers.

    One that did not for `patience` may have been repaired, restored or started anew by people who
    know nothing of our fences: it is frozen, and what froze it here is surveyed by itself once it
    answers. `connect` opens a driver even for a frozen site.
    """

    def __init__(
        self,
        store: Store,
        connect: Connect,
        clock: Callable[[], datetime],
        *,
        patience: timedelta,
        look_every: timedelta = timedelta(minutes=1),
    ) -> None:
        self._store = store
        self._connect = connect
        self._clock = clock
        self._patience = patience
        self._look_every = look_every

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what cannot be asked or written now is asked in the next round."""
        await rounds(stop, self._look_every, self._round)

    async def _round(self) -> None:
        try:
            await self.look()
        except FedctlError as error:
            _log.warning("the watch over sites waits: %s", error)

    async def look(self) -> None:
        """Every site is asked once, all at the same time."""
        sites = await asyncio.to_thread(self._watched)
        answers = await asyncio.gather(*(asyncio.to_thread(self._answers, s) for s in sites))
        for site, answered in zip(sites, answers, strict=True):
            if not answered or site.status.get(AWAY):
                await asyncio.to_thread(self._note, site, answered=answered)

    def _watched(self) -> list[Resource]:
        with self._store.read() as tx:
            return [s for s in site_list(tx) if s.status.get("lastSeenAt")]

    def _answers(self, site: Resource) -> bool:
        try:
            with self._connect(SiteName(site.key.name)) as driver:
                driver.check()
        except FedctlError as error:
            # One that refuses us is there: people know, and what it shows is no survey.
            return not error.retryable
        return True

    def _note(self, asked: Resource, *, answered: bool) -> None:
        now = self._clock()
        with self._store.begin() as tx:
            site = tx.resources.by_id(asked.id)
            if answered:
                self._returned(tx, site, now)
                return
            since = site.status.get(AWAY)
            if since is None:
                tx.resources.patch_status(site.id, {AWAY: stamp(now)}, now=now)
            elif now - datetime.fromisoformat(str(since)) >= self._patience:
                minutes = int(self._patience.total_seconds() // 60)
                freeze(tx, site, UNANSWERED.format(minutes=minutes), now)

    def _returned(self, tx: Tx, site: Resource, now: datetime) -> None:
        frozen = cast("Json", site.status.get(FROZEN) or {})
        ours = str(frozen.get("why", "")).startswith(UNANSWERED.partition("{")[0])
        if not ours:
            tx.resources.patch_status(site.id, {AWAY: None}, now=now)
        elif tx.operations.open_for(site.id) is None:
            _log.info("site %s is back and is surveyed", site.key.name)
            start(tx, CALLER, OperationKind.SURVEY, site, now=now)
