"""The database of a simulated pool: every object a record under its reference, and what changed."""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from drivers.simulators.faults import Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.witness import Witness

Row = dict[str, Any]
MIB = 1 << 20
STEP = 2 * MIB
NULL = "OpaqueRef:NULL"
CLASSES = (
    "pool",
    "host",
    "host_metrics",
    "SR",
    "VDI",
    "VM",
    "VM_guest_metrics",
    "VBD",
    "VIF",
    "network",
    "PIF",
    "task",
)
_SESSION_SECONDS = 24 * 3600
_TASK_SECONDS, _TASKS = 65 * 60, 200


class Failure(Exception):
    """What XAPI calls an error: a code and its parameters."""

    def __init__(self, *description: str) -> None:
        super().__init__(description)
        self.description = list(description)


class Pool:
    """Everything under one lock; calls that take time hold it only at their beginning and end."""

    def __init__(
        self, folder: Path, *, name: str, profile: Profile, faults: Faults, witness: Witness | None
    ) -> None:
        self.folder, self.name, self.profile, self.faults = folder, name, profile, faults
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.guests = Guests(name, profile=profile, witness=witness)
        self.tables: dict[str, dict[str, Row]] = {cls: {} for cls in CLASSES}
        self.sessions: dict[str, float] = {}
        self.generation = 0
        self.latest: dict[tuple[str, str], int] = {}  # which object changed when
        self.users: dict[str, list[str]] = {}  # by VDI: what holds it besides VMs
        self.size = 500 << 30
        self.elsewhere = ""  # the host that has the storage, which the next export is sent to
        self.senders: dict[str, Callable[[], None]] = {}  # by task: cuts an export under way
        self.unplug: Callable[[str], None] = lambda _vbd: None  # cuts a reader over NBD
        self.is_user: Callable[[str, str], bool] = lambda _name, _password: False
        (folder / "sr").mkdir(parents=True, exist_ok=True)
        self._load()

    # -- objects -------------------------------------------------------------------------------

    def add(self, cls: str, **fields: Any) -> str:
        ref = f"OpaqueRef:{uuid4()}"
        with self.lock:
            self.tables[cls][ref] = {"uuid": str(uuid4()), **fields}
            self.touch(cls, ref)
        return ref

    def put(self, cls: str, ref: str, **fields: Any) -> None:
        with self.lock:
            self.row(cls, ref).update(fields)
            self.touch(cls, ref)

    def drop(self, cls: str, ref: str) -> None:
        with self.lock:
            self.tables[cls].pop(ref, None)
            self.touch(cls, ref)

    def touch(self, cls: str, ref: str) -> None:
        with self.changed:
            self.generation += 1
            self.latest[cls, ref] = self.generation
            self.changed.notify_all()

    def row(self, cls: str, ref: str) -> Row:
        if ref not in self.tables[cls]:
            raise Failure("HANDLE_INVALID", cls, ref)
        return self.tables[cls][ref]

    def by_uuid(self, cls: str, uuid: str) -> str:
        for ref, row in self.tables[cls].items():
            if row["uuid"] == uuid:
                return ref
        raise Failure("UUID_INVALID", cls, uuid)

    def only(self, cls: str) -> str:
        return next(iter(self.tables[cls]))

    def where(self, cls: str, **fields: Any) -> list[str]:
        """References of the rows with these values, in a copy that may be walked."""
        return [
            ref
            for ref, row in list(self.tables[cls].items())
            if all(row.get(key) == value for key, value in fields.items())
        ]

    # -- disks ---------------------------------------------------------------------------------

    def file(self, vdi: str) -> Path:
        return self.folder / "sr" / f"{self.row('VDI', vdi)['uuid']}.raw"

    def used(self) -> int:
        files = (self.folder / "sr").glob("*.raw")
        return sum(file.stat().st_blocks * 512 for file in files)

    def measure(self) -> None:
        """What storage and VMs take, as the host's own measuring would tell."""
        with self.lock:
            for sr in self.where("SR"):
                used = self.used()
                if self.row("SR", sr).get("physical_utilisation") != used:
                    self.put("SR", sr, physical_utilisation=used)

    def attached(self, vdi: str) -> bool:
        """Whether a VM that is not halted has it."""
        vms = [
            self.tables["VM"].get(self.tables["VBD"][v]["VM"]) for v in self.where("VBD", VDI=vdi)
        ]
        return any(
            vm is not None and vm["power_state"] != "Halted" and not vm["is_control_domain"]
            for vm in vms
        )

    def in_use(self, vdi: str, *, writing: bool) -> bool:
        holders = self.users.get(vdi, [])
        return self.attached(vdi) or (bool(holders) if writing else "write" in holders)

    @contextmanager
    def holding(self, vdi: str, how: str) -> Iterator[None]:
        """Have a disk for reading (shared with readers) or writing; VDI_IN_USE."""
        with self.lock:
            if self.in_use(vdi, writing=how == "write"):
                raise Failure("VDI_IN_USE", vdi, how)
            self.users.setdefault(vdi, []).append(how)
        try:
            yield
        finally:
            with self.lock:
                self.users[vdi].remove(how)

    # -- operations ----------------------------------------------------------------------------

    @contextmanager
    def operating(self, cls: str, ref: str, operation: str) -> Iterator[None]:
        """Others see that this object is busy; the pause in between is the caller's."""
        with self.lock:
            row = self.row(cls, ref)
            if row["current_operations"]:
                raise Failure("OTHER_OPERATION_IN_PROGRESS", cls, ref)
            name = secrets.token_hex(8)
            self.put(cls, ref, current_operations={name: operation})
        try:
            yield
        finally:
            with self.lock:
                if ref in self.tables[cls]:
                    self.put(cls, ref, current_operations={})

    def pause(self, seconds: float | None = None) -> None:
        time.sleep(self.profile.step_seconds if seconds is None else seconds)

    # -- sessions and tasks --------------------------------------------------------------------

    def log_in(self) -> str:
        ref = f"OpaqueRef:{uuid4()}"
        with self.lock:
            self.sessions[ref] = time.monotonic()
        return ref

    def session(self, ref: str) -> None:
        """SESSION_INVALID unless it is one and was used lately."""
        with self.lock:
            if time.monotonic() - self.sessions.get(ref, float("-inf")) > _SESSION_SECONDS:
                self.sessions.pop(ref, None)
                raise Failure("SESSION_INVALID", ref)
            self.sessions[ref] = time.monotonic()

    def task(self, label: str, description: str = "") -> str:
        now = time.time()
        with self.lock:
            ended = [ref for ref, row in self.tables["task"].items() if row["finished"]]
            old = [r for r in ended if now - self.tables["task"][r]["finished"] > _TASK_SECONDS]
            for ref in {*old, *ended[: max(len(ended) - _TASKS, 0)]}:
                self.drop("task", ref)
            return self.add(
                "task",
                name_label=label,
                name_description=description,
                status="pending",
                progress=0.0,
                type="<none/>",
                result="",
                error_info=[],
                created=now,
                finished=0.0,
                other_config={},
            )

    def finish(self, task: str, *, result: str = "", error: list[str] | None = None) -> None:
        with self.lock:
            if task not in self.tables["task"]:
                return
            status = "success" if error is None else "failure"
            if error and error[0] == "TASK_CANCELLED":
                status = "cancelled"
            self.put(
                "task",
                task,
                status=status,
                progress=1.0,
                result=result,
                error_info=error or [],
                finished=time.time(),
            )

    def cancelled(self, task: str) -> bool:
        """A task that is no longer pending, or gone, takes nothing in any more."""
        return self.tables["task"].get(task, {}).get("status") != "pending"

    # -- keeping -------------------------------------------------------------------------------

    def close(self) -> None:
        self.guests.close()
        self.save()

    def save(self) -> None:
        with self.lock:
            coming = self.folder / "state.new"
            coming.touch(mode=0o600)
            coming.write_text(json.dumps(self.tables))
            coming.replace(self.folder / "state.json")

    def _load(self) -> None:
        kept = self.folder / "state.json"
        if not kept.exists():
            return
        self.tables |= json.loads(kept.read_text())
        for cls in ("VM", "VDI"):
            for row in self.tables[cls].values():
                row["current_operations"] = {}
        for ref in self.where("task", status="pending"):
            self.finish(ref, error=["INTERNAL_ERROR", "xapi was restarted"])
