"""Checking the vault: told while it goes on, and what it found and measured written down."""

import logging
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from temporalio import activity

from controlplane.domain.errors import Integrity, NotFound
from controlplane.domain.finding import Finding
from controlplane.domain.ids import InstanceId, OperationId, PointId, ResourceId, TenantName
from controlplane.domain.operation import Operation, Progress
from controlplane.domain.resource import Json
from controlplane.domain.vault import Depth, DiskCopied
from controlplane.services.checks import AFTER
from controlplane.services.operations import stamp
from controlplane.services.points import POINT
from controlplane.services.usage import document
from controlplane.store.engine import Store
from controlplane.store.operations import PROGRESS_APART
from controlplane.store.tx import Tx
from controlplane.vault.census import Workload
from controlplane.vault.checking import Checked, CheckOrder, CheckProgress
from controlplane.vault.digest import digest
from controlplane.vault.vault import Vault
from workflows.activities.moving import beating, stopping
from workflows.activities.records import operation_id
from workflows.activities.steps import Steps
from workflows.activities.trail import audit

_log = logging.getLogger(__name__)
_REMEMBERED = timedelta(seconds=15)
_STEP = "check"


class CheckActivities:
    def __init__(
        self, store: Store, steps: Steps, vault: Vault, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._steps = steps
        self._vault = vault
        self._clock = clock

    @activity.defn(no_thread_cancel_exception=True)
    def examine_vault(self, operation: str) -> dict[str, object]:
        """The whole check; after a killed worker it goes on with blobs that were not read yet."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, _STEP, copying=True) as meter:
            with self._store.read() as tx:
                op = tx.operations.get(op_id)
                known = tx.resources.by_id(op.subject).status
            order = CheckOrder(
                depth=Depth(str(op.order["depth"])),
                share=float(cast("float", op.order["share"])),
                turn=int(cast("int", op.order["turn"])),
                after=str(known.get(AFTER) or ""),
            )
            telling = _Telling(self._store, op, self._clock)
            with meter.copying(), stopping(), beating() as told:
                checked = self._vault.check(
                    order, name=self._name, progress=telling, cancelled=told.is_set
                )
            with self._store.begin() as tx:
                result = self._write_down(tx, op, order, checked)
            meter.message = f"{checked.packs} packs, {checked.blobs} blobs read back"
        _log.log(
            logging.ERROR if checked.damaged else logging.INFO,
            "the vault was checked: %d packs, %d blobs read back, %d findings%s",
            checked.packs,
            checked.blobs,
            len(checked.findings),
            ", it is DAMAGED" if checked.damaged else "",
        )
        return result

    @activity.defn(no_thread_cancel_exception=True)
    def verify_point(self, operation: str) -> dict[str, object]:
        """All of a recovery point is read and has the digests that it was made with.

        Integrity names the first place that does not read back.
        """
        op_id = operation_id(operation)
        with self._steps.step(op_id, "verify", copying=True) as meter:
            point = self._point(op_id)
            record = next((r for r in self._vault.points() if r.point == point), None)
            if record is None:
                raise NotFound(f"recovery point {point} is no longer retained")
            with meter.copying(), stopping(), beating() as told:
                for disk in record.disks:
                    self._verify(op_id, point, disk, told.is_set)
            size = sum(disk.size for disk in record.disks)
            return {"disks": len(record.disks), "bytesRead": size, "equal": True}

    def _verify(
        self, operation: OperationId, point: PointId, disk: DiskCopied, told: Callable[[], bool]
    ) -> None:
        what = f"verify {disk.disk}"
        with closing(self._vault.open(point, disk.disk)) as reader:
            found = digest(
                reader,
                length=disk.size,
                progress=lambda seen: self._note(operation, what, seen.done, seen.total, seen.read),
                cancelled=told,
            )
        if found != disk.digest:
            raise Integrity(
                f"recovery point {point}, disk {disk.disk}: its digest is {found[:16]} instead of"
                f" {disk.digest[:16]}: use another point, and check the vault (fedctl vault check)",
                reason="digest",
            )

    @activity.defn(no_thread_cancel_exception=True)
    def delete_point(self, operation: str) -> None:
        """The vault need not keep it any more; gone already is fine."""
        op_id = operation_id(operation)
        with self._steps.step(op_id, "delete"):
            self._vault.forget(self._point(op_id))

    def _point(self, operation: OperationId) -> PointId:
        with self._store.read() as tx:
            return PointId(UUID(str(tx.operations.get(operation).order[POINT])))

    def _note(self, operation: OperationId, what: str, done: int, total: int, sent: int) -> None:
        with self._store.begin() as tx:
            tx.operations.set_progress(
                Progress(
                    operation=operation, what=what, done=done, total=total, sent=sent,
                    at=self._clock(),
                )
            )  # fmt: skip

    def _write_down(
        self, tx: Tx, op: Operation, order: CheckOrder, checked: Checked
    ) -> dict[str, object]:
        now = self._clock()
        result: dict[str, object] = {
            "damaged": checked.damaged,
            "findings": len(checked.findings),
            "packs": checked.packs,
            "blobs": checked.blobs,
            "bytesRead": checked.read,
        }
        status: Json = {
            **result,
            "findings": [_shown(each) for each in checked.findings],
            "checkedAt": stamp(now),
            AFTER: "",
        }
        tx.resources.patch_status(op.subject, status, now=now)
        tx.operations.update(op.id, findings=checked.findings)
        tx.settings.vault_usage = document(
            checked.measured, at=now, by=op.subject_name, name=lambda w: _workload(tx, w)
        )
        if order.depth is Depth.SAMPLE:
            tx.settings.sample(order.parts, order.turn)
        if checked.damaged:
            audit(tx, op, "damaged", now, findings=str(len(checked.findings)))
        return result

    def _name(self, tenant: TenantName, instance: InstanceId) -> str:
        with self._store.read() as tx:
            return _called(tx, tenant, instance)


class _Telling:
    """How far a check is, for those who watch it and for the one that goes on after it."""

    def __init__(self, store: Store, op: Operation, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._op = op
        self._clock = clock
        self._kept = clock()
        self._told: datetime | None = None

    def __call__(self, seen: CheckProgress) -> None:
        now = self._clock()
        if self._told is not None and now - self._told < PROGRESS_APART and not seen.ended:
            return
        self._told = now
        with self._store.begin() as tx:
            self._note(tx, seen, now)
            if now - self._kept >= _REMEMBERED:
                self._kept = now
                progress = {"done": seen.done, "total": seen.total, "read": seen.blobs}
                changes: Json = {AFTER: seen.after, "progress": progress}
                tx.resources.patch_status(self._op.subject, changes, now=now)

    def _note(self, tx: Tx, seen: CheckProgress, at: datetime) -> None:
        tx.operations.set_progress(
            Progress(
                operation=OperationId(self._op.id), what=_STEP, done=seen.done, total=seen.total,
                sent=seen.blobs, at=at,
            )
        )  # fmt: skip


def _workload(tx: Tx, workload: Workload) -> str:
    return _called(tx, workload.tenant, workload.instance)


def _called(tx: Tx, tenant: TenantName, instance: InstanceId) -> str:
    """`acme shop/web-1`; its id where it is known no more."""
    found = tx.resources.find_id(ResourceId(instance))
    if found is None:
        return f"{tenant} instance {instance}"
    kind = "" if found.key.workspace else f"{found.key.kind} "
    return f"{tenant} {kind}{found.key}"


def _shown(finding: Finding) -> Json:
    return {
        "id": finding.id,
        "severity": finding.severity.value,
        "subject": finding.subject,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
    }
