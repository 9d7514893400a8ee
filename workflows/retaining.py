"""Retention applied: what no rule keeps and nothing needs is forgotten, and audited."""

from collections.abc import Callable
from datetime import datetime

from controlplane.domain.ids import InstanceId, TenantName, WorkspaceName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind, Resource, ResourceKey
from controlplane.domain.vault import PointRecord
from controlplane.keys.port import domain_owner
from controlplane.services.points import RETENTION_KEY, by_instance, judge_together, related
from controlplane.services.record import note
from controlplane.services.wish import Caller
from controlplane.store.engine import Store
from controlplane.vault.vault import Vault

_MANY = 100_000


def forget_by_retention(
    store: Store, vault: Vault, caller: Caller, clock: Callable[[], datetime]
) -> int:
    """One round over all workspaces with a retention; how many points were forgotten.

    Again is fine: an entry in the audit log stands before its point is forgotten.
    """
    with store.read() as tx:
        domains = {
            domain_owner(workspace.key.tenant or "", workspace.key.name)
            for workspace in tx.resources.list(Kind.WORKSPACE, limit=_MANY)
            if RETENTION_KEY in workspace.extensions
        }
        if not domains:
            return 0
        mine = [record for record in vault.points() if record.domain in domains]
        instances = by_instance(tx, mine)
    return sum(
        _forget(store, vault, caller, instance, related(mine, instance), clock())
        for instance, _ in instances
    )


def _forget(  # noqa: PLR0917  # one instance's points
    store: Store,
    vault: Vault,
    caller: Caller,
    instance: Resource,
    records: list[PointRecord],
    now: datetime,
) -> int:
    """`records` are those that must be looked at together; of the instance some may go."""
    with store.begin() as tx:
        judged = judge_together(tx, records, now).get(InstanceId(instance.id))
        found = {} if judged is None else judged.verdicts
        going = [r for r in records if r.point in found and not found[r.point].keep]
        policy = tx.resources.get(_workspace(instance)).extensions.get(RETENTION_KEY, "")
        for record in going:
            key = _key(instance, record)
            note(tx, caller, "forget", key, now, point=str(record.point), retention=policy)
    for record in going:
        vault.forget(record.point)
    return len(going)


def _workspace(instance: Resource) -> ResourceKey:
    return facts(Kind.WORKSPACE).key(instance.key.workspace or "", instance.key.tenant, None)


def _key(instance: Resource, record: PointRecord) -> ResourceKey:
    return ResourceKey(
        kind=Kind.RECOVERY_POINT,
        name=f"{instance.key.name}.{record.sequence}",
        tenant=TenantName(instance.key.tenant or ""),
        workspace=WorkspaceName(instance.key.workspace or ""),
    )
