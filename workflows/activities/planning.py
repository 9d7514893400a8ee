"""Gathers the facts that planning decides on, and writes its plans down."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar, cast
from uuid import UUID

from pydantic import TypeAdapter
from temporalio import activity

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.errors import Busy, Conflict, FedctlError
from controlplane.domain.finding import blocking
from controlplane.domain.ids import InstanceId, PointId, RegionName, ResourceId, SiteName
from controlplane.domain.instance import InstanceSeen, InstanceState, Power
from controlplane.domain.kinds import facts as kind_facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.placement import Placement
from controlplane.domain.plan import (
    Method,
    MovePlan,
    ProvisionPlan,
)
from controlplane.domain.resource import Kind, Resource
from controlplane.domain.site import Capability, ProviderKind, QuotaSeen, SiteFacts
from controlplane.planning.differences import as_agreed, in_the_way
from controlplane.planning.digest import as_json, digest
from controlplane.planning.facts import MoveFacts, Rate
from controlplane.planning.move import move
from controlplane.planning.provision import provision, refuse
from controlplane.planning.reuse import Kept
from controlplane.planning.warm import pauses
from controlplane.services.bandwidth import narrowest
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from drivers.contract import GuestAgent, Instances, Quota, capabilities, require
from workflows.activities.records import OLD_HOME, operation_id
from workflows.activities.steps import Steps
from workflows.activities.wishes import firmware, move_wish, provision_wish, wished_size
from workflows.connections import Connect

T = TypeVar("T")
_MOVE_PLAN = TypeAdapter(MovePlan)
_READING = re.compile(r"(^| )copy \d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAgain:
    """The plan that runs; `made`: its target stands already."""

    operation: str
    plan: MovePlan
    made: bool


class PlanActivities:
    """`stands` tells whether the vault retains a point; `clock` answers aware UTC times.

    `look` opens a driver even for a frozen site, which `connect` refuses.
    """

    def __init__(  # noqa: PLR0917  # what a plan is made of
        self,
        store: Store,
        steps: Steps,
        connect: Connect,
        look: Connect,
        clock: Callable[[], datetime],
        stands: Callable[[PointId], bool],
    ) -> None:
        self._store = store
        self._steps = steps
        self._connect = connect
        self._look = look
        self._clock = clock
        self._stands = stands

    @activity.defn(no_thread_cancel_exception=True)
    def verify_site(self, operation: str) -> None:
        """Log in, look around, and show what the site can and offers."""
        op_id = operation_id(operation)
        with self._store.read() as tx:
            op = tx.operations.get(op_id)
            site = tx.resources.by_id(op.subject)
        try:
            with self._steps.step(op_id, "verify") as meter:
                try:
                    with meter.calling():
                        seen = self._facts(site, self._look)
                except FedctlError as error:
                    self._show_problem(site, error)
                    raise
        finally:
            del op
        now = self._clock()
        with self._store.begin() as tx:
            tx.resources.patch_status(site.id, _shown(seen, now), now=now)

    def _show_problem(self, site: Resource, error: FedctlError) -> None:
        now = self._clock()
        status = {
            "health": "unreachable" if error.retryable else "refused",
            "problem": {"code": error.code, "message": str(error)},
        }
        with self._store.begin() as tx:
            tx.resources.patch_status(site.id, status, now=now)

    def _facts(self, site: Resource, connect: Connect | None = None) -> SiteFacts:
        name = SiteName(site.key.name)
        with (connect or self._connect)(name) as driver:
            health = driver.check()
            lacking = frozenset(health.lacking)
            able = capabilities(driver) - lacking
            quota = require(driver, Quota).quota() if Capability.QUOTA in able else QuotaSeen()
            return SiteFacts(
                site=name,
                provider=ProviderKind(str(site.spec["provider"])),
                region=RegionName(str(site.spec.get("region", ""))),
                capabilities=able,
                limits=driver.limits,
                catalogue=driver.catalogue(),
                quota=quota,
                version=health.version,
                country=str(site.spec.get("country") or ""),
                warnings=tuple(f"{c}: {why}" for c, why in health.lacking.items())
                + health.warnings,
            )

    def _site(self, name: str) -> Resource:
        with self._store.read() as tx:
            return tx.resources.get(kind_facts(Kind.SITE).key(name, None, None))

    # Provisioning

    @activity.defn(no_thread_cancel_exception=True)
    def plan_provision(self, operation: str) -> ProvisionPlan:
        """The plan for a new instance; raises the error that its first blocker stands for."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "preflight") as meter:
            with self._store.read() as tx:
                op = tx.operations.get(op_id)
                instance = tx.resources.by_id(op.subject)
                wish = provision_wish(tx, instance)
                site = tx.resources.get(
                    kind_facts(Kind.SITE).key(str(instance.spec["zone"]), None, None)
                )
            with meter.calling():
                seen = self._facts(site)
            plan = provision(seen, wish)
            with self._store.begin() as tx:
                tx.operations.update(
                    op_id,
                    plan=cast("dict[str, object]", as_json(plan)),
                    plan_digest=digest(plan),
                    findings=plan.findings,
                )
                if tx.placements.find(InstanceId(instance.id)) is None:
                    tx.placements.create(
                        Placement(
                            instance=InstanceId(instance.id),
                            site=seen.site,
                            copy=None,
                            epoch=0,
                        )
                    )
            refuse(plan)
            return plan

    # Moves

    @activity.defn(no_thread_cancel_exception=True)
    def plan_move(self, operation: str) -> MovePlan | None:
        """The plan to run, written down; None when findings block it."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "preflight") as meter:
            with self._store.read() as tx:
                op = tx.operations.get(op_id)
                agreed = _agreed_plan(tx, op)
            with meter.calling():
                facts = self._move_facts(op)
            plan = move(facts, move_wish(op))
            if agreed is not None:
                plan = as_agreed(agreed, plan)
            blocked = bool(blocking(plan.findings))
            self._write_plan(op, plan)
            return None if blocked else plan

    @activity.defn(no_thread_cancel_exception=True)
    def look_again(self, order: LookAgain) -> None:
        """Conflict where the source may not be stopped by the plan any more; Busy while unclear."""
        op_id = operation_id(order.operation)
        with self._steps.step(op_id, "preflight again") as meter:
            with self._store.read() as tx:
                op = tx.operations.get(op_id)
            with meter.calling():
                facts = replace(self._move_facts(op, again=True), made=order.made)
            if facts.seen is None or facts.seen.power is None or _working(facts.seen):
                raise Busy(
                    f"{op.subject_name} is not at rest at {facts.source.site}"
                    f" ({facts.unseen_why or 'it is being changed'}): ask again"
                )
            why = in_the_way(order.plan, move(facts, move_wish(op)))
            if why:
                raise Conflict(
                    f"{op.subject_name} was not cut over, and its source was not stopped: since the"
                    f" plan was made {why}; plan it again",
                    reason="preflight-differs",
                )

    def _write_plan(self, op: Operation, plan: MovePlan) -> None:
        now = self._clock()
        shown = cast("dict[str, object]", as_json(plan))
        name = digest(plan)
        with self._store.begin() as tx:
            tx.operations.update(op.id, plan=shown, plan_digest=name, findings=plan.findings)
            tx.resources.patch_status(
                ResourceId(UUID(str(op.order["move"]))),
                {
                    "plan": shown,
                    "planDigest": name,
                    "findings": as_json(plan.findings),
                    "estimate": as_json(plan.estimate),
                },
                now=now,
            )

    def _move_facts(self, op: Operation, *, again: bool = False) -> MoveFacts:
        with self._store.read() as tx:
            instance = tx.resources.by_id(op.subject)
            placement = tx.placements.get(InstanceId(op.subject))
            lease = tx.leases.find(InstanceId(op.subject))
            busy = ""
            if lease is not None and lease.operation != op.id:
                busy = tx.operations.get(lease.operation).name
            copy = placement.copy
            anchor = tx.artefacts.get(copy).anchor if copy else None
            epoch = placement.epoch
            rate = _measured(tx, placement.site, str(op.order["to"]))
            bandwidth = narrowest(
                tx, op, (placement.site, SiteName(str(op.order["to"]))), self._clock()
            )
        if copy is None:
            raise Conflict(
                f"{op.subject_name} was never provisioned: create it first, then move it"
            )
        source = self._facts(self._site(placement.site))
        target = self._facts(self._site(str(op.order["to"])))
        with self._store.read() as tx:
            owner = tx.artefacts.get(copy).owner
        owner = replace(owner, epoch=epoch)
        seen, why = self._seen(placement.site, owner, anchor)
        runs = seen is not None and seen.power is Power.ON
        traits, traits_why = self._told(source, lambda it: it.traits(owner))
        proof, proof_why = (
            self._told(source, lambda it: it.probe_boot(owner)) if runs else (None, "")
        )
        return MoveFacts(
            instance=InstanceId(op.subject),
            name=instance.key.name,
            source=source,
            target=target,
            copy=copy,
            seen=seen,
            unseen_why=why,
            firmware=firmware(instance),
            wished_size=wished_size(instance) if instance.spec.get("skuRef") else None,
            ssh_keys=tuple(cast("list[str]", instance.spec.get("sshKeys") or [])),
            user_data=str(instance.spec.get("userData") or ""),
            rate=rate,
            bandwidth=bandwidth,
            busy_with=busy,
            kept=None if again else self._kept(InstanceId(op.subject), target.site, epoch),
            agent=self._agent_answers(source, owner) if runs and pauses(source) else None,
            traits=traits,
            traits_why=traits_why,
            proof=proof,
            proof_why=proof_why,
            again=again,
            now=self._clock(),
        )

    def _told(self, source: SiteFacts, look: Callable[[Instances], T]) -> tuple[T | None, str]:
        """What one look at the instance tells, or why it told nothing: no look stops the others."""
        try:
            with self._connect(source.site) as driver:
                return look(require(driver, Instances)), ""
        except FedctlError as error:
            return None, str(error)

    def _agent_answers(self, source: SiteFacts, owner: OwnerTag) -> bool | None:
        """None where nobody can tell: that is no reason to plan nothing."""
        if Capability.GUEST_AGENT not in source.capabilities:
            return None
        try:
            with self._connect(source.site) as driver:
                return require(driver, GuestAgent).agent_answers(owner)
        except FedctlError:
            return None

    def _kept(self, instance: InstanceId, site: SiteName, epoch: int) -> Kept | None:
        """What an earlier move retained of the instance at the target, the best of it."""
        with self._store.read() as tx:
            found = [
                a
                for a in tx.artefacts.list(
                    instance=instance, site=site, states={ArtefactState.RETAINED}
                )
                if a.kind is ArtefactKind.INSTANCE
            ]
        if not found:
            return None
        kept = max(found, key=lambda a: a.holds is not None and self._stands(a.holds))
        seen, why = self._seen(site, replace(kept.owner, epoch=epoch), kept.anchor)
        return Kept(
            copy=kept.id,
            was_home=kept.note == OLD_HOME,
            holds=kept.holds,
            stands=kept.holds is not None and self._stands(kept.holds),
            seen=seen,
            unseen_why=why,
        )

    def _seen(
        self, site: SiteName, owner: OwnerTag, anchor: str | None
    ) -> tuple[InstanceSeen | None, str]:
        """The instance as the site shows it, or why not."""
        with self._connect(site) as driver:
            answer = require(driver, Instances).find(owner, anchor)
        if isinstance(answer, Seen):
            return answer.it, ""
        return None, "it is not there" if isinstance(answer, Absent) else answer.why


def _agreed_plan(tx: Tx, op: Operation) -> MovePlan | None:
    """The stored plan whose digest the wish named; None when it named none."""
    wanted = op.order.get("planDigest")
    if op.kind is not OperationKind.MOVE or not wanted:
        return None
    status = tx.resources.by_id(ResourceId(UUID(str(op.order["move"])))).status
    if status.get("planDigest") != wanted:
        raise Conflict(
            f"the plan {str(wanted)[:12]} is not the newest plan of this move"
            f" ({str(status.get('planDigest'))[:12]}): look at it and agree again"
        )
    return _MOVE_PLAN.validate_python(status["plan"], strict=False)


def _working(seen: InstanceSeen) -> bool:
    return seen.state is InstanceState.WORKING


def _shown(seen: SiteFacts, now: datetime) -> dict[str, object]:
    return {
        "health": "healthy",
        "version": seen.version,
        "capabilities": sorted(seen.capabilities),
        "warnings": list(seen.warnings),
        "lastSeenAt": now.isoformat(),
        "skus": [as_json(s) for s in seen.catalogue.skus],
        "networks": [as_json(n) for n in seen.catalogue.networks],
        "quota": as_json(seen.quota),
        "problem": None,
    }


def _measured(tx: Tx, source: str, target: str) -> Rate:
    """Bytes of disk per second of copying in the newest move on this pair of sites."""
    ended = tx.operations.list(states=frozenset({OperationState.SUCCEEDED}), limit=100)
    for op in ended:
        plan = op.plan or {}
        goal = cast("dict[str, object]", plan.get("target") or {})
        if (
            op.kind is OperationKind.MOVE
            and op.ended_at is not None
            and (plan.get("source"), goal.get("site")) == (source, target)
        ):
            size = int(cast("int", op.result.get("bytesRead") or 0))
            steps = tx.operations.steps(op.id)
            if op.result.get("method") == Method.WARM:
                # It waited for people, and read far more than once: only the reading tells.
                seconds = sum(s.copy_seconds for s in steps if _READING.search(s.name))
            else:
                # Read, brought and read back; two of them are one where the target stood before.
                passes = cast("dict[str, object]", plan.get("passes") or {})
                times = 2 if passes.get("direct") or passes.get("beside") else 3
                seconds = sum(s.copy_seconds + s.provider_seconds for s in steps) / times
            if seconds > 0 and size > 0:
                return Rate(bytes_per_second=size / seconds, seen=f"{op.ended_at:%d %b %Y}")
    return Rate()
