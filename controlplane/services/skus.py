"""The sizes of instances and volumes that are on offer: SECA's standard ones, as data."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from controlplane.domain.errors import NotFound
from controlplane.domain.ids import ResourceId, TenantName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.services.selecting import selects
from controlplane.services.stored import ReadOnly
from controlplane.services.wish import Caller, Page

OFFERED_SINCE = datetime(2026, 11, 1, tzinfo=UTC)
_SIZES = (
    ("2xs", 1, 1),
    ("xs", 1, 2),
    ("s", 2, 4),
    ("m", 4, 8),
    ("l", 8, 16),
    ("xl", 16, 32),
    ("2xl", 32, 64),
)
_TIERS = {"d": "dedicated", "s": "shared"}
_REMOTE = (("100", 100), ("500", 500), ("2k", 2000), ("10k", 10_000), ("20k", 20_000))
_LOCAL = (("100", 100), ("500", 500), ("5k", 5000), ("20k", 20_000), ("40k", 40_000))
_VOLUMES = (
    ("rd", "remote-durable", _REMOTE),
    ("ld", "local-durable", _LOCAL),
    ("le", "local-ephemeral", _LOCAL),
)


def _sku(kind: Kind, name: str, spec: Json, labels: dict[str, str]) -> Resource:
    return Resource(
        key=ResourceKey(kind=kind, name=name),
        id=ResourceId(uuid5(NAMESPACE_URL, facts(kind).resource(name) + kind)),
        spec=spec,
        status={},
        state=State.ACTIVE,
        conditions=(),
        version=1,
        status_version=1,
        created_at=OFFERED_SINCE,
        modified_at=OFFERED_SINCE,
        labels={"provider": "seca", **labels},
    )


def _instance_skus() -> Iterable[Resource]:
    for letter, tier in _TIERS.items():
        for size, cpus, ram in _SIZES:
            labels = {"tier": tier, "architecture": "amd64"}
            yield _sku(
                Kind.INSTANCE_SKU, f"seca.{letter}{size}", {"vCPU": cpus, "ram": ram}, labels
            )


def _storage_skus() -> Iterable[Resource]:
    for prefix, type_, rates in _VOLUMES:
        for suffix, iops in rates:
            spec = {"type": type_, "iops": iops, "minVolumeSize": 1}
            yield _sku(Kind.STORAGE_SKU, f"seca.{prefix}{suffix}", spec, {"tier": type_})


OFFERED: Final[dict[Kind, dict[str, Resource]]] = {
    Kind.INSTANCE_SKU: {sku.key.name: sku for sku in _instance_skus()},
    Kind.STORAGE_SKU: {sku.key.name: sku for sku in _storage_skus()},
}


def sku(key: ResourceKey) -> Resource:
    """The shared sku of that name, shown under the tenant that asks; else NotFound."""
    found = OFFERED[key.kind].get(key.name)
    if found is None:
        known = ", ".join(OFFERED[key.kind])
        raise NotFound(f"there is no {key.kind} {key.name!r}; on offer are: {known}")
    return replace(found, key=key)


class Skus(ReadOnly):
    """Shared skus are listed under every tenant."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        return sku(key)

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        names = sorted(name for name in OFFERED[self._kind] if name > page.after)
        tenant = page.tenant or TenantName(caller.tenant)
        keys = (facts(self._kind).key(name, tenant, None) for name in names)
        chosen = (found for found in map(sku, keys) if selects(page.labels, found.labels))
        return list(islice(chosen, page.limit))
