"""What is known of instances whose recovery points are to be taken together, and their plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from temporalio import activity

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import Busy, NotFound, Unsupported
from controlplane.domain.ids import ArtefactId, InstanceId, PointId, SiteName
from controlplane.domain.instance import InstanceSeen
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Json, Kind
from controlplane.domain.site import Changes
from controlplane.keys.port import domain_owner
from controlplane.planning.digest import as_json
from controlplane.planning.grouping import Candidate, Order, manner, order, refusals
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from drivers.contract import Instances, capabilities, require
from workflows.activities.atsite import SiteSteps
from workflows.activities.records import operation_id
from workflows.activities.steps import Meter, Steps
from workflows.connections import Connect

MARKS, POINTS = "marks", "points"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDisk:
    index: int
    volume: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMark:
    """A snapshot of the last time that names what changes are asked for since."""

    snapshot: ArtefactId
    site: SiteName
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPlan:
    """An instance as it is before its point is taken.

    `base` is its last point of the same protection; `mark` stands at a site yet, which need not be
    the present one. `tracked`: its site tells what changed since a snapshot.
    """

    instance: InstanceId
    name: str
    site: SiteName
    copy: ArtefactId
    disks: tuple[MemberDisk, ...]
    tracked: bool
    base: PointId | None = None
    mark: KeptMark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsPlan:
    """What is taken together; `max_spread` None: any spread will do."""

    domain: str
    members: tuple[MemberPlan, ...]
    order: Order
    max_spread: timedelta | None = None


class GroupPlanActivities(SiteSteps):
    """`stands` tells whether the vault retains a point."""

    def __init__(  # what a step at a site is made of
        self,
        store: Store,
        steps: Steps,
        connect: Connect,
        clock: Callable[[], datetime],
        stands: Callable[[PointId], bool],
    ) -> None:
        super().__init__(store, steps, connect, clock)
        self._stands = stands

    @activity.defn(no_thread_cancel_exception=True)
    def plan_points(self, operation: str) -> PointsPlan:
        """Where the members are and when each is asked for; Unsupported where one cannot be."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "preflight") as meter:
            with self._store.read() as tx:
                op = tx.operations.get(op_id)
                before = _last(tx, op)
                found = [_member(tx, op, name) for name in _names(op)]
            looked = [self._looked(each, meter) for each in found]
            candidates = [candidate for candidate, _, _ in looked]
            if refused := refusals(candidates):
                raise Unsupported("; ".join(refused))
            plan = PointsPlan(
                domain=domain_owner(op.tenant or "", op.workspace or ""),
                members=tuple(
                    self._planned(each, seen, tracked=tracked, before=before)
                    for each, (_, seen, tracked) in zip(found, looked, strict=True)
                ),
                order=order(candidates),
                max_spread=_seconds(op.order.get("maxSpreadSeconds")),
            )
            with self._store.begin() as tx:
                tx.operations.update(op_id, plan=cast("Json", as_json(plan)))
            return plan

    def _looked(self, it: "_Home", meter: Meter) -> tuple[Candidate, InstanceSeen, bool]:
        with self._calling(it.site, meter) as driver:
            able = capabilities(driver) - frozenset(driver.check().lacking)
            with self._store.read() as tx:
                owner = tx.artefacts.get(it.copy).owner
            answer = require(driver, Instances).find(owner, it.anchor)
            tracked = driver.limits.changes is not Changes.UNTOLD
        if not isinstance(answer, Seen):
            why = "it is not there" if isinstance(answer, Absent) else answer.why
            raise Busy(f"instance {it.name} cannot be seen at {it.site} ({why}): ask again")
        candidate = Candidate(
            instance=it.instance,
            name=it.name,
            site=it.site,
            manner=manner(able),
            seconds=it.seconds,
            at_once=it.at_once,
        )
        return candidate, answer.it, tracked

    def _planned(
        self, it: "_Home", seen: InstanceSeen, *, tracked: bool, before: Mapping[str, "_Before"]
    ) -> MemberPlan:
        last = before.get(str(it.instance))
        stands = last is not None and self._stands(last.point)
        return MemberPlan(
            instance=it.instance,
            name=it.name,
            site=it.site,
            copy=it.copy,
            disks=tuple(
                MemberDisk(index=index, volume=disk.volume) for index, disk in enumerate(seen.disks)
            ),
            tracked=tracked,
            base=last.point if last is not None and stands else None,
            mark=last.mark if last is not None else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Home:
    instance: InstanceId
    name: str
    site: SiteName
    copy: ArtefactId
    anchor: str | None
    seconds: float | None
    at_once: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    point: PointId
    mark: KeptMark | None = field(default=None)


def _names(op: Operation) -> list[str]:
    return list(cast("list[str]", op.order["members"]))


def _member(tx: Tx, op: Operation, name: str) -> _Home:
    resource = tx.resources.find(facts(Kind.INSTANCE).key(name, op.tenant, op.workspace))
    placement = tx.placements.find(InstanceId(resource.id)) if resource is not None else None
    if resource is None or placement is None or placement.copy is None:
        raise NotFound(
            f"instance {op.workspace}/{name} is not there, or was never provisioned: take it out"
            " of the protection's members, or create it"
        )
    site = tx.resources.get(facts(Kind.SITE).key(placement.site, None, None))
    at_once = cast("int | None", site.spec.get("maxSnapshots"))
    return _Home(
        instance=InstanceId(resource.id),
        name=name,
        site=placement.site,
        copy=placement.copy,
        anchor=tx.artefacts.get(placement.copy).anchor,
        seconds=_measured(tx, placement.site),
        at_once=at_once,
    )


def _measured(tx: Tx, site: SiteName) -> float | None:
    """What a snapshot took at the site the last time that points were taken there."""
    for op in tx.operations.list(states=frozenset({OperationState.SUCCEEDED}), limit=100):
        if op.kind is not OperationKind.TAKE_POINTS:
            continue
        members = cast("list[dict[str, object]]", (op.plan or {}).get("members") or [])
        there = {each["name"] for each in members if each.get("site") == site}
        points = cast("list[dict[str, object]]", op.result.get(POINTS) or [])
        took = [cast("float", p["snapshotSeconds"]) for p in points if p["instance"] in there]
        if took:
            return max(took)
    return None


def _last(tx: Tx, op: Operation) -> dict[str, _Before]:
    """By instance, the newest point that the same protection took of it."""
    found: dict[str, _Before] = {}
    ended = tx.operations.list(
        subject=op.subject, states=frozenset({OperationState.SUCCEEDED}), limit=100
    )
    for each in ended:
        marks = cast("dict[str, dict[str, str]]", each.result.get(MARKS) or {})
        points = cast("list[dict[str, str]]", each.result.get(POINTS) or [])
        for point in points:
            id_ = point["instanceId"]
            found.setdefault(
                id_,
                _Before(
                    point=PointId(UUID(point["point"])),
                    mark=_mark(tx, marks[id_]) if id_ in marks else None,
                ),
            )
    return found


def _mark(tx: Tx, told: Mapping[str, str]) -> KeptMark | None:
    artefact = tx.artefacts.find(ArtefactId(UUID(told["snapshot"])))
    if artefact is None or artefact.state is ArtefactState.RELEASED:
        return None
    return KeptMark(snapshot=artefact.id, site=SiteName(told["site"]), ref=told["ref"])


def _seconds(value: object) -> timedelta | None:
    return None if value is None else timedelta(seconds=float(cast("float", value)))
