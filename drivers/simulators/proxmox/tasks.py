"""Tasks as Proxmox VE runs them: a UPID at once, a worker beside it, an exit status at its end."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from drivers.simulators.proxmox.params import Fails, Refused, invalid


class Aborted(Exception):
    """Somebody deleted the running task."""


@dataclass(slots=True, kw_only=True)
class Task:
    """One task; `exit` is None while it runs."""

    upid: str
    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    user: str
    exit: str | None = None
    endtime: int | None = None
    lines: list[str] = field(default_factory=list)
    warnings: int = 0


class Worker:
    """What a task's work may do besides its work: write the log, warn, hear an abort."""

    def __init__(self, task: Task, *, ending: threading.Event) -> None:
        self.task, self._ending = task, ending
        self.aborted = threading.Event()

    def log(self, line: str) -> None:
        self.task.lines.append(line)

    def warn(self, line: str) -> None:
        self.task.lines.append(f"WARN: {line}")
        self.task.warnings += 1

    def wait(self, seconds: float) -> None:
        """Take so long, unless aborted."""
        if self.aborted.wait(seconds) or self._ending.is_set():
            raise Aborted

    def alive(self) -> None:
        """Stop here when the task was aborted."""
        self.wait(0)


Work = Callable[[Worker], None]


class Tasks:
    """All tasks of a node, newest last; they outlive the process as records."""

    def __init__(
        self, node: str, *, saved: list[dict[str, Any]], step: float, changed: Callable[[], None]
    ) -> None:
        self.node, self._step, self._changed = node, step, changed
        self._lock = threading.Lock()
        self._tasks = {record["upid"]: Task(**record) for record in saved}
        self._workers: dict[str, tuple[Worker, threading.Thread]] = {}
        self._ending = threading.Event()
        self._booted = time.monotonic()
        self._pid = 1000 + len(self._tasks)
        for task in self._tasks.values():
            if task.exit is None:  # its process died with us
                task.exit, task.endtime = "unexpected status", int(time.time())

    def spawn(self, kind: str, subject: str, user: str, work: Work) -> str:
        """Start the work and answer its UPID."""
        with self._lock:
            if self._ending.is_set():
                raise Refused(596, "Connection refused")
            self._pid += 1
            pstart, start = int((time.monotonic() - self._booted) * 100) + 1, int(time.time())
            numbers = f"{self._pid:08X}:{pstart:08X}:{start:08X}"
            upid = f"UPID:{self.node}:{numbers}:{kind}:{subject}:{user}:"
            task = Task(
                upid=upid,
                node=self.node,
                pid=self._pid,
                pstart=pstart,
                starttime=start,
                type=kind,
                id=subject,
                user=user,
            )
            worker = Worker(task, ending=self._ending)
            self._tasks[upid] = task
            thread = threading.Thread(
                target=self._run, args=(worker, work), name=f"{self.node}-{kind}", daemon=True
            )
            self._workers[upid] = (worker, thread)
            thread.start()
        return upid

    def get(self, upid: str) -> Task:
        task = self._tasks.get(upid)
        if task is None:
            raise invalid(upid="no such task")
        return task

    def all(self) -> list[Task]:
        with self._lock:
            return list(self._tasks.values())

    def abort(self, upid: str) -> None:
        self.get(upid)
        if upid in self._workers:
            self._workers[upid][0].aborted.set()

    def records(self) -> list[dict[str, Any]]:
        return [asdict(task) for task in self.all()[-500:]]

    def close(self) -> None:
        """Interrupt what runs and wait for it."""
        with self._lock:
            self._ending.set()
            running = list(self._workers.values())
        for worker, thread in running:
            worker.aborted.set()
            thread.join(timeout=30)

    def _run(self, worker: Worker, work: Callable[[Worker], None]) -> None:
        task = worker.task
        try:
            worker.wait(self._step)
            work(worker)
            outcome = f"WARNINGS: {task.warnings}" if task.warnings else "OK"
        except Aborted:
            outcome = "interrupted by signal"
        except Fails as error:
            outcome = str(error)
        except Refused as error:
            outcome = error.reason
        except Exception as error:  # noqa: BLE001  # whatever happens, a worker's task ends
            outcome = f"{getattr(error, 'strerror', None) or error!r}"
        task.lines.append("TASK OK" if outcome == "OK" else f"TASK ERROR: {outcome}")
        task.endtime = int(time.time())
        task.exit = outcome
        with self._lock:
            self._workers.pop(task.upid, None)
        self._changed()
