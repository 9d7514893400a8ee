"""Gathers the facts that planning decides on, and writes its plans down."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from pydantic import TypeAdapter
from temporalio import activity

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import GIB, MIB
from controlplane.domain.errors import Conflict, FedctlError, NotFound
from controlplane.domain.finding import Finding, Severity, blocking
from controlplane.domain.ids import InstanceId, PointId, RegionName, ResourceId, SiteName
from controlplane.domain.instance import Firmware, InstanceSeen, Size
from controlplane.domain.kinds import facts as kind_facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.placement import Placement
from controlplane.domain.plan import (
    AcceptanceCheck,
    CheckKind,
    Cutover,
    Method,
    MovePlan,
    ProvisionPlan,
)
from controlplane.domain.resource import Kind, Resource, ResourceKey, State
from controlplane.domain.site import Capability, ProviderKind, QuotaSeen, SiteFacts
from controlplane.planning.digest import as_json, digest
from controlplane.planning.move import MoveFacts, MoveWish, Rate, move
from controlplane.planning.provision import DiskWish, ProvisionWish, provision, refuse
from controlplane.planning.reuse import Kept
from controlplane.services.bandwidth import narrowest
from controlplane.services.references import resolve
from controlplane.services.skus import sku
from controlplane.services.volumes import volume_keys
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from drivers.contract import Instances, Quota, capabilities, require
from workflows.activities.records import OLD_HOME, operation_id
from workflows.activities.steps import Steps
from workflows.connections import Connect

_MOVE_PLAN = TypeAdapter(MovePlan)
_PLAN_PARTS = ("source", "copy", "target", "passes", "fence", "was_on")
_BEST = "auto"
_READING = re.compile(r"(^| )copy \d+$")


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
                wish = _provision_wish(tx, instance)
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
            plan = move(facts, _move_wish(op))
            if agreed is not None:
                plan = _as_agreed(agreed, plan)
            blocked = bool(blocking(plan.findings))
            self._write_plan(op, plan)
            return None if blocked else plan

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

    def _move_facts(self, op: Operation) -> MoveFacts:
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
            bandwidth = narrowest(tx, op, (placement.site, SiteName(str(op.order["to"]))))
        if copy is None:
            raise Conflict(
                f"{op.subject_name} was never provisioned: create it first, then move it"
            )
        source = self._facts(self._site(placement.site))
        target = self._facts(self._site(str(op.order["to"])))
        with self._store.read() as tx:
            owner = tx.artefacts.get(copy).owner
        seen, why = self._seen(placement.site, replace(owner, epoch=epoch), anchor)
        return MoveFacts(
            instance=InstanceId(op.subject),
            name=instance.key.name,
            source=source,
            target=target,
            copy=copy,
            seen=seen,
            unseen_why=why,
            firmware=_firmware(instance),
            ssh_keys=tuple(cast("list[str]", instance.spec.get("sshKeys") or [])),
            user_data=str(instance.spec.get("userData") or ""),
            rate=rate,
            bandwidth=bandwidth,
            busy_with=busy,
            kept=self._kept(InstanceId(op.subject), target.site, epoch),
        )

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


def _as_agreed(agreed: MovePlan, now: MovePlan) -> MovePlan:
    """The agreed plan, with today's findings added; a plan that would differ now is blocked."""
    differing = [
        part
        for part in _PLAN_PARTS
        if as_json(getattr(agreed, part)) != as_json(getattr(now, part))
    ]
    if not differing:
        return agreed if not blocking(now.findings) else replace(agreed, findings=now.findings)
    finding = Finding(
        id="PLN01",
        severity=Severity.BLOCKER,
        subject=agreed.instance_name,
        evidence=f"since the plan was made these changed: {', '.join(differing)}",
        remedy="make a new plan and agree to it",
    )
    return replace(agreed, findings=(*now.findings, finding))


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


