"""`fedctl dev`: the whole system on this machine, one process each, with five simulated sites.

A supervisor starts key agent, Temporal, simulators, API, image gateway and worker, starts again
what dies, and stops everything when it is told to. Everything listens on loopback. All state is in
one folder, so that the next start goes on where this one ended.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO

import httpx
import platformdirs

from controlplane.domain.errors import Conflict, FedctlError, Unavailable

TENANT, USER = "demo", "admin"
REGIONS = ("eu-fr", "eu-be")
_PATIENCE = 60.0
_GRACE = 15.0
_LOOK = 0.05
_FIRST_PORT = 8700
_PR_SET_PDEATHSIG = 1
_PORTS_OF_SITES = (
    "control",
    "openstack",
    "proxmox",
    "proxmox_ssh",
    "ovhcloud",
    "opennebula",
    "opennebula_ssh",
    "xcpng",
    "xcpng_nbd",
)
# What deploy/temporal.yaml says, too. By default timers may fire a second late, which each repeated
# look waits for, and a shard passes on 20 tasks a second, so that no step takes less than 50 ms.
_PACE = ('history.timerProcessorMaxTimeShift="20ms"', "history.transferProcessorMaxPollRPS=2000")
_PORTS = ("api", "gateway", "temporal", *_PORTS_OF_SITES)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The folder of one embedded system."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("", "logs", "sites", "vault", "uploads"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def password(self) -> Path:
        return self.folder / "password"

    @property
    def passphrase(self) -> Path:
        return self.folder / "passphrase"

    @property
    def processes(self) -> Path:
        """Names and process ids of what runs now, as JSON."""
        return self.folder / "processes.json"

    @property
    def ready(self) -> Path:
        """There while the system answers."""
        return self.folder / "ready"

    @property
    def agent_socket(self) -> Path:
        return self.folder / "agent.sock"

    def secret(self, path: Path) -> str:
        """A random secret, made on the first start and readable by its owner alone."""
        if not path.exists():
            coming = path.with_suffix(".new")
            coming.touch(mode=0o600)
            coming.write_text(secrets.token_urlsafe(24))
            coming.replace(path)
        return path.read_text()

    def ports(self) -> dict[str, int]:
        """Free loopback ports, chosen once so that addresses stay the same."""
        path = self.folder / "ports.json"
        chosen: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        if set(_PORTS) - set(chosen):  # a new folder, or one of an older fedctl
            chosen = _with_free_ports(chosen)
            path.write_text(json.dumps(chosen))
        return chosen


def _with_free_ports(known: Mapping[str, int]) -> dict[str, int]:
    """The API on 8700 where that is free, everything else wherever there is room."""
    ports = dict(known)
    with contextlib.ExitStack() as held:
        while missing := [name for name in _PORTS if name not in ports]:
            sock = held.enter_context(socket.socket())
            try:
                sock.bind(("127.0.0.1", _FIRST_PORT if missing[0] == "api" else 0))
            except OSError:
                sock.bind(("127.0.0.1", 0))
            if (port := int(sock.getsockname()[1])) not in ports.values():
                ports[missing[0]] = port
    return ports


def settings_of(state: State) -> dict[str, str]:
    """What the processes of this system are told by their environment."""
    folder, ports = state.folder, state.ports()
    api = f"http://127.0.0.1:{ports['api']}"
    return {
        "FEDCTL_DATABASE_URL": f"sqlite:///{folder / 'fedctl.db'}",
        "FEDCTL_TEMPORAL_ADDRESS": f"127.0.0.1:{ports['temporal']}",
        "FEDCTL_AGENT_SOCKET": str(state.agent_socket),
        "FEDCTL_VAULT": str(folder / "vault"),
        "FEDCTL_UPLOADS": str(folder / "uploads"),
        "FEDCTL_GATEWAY_PORT": str(ports["gateway"]),
        "FEDCTL_GATEWAY_URL": f"http://127.0.0.1:{ports['gateway']}",
        "FEDCTL_API_PORT": str(ports["api"]),
        "FEDCTL_PUBLIC_URL": api,
        "FEDCTL_REGIONS": json.dumps(REGIONS),
    }


def agent_command(state: State) -> list[str]:
    """The key agent that opens this system's root key."""
    return [
        sys.executable, "-m", "controlplane.keys.agent", "--socket", str(state.agent_socket),
        "--root", str(state.folder / "root.key"), "--passphrase-file", str(state.passphrase),
    ]  # fmt: skip


