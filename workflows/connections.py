"""Opens drivers for sites by name, with credentials opened only for that."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from typing import TypeAlias, cast

from controlplane.domain.errors import (
    SUPERSEDED,
    Denied,
    FedctlError,
    Integrity,
    NotFound,
    Unavailable,
)
from controlplane.domain.ids import ResourceId, SiteName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind
from controlplane.domain.site import ProviderKind, SiteAccess
from controlplane.services.freezing import check_thawed
from controlplane.store.engine import Store
from drivers.contract import Driver
from drivers.registry import connect
from workflows.failures import NotYet
from workflows.kept import KeptDrivers

Opener = Callable[[ResourceId, bytes], dict[str, str]]
Connect: TypeAlias = Callable[[SiteName], AbstractContextManager[Driver]]

_log = logging.getLogger(__name__)
_BROKEN = (Denied, Integrity, Unavailable)  # after these a connection is not used again


class Connections:
    """`open_sealed` decrypts credentials; `timeout` bounds each provider call, in seconds.

    A driver that worked is kept for the steps that follow (workflows/kept.py) until `close`. What
    fails while a driver is open is counted and logged under its site's name.
    """

    def __init__(
        self,
        store: Store,
        open_sealed: Opener,
        clock: Callable[[], datetime],
        *,
        timeout: float,
    ) -> None:
        self._store = store
        self._open = open_sealed
        self._clock = clock
        self._timeout = timeout
        self._kept = KeptDrivers()

    def close(self) -> None:
        """Log out wherever no step is at work."""
        self._kept.close()

    @contextmanager
    def connect(self, name: SiteName) -> Iterator[Driver]:
        """An open driver for one block. NotFound, Denied; Busy while the site is frozen."""
        access = self._access(name, even_frozen=False)
        with self._counted(name):
            driver = self._kept.take(access)
            try:
                yield driver
            except _BROKEN:
                driver.close()
                raise
            except (FedctlError, NotYet):
                self._kept.keep(access, driver)
                raise
            except BaseException:
                driver.close()
                raise
            self._kept.keep(access, driver)

    @contextmanager
    def look(self, name: SiteName) -> Iterator[Driver]:
        """As `connect`, even at a frozen site: for those who only read there, and the survey.

        It logs in anew: they ask whether the site is there and lets us in.
        """
        access = self._access(name, even_frozen=True)
        with self._counted(name), closing(connect(access)) as driver:
            yield driver

    @contextmanager
    def _counted(self, site: SiteName) -> Iterator[None]:
        try:
            yield
        except FedctlError as error:
            if error.reason != SUPERSEDED:
                self._count(site, error)
            raise

    def _count(self, site: SiteName, error: FedctlError) -> None:
        _log.warning("%s", error, extra={"site": site, "code": error.code, "detail": error.detail})
        try:
            with self._store.begin() as tx:
                tx.site_errors.add(site, error, self._clock())
        except FedctlError as unwritten:
            _log.warning("an error of site %s is not counted: %s", site, unwritten)

    def _access(self, name: SiteName, *, even_frozen: bool) -> SiteAccess:
        with self._store.read() as tx:
            site = tx.resources.get(facts(Kind.SITE).key(name, None, None))
            if not even_frozen:
                check_thawed(site)
            try:
                sealed: bytes | None = tx.credentials.get(site.id)
            except NotFound:
                sealed = None
        provider = ProviderKind(str(site.spec["provider"]))
        if sealed is None and provider is not ProviderKind.FAKE:
            raise Denied(
                f"site {name} has no credentials: give them with"
                f" fedctl site add {name} --credentials FILE"
            )
        spec = site.spec
        return SiteAccess(
            site=name,
            provider=provider,
            endpoint=str(spec["endpoint"]),
            secrets={} if sealed is None else self._open(site.id, sealed),
            options=dict(cast("dict[str, str]", spec.get("options") or {})),
            pins=dict(cast("dict[str, str]", spec.get("pins") or {})),
            timeout=self._timeout,
        )
