"""Looking what a site holds, and making sure that nothing runs there that must not."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from temporalio import activity

from controlplane.domain.answer import Absent, Unknown
from controlplane.domain.artefact import Artefact, ArtefactState, Found
from controlplane.domain.errors import Unavailable
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, ResourceId, SiteName
from controlplane.domain.instance import InstanceSeen, Manner, Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.resource import Resource, State
from controlplane.planning.survey import Held, Known, SurveyPlan, belongs, survey
from controlplane.services.freezing import FROZEN, thaw
from controlplane.services.sites import site_list
from controlplane.store.engine import Store
from controlplane.store.tx import Tx
from drivers.contract import Fencing, Instances, require
from workflows.activities.records import operation_id
from workflows.activities.steps import Steps
from workflows.activities.sweep import orphaned
from workflows.activities.trail import audit
from workflows.connections import Connect
from workflows.failures import NotYet


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """What the survey of a site found; `homes` counts the copies that are where they belong."""

    site: SiteName
    homes: int
    unaccounted: tuple[str, ...]
    plan: SurveyPlan

    def shown(self, freed: tuple[str, ...]) -> dict[str, object]:
        """As the operation's result shows it; `freed` homes have no fence any more."""
        return {
            "site": self.site,
            "homes": self.homes,
            "newerEpochs": len(self.plan.epochs),
            "stilled": [f"{held.name} ({held.ref})" for held in self.plan.still],
            "freed": list(freed),
            "left": list(self.plan.left),
            "strange": list(self.plan.strange),
            "missing": list(self.plan.missing),
            "unaccounted": list(self.unaccounted),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AtSurvey:
    """One copy at the site that `operation` surveys."""

    operation: str
    site: SiteName
    held: Held


class SurveyActivities:
    """`look` opens a driver even for a frozen site; `clock` answers aware UTC times."""

    def __init__(
        self,
        store: Store,
        steps: Steps,
        look: Connect,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._steps = steps
        self._look = look
        self._clock = clock

    @activity.defn(no_thread_cancel_exception=True)
    def survey_site(self, operation: str) -> Surveyed:
        """Read every tag, bring the records up to them, and decide what must not run.

        Unavailable when the listing is partial. Nothing changes at the site.
        """
        op_id = operation_id(operation)
        with self._steps.step(op_id, "read tags") as meter:
            with self._store.read() as tx:
                site = SiteName(tx.resources.by_id(tx.operations.get(op_id).subject).key.name)
            with meter.calling(), self._look(site) as driver:
                found = tuple(driver.owned())
            now = self._clock()
            with self._store.begin() as tx:
                plan = survey(
                    site,
                    found,
                    _known(tx, site, found),
                    others_frozen=any(
                        each.status.get(FROZEN) and each.key.name != site for each in site_list(tx)
                    ),
                )
                for instance, epoch in plan.epochs.items():
                    tx.placements.raise_epoch(instance, epoch)
                homes = _record(tx, site, found, now)
                orphans = orphaned(found, tuple(tx.artefacts.list(site=site)))
                tx.orphans.replace(site, orphans, now)
            return Surveyed(
                site=site,
                homes=homes,
                unaccounted=tuple(f"{each.kind} {each.ref}" for each in orphans),
                plan=plan,
            )

    @activity.defn(no_thread_cancel_exception=True)
    def still_copy(self, order: AtSurvey) -> None:
        """The copy is off, carries no traffic and cannot start; gone is fine."""
        held = order.held
        with (
            self._steps.step(operation_id(order.operation), f"still {held.ref}") as meter,
            meter.calling(),
            self._look(order.site) as driver,
        ):
            instances = require(driver, Instances)
            seen = _seen(instances, held.owner, order.site)
            if seen is None:
                return
            if seen.power is not Power.OFF:
                instances.isolate_nics(held.owner)
                instances.set_power(held.owner, Power.OFF, Manner.HARD)
                raise NotYet(f"{order.site} is stopping {held.ref}")
            if isinstance(driver, Fencing) and not seen.fenced:
                driver.fence(held.owner)

    @activity.defn(no_thread_cancel_exception=True)
    def free_home(self, order: AtSurvey) -> bool:
        """Whether the home had a fence, which it has no more; its power stays as it is."""
        held = order.held
        with self._steps.step(operation_id(order.operation), f"free {held.ref}") as meter:
            with meter.calling(), self._look(order.site) as driver:
                seen = _seen(require(driver, Instances), held.owner, order.site)
                fenced = seen is not None and seen.fenced
                if fenced:
                    require(driver, Fencing).unfence(held.owner)
            if seen is not None and seen.power is not None:
                self._show_power(held.owner.instance, seen.power)
            return fenced

    @activity.defn(no_thread_cancel_exception=True)
    def thaw_site(self, operation: str) -> None:
        """Work goes on at the site."""
        op_id = operation_id(operation)
        now = self._clock()
        with self._steps.step(op_id, "thaw"), self._store.begin() as tx:
            op = tx.operations.get(op_id)
            site = tx.resources.by_id(op.subject)
            if site.status.get(FROZEN):
                thaw(tx, site, now)
                audit(tx, op, "thawed", now)

    def _show_power(self, instance: InstanceId, power: Power) -> None:
        now = self._clock()
        with self._store.begin() as tx:
            resource = tx.resources.find_id(ResourceId(instance))
            if resource is not None and resource.status.get("powerState") != power.value:
                status = {"powerState": power.value, "powerStateSince": now.isoformat()}
                tx.resources.patch_status(resource.id, status, now=now)


def _seen(instances: Instances, owner: OwnerTag, site: SiteName) -> InstanceSeen | None:
    answer = instances.find(owner)
    if isinstance(answer, Absent):
        return None
    if isinstance(answer, Unknown):
        raise Unavailable(f"{site} cannot tell about {owner.artefact} now: {answer.why}")
    return answer.it


def _known(tx: Tx, site: SiteName, found: tuple[Found, ...]) -> dict[InstanceId, Known]:
    here = {f.owner.instance for f in found}
    here |= {placement.instance for placement in tx.placements.list_by_site(site)}
    known: dict[InstanceId, Known] = {}
    for instance in here:
        resource, placement = _instance(tx, instance), tx.placements.find(instance)
        if resource is not None and placement is not None:
            known[instance] = Known(
                name=f"{resource.key.tenant}/{resource.key}",
                placement=placement,
                lease=tx.leases.find(instance),
            )
    return known


def _instance(tx: Tx, instance: InstanceId) -> Resource | None:
    found = tx.resources.find_id(ResourceId(instance))
    return found if found is not None and found.state is not State.DELETING else None


def _record(tx: Tx, site: SiteName, found: tuple[Found, ...], now: datetime) -> int:
    """Refs, epochs and operations as the tags have them; how many homes are where they belong."""
    homes = {p.copy for p in tx.placements.list_by_site(site)}
    made_by: dict[ArtefactId, OperationId] = {
        f.owner.artefact: f.owner.operation for f in found if f.owner.artefact in homes
    }
    for each in found:
        owner = each.owner
        home = belongs(each, made_by)
        known = tx.artefacts.find(owner.artefact)
        if known is None and home:
            known = tx.artefacts.intend(
                Artefact(
                    id=owner.artefact,
                    kind=each.kind,
                    site=site,
                    instance=owner.instance,
                    operation=owner.operation,
                    epoch=owner.epoch,
                    state=ArtefactState.INTENDED,
                    created_at=now,
                )
            )
        if known is None or known.state is ArtefactState.RELEASED:
            continue
        if owner.epoch > known.epoch:
            tx.artefacts.restamp(known.id, owner.operation, owner.epoch)
        _enter(tx, known, each.ref, home=home)
    return len(made_by)


def _enter(tx: Tx, known: Artefact, ref: str, *, home: bool) -> None:
    if home and known.state is not ArtefactState.ATTACHED:
        if known.state is ArtefactState.INTENDED:
            tx.artefacts.set_state(known.id, ArtefactState.ALLOCATED, ref=ref)
        if known.state is not ArtefactState.COPYING:
            tx.artefacts.set_state(known.id, ArtefactState.ATTACHED, ref=ref, note="")
    elif known.ref != ref:
        tx.artefacts.set_state(known.id, known.state, ref=ref)
