"""The vault's replica follows by itself; where it is away, nothing else waits for it."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from controlplane.domain.errors import FedctlError
from controlplane.store.engine import Store
from controlplane.store.settings import Lag
from controlplane.vault.nouns import Replicated
from controlplane.vault.vault import Vault
from workflows.rounds import rounds

_log = logging.getLogger(__name__)
_NAMED = 5


class Replica:
    """Runs beside a worker, apart from all other rounds.

    A round ends after `most` at an object's end, so that the lag is told now and then while a new
    replica fills. Each `every` it looks whether there are other points than before, or the last
    round broke off; the two stores are listed then, and when the last time is `anyway` ago. A pack
    of the replica's is read again every `look_again`.
    """

    def __init__(
        self, store: Store, vault: Vault, clock: Callable[[], datetime], *,
        every: timedelta = timedelta(minutes=1), anyway: timedelta = timedelta(minutes=10),
        most: timedelta = timedelta(minutes=15), look_again: timedelta = timedelta(hours=1),
    ) -> None:  # fmt: skip
        self._store = store
        self._vault = vault
        self._clock = clock
        self._every = every
        self._anyway = anyway
        self._most = most
        self._look_again = look_again
        self._looked: datetime | None = None
        self._done: tuple[datetime, object] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, which also ends a round between two objects."""
        await rounds(stop, self._every, lambda: asyncio.to_thread(self.look, stop.is_set))

    def look(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """One round; what fails is a warning, and is tried again in the next one."""
        try:
            self._round(stopped)
        except FedctlError as error:
            _log.warning("the vault's replica waits: %s", error)

    def _round(self, stopped: Callable[[], bool]) -> None:
        now = self._clock()
        points = self._vault.committed()
        if self._done and self._done[1] == points and now - self._done[0] < self._anyway:
            return
        self._done = None
        again = self._looked is None or now - self._looked >= self._look_again
        done = self._vault.replicate(
            lambda: stopped() or self._clock() > now + self._most, again=int(again)
        )
        if done is None or stopped():
            return
        self._tell(done)
        ended = self._clock()
        lag = Lag(at=ended, points=done.behind, oldest=done.oldest, troubles=len(done.troubles))
        with self._store.begin() as tx:
            tx.settings.lag = lag
        if ended <= now + self._most:
            self._done = now, points
            self._looked = now if again else self._looked

    def _tell(self, done: Replicated) -> None:
        if done.copied or done.removed:
            _log.info(
                "the vault's replica took %d objects of %d bytes and dropped %d",
                done.copied,
                done.bytes,
                done.removed,
            )
        if done.kept:
            _log.info("the vault's replica keeps %d deleted objects: %s", done.kept, done.why_kept)
        if done.mended:
            _log.warning("%d objects of the vault were mended from the replica", len(done.mended))
        if done.renewed:
            _log.warning("%d objects of the vault's replica were damaged there", len(done.renewed))
        for trouble in done.troubles[:_NAMED]:
            _log.warning("not in the vault's replica: %s", trouble)
        if len(done.troubles) > _NAMED:
            _log.warning("and %d more", len(done.troubles) - _NAMED)
