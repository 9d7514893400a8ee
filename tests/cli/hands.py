"""A stand-in for the workflows: takes operations from the outbox and writes their outcomes."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID, uuid4

from controlplane.domain.admission import Bounds
from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.discovery import Discovered
from controlplane.domain.disk import DiskBus
from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import ArtefactId, InstanceId, PointId, ResourceId, SiteName
from controlplane.domain.instance import (
    DiskSeen,
    Firmware,
    InstanceSeen,
    InstanceState,
    Power,
    Size,
    Trait,
    Traits,
)
from controlplane.domain.operation import (
    Operation,
    OperationKind,
    OperationState,
    Problem,
    Progress,
    StepState,
)
from controlplane.domain.placement import Placement
from controlplane.domain.resource import State
from controlplane.services.admission import admit
from controlplane.services.adoption import put_on_record
from controlplane.store.engine import Store
from controlplane.store.tx import Tx

GIB = 1024**3
K = OperationKind
LEGACY = Discovered(
    seen=InstanceSeen(
        ref="104",
        name="legacy",
        state=InstanceState.READY,
        power=Power.ON,
        epoch=0,
        size=Size(cpus=2, memory=3 * GIB),
        disks=(
            DiskSeen(volume="local:a", size=4 * GIB, bus=DiskBus.SCSI),
            DiskSeen(volume="local:b", size=GIB // 2, bus=DiskBus.SCSI),
        ),
        nics=(),
    ),
    firmware=Firmware.UEFI,
    traits=Traits(looked=frozenset(Trait)),
)
MACHINES = [
    {
        "ref": "104",
        "name": "legacy",
        "power": "on",
        "cpus": 2,
        "memory": 3 * GIB,
        "firmware": "uefi",
        "disks": [{"volume": "local:a", "size": 4 * GIB, "bus": "scsi"}],
        "nics": [{"network": "vmbr0", "mac": "52:54:00:00:00:01", "address": None}],
        "adoptable": True,
        "findings": [],
    },
    {
        "ref": "105",
        "name": "gpu",
        "power": "off",
        "cpus": 8,
        "memory": 64 * GIB,
        "firmware": "bios",
        "disks": [],
        "nics": [],
        "adoptable": False,
        "findings": [
            {
                "id": "SRC08",
                "severity": "blocker",
                "subject": "VM 105",
                "evidence": "hostpci0 passes a PCI device through",
                "remedy": "remove it",
            }
        ],
    },
]
LOOKED: dict[OperationKind, dict] = {
    K.SWEEP: {"sites": [{"site": "gra", "accounted": 3, "unaccounted": [], "missing": []}]},
    K.VERIFY_POINT: {"disks": 1, "bytesRead": 20 * GIB, "equal": True},
    K.SCAN: {"scan": {"site": "gra", "machines": MACHINES}},
}
DIGEST = "7f3a9c" + "0" * 58


class Hands:
    """Runs as long as the `with` block; `held` kinds are begun and not ended until released."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.blockers: list[Finding] = []
        self.refusing: dict[str, Finding] = {}
        self.silent: dict[str, Problem] = {}
        self.damaged: list[Finding] = []
        self.failure: tuple[OperationState, Problem] | None = None
        self.bounds = Bounds()
        self.held: set[OperationKind] = set()
        self.begun: set[UUID] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            with self.store.begin() as tx:
                admit(tx, self.bounds, datetime.now(UTC))
                items = tx.outbox.pending(100)
            for item in items:
                with self.store.begin() as tx:
                    operation = tx.operations.get(item.operation)
                    if operation.ended_at is not None:
                        tx.outbox.done(item.seq)
                        continue
                    if item.what == "start" and operation.id not in self.begun:
                        self._begin(tx, operation)
                        self.begun.add(operation.id)
                    cancelled = item.what == "cancel"
                    if cancelled or operation.kind not in self.held:
                        self._end(tx, operation, cancelled=cancelled)
                        tx.outbox.done(item.seq)

    def _begin(self, tx: Tx, op: Operation) -> None:
        now = datetime.now(UTC)
        tx.operations.update(op.id, state=OperationState.RUNNING, started_at=now)
        tx.operations.begin_step(op.id, "preflight", now)
        tx.operations.end_step(op.id, "preflight", StepState.OK, now, 1.2, 0.0)
        tx.operations.begin_step(op.id, "copy 0", now - timedelta(seconds=60))
        tx.operations.set_progress(
            Progress(
                operation=op.id, what="copy 0", done=4 * GIB, total=6 * GIB, sent=3 * GIB, at=now
            )
        )

    def _end(self, tx: Tx, op: Operation, *, cancelled: bool) -> None:
        op = tx.operations.get(op.id)
        if op.ended_at is not None:
            return
        now = datetime.now(UTC)
        tx.operations.end_step(op.id, "copy 0", StepState.OK, now, 0.0, 2.0)
        state, problem = OperationState.SUCCEEDED, None
        if cancelled:
            state = OperationState.CANCELLED
        elif op.kind is K.MOVE and self.failure is not None:
            state, problem = self.failure
        elif op.kind is K.PLAN_MOVE and op.order["to"] in self.silent:
            state, problem = OperationState.FAILED, self.silent[str(op.order["to"])]
        elif op.kind is K.PLAN_MOVE and (self.blockers or op.order["to"] in self.refusing):
            state = OperationState.BLOCKED
        result = self._settle(tx, op, state, now)
        tx.operations.update(
            op.id, state=state, problem=problem, ended_at=now, result=result, findings=()
        )

    def _settle(self, tx: Tx, op: Operation, state: OperationState, now: datetime) -> dict:
        subject = tx.resources.find_id(op.subject)
        if op.kind in {K.PLAN_MOVE, K.MOVE, K.FINALIZE}:
            return self._settle_move(tx, op, state, now)
        if op.kind in LOOKED:
            return LOOKED[op.kind]
        if op.kind is K.ADOPT and state is OperationState.SUCCEEDED:
            put_on_record(tx, op, SiteName(str(op.order["site"])), LEGACY, now)
            tx.resources.set_state(op.subject, State.ACTIVE, now=now)
            return {"site": op.order["site"], "ref": op.order["ref"]}
        if op.kind is K.DELETE_POINT:
            tx.vault.forget(PointId(UUID(str(op.order["point"]))))
        if subject is None:
            return {}
        if op.kind in {K.DELETE_IMAGE, K.DELETE_INSTANCE}:
            if op.kind is K.DELETE_INSTANCE:
                tx.placements.delete(InstanceId(op.subject))
            tx.resources.remove(op.subject, now)
            return {}
        if subject.state in {State.PENDING, State.ERROR}:
            tx.resources.set_state(op.subject, State.CREATING, now=now)
            tx.resources.set_state(op.subject, State.ACTIVE, now=now)
        changes: dict[K, dict] = {
            K.VERIFY_SITE: {
                "health": "healthy",
                "version": "9.1",
                "capabilities": ["instances", "volumes"],
                "networks": [{"name": "shop-net"}],
                "lastSeenAt": now.isoformat(),
            },
            K.IMPORT_IMAGE: {"sizeMB": 1536},
            K.START: {"powerState": "on"},
            K.STOP: {"powerState": "off"},
            K.RESTART: {"powerState": "on"},
            K.TAKE_POINTS: {
                "newestPointAt": now.isoformat(),
                "spreadSeconds": 0.25,
                "points": [
                    {
                        "instance": name,
                        "instanceId": str(uuid4()),
                        "point": str(uuid4()),
                        "asked": now.isoformat(),
                        "answered": now.isoformat(),
                        "snapshotSeconds": 0.25,
                        "bytesRead": 6 * GIB,
                        "bytesNew": 3 * GIB,
                    }
                    for name in op.order.get("members", [])
                ],
            },
            K.CHECK_VAULT: {
                "damaged": bool(self.damaged),
                "findings": [
                    {
                        n: str(getattr(f, n))
                        for n in ("id", "severity", "subject", "evidence", "remedy")
                    }
                    for f in self.damaged
                ],
                "packs": 3,
                "blobs": 30,
                "bytesRead": 5 * GIB,
                "checkedAt": now.isoformat(),
            },
        }
        tx.resources.patch_status(op.subject, changes.get(op.kind, {}), now=now)
        if op.kind is K.PROVISION:
            self._place(tx, op, str(subject.spec["zone"]))
        return {}

    def _place(self, tx: Tx, op: Operation, site: str) -> None:
        copy = ArtefactId(uuid4())
        tx.artefacts.intend(
            Artefact(
                id=copy,
                kind=ArtefactKind.INSTANCE,
                site=SiteName(site),
                instance=InstanceId(op.subject),
                operation=op.id,
                epoch=1,
                state=ArtefactState.INTENDED,
            )
        )
        tx.artefacts.set_state(copy, ArtefactState.ALLOCATED, ref="100")
        tx.artefacts.set_state(copy, ArtefactState.ATTACHED)
        tx.placements.create(
            Placement(instance=InstanceId(op.subject), site=SiteName(site), copy=copy, epoch=1)
        )

    def _settle_move(self, tx: Tx, op: Operation, state: OperationState, now: datetime) -> dict:
        move = ResourceId(UUID(str(op.order["move"])))
        instance = tx.resources.by_id(op.subject)
        placement = tx.placements.get(InstanceId(op.subject))
        findings = [
            Finding(
                id="GST10",
                severity=Severity.WARNING,
                subject="web",
                evidence="guest agent not seen: the copy will be crash-consistent",
            ),
            *self.blockers,
            *[found for site, found in self.refusing.items() if site == op.order["to"]],
        ]
        changes: dict[str, object] = {"phase": state.value, "operation": op.name}
        if op.kind is K.PLAN_MOVE:
            changes |= {
                "plan": _plan(instance.key.name, placement.site, str(op.order["to"])),
                "planDigest": DIGEST,
                "findings": [
                    {
                        n: str(getattr(f, n))
                        for n in ("id", "severity", "subject", "evidence", "remedy")
                    }
                    for f in findings
                ],
                "estimate": {
                    "seconds": 370.0,
                    "downtime_seconds": 155.0,
                    "bytes_read": 6 * GIB,
                    "bytes_sent": 3 * GIB,
                    "basis": "measured 41 MiB/s to it on 21 Nov",
                },
            }
        retained = {"kind": "instance", "site": placement.site, "sizeBytes": 6 * GIB}
        if op.kind is K.MOVE:
            good = state is OperationState.SUCCEEDED
            site = placement.site if good else str(op.order["to"])
            changes |= {
                "retained": [retained | {"site": site, "expiresAt": "2026-11-29T10:00:00+00:00"}],
                "downtimeSeconds": 151.0,
                "proof": [{"disk": 0, "equal": True}],
            }
            if good:
                lease = tx.leases.take(InstanceId(op.subject), op.id, now)
                tx.placements.switch(
                    InstanceId(op.subject),
                    operation=op.id,
                    epoch=lease.epoch,
                    site=SiteName(str(op.order["to"])),
                    copy=ArtefactId(uuid4()),
                    now=now,
                )
                tx.leases.release(InstanceId(op.subject), op.id)
                spec = dict(instance.spec) | {"zone": op.order["to"]}
                tx.resources.set_spec(instance.id, spec, now=now)
        if op.kind is K.FINALIZE:
            changes["retained"] = []
        tx.resources.patch_status(move, changes, now=now)
        return {"bytesSent": 3 * GIB, "bytesRead": 12 * GIB} if op.kind is K.MOVE else {}


def _plan(name: str, source: str, site: str) -> dict:
    return {
        "instance": str(uuid4()),
        "instance_name": name,
        "source": source,
        "target": {
            "site": site,
            "name": name,
            "size": {"cpus": 2, "memory": 4 * GIB},
            "sku": None,
            "firmware": "bios",
            "disks": [
                {
                    "index": 0,
                    "size": 20 * GIB,
                    "target_size": 20 * GIB,
                    "format": "raw",
                    "delivery": "pull",
                    "storage": "local-zfs",
                }
            ],
            "nics": [
                {
                    "network": "vmbr0",
                    "mac": "52:54:00:12:34:56",
                    "address": "10.0.4.12",
                    "source_network": "shop-net",
                }
            ],
        },
        "fence": "cannot-start",
        "checks": [{"kind": "booted", "pattern": "OK", "within": 120.0}],
        "return_path": f"{name} restarts on {source} if anything fails before the switch",
    }
