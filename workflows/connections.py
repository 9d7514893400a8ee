"""Opens drivers for sites by name, with credentials opened only for that."""

from collections.abc import Callable
from typing import cast

from controlplane.domain.errors import Denied, NotFound
from controlplane.domain.ids import ResourceId, SiteName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind
from controlplane.domain.site import ProviderKind, SiteAccess
from controlplane.services.freezing import check_thawed
from controlplane.store.engine import Store
from drivers.contract import Driver
from drivers.registry import connect

Opener = Callable[[ResourceId, bytes], dict[str, str]]


class Connections:
    """`open_sealed` decrypts credentials; `timeout` bounds each provider call, in seconds."""

    def __init__(self, store: Store, open_sealed: Opener, *, timeout: float) -> None:
        self._store = store
        self._open = open_sealed
        self._timeout = timeout

    def connect(self, name: SiteName) -> Driver:
        """An open driver; close it when done. NotFound, Denied; Busy while the site is frozen."""
        return self._open_site(name, even_frozen=False)

    def look(self, name: SiteName) -> Driver:
        """As `connect`, even at a frozen site: for those who only read there, and the survey."""
        return self._open_site(name, even_frozen=True)

    def _open_site(self, name: SiteName, *, even_frozen: bool) -> Driver:
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
        return connect(
            SiteAccess(
                site=name,
                provider=provider,
                endpoint=str(spec["endpoint"]),
                secrets={} if sealed is None else self._open(site.id, sealed),
                options=dict(cast("dict[str, str]", spec.get("options") or {})),
                pins=dict(cast("dict[str, str]", spec.get("pins") or {})),
                timeout=self._timeout,
            )
        )
