"""Looking for machines that were not made by us, and taking them under our tag."""

from dataclasses import dataclass
from typing import cast

from temporalio import activity

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.discovery import Discovered
from controlplane.domain.errors import Conflict, NotFound, Unsupported
from controlplane.domain.finding import blocking
from controlplane.domain.ids import ArtefactId, InstanceId, SiteName, derived
from controlplane.domain.instance import InstanceSeen, InstanceState
from controlplane.domain.operation import Operation
from controlplane.domain.site import CreateOrder
from controlplane.planning.adoption import standing
from controlplane.planning.digest import as_json
from controlplane.services.adoption import forget, put_on_record
from controlplane.store.tx import Tx
from drivers.contract import Adoption, Driver, require
from workflows.activities.atsite import SiteSteps, made
from workflows.activities.orders import At
from workflows.activities.records import operation_id
from workflows.failures import NotYet, translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """The machine that `operation` adopts. `volumes` are tagged by themselves, in boot order."""

    operation: str
    site: SiteName
    found: Discovered
    volumes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    at: At
    kind: ArtefactKind
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    at: At
    found: Discovered


class AdoptionActivities(SiteSteps):
    @activity.defn(no_thread_cancel_exception=True)
    def scan_site(self, operation: str) -> None:
        """What the site has beside ours is the operation's result. Nothing changes there."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "scan") as meter:
            with self._store.read() as tx:
                site = SiteName(tx.resources.by_id(tx.operations.get(op_id).subject).key.name)
            with self._calling(site, meter) as driver:
                found = sorted(require(driver, Adoption).discovered(), key=lambda d: d.seen.name)
                names = {n.ref: n.name for n in driver.catalogue().networks}
            # It goes into the row at once: it may be more than a history takes.
            shown = {"site": site, "machines": [_shown(each, site, names) for each in found]}
            with self._store.begin() as tx:
                tx.operations.update(op_id, result={"scan": shown})
            meter.message = f"{len(found)} machine(s) that are not ours"

    @activity.defn(no_thread_cancel_exception=True)
    def look_at_stranger(self, operation: str) -> Stranger:
        """The machine as it is now; Unsupported when something stands against adopting it."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "look") as meter:
            with self._store.read() as tx:
                order = tx.operations.get(op_id).order
            site, ref = SiteName(str(order["site"])), str(order["ref"])
            with self._calling(site, meter) as driver:
                found = _found(driver, site, ref)
                first = driver.limits.create_order is CreateOrder.DISKS_FIRST
            findings = standing(found, site)
            with self._store.begin() as tx:
                tx.operations.update(op_id, findings=findings)
            if against := blocking(findings):
                raise Unsupported(
                    f"{found.seen.name} ({ref}) at {site} cannot be adopted:"
                    f" {'; '.join(f'{f.id} {f.evidence} ({f.remedy})' for f in against)}"
                )
            volumes = tuple(disk.volume for disk in found.seen.disks) if first else ()
            return Stranger(operation=operation, site=site, found=found, volumes=volumes)

    @activity.defn(no_thread_cancel_exception=True)
    def reserve_record(self, order: Stranger) -> None:
        """Name, place and what will be tagged, in one transaction; the first to write wins."""
        op_id = operation_id(order.operation)
        now = self._clock()
        with self._steps.step(op_id, "reserve"), self._store.begin() as tx:
            op = tx.operations.get(op_id)
            put_on_record(tx, op, order.site, order.found, now)
            for number, volume in enumerate(order.volumes):
                artefact = ArtefactId(derived(op_id, "volume", number))
                self._promise(tx, op, order.site, artefact, ArtefactKind.VOLUME, volume)
            artefact = ArtefactId(derived(op_id, "instance"))
            ref = order.found.seen.ref
            self._promise(tx, op, order.site, artefact, ArtefactKind.INSTANCE, ref)

    def _promise(  # noqa: PLR0917  # what an artefact is made of
        self,
        tx: Tx,
        op: Operation,
        site: SiteName,
        artefact: ArtefactId,
        kind: ArtefactKind,
        ref: str,
    ) -> None:
        if tx.artefacts.find(artefact) is None:
            tx.artefacts.intend(
                Artefact(
                    id=artefact,
                    kind=kind,
                    site=site,
                    instance=InstanceId(op.subject),
                    operation=op.id,
                    epoch=0,
                    state=ArtefactState.INTENDED,
                    ref=ref,
                    created_at=self._clock(),
                )
            )

    @activity.defn(no_thread_cancel_exception=True)
    def forget_record(self, operation: str) -> None:
        """The undo of reserving: as if it had never been asked for."""
        with translated("undo: reserve"), self._store.begin() as tx:
            op = tx.operations.get(operation_id(operation))
            for artefact in tx.artefacts.list(operation=op.id):
                tx.artefacts.set_state(artefact.id, ArtefactState.RELEASED)
            forget(tx, op, self._clock())

    @activity.defn(no_thread_cancel_exception=True)
    def adopt(self, order: Tag) -> None:
        """Our tag, and nothing else."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            self._intend(at, order.kind)
            with self._calling(at.site, meter) as driver:
                tag = at.work.tag(at.artefact)
                require(driver, Adoption).adopt(tag, order.kind, order.ref)
            self._became(at, ArtefactState.ALLOCATED, ref=order.ref)

    @activity.defn(no_thread_cancel_exception=True)
    def disown(self, order: Tag) -> None:
        """The undo of adopting: without our tag, as it was."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                tag = at.work.tag(at.artefact)
                require(driver, Adoption).disown(tag, order.kind, order.ref)
            self._became(at, ArtefactState.RELEASED)

    @activity.defn(no_thread_cancel_exception=True)
    def read_back(self, order: ReadBack) -> InstanceSeen:
        """The machine as it is found by its tag: Conflict unless it is the one that was seen."""
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                seen = made(driver, self._look(driver, at), f"the adopted machine at {at.site}")
            if seen.state is InstanceState.WORKING or seen.power is None:
                raise NotYet(f"{at.site} is working on the machine")
            was = order.found.seen
            if (seen.ref, seen.disks, seen.nics) != (was.ref, was.disks, was.nics):
                raise Conflict(
                    f"{was.name} ({was.ref}) at {at.site} changed while it was adopted: its tag is"
                    " taken off again; look what changed it, then ask again"
                )
            return seen


def _found(driver: Driver, site: SiteName, ref: str) -> Discovered:
    for each in require(driver, Adoption).discovered():
        if each.seen.ref == ref:
            return each
    if any(f.kind is ArtefactKind.INSTANCE and f.ref == ref for f in driver.owned()):
        raise Conflict(
            f"machine {ref} at {site} carries an owner tag already: an instance of this fedctl has"
            f" it, or another one's (fedctl sweep {site} tells which)"
        )
    raise NotFound(f"there is no machine {ref} at {site}: fedctl site scan {site} lists them")


def _shown(each: Discovered, site: SiteName, networks: dict[str, str]) -> dict[str, object]:
    seen, findings = each.seen, standing(each, site)
    return {
        "ref": seen.ref,
        "name": seen.name,
        "power": None if seen.power is None else seen.power.value,
        "cpus": seen.size.cpus,
        "memory": seen.size.memory,
        "firmware": each.firmware.value,
        "disks": as_json(seen.disks),
        "nics": [
            {
                "network": networks.get(nic.network, nic.network),
                "mac": nic.mac,
                "address": nic.address,
            }
            for nic in seen.nics
        ],
        "adoptable": not blocking(findings),
        "findings": cast("list[object]", as_json(findings)),
    }
