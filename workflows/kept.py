"""Drivers that stay logged in for a moment, for the next step that needs their site."""

import logging
import threading
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from controlplane.domain.errors import FedctlError
from controlplane.domain.site import SiteAccess
from drivers.contract import Driver
from drivers.registry import connect

KEPT = timedelta(seconds=10)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    access: SiteAccess
    driver: Driver
    until: float


class KeptDrivers:
    """Each is used by one caller at a time, and closed when nobody needed it `within` so long.

    Only a site that is accessed exactly as before, with the same credentials, gets one again.
    """

    def __init__(self, within: timedelta = KEPT) -> None:
        self._within = within.total_seconds()
        self._kept: list[_Kept] = []
        self._changed = threading.Condition()
        self._tended = False

    def take(self, access: SiteAccess) -> Driver:
        """The one that was used last, or a new one; the caller keeps or closes it."""
        with self._changed:
            for kept in reversed(self._kept):
                if kept.access == access:
                    self._kept.remove(kept)
                    return kept.driver
        return connect(access)

    def keep(self, access: SiteAccess, driver: Driver) -> None:
        """It is sound, and may be taken again."""
        with self._changed:
            self._kept.append(_Kept(access=access, driver=driver, until=monotonic() + self._within))
            if not self._tended:
                self._tended = True
                threading.Thread(target=self._tend, name="kept-drivers", daemon=True).start()

    def close(self) -> None:
        """Close all that nobody uses; those in use are kept no longer than any."""
        with self._changed:
            kept, self._kept = self._kept, []
            self._changed.notify()
        for each in kept:
            _close(each)

    def _tend(self) -> None:
        """Close what was kept long enough, until there is nothing left."""
        while True:
            with self._changed:
                if not self._kept:
                    self._tended = False
                    return
                self._changed.wait(self._kept[0].until - monotonic())
                now = monotonic()
                due = [each for each in self._kept if each.until <= now]
                self._kept = [each for each in self._kept if each.until > now]
            for each in due:
                _close(each)


def _close(kept: _Kept) -> None:
    try:
        kept.driver.close()
    except FedctlError as error:
        _log.info("closing a connection to site %s: %s", kept.access.site, error)
