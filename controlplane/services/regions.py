"""Regions, worked out from the sites that lie in them; which region a resource is in."""

from collections.abc import Mapping, Sequence
from itertools import islice

from controlplane.domain.errors import NotFound
from controlplane.domain.ids import ResourceId
from controlplane.domain.kinds import KINDS
from controlplane.domain.resource import Kind, Resource, ResourceKey, State
from controlplane.services.ports import ServiceSettings
from controlplane.services.selecting import selects
from controlplane.services.sites import region_of, site_list
from controlplane.services.stored import ReadOnly
from controlplane.services.wish import Caller, Page
from controlplane.store.engine import Store

_ZONES_MAX = 32


class Regions(ReadOnly):
    """A region is there as soon as a site is; the site is one of its zones."""

    def __init__(self, *, store: Store, settings: ServiceSettings) -> None:
        self._store = store
        self._settings = settings

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        found = self._all().get(key.name)
        if found is None:
            raise NotFound(
                f"there is no region {key.name!r} with a site in it:"
                " check the name, or add a site (fedctl site add)"
            )
        return found

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        del caller
        names = (found for name, found in sorted(self._all().items()) if name > page.after)
        return list(islice((r for r in names if selects(page.labels, r.labels)), page.limit))

    def zones(self) -> Mapping[str, str]:
        """The region of each site."""
        with self._store.read() as tx:
            return {site.key.name: region_of(site) for site in site_list(tx)}

    def locate(self, zones: Mapping[str, str], resource: Resource) -> str:
        """The region that `resource` is shown in."""
        zone = resource.spec.get("zone") or resource.status.get("site")
        return zones.get(str(zone), self._settings.region)

    def _all(self) -> dict[str, Resource]:
        with self._store.read() as tx:
            sites = site_list(tx)
        regions: dict[str, list[Resource]] = {}
        for site in sites:
            regions.setdefault(region_of(site), []).append(site)
        return {name: self._region(name, members) for name, members in regions.items()}

    def _region(self, name: str, members: Sequence[Resource]) -> Resource:
        providers = {(k.area, k.version) for k in KINDS if k.regional}
        spec = {
            "availableZones": sorted(site.key.name for site in members)[:_ZONES_MAX],
            "providers": [
                {
                    "name": area,
                    "version": version,
                    "url": f"{self._settings.public_url}/providers/{area}",
                }
                for area, version in sorted(providers)
            ],
        }
        return Resource(
            key=ResourceKey(kind=Kind.REGION, name=name),
            id=ResourceId(members[0].id),
            spec=spec,
            status={},
            state=State.ACTIVE,
            conditions=(),
            version=sum(site.version for site in members),
            status_version=1,
            created_at=min(site.created_at for site in members),
            modified_at=max(site.modified_at for site in members),
        )
