"""Machines that a site has already: asked for, put on record as instances, forgotten again."""

from datetime import datetime
from uuid import uuid4

from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.discovery import Discovered
from controlplane.domain.disk import GIB
from controlplane.domain.errors import Conflict, Invalid
from controlplane.domain.ids import InstanceId, ResourceId, SiteName, checked_name, derived
from controlplane.domain.instance import Power, Size
from controlplane.domain.kinds import facts
from controlplane.domain.operation import ENDED, Operation, OperationKind, OperationState
from controlplane.domain.placement import Placement
from controlplane.domain.resource import Json, Kind, ResourceKey, State
from controlplane.services.ports import Clock
from controlplane.services.record import busy_with, free, note, start_bare
from controlplane.services.skus import OFFERED
from controlplane.services.stored import in_living_workspace, living, settled
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

_REF_MAX = 128
_STORAGE_SKU = "seca.rd500"
_RUNNING = frozenset(OperationState) - ENDED


class Adoptions:
    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def adopt(self, caller: Caller, site: str, ref: str, key: ResourceKey) -> Operation:
        """Starts to take the machine `ref` of a site under management as the instance `key`.

        Conflict when the name is taken or the machine is an instance's already, Busy while another
        adoption of it is under way.
        """
        checked_name(key.name)
        if not 1 <= len(ref) <= _REF_MAX:
            raise Invalid(f"the machine's id has {len(ref)} characters: 1 to {_REF_MAX} are fine")
        now = self._clock.now()
        with self._store.begin() as tx:
            at = living(tx, facts(Kind.SITE).key(site, None, None))
            free(tx, at.id, what=f"site {site}")
            in_living_workspace(tx, key)
            _name_is_free(tx, key)
            check_unmanaged(tx, SiteName(site), ref)
            for other in tx.operations.list(states=_RUNNING, limit=10_000):
                same = other.order.get("site"), other.order.get("ref")
                if other.kind is OperationKind.ADOPT and same == (site, ref):
                    raise busy_with(other, f"machine {ref} at {site}")
            note(tx, caller, "adopt", key, now, site=site, ref=ref)
            order: Json = {"site": site, "ref": ref, "name": key.name}
            subject = ResourceId(uuid4())
            return start_bare(tx, caller, OperationKind.ADOPT, subject, key, now=now, order=order)


def check_unmanaged(tx: Tx, site: SiteName, ref: str) -> None:
    """Conflict, naming the instance, when the machine is on record as a copy of one."""
    for artefact in tx.artefacts.list(site=site):
        if (
            artefact.kind is ArtefactKind.INSTANCE
            and artefact.state is not ArtefactState.RELEASED
            and artefact.ref == ref
        ):
            known = tx.resources.find_id(ResourceId(artefact.instance))
            whose = artefact.instance if known is None else known.key
            raise Conflict(f"machine {ref} at {site} belongs to instance {whose}: it is managed")


def put_on_record(tx: Tx, op: Operation, site: SiteName, found: Discovered, now: datetime) -> None:
    """An instance with a block storage for each disk, and a place for it; once."""
    key = key_of(op)
    if tx.resources.find_id(op.subject) is not None:
        return
    check_unmanaged(tx, site, found.seen.ref)
    volumes = [_volume_key(key, number) for number in range(len(found.seen.disks))]
    for each in (key, *volumes):
        _name_is_free(tx, each)
    refs = [{"resource": facts(Kind.BLOCK_STORAGE).resource(v.name)} for v in volumes]
    spec: dict[str, object] = {
        "skuRef": {"resource": f"skus/{nearest_sku(found.seen.size)}"},
        "zone": site,
        "bootVolume": {"deviceRef": refs[0]},
    }
    if len(refs) > 1:
        spec["dataVolumes"] = [{"deviceRef": ref} for ref in refs[1:]]
    tx.resources.put(
        key,
        id=op.subject,
        spec=spec,
        status={"powerState": Power.OFF.value},
        extensions={"fedctl:firmware": found.firmware.value},
        now=now,
    )
    tx.resources.set_state(op.subject, State.CREATING, now=now)
    attached = {"resource": facts(Kind.INSTANCE).resource(key.name)}
    for number, (volume, disk) in enumerate(zip(volumes, found.seen.disks, strict=True)):
        size = -(-disk.size // GIB)
        resource, _ = tx.resources.put(
            volume,
            id=volume_id(op, number),
            spec={"skuRef": {"resource": f"skus/{_STORAGE_SKU}"}, "sizeGB": size},
            status={"sizeGB": size, "attachedTo": attached},
            now=now,
        )
        settled(tx, resource, now=now, created=True)
    instance = InstanceId(op.subject)
    tx.placements.create(Placement(instance=instance, site=site, copy=None, epoch=0))


def forget(tx: Tx, op: Operation, now: datetime) -> None:
    """Takes back what `put_on_record` made; its names are free again."""
    instance = tx.resources.find_id(op.subject)
    if instance is None:
        return
    disks = 1 + len(instance.spec.get("dataVolumes", []))  # type: ignore[arg-type]  # a list, as written
    for each in (op.subject, *(volume_id(op, number) for number in range(disks))):
        resource = tx.resources.find_id(each)
        if resource is not None:
            tx.resources.mark_deleting(each, now)
            tx.resources.remove(each, now)
    tx.placements.delete(InstanceId(op.subject))


def key_of(op: Operation) -> ResourceKey:
    """The instance that an adoption makes."""
    return facts(Kind.INSTANCE).key(str(op.order["name"]), op.tenant, op.workspace)


def volume_id(op: Operation, number: int) -> ResourceId:
    return ResourceId(derived(op.id, "block-storage", number))


def nearest_sku(size: Size) -> str:
    """The smallest size on offer that covers `size`, or the largest: a record has to name one."""
    offered = [
        (int(str(sku.spec["ram"])) * GIB, int(str(sku.spec["vCPU"])), name)
        for name, sku in OFFERED[Kind.INSTANCE_SKU].items()
        if sku.labels["tier"] == "shared"
    ]
    covering = [(m, c, n) for m, c, n in offered if m >= size.memory and c >= size.cpus]
    return min(covering)[2] if covering else max(offered)[2]


def _volume_key(key: ResourceKey, number: int) -> ResourceKey:
    name = f"{key.name}-boot" if number == 0 else f"{key.name}-data-{number}"
    return facts(Kind.BLOCK_STORAGE).key(name, key.tenant, key.workspace)


def _name_is_free(tx: Tx, key: ResourceKey) -> None:
    if tx.resources.find(key) is not None:
        raise Conflict(f"there is a {key.kind} {key} already: give the machine another name")
