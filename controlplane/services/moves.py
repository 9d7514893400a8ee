"""Moves: planned, agreed to by digest, run, cancelled, retried, finalized."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

from controlplane.domain.admission import Bounds
from controlplane.domain.errors import Conflict, Invalid
from controlplane.domain.ids import InstanceId, SiteName
from controlplane.domain.operation import Decision, Operation, OperationKind, OperationState
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.services import admission, waivers
from controlplane.services.access import Access
from controlplane.services.ports import Clock
from controlplane.services.record import busy_with, cancel, decide, free, note, queue, start
from controlplane.services.references import must_be_local, resolve
from controlplane.services.sites import known_site
from controlplane.services.stored import Resources, Stored, in_living_workspace, living, referred
from controlplane.services.volumes import offered
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

_DEADLINE = 86_400
_RETAIN = 7 * 86_400
_SHORT = 12
_FIXED = ("instanceRef", "target")
_MOVES = frozenset({OperationKind.PLAN_MOVE, OperationKind.MOVE})
_DECISIONS = {
    "cutover": Decision.CUTOVER,
    "hold": Decision.HOLD,
    "resume": Decision.NONE,
    "forward": Decision.FORWARD,
}
_STOPPED = frozenset(
    {
        OperationState.FAILED,
        OperationState.BLOCKED,
        OperationState.ROLLED_BACK,
        OperationState.CANCELLED,
    }
)


class Moves(Stored):
    kind = Kind.MOVE

    def __init__(self, *, store: Store, clock: Clock, bounds: Bounds, access: Access) -> None:
        super().__init__(store=store, clock=clock)
        self._access = access
        self._bounds = bounds

    def shown(self, tx: Tx, resource: Resource) -> Resource:
        return self.page_shown(tx, [resource])[0]

    def page_shown(self, tx: Tx, page: Resources) -> Resources:
        """Those that wait for their turn say where they stand."""
        waits = admission.of_moves(tx, page, self._bounds)
        return [
            replace(each, status={**each.status, "waitsFor": waits[each.id]})
            if each.id in waits
            else each
            for each in page
        ]

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        now = self.clock.now()
        with self.store.read() as tx:
            standing = tx.resources.find(key)
        waivers.must_be_allowed(self._access, caller, key, wish.spec, standing)
        with self.store.begin() as tx:
            in_living_workspace(tx, key)
            before = tx.resources.find(key)
            instance = _instance(tx, key, wish.spec)
            if before is not None and before.spec == wish.spec:
                granted = self.write(tx, key, wish, status={}, now=now)
                return replace(granted, operation=_latest(tx, before, instance))
            kind = self._admit(tx, key, wish.spec, instance, before)
            givers = waivers.given(wish.spec, before, caller)
            waivers.noted(tx, caller, key, waivers.fresh(wish.spec, before), now)
            granted = self.write(tx, key, wish, status={"phase": admission.QUEUED}, now=now)
            tx.resources.patch_status(granted.resource.id, {waivers.WAIVED_BY: givers}, now=now)
            granted = replace(granted, resource=tx.resources.get(key))
            operation = self._begin(tx, caller, kind, granted.resource, instance, now=now)
            note(tx, caller, "put", key, now, instance=str(instance.key))
            return replace(granted, resource=tx.resources.get(key), operation=operation)

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            move = living(tx, key, expected)
            working = _open(tx, move)
            if working is not None:
                raise busy_with(working, f"move {key}")
            if move.state is not State.DELETING:
                tx.resources.mark_deleting(move.id, now)
            tx.resources.remove(move.id, now)
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
        now = self.clock.now()
        with self.store.begin() as tx:
            in_living_workspace(tx, key)
            move = living(tx, key, expected)
            note(tx, caller, action, key, now)
            if action == "cancel":
                working = _open(tx, move)
                if working is None:
                    raise Conflict(f"move {key} is not running: there is nothing to cancel")
                return cancel(tx, caller, working, now)
            if action in _DECISIONS:
                working = _open(tx, move)
                if working is None:
                    raise Conflict(f"move {key} is not running: there is nothing to decide")
                return decide(tx, caller, working, _DECISIONS[action], now)
            stuck = _open(tx, move)
            if action == "retry" and stuck is not None and _needs_attention(stuck):
                return cancel(tx, caller, stuck, now)
            instance = _instance(tx, key, move.spec)
            free(tx, instance.id, what=f"instance {instance.key}")
            latest = _latest(tx, move, instance)
            if action == "retry":
                return self._retry(tx, caller, move, instance, latest)
            if latest is not None and latest.kind is OperationKind.PLAN_MOVE:
                raise Conflict(f"move {key} was only planned: there is nothing to finalize")
            order = {"move": str(move.id)}
            return start(tx, caller, OperationKind.FINALIZE, instance, now=now, order=order)

    def _admit(
        self, tx: Tx, key: ResourceKey, spec: Json, instance: Resource, before: Resource | None
    ) -> OperationKind:
        """Which operation the wish asks for, when it may be asked for now."""
        target = str(cast("Json", spec["target"])["site"])
        known_site(tx, target, field="spec.target.site")
        if before is not None and any(before.spec[name] != spec[name] for name in _FIXED):
            raise Invalid(f"move {key} is of another instance or site: use another name")
        if "skuRef" in spec:
            named = resolve(spec["skuRef"], field="spec.skuRef", kind=Kind.INSTANCE_SKU, home=key)
            offered(named, home=key, field="spec.skuRef")
        free(tx, instance.id, what=f"instance {instance.key}")
        placement = tx.placements.find(InstanceId(instance.id))
        if placement is None or placement.copy is None or instance.state is not State.ACTIVE:
            raise Conflict(
                f"instance {instance.key} is {instance.state} and cannot be moved:"
                " look at its conditions (fedctl instance show)"
            )
        if placement.site == target:
            raise Conflict(f"instance {instance.key} is on {target} already: nothing to move")
        if spec.get("planOnly"):
            return OperationKind.PLAN_MOVE
        self._agreed(key, spec, before)
        return OperationKind.MOVE

    def _agreed(self, key: ResourceKey, spec: Json, before: Resource | None) -> None:
        """The digest that the wish names is that of the plan that stands; none plans anew."""
        wished = cast("str | None", spec.get("planDigest"))
        standing = None if before is None else cast("str | None", before.status.get("planDigest"))
        if wished is None or wished == standing:
            return
        if standing is None:
            raise Conflict(
                f"move {key} has no plan yet, and plan {wished[:_SHORT]} is to be run:"
                " ask for a plan first (planOnly)"
            )
        raise Conflict(
            f"plan {wished[:_SHORT]} of move {key} was agreed to, but plan {standing[:_SHORT]}"
            " stands now: look at it again (fedctl moves show), then agree to that one"
        )

    def _retry(
        self,
        tx: Tx,
        caller: Caller,
        move: Resource,
        instance: Resource,
        latest: Operation | None,
    ) -> Operation:
        if latest is None or latest.state not in _STOPPED:
            state = "not begun" if latest is None else latest.state
            raise Conflict(f"move {move.key} is {state}: only one that stopped can be retried")
        now = self.clock.now()
        return self._begin(tx, caller, latest.kind, move, instance, now=now, planned=False)

    def _begin(
        self,
        tx: Tx,
        caller: Caller,
        kind: OperationKind,
        move: Resource,
        instance: Resource,
        *,
        now: datetime,
        planned: bool = True,
    ) -> Operation:
        """The operation for the move as it is wished; a plan is made at once, a move waits."""
        order = _order(move, planned=planned)
        if kind is OperationKind.PLAN_MOVE:
            operation = start(tx, caller, kind, instance, now=now, order=order)
        else:
            deadline = timedelta(seconds=cast("float", order["deadlineSeconds"]))
            operation = queue(tx, caller, kind, instance, now=now, order=order, deadline=deadline)
            sites = (tx.placements.get(InstanceId(instance.id)).site, SiteName(str(order["to"])))
            admission.ask(tx, move, operation, sites, self._bounds)
        changes = {"phase": admission.QUEUED, "operation": operation.name}
        tx.resources.patch_status(move.id, changes, now=now)
        return operation


def _instance(tx: Tx, key: ResourceKey, spec: Json) -> Resource:
    field = "spec.instanceRef"
    named = resolve(spec["instanceRef"], field=field, kind=Kind.INSTANCE, home=key)
    return referred(tx, must_be_local(named, field=field, home=key), field=field)


def _order(move: Resource, *, planned: bool) -> dict[str, object]:
    """What the operation is told of the wish; unless `planned` it makes its own plan."""
    spec = move.spec
    deadline = timedelta(seconds=cast("int", spec.get("deadline", _DEADLINE)))
    return {
        "move": str(move.id),
        "to": cast("Json", spec["target"])["site"],
        "checks": [_check(check) for check in cast("list[Json]", spec.get("checks", []))],
        "deadlineSeconds": deadline.total_seconds(),
        "retainSeconds": spec.get("retainSource", _RETAIN),
        "sku": _sku_name(move),
        "networkMap": spec.get("networkMap", []),
        "method": spec.get("method", "auto"),
        "cutover": spec.get("cutover"),
        "maxBandwidth": spec.get("maxBandwidth"),
        "maxDowntimeSeconds": spec.get("maxDowntime"),
        "planDigest": spec.get("planDigest") if planned else None,
        "waivers": waivers.ordered(move),
    }


def _check(check: Json) -> Json:
    return {"pattern": "", "within": 120, **check}


def _sku_name(move: Resource) -> str | None:
    if "skuRef" not in move.spec:
        return None
    named = resolve(move.spec["skuRef"], field="spec.skuRef", kind=Kind.INSTANCE_SKU, home=move.key)
    return named.name


def _latest(tx: Tx, move: Resource, instance: Resource) -> Operation | None:
    """The newest planning or moving operation of this move."""
    found = tx.operations.list(move.key.tenant, move.key.workspace, subject=instance.id)
    return next(
        (o for o in found if o.kind in _MOVES and o.order.get("move") == str(move.id)), None
    )


def _open(tx: Tx, move: Resource) -> Operation | None:
    """The operation of this move that has not ended."""
    instance = resolve(
        move.spec["instanceRef"], field="spec.instanceRef", kind=Kind.INSTANCE, home=move.key
    )
    found = tx.resources.find(instance)
    holder = None if found is None else tx.operations.open_for(found.id)
    if holder is None or holder.order.get("move") != str(move.id):
        return None
    return holder


def _needs_attention(operation: Operation) -> bool:
    return operation.state is OperationState.NEEDS_ATTENTION
