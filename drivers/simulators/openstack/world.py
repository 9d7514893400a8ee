"""What the simulated cloud knows: records and pending work, kept in a folder over restarts."""

import heapq
import itertools
import json
import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Action = Callable[..., None]


def stamp(seconds: float | None = None, *, micro: bool = False) -> str:
    """A time as OpenStack writes it, without a zone."""
    at = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f" if micro else "%Y-%m-%dT%H:%M:%S")


class World:
    """Records by kind and id, under one lock, and actions that fall due."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.troubles: list[str] = []  # actions that broke: faults of the simulator itself
        self._actions: dict[str, Action] = {}
        self._due: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._wake = threading.Condition()
        self._workers: ThreadPoolExecutor | None = None
        self._clock: threading.Thread | None = None
        self._db = sqlite3.connect(
            folder / "cloud.sqlite", check_same_thread=False, isolation_level=None
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS records"
            " (kind TEXT, id TEXT, n INTEGER, body TEXT, PRIMARY KEY (kind, id))"
        )
        self._tables: dict[str, dict[str, Record]] = {}
        rows = self._db.execute("SELECT kind, id, n, body FROM records ORDER BY n").fetchall()
        for kind, ident, _, body in rows:
            self._tables.setdefault(kind, {})[ident] = json.loads(body)
        self._n = itertools.count(rows[-1][2] + 1 if rows else 1)
        boots = self.get("world", "boots") or {"id": "boots", "count": 0}
        boots["count"] += 1
        self.put("world", boots)
        self.random = random.Random(f"{seed}:{boots['count']}")

    def folder_of(self, kind: str) -> Path:
        path = self.folder / kind
        path.mkdir(exist_ok=True)
        return path

    # records

    def new_id(self) -> str:
        with self.lock:
            return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def put(self, kind: str, record: Record) -> Record:
        with self.lock:
            table = self._tables.setdefault(kind, {})
            table[record["id"]] = record
            self._db.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?)"
                " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                (kind, record["id"], next(self._n), json.dumps(record)),
            )
        return record

    def get(self, kind: str, ident: str) -> Record | None:
        return self._tables.get(kind, {}).get(ident)

    def update(self, kind: str, ident: str, **fields: Any) -> Record | None:
        """Set fields of a record that is still there."""
        with self.lock:
            record = self.get(kind, ident)
            if record is None:
                return None
            record.update(fields)
            return self.put(kind, record)

    def drop(self, kind: str, ident: str) -> None:
        with self.lock:
            self._tables.get(kind, {}).pop(ident, None)
            self._db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, ident))

    def all(self, kind: str) -> list[Record]:
        with self.lock:
            return list(self._tables.get(kind, {}).values())

    def where(self, kind: str, **fields: Any) -> Iterator[Record]:
        for record in self.all(kind):
            if all(record.get(key) == value for key, value in fields.items()):
                yield record

    # work that falls due

    def action(self, name: str, act: Action) -> None:
        self._actions[name] = act

    def later(self, seconds: float, name: str, **args: Any) -> None:
        """Do the named action after a while, also if the cloud restarts in between."""
        at = time.time() + seconds
        task = self.put("task", {"id": self.new_id(), "at": at, "do": name, "args": args})
        with self._wake:
            heapq.heappush(self._due, (at, next(self._order), task["id"]))
            self._wake.notify()

    def start(self) -> None:
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="openstack-sim")
        for task in self.all("task"):
            heapq.heappush(self._due, (task["at"], next(self._order), task["id"]))
        self._clock = threading.Thread(target=self._run, daemon=True)
        self._clock.start()

    def halt(self) -> None:
        """Let no more action begin, and wait for those that run."""
        self.stopping.set()
        with self._wake:
            self._wake.notify()
        if self._clock:
            self._clock.join()
        if self._workers:
            self._workers.shutdown(wait=True)

    def close(self) -> None:
        with self.lock:
            self._db.close()

    def _run(self) -> None:
        while not self.stopping.is_set():
            with self._wake:
                wait = self._due[0][0] - time.time() if self._due else 60.0
                if wait > 0:
                    self._wake.wait(wait)
                    continue
                _, _, ident = heapq.heappop(self._due)
            if self._workers:
                self._workers.submit(self._do, ident)

    def _do(self, ident: str) -> None:
        task = self.get("task", ident)
        if task is None or self.stopping.is_set():
            return
        try:
            self._actions[task["do"]](**task["args"])
        except InterruptedError:
            return  # the cloud stops in the middle: the task stays and is done again
        except Exception as e:  # noqa: BLE001  # one broken action must not stop the cloud
            self.troubles.append(f"{task['do']} {task['args']}: {e!r}")
        self.drop("task", ident)
