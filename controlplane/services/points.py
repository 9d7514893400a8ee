"""Recovery points as their owners see them: when, how much, why kept; deleted, verified."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import cast
from uuid import UUID

from controlplane.domain.artefact import RETENTION, Artefact, ArtefactState
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.ids import (
    GroupId,
    InstanceId,
    OperationId,
    PointId,
    ResourceId,
    TenantName,
    WorkspaceName,
    derived,
)
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Condition, Json, Kind, Resource, ResourceKey, State
from controlplane.domain.vault import PointRecord
from controlplane.keys.port import domain_owner
from controlplane.planning.retention import Policy, Taken, Verdict, parse, verdicts
from controlplane.services.operations import stamp
from controlplane.services.ports import Clock
from controlplane.services.record import free, note, start_bare
from controlplane.services.selecting import selects
from controlplane.services.stored import ReadOnly, Resources, in_living_workspace, known_workspace
from controlplane.services.wish import Caller, Page
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from controlplane.vault.heads import told_group

RETENTION_KEY = "fedctl:retention"
POINT = "point"
_MANY = 100_000
_KEPT = frozenset(ArtefactState) - {ArtefactState.RELEASED}
_TILL_DELETED = "no retention is set: kept until somebody deletes it"
_BY_ITS_MOVE = "no retention is set: kept until the old copies of its move are released"
_ENDINGS = {
    "verify": OperationKind.VERIFY_POINT,
    "delete": OperationKind.DELETE_POINT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The points of one instance, what becomes of each, and what needs some of them."""

    verdicts: Mapping[PointId, Verdict]
    needed: Mapping[PointId, Sequence[str]]
    expires: Mapping[PointId, datetime]


