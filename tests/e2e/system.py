"""A whole system for tests: simulated sites, API, image gateway, Temporal server, worker.

Everything but the Temporal server runs in this process, so that a test can reach behind each part:
let a site misbehave, flip a byte in the vault, look at a disk. `killable_worker` puts a worker in a
process of its own for tests that kill it.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
from temporalio.client import Client
from temporalio.worker import Interceptor

from api.embedded import temporal_pace
from api.gateway.app import gateway
from api.http.app import create_app
from controlplane.domain.disk import BlockReader
from controlplane.domain.ids import PointId
from controlplane.domain.placement import Served
from controlplane.keys.agent import Agent, AgentServer
from controlplane.keys.keyring import Keyring
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services.assembly import Assembly, SystemClock, assemble, bounds, services
from controlplane.settings import Settings
from drivers.simulators.faults import FAST, Faults, Profile
from drivers.simulators.sites import OPENSTACK, PROXMOX, Sites
from tests.api.world import served
from workflows.__main__ import _tenant_of, connections, hands
from workflows.codec import SealedPayloads, client_options
from workflows.options import UNDO
from workflows.starter import Starter
from workflows.worker import build_worker

T = TypeVar("T")
TENANT, USER, PASSWORD = "acme", "ada", "correct horse battery"
TWO = (OPENSTACK, PROXMOX)
PATIENCE = 90.0
_PROVIDER_TIMEOUT = 4.0


def until(
    what: Callable[[], T],
    why: str,
    seconds: float = PATIENCE,
    every: float = 0.03,
    at_last: float = 0.0,
) -> T:
    """The first true answer of `what`; fails after `seconds`.

    Asked `every` so often, and in time as seldom as `at_last`.
    """
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {why}"
        time.sleep(every)
        every = max(every, min(every * 1.2, at_last))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def binary(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found is not None, f"{name} is not installed"
    return found


@dataclass(frozen=True)
class Said:
    """What the command answered."""

    out: str
    err: str
    code: int


class Worker:
    """A worker with its starter, in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        parts: Assembly,
        interceptors: Sequence[Interceptor] = (),
        pause: float = 0.02,
    ) -> None:
        self._settings, self._parts = settings, parts
        self._interceptors, self._pause = interceptors, pause
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30), "the worker did not start"

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the worker did not stop"

    def _run(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        store = self._parts.store
        keyring: Keyring = self._parts.keyring
        codec = SealedPayloads(keyring, lambda workflow: _tenant_of(store, workflow))
        client = await Client.connect(self._settings.temporal_address, **client_options(codec))
        sites = connections(self._settings, self._parts)
        doing = hands(self._settings, self._parts, sites)
        async with build_worker(client, doing, interceptors=self._interceptors):
            pause = asyncio.Event()
            starter = Starter(
                store, client, SystemClock().now, pause=self._pause, bounds=bounds(self._settings)
            )
            telling = asyncio.ensure_future(starter.run(pause))
            self._ready.set()
            await self._stop.wait()
            pause.set()
            await telling
        await asyncio.to_thread(sites.close)


class System:
    """Made by `running`; every field may be used by tests.

    `interceptors` are those of each worker that is started in this process from then on. `pause` is
    how long, in seconds, its starter and who waits for an operation look away; both look often by
    default, which takes half the time of many operations.
    """

    def __init__(
        self, folder: Path, profile: Profile, seed: int, names: tuple[str, ...] = TWO
    ) -> None:
        self.folder = folder
        self.sites = Sites(folder / "sites", {}, profile, seed, names, server_disk=1 << 30)
        self.settings = Settings(
            database_url=f"sqlite:///{folder / 'fedctl.db'}",
            temporal_address=f"127.0.0.1:{free_port()}",
            agent_socket=folder / "agent.sock",
            vault=folder / "vault",
            uploads=folder / "uploads",
            provider_timeout=_PROVIDER_TIMEOUT,
        )
        self.url = ""
        self.token = ""
        self.http = httpx.Client()
        self.parts: Assembly
        self.worker: Worker | None = None
        self.interceptors: list[Interceptor] = []
        self.pause: float | None = None
        self._logged_in = False

    # life

    def start(self, stack: ExitStack) -> None:
        self.sites.start()
        stack.callback(self.sites.stop)
        stack.enter_context(_temporal(self.settings.temporal_address, self.folder))
        stack.enter_context(_agent(self.settings.agent_socket))
        self.parts = assemble(self.settings, index=self.folder / "index.db")
        stack.callback(self.parts.close)
        self.parts.store.migrate()
        cases = services(self.settings, self.parts)
        self.token = cases.identity.bootstrap(TENANT, USER, PASSWORD)
        self.url = stack.enter_context(served(create_app(cases)))
        pictures = stack.enter_context(served(gateway(find=self._served, open_disk=self._open)))
        self.settings = self.settings.model_copy(update={"gateway_url": pictures})
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http.close()
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        stack.callback(self.http.close)
        self.start_worker()
        stack.callback(self.stop_worker)
        for name, site in self.sites.described().items():
            self.register(name, site)

    def start_worker(self) -> None:
        self.worker = Worker(self.settings, self.parts, self.interceptors, self.pause or 0.02)
        self.worker.start()

    def stop_worker(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    @contextmanager
    def killable_worker(self) -> Iterator["KillableWorker"]:
        """The worker as a process instead, for as long as the block lasts."""
        self.stop_worker()
        killable = KillableWorker(self)
        killable.start()
        try:
            yield killable
        finally:
            killable.kill()
            self.start_worker()

    def environment(self) -> dict[str, str]:
        given = {
            f"FEDCTL_{name.upper()}": str(getattr(self.settings, name))
            for name in (
                "database_url", "temporal_address", "agent_socket", "vault", "uploads",
                "gateway_url", "provider_timeout",
            )
        }  # fmt: skip
        return {**os.environ, **given}

    def _served(self, token_sha256: str) -> Served | None:
        with self.parts.store.read() as tx:
            return tx.served.by_token(token_sha256)

    def _open(self, image: Served) -> BlockReader:
        return self.parts.vault.open(PointId(UUID(image.point)), image.disk)

    # sites

    def faults(self, site: str) -> Faults:
        return self.sites.faults(site)

    def site_path(self, name: str) -> str:
        return f"/providers/fedctl.federation/v1/sites/{name}"

    def register(self, name: str, site: dict[str, Any]) -> dict[str, Any]:
        """Put a site with its credentials, verify it; the verify operation as it ended."""
        site = dict(site)
        credentials = site.pop("credentials")
        path = self.site_path(name)
        self.http.put(path, json={"spec": site}).raise_for_status()
        given = self.http.put(f"{path}/credentials", json={"secrets": credentials})
        given.raise_for_status()
        return self.ended(self.http.post(f"{path}/verify"))

    # operations

    def operation(self, answer: httpx.Response) -> str:
        """The path of the work that an accepted request began."""
        assert answer.is_success, answer.text
        area, _, rest = answer.headers["Fedctl-Operation"].partition("/")
        return f"/providers/{area}/{rest}"

    def look(self, path: str) -> dict[str, Any]:
        answer = self.http.get(path)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, answer: httpx.Response | str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The operation's status once it has an outcome."""
        path = answer if isinstance(answer, str) else self.operation(answer)

        def outcome() -> dict[str, Any] | None:
            status: dict[str, Any] = self.look(path)["status"]
            return status if status.get("outcome") else None

        # Asking often would take its time from what is asked for: all of it is this process.
        why, every = f"{path} ends; now: {self._told(path)}", self.pause or 0.05
        return until(outcome, why, seconds, every, at_last=0.3)

    def _told(self, path: str) -> str:
        status = self.look(path)["status"]
        last = [f"{s['name']}={s['state']}:{s['message'][:60]}" for s in status["steps"][-2:]]
        return f"{status.get('phase')} {last}"

    def done(self, answer: httpx.Response | str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The operation's status; it must have succeeded."""
        status = self.ended(answer, seconds)
        assert status["outcome"] == "succeeded", (
            status.get("problem"),
            [f["evidence"] for f in status["findings"]],
        )
        return status

    # the command

    def cli(self, *words: str, text: str | None = None, seconds: float = 60) -> Said:
        """The real command in a process of its own."""
        if not self._logged_in and words[0] != "login":
            self._logged_in = True
            done = self.cli(
                "login", self.url, "--user", USER, "--password-stdin", text=PASSWORD + "\n"
            )
            assert done.code == 0, done.err
        ran = subprocess.run(
            [sys.executable, "-m", "api.cli.main", *words],
            env={
                **os.environ,
                "FEDCTL_CONFIG": str(self.folder / "contexts.json"),
                "NO_COLOR": "1",
                "COLUMNS": "200",
            },
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Said(out=ran.stdout, err=ran.stderr, code=ran.returncode)

    # what must hold whatever happened

    def swept(self) -> list[str]:
        """What the sweep finds unaccounted for or missing, at any site."""
        path = "/providers/fedctl.federation/v1/sweep"
        result = self.done(self.http.post(path))["result"]
        return [
            f"{site['site']}: {what}"
            for site in result["sites"]
            for what in (*site["unaccounted"], *site["missing"])
        ]

    def troubles(self) -> list[str]:
        """Everything that must never be, in words."""
        found = [f"two copies ran: {twins}" for twins in self.sites.witness.twins()]
        found += [
            f"lost durable writes {guest['lost'][:5]} of {guest['native']} at {guest['site']}"
            for guest in self.sites.observed()["guests"]
            if guest["lost"]
        ]
        return found + [f"a lease is held: {row}" for row in self._leases()]

    def _leases(self) -> list[object]:
        with contextlib.closing(sqlite3.connect(self.folder / "fedctl.db")) as db:
            return db.execute("select * from leases where operation is not null").fetchall()


class KillableWorker:
    """`python -m workflows` on the system's settings."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._process: subprocess.Popen[bytes] | None = None
        self._log = system.folder / f"worker-{uuid4().hex[:6]}.log"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workflows"],
                env=self._system.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """SIGKILL: nothing of it gets to say goodbye."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None


@contextmanager
def impatient_undo(seconds: float) -> Iterator[None]:
    """Undoing gives up after so long instead of hours, for tests of what happens then."""
    before = dict(UNDO)
    UNDO["schedule_to_close_timeout"] = timedelta(seconds=seconds)
    UNDO["start_to_close_timeout"] = timedelta(seconds=seconds)
    try:
        yield
    finally:
        UNDO.update(before)  # type: ignore[typeddict-item]


@contextmanager
def _temporal(address: str, folder: Path) -> Iterator[None]:
    host, _, port = address.partition(":")
    with (folder / "temporal.log").open("ab") as log:
        process = subprocess.Popen(
            [
                binary("temporal"), "server", "start-dev", "--headless", "--ip", host,
                "--port", port, "--log-level", "error", *temporal_pace(),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, (folder / "temporal.log").read_text()[-800:]
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False

    try:
        until(answers, "the Temporal server listens", 60)
        until(lambda: _ready(address), "the Temporal server serves", 60, every=0.2)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _ready(address: str) -> bool:
    async def ask() -> bool:
        client = await Client.connect(address)
        return bool(await client.service_client.check_health())

    try:
        return asyncio.run(ask())
    except RuntimeError:
        return False


@contextmanager
def _agent(path: Path) -> Iterator[None]:
    """The key agent on its socket, opened, in a thread."""
    holder = LocalAgent(RootKey(root=UUID(int=7), material=bytes(range(32))))
    server = AgentServer(path, Agent(root=path.with_suffix(".key"), holder=holder))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def running(
    profile: Profile = FAST, seed: int = 1, names: tuple[str, ...] = TWO
) -> Iterator[System]:
    """Only the sites that are named take part: each costs its time at every sweep."""
    with TemporaryDirectory(prefix="fedctl-e2e-") as folder, ExitStack() as stack:
        made = System(Path(folder), profile, seed, names)
        made.start(stack)
        yield made


__all__ = [
    "OPENSTACK",
    "PASSWORD",
    "PROXMOX",
    "TENANT",
    "USER",
    "Said",
    "System",
    "free_port",
    "impatient_undo",
    "running",
    "until",
]