def temporal_pace() -> list[str]:
    """Options of `temporal server start-dev` that let the steps of a story follow at once."""
    return [word for each in _PACE for word in ("--dynamic-config-value", each)]


def dies_with_parent() -> None:
    """Even a supervisor that is killed outright leaves no process behind (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True, kw_only=True)
class Child:
    """One process of the system; started again when it dies."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    last_start: float = 0.0
    _out: IO[bytes] | None = field(default=None)

    def start(self) -> None:
        self._out = self.log.open("ab")
        self.process = subprocess.Popen(
            self.command,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dies_with_parent,  # noqa: PLW1509  # nothing but a prctl between fork and exec
        )
        self.starts += 1
        self.last_start = monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, patience: float) -> None:
        if self.process is not None and self.running:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._out is not None:
            self._out.close()

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-5:])


class Embedded:
    """The supervisor; `start` returns once the system answers, `watch` keeps it alive."""

    def __init__(self, state: State, *, profile: str, seed: int) -> None:
        self._state = state
        self._ports = state.ports()
        self._children: list[Child] = []
        self.url = f"http://127.0.0.1:{self._ports['api']}"
        self.sites: tuple[str, ...] = ()
        self._stop = threading.Event()
        self._profile = profile
        self._seed = seed

    def _child(self, name: str, *command: str) -> Child:
        child = Child(
            name=name,
            command=list(command),
            environment={**os.environ, **settings_of(self._state)},  # noqa: TID251  # a composition root hands its environment on
            log=self._state.folder / "logs" / f"{name}.log",
        )
        child.start()
        self._children.append(child)
        return child

    def start(self) -> None:
        """Unavailable, with the end of the log, when a process does not come up."""
        folder, ports = self._state.folder, self._ports
        self._state.ready.unlink(missing_ok=True)
        self._state.secret(self._state.passphrase)
        python = sys.executable
        sites = folder / "sites" / "sites.json"
        sites.unlink(missing_ok=True)
        agent_socket = self._state.agent_socket
        agent = self._child("agent", *agent_command(self._state), "--create")
        self._child(
            "temporal", _binary("temporal"), "server", "start-dev", "--headless",
            "--ip", "127.0.0.1", "--port", str(ports["temporal"]),
            "--db-filename", str(folder / "temporal.db"), "--log-level", "error", *temporal_pace(),
        )  # fmt: skip
        simulators = self._child(
            "simulators", python, "-m", "drivers.simulators", str(folder / "sites"),
            "--ports", json.dumps({k: ports[k] for k in _PORTS_OF_SITES}),
            "--profile", self._profile, "--seed", str(self._seed),
        )  # fmt: skip
        # These take their seconds to load, and then wait for the database.
        self._state.secret(self._state.password)
        api = self._child(
            "api", python, "-m", "api.http", "--prepare", TENANT, USER, str(self._state.password)
        )
        worker = self._child("worker", python, "-m", "workflows")
        self._await(agent, agent_socket.exists)
        self._await(simulators, sites.exists)
        self._await(api, lambda: _answers(f"{self.url}/.wellknown/secapi"))
        # The gateway loads while the sites are looked at.
        gateway = self._child("gateway", python, "-m", "api.gateway")
        described = json.loads(sites.read_text())
        self.sites = tuple(described)
        self._register(worker, described)
        self._await(gateway, lambda: _answers(f"http://127.0.0.1:{ports['gateway']}/healthz"))
        self._note_processes()
        self._state.ready.touch()

    def _await(self, child: Child, ready: Callable[[], bool]) -> None:
        until = monotonic() + _PATIENCE
        while not ready():
            if not child.running or monotonic() > until:
                raise Unavailable(
                    f"{child.name} did not come up; the end of {child.log}:\n{child.tail()}"
                )
            self._stop.wait(_LOOK)

    def _register(self, worker: Child, sites: dict[str, dict[str, object]]) -> None:
        """The sites, their credentials, and a first look at each; known ones are only updated."""
        login = httpx.post(
            f"{self.url}/providers/fedctl.identity/v1/login",
            json={"user": USER, "password": self._state.password.read_text()},
            timeout=_PATIENCE,
        )
        token = login.raise_for_status().json()["token"]
        with httpx.Client(
            base_url=f"{self.url}/providers/fedctl.federation/v1/sites",
            headers={"Authorization": f"Bearer {token}"},
            timeout=_PATIENCE,
        ) as http:
            for name, site in sites.items():
                credentials = site.pop("credentials")
                http.put(f"/{name}", json={"spec": site}).raise_for_status()
                http.put(f"/{name}/credentials", json={"secrets": credentials}).raise_for_status()
                http.post(f"/{name}/verify").raise_for_status()
            self._await(
                worker,
                lambda: all(_healthy(http, name) for name in sites),
            )

    def _note_processes(self) -> None:
        running = {c.name: c.process.pid for c in self._children if c.process is not None}
        self._state.processes.write_text(json.dumps({"supervisor": os.getpid(), **running}))

    def watch(self) -> None:
        """Until `stop`: what died is started again, at most once a second."""
        while not self._stop.wait(0.2):
            for child in self._children:
                if not child.running and monotonic() - child.last_start > 1.0:
                    child.start()
                    self._note_processes()

    def interrupt(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        """No process is left when this returns."""
        for child in reversed(self._children):
            child.stop(_GRACE)
        self._state.processes.unlink(missing_ok=True)
        self._state.ready.unlink(missing_ok=True)


def _healthy(http: httpx.Client, name: str) -> bool:
    status = http.get(f"/{name}").raise_for_status().json()["status"]
    return status.get("health") not in {"unverified", None}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def _binary(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed: install fedctl with its dependencies")
    return found


@contextlib.contextmanager
def alone(state: State) -> Iterator[None]:
    """One supervisor a folder."""
    with (state.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise Conflict(
                f"another fedctl dev runs in {state.folder}: stop it, or name another folder"
                " with --state"
            ) from e
        yield


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _arguments() -> argparse.Namespace:
    default = Path(platformdirs.user_state_dir("fedctl")) / "dev"
    parser = argparse.ArgumentParser(prog="fedctl dev", description="the whole system, here")
    parser.add_argument("--state", type=Path, default=default, help="folder for all state")
    parser.add_argument("--profile", default="realistic", help="how the simulated sites behave")
    parser.add_argument("--seed", type=int, default=1, help="seed of their faults")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    began = monotonic()
    try:
        state = State(folder=given.state.resolve())
        with alone(state):
            return _run(state, given, began)
    except FedctlError as error:
        _say(f"fedctl dev did not start: {error}")
        return 9


def _run(state: State, given: argparse.Namespace, began: float) -> int:
    system = Embedded(state, profile=given.profile, seed=given.seed)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: system.interrupt())
    try:
        system.start()
        _say(
            f"fedctl is ready at {system.url} after {monotonic() - began:.1f} s\n"
            f"  sites    {', '.join(system.sites)} (simulated)\n"
            f"  log in   fedctl login {system.url} --user {USER} --password-stdin"
            f" < {state.password}\n"
            f"  state    {state.folder}\n"
            f"  stop     Ctrl-C"
        )
        system.watch()
    finally:
        _say("stopping")
        system.stop()
        _say("stopped; fedctl dev goes on from here the next time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