class RecoveryPoints(ReadOnly):
    """Named by the instance and the point's number: `web-1.3`. Images have none."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def get(self, caller: Caller, key: ResourceKey) -> Resource:
        del caller
        with self._store.read() as tx:
            instance, record = _found(tx, key)
            beside = related(_in_workspace(tx, key.tenant or "", key.workspace or ""), instance)
            judged = judge_together(tx, beside, self._clock.now())[record.instance]
            return _shown(instance, record, judged, verified=_verified(tx, record))

    def list(self, caller: Caller, page: Page) -> Resources:
        del caller
        with self._store.read() as tx:
            known_workspace(tx, page)
            if page.deleted == "only":
                return []
            found = sorted(self._all(tx, page), key=lambda each: each.key.name)
            wanted = (
                each
                for each in found
                if each.key.name > page.after and selects(page.labels, each.labels)
            )
            return list(islice(wanted, page.limit))

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        """Conflict where a copy at a site or a running operation needs it."""
        del expected
        now = self._clock.now()
        with self._store.begin() as tx:
            instance, record = _found(tx, key)
            free(tx, instance.id, what=f"instance {instance.key}")
            free(tx, ResourceId(record.point), what=f"recovery point {key}")
            needed = needs(tx, instance, (record,), now)[0].get(record.point)
            if needed:
                raise Conflict(
                    f"recovery point {key} is needed ({'; '.join(needed)}): release copies first"
                    f" (fedctl moves finalize {instance.key}), delete a protection or take newer"
                    " points of it"
                )
            return self._start(tx, caller, key, record, "delete", now)

    def act(
        self,
        caller: Caller,
        key: ResourceKey,
        action: str,
        expected: int | None,
        options: Mapping[str, str],
    ) -> Operation | None:
        """`verify` reads the whole point and compares its digests."""
        del expected, options
        now = self._clock.now()
        with self._store.begin() as tx:
            _, record = _found(tx, key)
            free(tx, ResourceId(record.point), what=f"recovery point {key}")
            return self._start(tx, caller, key, record, action, now)

    def _start(  # noqa: PLR0917  # what an operation is made of
        self,
        tx: Tx,
        caller: Caller,
        key: ResourceKey,
        record: PointRecord,
        what: str,
        now: datetime,
    ) -> Operation:
        note(tx, caller, what, key, now, point=str(record.point))
        order: Json = {POINT: str(record.point)}
        subject = ResourceId(record.point)
        return start_bare(tx, caller, _ENDINGS[what], subject, key, now=now, order=order)

    def _all(self, tx: Tx, page: Page) -> Resources:
        tenant, workspace = page.tenant or TenantName(""), page.workspace or WorkspaceName("")
        shown: Resources = []
        every = _in_workspace(tx, tenant, workspace)
        judged = judge_together(tx, every, self._clock.now())
        for instance, records in by_instance(tx, every):
            mine = judged[InstanceId(instance.id)]
            shown += [_shown(instance, record, mine) for record in records]
        return shown


def retention_of(tx: Tx, tenant: str | None, workspace: str | None) -> Policy | None:
    """What was asked for in the workspace; None where points go with their moves."""
    found = tx.resources.find(facts(Kind.WORKSPACE).key(workspace or "", tenant, None))
    text = found.extensions.get(RETENTION_KEY) if found is not None else None
    return parse(text) if text else None


def judge(tx: Tx, instance: Resource, records: Collection[PointRecord], now: datetime) -> Judged:
    """What retention says of all retained points of an instance."""
    needed, expires = needs(tx, instance, records, now)
    policy = retention_of(tx, instance.key.tenant, instance.key.workspace)
    if policy is None:
        said = [
            Verdict(point=r.point, why=(*needed.get(r.point, ()), _unasked(r))) for r in records
        ]
    else:
        taken = [Taken(point=r.point, at=r.committed_at) for r in records]
        said = list(verdicts(taken, policy, needed))
        expires = {}
    return Judged(verdicts={v.point: v for v in said}, needed=needed, expires=expires)


def judge_together(
    tx: Tx, records: Collection[PointRecord], now: datetime
) -> dict[InstanceId, Judged]:
    """As `judge`, of every instance that there is; a group stays while one of its points does."""
    found = [(i, mine, judge(tx, i, mine, now)) for i, mine in by_instance(tx, records)]
    staying: dict[GroupId, str] = {}
    for instance, mine, judged in found:
        for record in mine:
            group = told_group(record.head)
            if group is not None and judged.verdicts[record.point].keep:
                staying.setdefault(group.group, f"{instance.key.name}.{record.sequence}")
    return {
        InstanceId(instance.id): replace(
            judged, verdicts={r.point: _beside(r, judged, staying) for r in mine}
        )
        for instance, mine, judged in found
    }


def _beside(record: PointRecord, judged: Judged, staying: Mapping[GroupId, str]) -> Verdict:
    verdict = judged.verdicts[record.point]
    group = told_group(record.head)
    if verdict.keep or group is None or group.group not in staying:
        return verdict
    return Verdict(point=record.point, why=(f"{staying[group.group]}, of its group, is kept",))


def related(records: Collection[PointRecord], instance: Resource) -> list[PointRecord]:
    """All records of the instance, and of those that share a group with it."""
    told = [(record, told_group(record.head)) for record in records]
    groups = {g.group for r, g in told if g is not None and r.instance == instance.id}
    beside = {r.instance for r, g in told if g is not None and g.group in groups}
    return [r for r in records if r.instance == instance.id or r.instance in beside]


def _unasked(record: PointRecord) -> str:
    return _BY_ITS_MOVE if told_group(record.head) is None else _TILL_DELETED


def needs(
    tx: Tx, instance: Resource, records: Collection[PointRecord], now: datetime
) -> tuple[dict[PointId, list[str]], dict[PointId, datetime]]:
    """Why points may not be forgotten whatever retention says; until when, where that is known.

    A copy at a site equals it; an operation works on the instance or on the point; a move that
    failed may be tried again with it; it is of a protection's newest, on which its next one builds.
    """
    needed: dict[PointId, list[str]] = {}
    expires: dict[PointId, datetime] = {}
    for artefact in tx.artefacts.list(instance=InstanceId(instance.id), states=_KEPT):
        if artefact.holds is not None:
            needed.setdefault(artefact.holds, []).append(_held(artefact))
            if artefact.expires_at is not None:
                known = expires.get(artefact.holds, artefact.expires_at)
                expires[artefact.holds] = max(known, artefact.expires_at)
    for operation in tx.operations.list(subject=instance.id, limit=1000):
        if operation.kind is OperationKind.MOVE and _may_be_retried(operation, now):
            for point in points_of_move(tx, operation.id):
                needed.setdefault(PointId(point), []).append(f"for a retry of {operation.name}")
    for point, name in _newest_of_protections(tx, instance).items():
        needed.setdefault(point, []).append(f"the newest of protection {name}")
    working = tx.operations.open_for(instance.id)
    for record in records:
        reading = tx.operations.open_for(ResourceId(record.point)) or working
        if reading is not None:
            needed.setdefault(record.point, []).append(f"operation {reading.name} is under way")
    return needed, expires


def _newest_of_protections(tx: Tx, instance: Resource) -> dict[PointId, str]:
    found: dict[PointId, str] = {}
    for protection in tx.resources.list(
        Kind.PROTECTION, tenant=instance.key.tenant, workspace=instance.key.workspace, limit=_MANY
    ):
        for each in cast("list[Json]", protection.status.get("points") or []):
            if each["instance"] == instance.key.name:
                found[PointId(UUID(str(each["point"])))] = protection.key.name
    return found


def points_of_move(tx: Tx, move: OperationId) -> tuple[UUID, ...]:
    """The last copy of a move, and those of its passes that may not be forgotten yet."""
    passes = sum(step.name.endswith(" commit copy") for step in tx.operations.steps(move))
    numbers = range(max(passes - 2, 0), passes)
    return (derived(move, "point"), *(derived(move, "point", number) for number in numbers))


def by_instance(
    tx: Tx, records: Collection[PointRecord]
) -> list[tuple[Resource, list[PointRecord]]]:
    """The records of instances that there are; an image is no instance."""
    groups: dict[InstanceId, list[PointRecord]] = {}
    for record in records:
        groups.setdefault(record.instance, []).append(record)
    found = ((tx.resources.find_id(ResourceId(i)), mine) for i, mine in groups.items())
    return [(r, mine) for r, mine in found if r is not None and r.key.kind is Kind.INSTANCE]


def _may_be_retried(move: Operation, now: datetime) -> bool:
    ended = move.ended_at
    failed = move.state is not OperationState.SUCCEEDED
    return failed and (ended is None or ended + RETENTION > now)


def _held(artefact: Artefact) -> str:
    return f"the copy at {artefact.site} equals it"


def _in_workspace(tx: Tx, tenant: str, workspace: str) -> tuple[PointRecord, ...]:
    return tx.vault.points_in(domain_owner(tenant, workspace))


def _of(tx: Tx, instance: Resource) -> list[PointRecord]:
    records = _in_workspace(tx, instance.key.tenant or "", instance.key.workspace or "")
    return [record for record in records if record.instance == instance.id]


def _found(tx: Tx, key: ResourceKey) -> tuple[Resource, PointRecord]:
    in_living_workspace(tx, key, reading=True)
    name, _, number = key.name.rpartition(".")
    instance = tx.resources.find(facts(Kind.INSTANCE).key(name, key.tenant, key.workspace))
    if instance is not None:
        for record in _of(tx, instance):
            if str(record.sequence) == number:
                return instance, record
    raise NotFound(
        f"there is no recovery point {key}: list them"
        f" (fedctl recovery-points list -w {key.workspace})"
    )


def _verified(tx: Tx, record: PointRecord) -> datetime | None:
    """When it was last read as a whole and found equal."""
    for operation in tx.operations.list(subject=ResourceId(record.point), limit=20):
        good = operation.state is OperationState.SUCCEEDED
        if good and operation.kind is OperationKind.VERIFY_POINT:
            return operation.ended_at
    return None


def _shown(
    instance: Resource,
    record: PointRecord,
    judged: Judged,
    *,
    verified: datetime | None = None,
) -> Resource:
    expires = judged.expires.get(record.point)
    group = told_group(record.head)
    status: dict[str, object] = {
        "point": str(record.point),
        "sequence": record.sequence,
        "bytes": sum(disk.size for disk in record.disks),
        "bytesNew": sum(disk.bytes_new for disk in record.disks),
        "bytesStored": sum(disk.bytes_stored for disk in record.disks),
        "digest": record.root,
        "disks": [
            {"disk": disk.disk, "sizeBytes": disk.size, "digest": disk.digest}
            for disk in record.disks
        ],
        "kept": list(judged.verdicts[record.point].why),
        "expiresAt": None if expires is None else stamp(expires),
        "verifiedAt": None if verified is None else stamp(verified),
        "group": None
        if group is None
        else {
            "id": str(group.group),
            "members": group.members,
            "askedAt": stamp(group.taken.asked),
            "answeredAt": stamp(group.taken.answered),
        },
    }
    return Resource(
        key=ResourceKey(
            kind=Kind.RECOVERY_POINT,
            name=f"{instance.key.name}.{record.sequence}",
            tenant=instance.key.tenant,
            workspace=instance.key.workspace,
        ),
        id=ResourceId(record.point),
        spec={
            "instanceRef": {"resource": facts(Kind.INSTANCE).resource(instance.key.name)},
            "takenAt": stamp(record.committed_at if group is None else group.taken.asked),
        },
        status=status,
        state=State.ACTIVE,
        conditions=(Condition(state=State.ACTIVE, at=record.committed_at),),
        version=1,
        status_version=1,
        created_at=record.committed_at,
        modified_at=record.committed_at,
        labels=instance.labels,
    )
