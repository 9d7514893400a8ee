"""What is known of instances whose recovery points are to be taken together, and their plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from temporalio import activity

from controlplane.domain.answer import Absent, Seen
from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import Busy, NotFound, Unsupported
from controlplane.domain.finding import blocking
from controlplane.domain.ids import ArtefactId, InstanceId, PointId, SiteName, derived
from controlplane.domain.instance import InstanceSeen
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.resource import Json, Kind
from controlplane.domain.site import Capability, Changes
from controlplane.domain.vault import Moment
from controlplane.keys.port import domain_owner
from controlplane.planning.digest import as_json
from controlplane.planning.grouping import (
    COPIES,
    COPIES_AT_A_SITE,
    Candidate,
    Order,
    manner,
    order,
    refusals,
    too_long,
    usual,
)
from controlplane.planning.traits import Told, disks
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from drivers.contract import Driver, Instances, capabilities, require
from workflows.activities.atsite import SiteSteps
from workflows.activities.records import operation_id
from workflows.activities.steps import Meter, Steps
from workflows.connections import Connect

MARKS, POINTS, MOMENTS = "marks", "points", "moments"
_LATELY = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDisk:
    """`based`: the member's base has a disk of this index; `told`: its mark is of this volume."""

    index: int
    volume: str
    based: bool = True
    told: bool = True


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
    """What is taken together; `max_spread` None: any spread will do.

    `copies` disks are copied at a time, and `copies_at_a_site` of one site.
    """

    domain: str
    members: tuple[MemberPlan, ...]
    order: Order
    max_spread: timedelta | None = None
    copies: int = COPIES
    copies_at_a_site: int = COPIES_AT_A_SITE


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
                lately = _measured(tx)
                found = [_member(tx, op, name, lately) for name in _names(op)]
            looked = self._looked(found, meter)
            self._refuse(op, looked)
            planned = order([each.candidate for each in looked])
            if why := too_long(planned):
                raise Unsupported(why)
            plan = PointsPlan(
                domain=domain_owner(op.tenant or "", op.workspace or ""),
                members=tuple(self._planned(each, before) for each in looked),
                order=planned,
                max_spread=_seconds(op.order.get("maxSpreadSeconds")),
            )
            with self._store.begin() as tx:
                tx.operations.update(op_id, plan=cast("Json", as_json(plan)))
            return plan

    def _refuse(self, op: Operation, looked: Sequence["_Looked"]) -> None:
        """What was found is on record, whether it stands in the way or not."""
        findings = (
            *refusals(each.candidate for each in looked),
            *(found for each in looked for found in disks(each.told)),
        )
        with self._store.begin() as tx:
            tx.operations.update(op.id, findings=findings)
        if refused := blocking(findings):
            raise Unsupported(
                "; ".join(
                    f"instance {each.subject} cannot be protected: {each.evidence}: {each.remedy}"
                    for each in refused
                )
            )

    def _looked(self, homes: Sequence["_Home"], meter: Meter) -> list["_Looked"]:
        """Each as its site shows it now, in the order in which they were asked about."""
        found: dict[InstanceId, _Looked] = {}
        for site in dict.fromkeys(it.site for it in homes):
            with self._calling(site, meter) as driver:
                able = capabilities(driver) - frozenset(driver.check().lacking)
                there = [it for it in homes if it.site == site]
                found.update({it.instance: self._look_at(driver, it, able) for it in there})
        return [found[it.instance] for it in homes]

    @staticmethod
    def _look_at(driver: Driver, it: "_Home", able: frozenset[Capability]) -> "_Looked":
        instances = require(driver, Instances)
        answer = instances.find(it.owner, it.anchor)
        if not isinstance(answer, Seen):
            why = "it is not there" if isinstance(answer, Absent) else answer.why
            raise Busy(f"instance {it.name} cannot be seen at {it.site} ({why}): ask again")
        return _Looked(
            home=it,
            seen=answer.it,
            candidate=Candidate(
                instance=it.instance,
                name=it.name,
                site=it.site,
                manner=manner(able),
                seconds=it.seconds,
                at_once=it.at_once,
                disks=len(answer.it.disks),
            ),
            told=Told(name=it.name, site=it.site, traits=instances.traits(it.owner)),
            tracked=driver.limits.changes is not Changes.UNTOLD,
        )

    def _planned(self, it: "_Looked", before: Mapping[str, "_Before"]) -> MemberPlan:
        home, last = it.home, before.get(str(it.home.instance))
        stands = last is not None and self._stands(last.point)
        base = last if stands else None
        return MemberPlan(
            instance=home.instance,
            name=home.name,
            site=home.site,
            copy=home.copy,
            disks=tuple(
                MemberDisk(
                    index=index,
                    volume=disk.volume,
                    based=base is not None and index in base.volumes,
                    told=base is not None and base.tells(home, index, disk.volume),
                )
                for index, disk in enumerate(it.seen.disks)
            ),
            tracked=it.tracked,
            base=base.point if base is not None else None,
            mark=last.mark if last is not None else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Home:
    instance: InstanceId
    name: str
    site: SiteName
    copy: ArtefactId
    owner: OwnerTag
    anchor: str | None
    since: datetime | None
    seconds: float | None
    at_once: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """A member as its site showed it."""

    home: _Home
    seen: InstanceSeen
    candidate: Candidate
    told: Told
    tracked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """The last point of a member, what it was of, and when its snapshot was asked for."""

    point: PointId
    copy: str
    volumes: Mapping[int, str]
    asked: datetime
    mark: KeptMark | None = field(default=None)

    def tells(self, home: _Home, index: int, volume: str) -> bool:
        """Whether what changed since the mark is all that changed since the point.

        Not of another copy, nor of one that came back: it was written to while it was no home.
        """
        stayed = self.copy == str(home.copy) and (home.since is None or home.since < self.asked)
        return stayed and self.volumes.get(index) == volume


def _names(op: Operation) -> list[str]:
    return list(cast("list[str]", op.order["members"]))


def _member(tx: Tx, op: Operation, name: str, lately: Mapping[SiteName, Sequence[float]]) -> _Home:
    resource = tx.resources.find(facts(Kind.INSTANCE).key(name, op.tenant, op.workspace))
    placement = tx.placements.find(InstanceId(resource.id)) if resource is not None else None
    if resource is None or placement is None or placement.copy is None:
        raise NotFound(
            f"instance {op.workspace}/{name} is not there, or was never provisioned: take it out"
            " of the protection's members, or create it"
        )
    site = tx.resources.get(facts(Kind.SITE).key(placement.site, None, None))
    at_once = cast("int | None", site.spec.get("maxSnapshots"))
    artefact = tx.artefacts.get(placement.copy)
    return _Home(
        instance=InstanceId(resource.id),
        name=name,
        site=placement.site,
        copy=placement.copy,
        owner=artefact.owner,
        anchor=artefact.anchor,
        since=placement.switched_at,
        seconds=usual(lately.get(placement.site, ())),
        at_once=at_once,
    )


def _measured(tx: Tx) -> dict[SiteName, list[float]]:
    """What a snapshot took at each site in the latest takings of points, newest first.

    In those that came to nothing, too: they may have, because of what was measured before.
    """
    found: dict[SiteName, list[float]] = {}
    for op in tx.operations.list(kind=OperationKind.TAKE_POINTS, limit=_LATELY):
        moments = moments_of(op)
        took: dict[SiteName, float] = {}
        for member in _members(op):
            at = SiteName(str(member["site"]))
            moment = moments.get(derived(op.id, "snapshot", str(member["instance"])))
            if moment is not None:
                took[at] = max(took.get(at, 0.0), seconds_of(moment))
        for at, seconds in took.items():
            found.setdefault(at, []).append(seconds)
    return found


def moments_of(op: Operation) -> dict[ArtefactId, Moment]:
    """Of each of its snapshots, as far as it was seen."""
    known = cast("dict[str, list[str]]", op.result.get(MOMENTS) or {})
    return {
        ArtefactId(UUID(artefact)): Moment(
            asked=datetime.fromisoformat(asked), answered=datetime.fromisoformat(answered)
        )
        for artefact, (asked, answered) in known.items()
    }


def seconds_of(moment: Moment) -> float:
    return (moment.answered - moment.asked).total_seconds()


def _last(tx: Tx, op: Operation) -> dict[str, _Before]:
    """By instance, the newest point that the same protection took of it."""
    found: dict[str, _Before] = {}
    ended = tx.operations.list(
        subject=op.subject, states=frozenset({OperationState.SUCCEEDED}), limit=100
    )
    for each in ended:
        marks = cast("dict[str, dict[str, str]]", each.result.get(MARKS) or {})
        points = cast("list[dict[str, str]]", each.result.get(POINTS) or [])
        plans = {str(member["instance"]): member for member in _members(each)}
        for point in points:
            id_ = point["instanceId"]
            plan = plans.get(id_, {})
            disks = cast("list[dict[str, object]]", plan.get("disks") or [])
            before = _Before(
                point=PointId(UUID(point["point"])),
                copy=str(plan.get("copy")),
                volumes={cast("int", d["index"]): str(d["volume"]) for d in disks},
                asked=datetime.fromisoformat(point["asked"]),
                mark=_mark(tx, marks[id_]) if id_ in marks else None,
            )
            found.setdefault(id_, before)
    return found


def _members(op: Operation) -> list[dict[str, object]]:
    """As the operation's plan has them."""
    return cast("list[dict[str, object]]", (op.plan or {}).get("members") or [])


def _mark(tx: Tx, told: Mapping[str, str]) -> KeptMark | None:
    artefact = tx.artefacts.find(ArtefactId(UUID(told["snapshot"])))
    if artefact is None or artefact.state is ArtefactState.RELEASED:
        return None
    return KeptMark(snapshot=artefact.id, site=SiteName(told["site"]), ref=told["ref"])


def _seconds(value: object) -> timedelta | None:
    return None if value is None else timedelta(seconds=float(cast("float", value)))