def _firmware(instance: Resource) -> Firmware:
    return Firmware(str(instance.extensions.get("fedctl:firmware", Firmware.BIOS.value)))


def _provision_wish(tx: Tx, instance: Resource) -> ProvisionWish:
    spec = instance.spec
    home = instance.key
    named = resolve(spec["skuRef"], field="spec.skuRef", kind=Kind.INSTANCE_SKU, home=home)
    size = sku(named).spec
    extensions = instance.extensions
    return ProvisionWish(
        instance=InstanceId(instance.id),
        name=home.name,
        size=Size(cpus=int(cast("int", size["vCPU"])), memory=int(cast("int", size["ram"])) * GIB),
        disks=tuple(_disk_wish(tx, key) for key in volume_keys(home, spec)),
        network=extensions.get("fedctl:network", ""),
        mac=extensions.get("fedctl:mac"),
        address=extensions.get("fedctl:address"),
        firmware=_firmware(instance),
        ssh_keys=tuple(cast("list[str]", spec.get("sshKeys") or [])),
        user_data=str(spec.get("userData") or ""),
    )


def _disk_wish(tx: Tx, key: ResourceKey) -> DiskWish:
    volume = tx.resources.get(key)
    size = int(cast("int", volume.spec["sizeGB"])) * GIB
    reference = volume.spec.get("sourceImageRef")
    if not reference:
        return DiskWish(size=size)
    found = resolve(reference, field="spec.sourceImageRef", kind=Kind.IMAGE, home=key)
    image = tx.resources.find(found)
    if image is None:
        raise NotFound(f"image {found.name} is gone: name another image")
    if image.state is not State.ACTIVE:
        raise Conflict(f"image {found.name} is {image.state}: wait until it is active")
    return DiskWish(
        size=size,
        image_size=int(cast("int", image.status.get("sizeMB", 0))) * MIB,
        point=PointId(image.id),
    )


def _move_wish(op: Operation) -> MoveWish:
    order = op.order
    checks = cast("list[dict[str, object]]", order.get("checks") or [])
    rules = cast("list[dict[str, str]]", order.get("networkMap") or [])
    wish = MoveWish(
        sku=cast("str | None", order.get("sku")),
        networks=tuple((rule["from"], rule["to"]) for rule in rules),
        checks=tuple(
            AcceptanceCheck(
                kind=CheckKind(str(check["kind"])),
                pattern=str(check.get("pattern") or ""),
                within=timedelta(seconds=float(cast("float", check.get("within") or 120))),
            )
            for check in checks
        ),
    )
    if order.get("method"):
        named = str(order["method"])
        wish = replace(wish, method=None if named == _BEST else Method(named))
    if order.get("cutover"):
        wish = replace(wish, cutover=_cutover(cast("dict[str, object]", order["cutover"])))
    if order.get("deadlineSeconds"):
        wish = replace(wish, deadline=_seconds(order["deadlineSeconds"]))
    if order.get("retainSeconds"):
        wish = replace(wish, retain=_seconds(order["retainSeconds"]))
    if order.get("maxDowntimeSeconds"):
        wish = replace(wish, max_downtime=_seconds(order["maxDowntimeSeconds"]))
    return wish


def _cutover(wish: dict[str, object]) -> Cutover:
    def moment(name: str) -> datetime | None:
        text = wish.get(name)
        return None if text is None else datetime.fromisoformat(str(text))

    return Cutover(
        manual=wish.get("mode") == "manual",
        not_before=moment("notBefore"),
        not_after=moment("notAfter"),
    )


def _seconds(value: object) -> timedelta:
    return timedelta(seconds=float(cast("float", value)))


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
                seconds = sum(s.copy_seconds + s.provider_seconds for s in steps) / 3
            if seconds > 0 and size > 0:
                return Rate(bytes_per_second=size / seconds, seen=f"{op.ended_at:%d %b %Y}")
    return Rate()
