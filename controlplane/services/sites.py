"""Sites: registered, given credentials, verified, swept; shown to others as zones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import Conflict, Invalid, NotFound
from controlplane.domain.hours import read_hours
from controlplane.domain.ids import ZONE_NAME_MAX, ResourceId, SiteName, checked_name
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.domain.site import ProviderKind
from controlplane.services.ports import Clock, Secrets
from controlplane.services.record import free, note, start, start_bare
from controlplane.services.stored import Stored, living
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

EVERYWHERE = ResourceId(UUID(int=0))
ALL_SITES = "all-sites"
_FIXED = ("provider", "region")
_LIMITS = frozenset({"bandwidthHours", "imageClients", "maxBandwidth", "maxMoves"})
_ACTIONS = {
    "verify": OperationKind.VERIFY_SITE,
    "survey": OperationKind.SURVEY,
    "sweep": OperationKind.SWEEP,
    "scan": OperationKind.SCAN,
}
_KEPT = frozenset(ArtefactState) - {ArtefactState.RELEASED}


class Sites(Stored):
    kind = Kind.SITE

    def __init__(self, *, store: Store, clock: Clock, secrets: Secrets) -> None:
        super().__init__(store=store, clock=clock)
        self._secrets = secrets

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        checked_name(key.name, what="a site's name", longest=ZONE_NAME_MAX)
        checked_name(str(wish.spec["region"]), what="spec.region")
        _checked_endpoint(str(wish.spec["endpoint"]))
        read_hours(cast("list[dict[str, object]]", wish.spec.get("bandwidthHours", [])))
        now = self.clock.now()
        with self.store.begin() as tx:
            before = tx.resources.find(key)
            if before is not None:
                for field in _FIXED:
                    if before.spec[field] != wish.spec[field]:
                        raise Invalid(
                            f"spec.{field} of site {key.name} is {before.spec[field]!r} and cannot"
                            " be changed: register another site"
                        )
            status = {"health": "unverified", "hasCredentials": False}
            granted = self.write(tx, key, wish, status=status, now=now)
            resource = granted.resource
            if before is not None and _reached(before.spec) != _reached(resource.spec):
                tx.resources.patch_status(resource.id, {"health": "unverified"}, now=now)
            note(tx, caller, "put", key, now)
            return replace(granted, resource=tx.resources.get(key))

    def put_credentials(
        self, caller: Caller, key: ResourceKey, credentials: Mapping[str, str]
    ) -> None:
        """Seals the credentials; nobody reads them back here."""
        with self.store.read() as tx:
            site = living(tx, key)
        sealed = self._secrets.seal(site.id, dict(credentials))
        now = self.clock.now()
        with self.store.begin() as tx:
            tx.credentials.put(site.id, sealed)
            changes = {"hasCredentials": True, "health": "unverified"}
            tx.resources.patch_status(site.id, changes, now=now)
            note(tx, caller, "put-credentials", key, now)

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        name = SiteName(key.name)
        with self.store.begin() as tx:
            site = living(tx, key, expected)
            free(tx, site.id, what=f"site {key.name}")
            homes = tx.placements.list_by_site(name)
            if homes:
                raise Conflict(
                    f"site {key.name} is the home of {len(homes)} instance(s):"
                    " move or delete them first"
                )
            kept = tx.artefacts.list(site=name, states=_KEPT)
            if kept:
                raise Conflict(
                    f"site {key.name} still holds {len(kept)} object(s) of ours:"
                    " finalize the moves that left them (fedctl moves list)"
                )
            tx.orphans.replace(name, (), now)
            tx.credentials.delete(site.id)
            if site.state is not State.DELETING:
                tx.resources.mark_deleting(site.id, now)
            tx.resources.remove(site.id, now)
            note(tx, caller, "delete", key, now)
        return None

    def act(
        self,
        caller: Caller,
        key: ResourceKey,
        action: str,
        expected: int | None,
        options: Mapping[str, str],
    ) -> Operation | None:
        del options
        kind = _ACTIONS[action]
        now = self.clock.now()
        with self.store.begin() as tx:
            site = living(tx, key, expected)
            free(tx, site.id, what=f"site {key.name}")
            keyless = site.spec["provider"] == ProviderKind.FAKE
            if not keyless and not site.status.get("hasCredentials"):
                raise Conflict(
                    f"site {key.name} has no credentials yet: give them first"
                    f" (fedctl site add {key.name} --credentials FILE)"
                )
            note(tx, caller, action, key, now)
            return start(tx, caller, kind, site, now=now)

    def sweep_all(self, caller: Caller) -> Operation:
        """Compares every site with what is recorded."""
        now = self.clock.now()
        key = facts(Kind.SITE).key(ALL_SITES, None, None)
        with self.store.begin() as tx:
            free(tx, EVERYWHERE, what="the sweep of all sites")
            note(tx, caller, "sweep", key, now)
            return start_bare(tx, caller, OperationKind.SWEEP, EVERYWHERE, key, now=now)


def site_list(tx: Tx) -> list[Resource]:
    return [s for s in tx.resources.list(Kind.SITE, limit=10_000) if s.state is not State.DELETING]


def known_site(tx: Tx, name: str, *, field: str) -> Resource:
    """The site of that name; else NotFound, with the names that there are."""
    found = tx.resources.find(facts(Kind.SITE).key(name, None, None))
    if found is None or found.state is State.DELETING:
        known = ", ".join(site.key.name for site in site_list(tx)) or "none yet"
        raise NotFound(f"{field}: there is no site {name!r}; known sites: {known}")
    return found


def _reached(spec: Json) -> Json:
    """What of a site's spec tells how it is reached: a change of it must be verified."""
    return {name: value for name, value in spec.items() if name not in _LIMITS}


def _checked_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https", "fake"} or not (parts.netloc or parts.path):
        raise Invalid("spec.endpoint is not a URL: write https://host:port/path")
    if parts.username or parts.password:
        raise Invalid("spec.endpoint holds a user or password: give those as credentials")


def region_of(site: Resource) -> str:
    return cast("str", site.spec["region"])
