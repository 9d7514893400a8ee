"""Orphans that sweeps reported: shown, taken under record, or released on command."""

from uuid import UUID

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import Conflict, NotFound, Unsupported
from controlplane.domain.ids import ArtefactId, ResourceId, SiteName
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind
from controlplane.domain.orphan import Orphan
from controlplane.domain.owner import OwnerTag
from controlplane.domain.resource import Json, Kind, Resource, State
from controlplane.services.operations import stamp
from controlplane.services.ports import Clock
from controlplane.services.record import free, note, start
from controlplane.services.stored import living
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

ADOPTED = "adopted from the report of a sweep"


class Orphans:
    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def list(self) -> list[Json]:
        """The last report of every site."""
        with self._store.read() as tx:
            return [_shown(tx, each) for each in tx.orphans.list()]

    def adopt(self, caller: Caller, site: str, artefact: str) -> Json:
        """Takes it under record as retained by the instance that its tag names.

        Nothing changes at the site. It stays until the instance's moves are finalized or the
        instance is deleted: it has no expiry. Conflict when that instance is not known here.
        """
        now = self._clock.now()
        with self._store.begin() as tx:
            at, orphan = _reported(tx, site, artefact)
            owner = orphan.found.owner
            instance = _instance(tx, owner)
            if instance is None or instance.state is State.DELETING:
                raise Conflict(
                    f"{orphan} names the instance {owner.instance}, which is not known here:"
                    f" release it (fedctl orphans release {site} {orphan.found.ref})"
                )
            free(tx, instance.id, what=f"instance {instance.key}")
            check_unclaimed(tx, orphan)
            if tx.artefacts.find(owner.artefact) is not None:
                raise Conflict(
                    f"{orphan} is on record as released and is not taken back:"
                    f" release it (fedctl orphans release {site} {orphan.found.ref})"
                )
            tx.artefacts.intend(
                Artefact(
                    id=owner.artefact,
                    kind=orphan.found.kind,
                    site=orphan.site,
                    instance=owner.instance,
                    operation=owner.operation,
                    epoch=owner.epoch,
                    state=ArtefactState.INTENDED,
                    created_at=now,
                )
            )
            ref = orphan.found.ref
            tx.artefacts.set_state(owner.artefact, ArtefactState.RETAINED, ref=ref, note=ADOPTED)
            tx.orphans.forget(orphan)
            note(tx, caller, "adopt-orphan", at.key, now, **_detail(orphan))
            return _shown(tx, orphan)

    def release(self, caller: Caller, site: str, artefact: str) -> Operation:
        """Starts its deletion at the site; what could be somebody's is refused."""
        now = self._clock.now()
        with self._store.begin() as tx:
            at, orphan = _reported(tx, site, artefact)
            if orphan.found.kind is ArtefactKind.NIC:
                raise Unsupported(f"{orphan} goes with its instance: release that")
            instance = _instance(tx, orphan.found.owner)
            if instance is not None:
                free(tx, instance.id, what=f"instance {instance.key}")
            check_unclaimed(tx, orphan)
            note(tx, caller, "release-orphan", at.key, now, **_detail(orphan))
            order: Json = dict(_detail(orphan))
            return start(tx, caller, OperationKind.RELEASE_ORPHAN, at, now=now, order=order)


def check_unclaimed(tx: Tx, orphan: Orphan) -> None:
    """Conflict when the object is a home, is on record, or newer than its instance's record."""
    owner = orphan.found.owner
    placement = tx.placements.find(owner.instance)
    homes = [placement] if placement is not None else []
    if any(p.copy == owner.artefact for p in (*homes, *tx.placements.list_by_site(orphan.site))):
        raise Conflict(f"{orphan} is the home of an instance: it is no orphan")
    known = tx.artefacts.find(owner.artefact)
    if known is not None and known.state is not ArtefactState.RELEASED:
        raise Conflict(f"{orphan} is on record ({known.state}): it is no orphan, sweep again")
    lease = tx.leases.find(owner.instance)
    epochs = [each.epoch for each in (placement, lease) if each is not None]
    if epochs and owner.epoch > max(epochs):
        raise Conflict(
            f"{orphan} carries epoch {owner.epoch}, its instance is at epoch {max(epochs)} here:"
            " this record is older than the object, look which other control plane works there"
        )


def _reported(tx: Tx, site: str, artefact: str) -> tuple[Resource, Orphan]:
    """The site, with no work on it, and what its last report has of the artefact."""
    at = living(tx, facts(Kind.SITE).key(site, None, None))
    free(tx, at.id, what=f"site {site}")
    try:
        wanted = ArtefactId(UUID(artefact))
    except ValueError as e:
        raise NotFound(f"{artefact[:80]!r} is no artefact's id (see fedctl orphans list)") from e
    return at, tx.orphans.get(SiteName(site), wanted)


def _instance(tx: Tx, owner: OwnerTag) -> Resource | None:
    found = tx.resources.find_id(ResourceId(owner.instance))
    return found if found is not None and found.key.kind is Kind.INSTANCE else None


def _detail(orphan: Orphan) -> dict[str, str]:
    found = orphan.found
    return {"artefact": str(found.owner.artefact), "kind": found.kind.value, "ref": found.ref}


def _shown(tx: Tx, orphan: Orphan) -> Json:
    owner = orphan.found.owner
    instance = _instance(tx, owner)
    return {
        "site": orphan.site,
        **_detail(orphan),
        "instance": str(owner.instance),
        "instanceName": None if instance is None else str(instance.key),
        "operation": str(owner.operation),
        "epoch": owner.epoch,
        "firstSeen": stamp(orphan.first_seen),
        "lastSeen": stamp(orphan.last_seen),
    }
