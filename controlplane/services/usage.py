"""What the vault stores for whom, as the last check measured it."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import cast
from uuid import NAMESPACE_URL, uuid5

from controlplane.domain.errors import NotFound
from controlplane.domain.ids import ResourceId
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Condition, Json, Kind, Resource, ResourceKey, State
from controlplane.services.operations import stamp
from controlplane.services.selecting import selects
from controlplane.services.stored import ReadOnly, Resources
from controlplane.services.wish import Caller, Page
from controlplane.store.engine import Store
from controlplane.vault.census import Measured, Usage, Workload

ALL = "all"
_UNMEASURED = "nothing was measured yet: run a check first (fedctl vault check --depth structure)"


class VaultStats(ReadOnly):
    """`all`, `tenant.NAME` and `workload.ID`, each with its figures."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        for found in self._all():
            if found.key.name == key.name:
                return found
        raise NotFound(f"the vault stores nothing for {key.name!r}, or {_UNMEASURED}")

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        del caller
        wanted = (
            each
            for each in self._all()
            if each.key.name > page.after and selects(page.labels, each.labels)
        )
        return [] if page.deleted == "only" else list(islice(wanted, page.limit))

    def _all(self) -> Resources:
        with self._store.read() as tx:
            measured = tx.settings.vault_usage
        if measured is None:
            return []
        at, by = str(measured["at"]), str(measured["by"])
        items = cast("list[dict[str, Json]]", measured["items"])
        found = [_shown(each, at, by) for each in items]
        return sorted(found, key=lambda each: each.key.name)


def document(
    measured: Measured, *, at: datetime, by: str, name: Callable[[Workload], str]
) -> dict[str, object]:
    """What is kept of a measurement; `name` tells what people call a workload."""
    whole = {
        "packs": {state.value: count for state, count in measured.packs.items()},
        "packBytes": {state.value: size for state, size in measured.pack_bytes.items()},
        "waste": measured.waste,
        "damaged": measured.damaged,
    }
    items: list[dict[str, object]] = [
        {"name": ALL, "spec": {"scope": ALL}, "status": _figures(measured.total) | whole}
    ]
    items += [
        {
            "name": f"tenant.{tenant}",
            "spec": {"scope": "tenant", "tenant": tenant},
            "status": _figures(usage),
        }
        for tenant, usage in measured.tenants.items()
    ]
    items += [
        {
            "name": f"workload.{workload.instance}",
            "spec": {
                "scope": "workload",
                "tenant": workload.tenant,
                "workspace": workload.domain.partition("/")[2],
                "workload": name(workload),
            },
            "status": _figures(usage),
        }
        for workload, usage in measured.workloads.items()
    ]
    return {"at": stamp(at), "by": by, "items": items}


def _figures(usage: Usage) -> dict[str, object]:
    figures: dict[str, object] = asdict(usage)
    figures["nextNew"] = figures.pop("next_new")
    figures["nextStored"] = figures.pop("next_stored")
    figures["ratio"] = None if usage.ratio is None else round(usage.ratio, 3)
    return figures


def _shown(item: dict[str, Json], at: str, by: str) -> Resource:
    name = str(item["name"])
    since = datetime.fromisoformat(at)
    labels = {k: str(v) for k, v in item["spec"].items() if k in {"scope", "tenant", "workspace"}}
    return Resource(
        key=facts(Kind.VAULT_STATS).key(name, None, None),
        id=ResourceId(uuid5(NAMESPACE_URL, f"vault-stats/{name}")),
        spec=item["spec"],
        status={**item["status"], "measuredAt": at, "measuredBy": by},
        state=State.ACTIVE,
        conditions=(Condition(state=State.ACTIVE, at=since),),
        version=1,
        status_version=1,
        created_at=since,
        modified_at=since,
        labels=labels,
    )
