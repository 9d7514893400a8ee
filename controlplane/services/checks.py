"""Checks of the vault: asked for by name, one at a time, and gone on with where one was stopped."""

from dataclasses import replace
from datetime import datetime
from typing import cast
from uuid import uuid4

from controlplane.domain.ids import ResourceId
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.domain.vault import Depth
from controlplane.services.record import busy_with, free, note, start
from controlplane.services.stored import Stored, living
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.tx import Tx
from controlplane.vault.checking import CheckOrder

SCHEDULED = "scheduled"
"""The check that housekeeping begins anew each time."""
AFTER = "after"
_MANY = 100_000


class VaultChecks(Stored):
    kind = Kind.VAULT_CHECK

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        """Begins a check, unless the one of that name has ended well already.

        One that was stopped or failed goes on where it was. Busy while another runs.
        """
        now = self.clock.now()
        with self.store.begin() as tx:
            before = tx.resources.find(key)
            same = before is not None and before.spec == wish.spec
            if before is not None and same:
                running = tx.operations.open_for(before.id)
                if running is not None or _ended_well(tx, before):
                    granted = self.write(tx, key, wish, status={}, now=now)
                    return replace(granted, operation=running)
            alone(tx)
            granted = self.write(tx, key, wish, status={}, now=now)
            note(tx, caller, "put", key, now)
            operation = begin(tx, caller, granted.resource, now=now, resume=same)
            return Granted(
                resource=tx.resources.get(key), created=granted.created, operation=operation
            )

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            check = living(tx, key, expected)
            free(tx, check.id, what=f"check {key.name}")
            tx.resources.mark_deleting(check.id, now)
            tx.resources.remove(check.id, now)
            note(tx, caller, "delete", key, now)
        return None


def begin(
    tx: Tx, caller: Caller, check: Resource, *, now: datetime, resume: bool = False
) -> Operation:
    """An operation that does the check; resumed, it reads no blob again that was read."""
    asked = wished(check.spec)
    turn, after = tx.settings.sampled(asked.parts), ""
    if resume and check.state is State.ERROR:
        turn = cast("int", check.status.get("turn", turn))
        after = str(check.status.get(AFTER) or "")
    order: Json = {
        "depth": asked.depth.value, "share": asked.share, "turn": turn, AFTER: after,
    }  # fmt: skip
    operation = start(tx, caller, OperationKind.CHECK_VAULT, check, now=now, order=order)
    status: Json = {
        "operation": operation.name, "turn": turn, "parts": asked.parts, AFTER: after,
        "damaged": None, "findings": [],
    }  # fmt: skip
    tx.resources.patch_status(check.id, status, now=now)
    return operation


def begin_scheduled(tx: Tx, caller: Caller, share: float, now: datetime) -> Operation | None:
    """The next sample of one in 1/`share`; None while any check runs."""
    if _running(tx) is not None:
        return None
    key = facts(Kind.VAULT_CHECK).key(SCHEDULED, None, None)
    spec: Json = {"depth": Depth.SAMPLE.value, "share": share}
    before = tx.resources.find(key)
    resume = before is not None and before.spec == spec
    check, _ = tx.resources.put(key, id=ResourceId(uuid4()), spec=spec, status={}, now=now)
    return begin(tx, caller, check, now=now, resume=resume)


def last_scheduled(tx: Tx) -> datetime | None:
    """When housekeeping began the newest check; None before the first."""
    found = tx.resources.find(facts(Kind.VAULT_CHECK).key(SCHEDULED, None, None))
    if found is None:
        return None
    newest = tx.operations.list(subject=found.id, limit=1)
    return newest[0].created_at if newest else None


def wished(spec: Json) -> CheckOrder:
    """A check's spec, with what was left out."""
    return CheckOrder(
        depth=Depth(str(spec.get("depth", Depth.SAMPLE))),
        share=float(cast("float", spec.get("share", CheckOrder(depth=Depth.SAMPLE).share))),
    )


def alone(tx: Tx) -> None:
    """Busy, naming the other, while any check runs."""
    running = _running(tx)
    if running is not None:
        raise busy_with(running, "the vault")


def _running(tx: Tx) -> Operation | None:
    for check in tx.resources.list(Kind.VAULT_CHECK, limit=_MANY):
        running = tx.operations.open_for(check.id)
        if running is not None:
            return running
    return None


def _ended_well(tx: Tx, check: Resource) -> bool:
    newest = tx.operations.list(subject=check.id, limit=1)
    return bool(newest) and newest[0].state is OperationState.SUCCEEDED
