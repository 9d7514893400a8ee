"""`fedctl dev` for tests that kill its processes: the supervisor starts each again."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from drivers.simulators.witness import Witness
from tests.e2e.system import until

TENANT, USER = "demo", "admin"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an operation as its row says; times in seconds."""

    name: str
    began: float
    ended: float | None


class Patient(httpx.Client):
    """As a customer's tool: what got no answer is asked again until the API is back."""

    def request(self, *words: Any, **more: Any) -> httpx.Response:
        end = time.monotonic() + 60
        while True:
            with suppress(httpx.TransportError):
                answer = super().request(*words, **more)
                if answer.status_code not in {502, 503, 504}:
                    return answer
            assert time.monotonic() < end, f"the API does not answer: {words}"
            time.sleep(0.1)


class Dev:
    """One running `fedctl dev`; what tests ask of it goes through the API or is read from disk."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.ports: dict[str, int] = json.loads((folder / "ports.json").read_text())
        self.http = Patient(base_url=f"http://127.0.0.1:{self.ports['api']}", timeout=20)
        login = {"user": USER, "password": (folder / "password").read_text()}
        answer = self.http.post("/providers/fedctl.identity/v1/login", json=login)
        token = answer.raise_for_status().json()["token"]
        self.http.headers["Authorization"] = f"Bearer {token}"
        self.witness = Witness(folder / "sites" / "witness.db")

    # processes

    def pid(self, name: str) -> int | None:
        """Of the process that runs now under that name."""
        with suppress(OSError, ValueError):
            found: dict[str, int] = json.loads((self.folder / "processes.json").read_text())
            if name in found and Path(f"/proc/{found[name]}").exists():
                return found[name]
        return None

    def serves(self, name: str) -> bool:
        """Whether its port answers HTTP just now."""
        with suppress(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{self.ports[name]}/", timeout=5)
            return True
        return False

    def kill(self, name: str) -> bool:
        """SIGKILL; False when it was not running just now."""
        pid = self.pid(name)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def children(self) -> list[str]:
        """Command lines of everything that the supervisor started and that runs."""
        found = []
        for each in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    found.append((each / "cmdline").read_text().replace("\0", " ")[:120])
        return found

    # what is

    def look(self, path: str) -> dict[str, Any]:
        answer = self.http.get(path)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def operation(self, answer: httpx.Response) -> str:
        assert answer.is_success, answer.text
        area, _, rest = answer.headers["Fedctl-Operation"].partition("/")
        return f"/providers/{area}/{rest}"

    def ended(self, answer: httpx.Response | str, seconds: float = 150) -> dict[str, Any]:
        """The operation's status once it ended or waits for a person."""
        path = answer if isinstance(answer, str) else self.operation(answer)

        def outcome() -> dict[str, Any] | None:
            status: dict[str, Any] = self.look(path)["status"]
            return status if status.get("outcome") or _stuck(status) else None

        return until(outcome, f"{path} ends", seconds, every=0.1)

    def done(self, answer: httpx.Response | str, seconds: float = 150) -> dict[str, Any]:
        status = self.ended(answer, seconds)
        assert status.get("outcome") == "succeeded", (status.get("outcome"), status.get("problem"))
        return status

    def rows(self, query: str, *values: object) -> list[Any]:
        """Read from the database itself, which answers also while the API is dead."""
        url = f"file:{self.folder / 'fedctl.db'}?mode=ro"
        with closing(sqlite3.connect(url, uri=True, timeout=10)) as db:
            return db.execute(query, values).fetchall()

    def steps(self, operation: str) -> list[Step]:
        query = (
            "select s.name, (julianday(s.started_at) - 2440587.5) * 86400.0,"
            " (julianday(s.ended_at) - 2440587.5) * 86400.0"
            " from steps s join operations o on o.id = s.operation where o.name = ?"
            " order by s.position"
        )
        found = self.rows(query, operation.rpartition("/")[2])
        return [Step(name=name, began=began, ended=ended) for name, began, ended in found]

    def observed(self) -> dict[str, Any]:
        """What an outsider saw of the guests."""
        answer = httpx.get(f"http://127.0.0.1:{self.ports['control']}", timeout=20)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def close(self) -> None:
        self.http.close()
        self.witness.close()


def _stuck(status: dict[str, Any]) -> bool:
    return "needs-attention" in {status.get("state"), status.get("outcome"), status.get("phase")}


@contextmanager
def dev(folder: Path, *, profile: str = "fast", seed: int = 1) -> Iterator[Dev]:
    words = ["--state", str(folder), "--profile", profile, "--seed", str(seed)]
    with (folder / "dev.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.embedded", *words], stdout=log, stderr=log
        )
    try:
        until((folder / "ready").exists, "fedctl dev is ready", 180)
        made = Dev(folder, process)
        try:
            yield made
        finally:
            made.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
