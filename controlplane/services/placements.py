"""Where an instance is, and what sites still keep of it."""

from itertools import islice

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import NotFound
from controlplane.domain.ids import InstanceId
from controlplane.domain.kinds import facts
from controlplane.domain.placement import Placement
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey
from controlplane.services.operations import stamp
from controlplane.services.stored import ReadOnly, known_workspace
from controlplane.services.wish import Caller, Page
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

_KEPT = frozenset(ArtefactState) - {ArtefactState.RELEASED}


class Placements(ReadOnly):
    """One for each instance that was ever given a home, under the instance's name."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        with self._store.read() as tx:
            instance = tx.resources.get(
                facts(Kind.INSTANCE).key(key.name, key.tenant, key.workspace)
            )
            found = _placement(tx, instance)
        if found is None:
            raise NotFound(f"instance {key} has no place yet: it was never provisioned")
        return found

    def list(self, caller: Caller, page: Page) -> list[Resource]:
        del caller
        with self._store.read() as tx:
            known_workspace(tx, page)
            instances = tx.resources.list(
                Kind.INSTANCE,
                tenant=page.tenant,
                workspace=page.workspace,
                labels=page.labels,
                limit=page.limit,
                after=page.after,
            )
            found = (_placement(tx, instance) for instance in instances)
            return list(islice((each for each in found if each is not None), page.limit))


def _placement(tx: Tx, instance: Resource) -> Resource | None:
    placement = tx.placements.find(InstanceId(instance.id))
    if placement is None:
        return None
    kept = tx.artefacts.list(instance=InstanceId(instance.id), states=_KEPT)
    return Resource(
        key=ResourceKey(
            kind=Kind.PLACEMENT,
            name=instance.key.name,
            tenant=instance.key.tenant,
            workspace=instance.key.workspace,
        ),
        id=instance.id,
        spec={"instanceRef": {"resource": facts(Kind.INSTANCE).resource(instance.key.name)}},
        status=_status(instance, placement, list(kept)),
        state=instance.state,
        conditions=instance.conditions,
        version=instance.version,
        status_version=instance.status_version,
        created_at=instance.created_at,
        modified_at=max(instance.modified_at, placement.switched_at or instance.modified_at),
        labels=instance.labels,
    )


def _status(instance: Resource, placement: Placement, kept: list[Artefact]) -> Json:
    status: dict[str, object] = {"site": placement.site, "epoch": placement.epoch}
    home = next((each for each in kept if each.id == placement.copy), None)
    if home is not None and home.ref is not None:
        status["nativeRef"] = home.ref
    for name in ("address", "mac"):
        wished = instance.status.get(name) or instance.extensions.get(f"fedctl:{name}")
        if wished:
            status[name] = wished
    status["disks"] = [
        {"id": str(each.id), "site": each.site, "sizeBytes": each.size}
        for each in kept
        if each.kind is ArtefactKind.VOLUME
        and each.site == placement.site
        and each.state is ArtefactState.ATTACHED
    ]
    status["retained"] = [_retained(e) for e in kept if e.state is ArtefactState.RETAINED]
    if placement.switched_at is not None:
        status["switchedAt"] = stamp(placement.switched_at)
    return status


def _retained(artefact: Artefact) -> Json:
    entry: dict[str, object] = {
        "id": str(artefact.id),
        "kind": artefact.kind.value,
        "site": artefact.site,
        "size": artefact.size,
        "state": artefact.state.value,
        "note": artefact.note,
    }
    if artefact.expires_at is not None:
        entry["expiresAt"] = stamp(artefact.expires_at)
    return entry
