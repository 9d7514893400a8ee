"""What a simulated customer rents: servers, vRacks, addresses, tasks, and what comes later."""

import heapq
import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drivers.simulators.faults import Faults, Profile
from drivers.simulators.guest import Disk, Guests, Nic
from drivers.simulators.witness import Witness

HARDDISK, POWER, RESCUE = 1, 9, 1122
NETBOOTS = {
    HARDDISK: ("harddisk", "Boot from hard drive", "hd"),
    POWER: ("power", "Power off your server", "poweroff"),
    RESCUE: ("rescue", "rescue-customer", "rescue-customer"),
}
# Minutes of a real server; a profile's step is three of them, which is the clock's factor.
REBOOT_MINUTES, RESCUE_MINUTES, INSTALL_MINUTES, NETWORK_MINUTES = 3.0, 4.0, 11.0, 1.0
PURGE_MINUTES = 60.0
STEP_MINUTES = 3.0


# The customer's own tag: this server may be wiped and used.
TAGGED = {"fedctl-pool": "yes"}


class Refusal(Exception):
    """A failure answer, in one of the API's two shapes."""

    def __init__(self, status: int, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(slots=True, kw_only=True)
class Interface:
    uuid: str
    mac: str
    mode: str  # public or vrack
    vrack: str | None = None


@dataclass(slots=True, kw_only=True)
class Server:
    name: str
    id: int
    iam: str
    ip: str
    kind: str = "RISE-1"
    cores: int = 4
    threads: int = 8
    memory_mib: int = 32 * 1024
    boot_mode: str = "uefi-legacy"
    disk: int = 8 << 20
    boot: int = HARDDISK
    runs: str = "power"  # what it booted last: harddisk, rescue or power (which is off)
    rescue_key: str | None = None
    efi: str | None = None
    os: str = "none_64"
    interfaces: list[Interface] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    display: str = ""
    expired: bool = False
    boots: int = 0
    shown_on: bool = False  # what powerState tells, a little later than it is so

    @property
    def urn(self) -> str:
        return f"urn:v1:eu:resource:dedicatedServer:{self.name}"


@dataclass(slots=True, kw_only=True)
class Task:
    id: int
    about: str  # a server, an address block or a vRack
    function: str
    status: str = "init"
    comment: str = ""
    began: float = 0.0
    ended: float | None = None
    target: str | None = None


@dataclass(slots=True, kw_only=True)
class Address:
    block: str
    routed: str | None = None


class Estate:
    """Everything under one lock; what happens later happens on one thread, under it too."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        profile: Profile,
        faults: Faults,
        witness: Witness | None,
        seed: int,
    ) -> None:
        self.folder, self.name, self.profile, self.faults = folder, name, profile, faults
        self.lock = threading.RLock()
        self.guests = Guests(name, profile=profile, witness=witness)
        self.random = random.Random(seed)
        self.servers: dict[str, Server] = {}
        self.addresses: dict[str, Address] = {}
        self.vracks: list[str] = []
        self.tasks: dict[int, Task] = {}
        self.installs: dict[str, list[dict[str, Any]]] = {}
        self.numbers = 1000
        self.failing: list[str] = []  # why the next tasks are to fail
        # What the rescue side does when a server boots: set by the ssh server.
        self.rescued: Callable[[Server], None] = lambda _: None
        self.left: Callable[[Server], None] = lambda _: None
        self._ticket = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._wake = threading.Condition(self.lock)
        self._closing = False
        (folder / "disks").mkdir(parents=True, exist_ok=True)
        self._load()
        self._thread = threading.Thread(target=self._run, name=f"estate-{name}", daemon=True)
        self._thread.start()

    # -- making --------------------------------------------------------------------------------

    def rent(self, count: int, *, disk: int, vracks: int, addresses: int) -> None:
        """What was ordered, and can take hours, before anybody came."""
        self.vracks = [f"pn-{100 + n}" for n in range(vracks)]
        self.addresses = {
            f"203.0.113.{n + 1}/32": Address(block=f"203.0.113.{n + 1}/32")
            for n in range(addresses)
        }
        for number in range(1, count + 1):
            server = Server(
                name=f"ns{3000000 + number}.ip-198-51-100.eu",
                id=number,
                iam=str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
                ip=f"198.51.100.{number}",
                disk=disk,
                tags=dict(TAGGED),
            )
            for at, mode in enumerate(("public", "vrack")):
                server.interfaces.append(
                    Interface(
                        uuid=str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
                        mac=f"d0:50:99:00:{number:02x}:{at:02x}",
                        mode=mode,
                    )
                )
            self.servers[server.name] = server
            self.wipe(server)
        self.save()

    # -- disks ---------------------------------------------------------------------------------

    def file(self, server: Server) -> Path:
        return self.folder / "disks" / f"{server.id}.raw"

    def wipe(self, server: Server) -> None:
        with self.file(server).open("wb") as disk:
            disk.truncate(server.disk)

    def disk(self, server: Server) -> Disk:
        """The disk as a guest on the server sees it."""
        file = self.file(server)

        def read(offset: int, length: int) -> bytes:
            with file.open("rb") as disk:
                disk.seek(offset)
                return disk.read(length)

        def write(offset: int, data: bytes) -> None:
            with file.open("r+b") as disk:
                disk.seek(offset)
                disk.write(data)

        return Disk(read=read, write=write, flush=lambda: None)

    # -- what runs -----------------------------------------------------------------------------

    def nics(self, server: Server) -> tuple[Nic, ...]:
        """What a guest has of its vRacks and addresses; the server's own address proves nothing."""
        nics = [
            Nic(mac=each.mac, connected=each.vrack is not None)
            for each in server.interfaces
            if each.mode == "vrack"
        ]
        nics += [
            Nic(mac=server.interfaces[0].mac, address=each.block.partition("/")[0])
            for each in self.addresses.values()
            if each.routed == server.name
        ]
        return tuple(nics)

    def halt(self, server: Server) -> None:
        """Whatever runs on the server runs no more."""
        self.guests.stop(server.name)
        self.left(server)
        server.runs = "power"
        self._show_power(server)

    def _show_power(self, server: Server) -> None:
        def show() -> None:
            server.shown_on = server.runs != "power"

        self.later(self.faults.staleness(), show)

    def boot(self, server: Server) -> None:
        """Start what the netboot says, as each start of a server does."""
        self.halt(server)
        server.boots += 1
        kind = NETBOOTS[server.boot][0]
        server.runs = kind
        self._show_power(server)
        if kind == "harddisk":
            self.guests.start(
                server.name, name=server.name, disk=self.disk(server), nics=self.nics(server)
            )
        elif kind == "rescue":
            boots = server.boots
            self.after(RESCUE_MINUTES, lambda: self._rescued(server, boots))

    def _rescued(self, server: Server, boots: int) -> None:
        if server.runs == "rescue" and server.boots == boots:
            self.rescued(server)

    def moved(self, server: Server) -> None:
        """A network of the server changed."""
        self.guests.set_nics(server.name, self.nics(server))

    # -- tasks ---------------------------------------------------------------------------------

    def task(self, about: str, function: str, target: str | None = None) -> Task:
        self.numbers += 1
        made = Task(
            id=self.numbers, about=about, function=function, began=time.time(), target=target
        )
        self.tasks[made.id] = made
        return made

    def busy(self, about: str) -> bool:
        return any(each.about == about and each.ended is None for each in self.tasks.values())

    def of(self, about: str) -> list[Task]:
        return [each for each in self.tasks.values() if each.about == about]

    def works(self, task: Task, minutes: float, act: Callable[[], None]) -> None:
        """The task waits, is done for so long, does what it does, and is forgotten later."""

        def begin() -> None:
            task.status = "doing"
            self.after(minutes, end)

        def end() -> None:
            if self.failing:
                self.ended(task, "ovhError", self.failing.pop())
                return
            act()
            self.ended(task)

        task.status = "todo"
        self.after(STEP_MINUTES / 3, begin)

    def ended(self, task: Task, status: str = "done", comment: str = "") -> None:
        task.status, task.comment, task.ended = status, comment, time.time()
        if status == "done":
            self.after(PURGE_MINUTES, lambda: self._purge(task))

    def _purge(self, task: Task) -> None:
        self.tasks.pop(task.id, None)

    # -- time ----------------------------------------------------------------------------------

    def seconds(self, minutes: float) -> float:
        return minutes * self.profile.step_seconds / STEP_MINUTES

    def after(self, minutes: float, act: Callable[[], None]) -> None:
        self.later(self.seconds(minutes), act)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        with self._wake:
            due = time.monotonic() + seconds
            heapq.heappush(self._due, (due, next(self._ticket), act))
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closing:
                    wait = self._due[0][0] - time.monotonic() if self._due else None
                    if wait is not None and wait <= 0:
                        break
                    self._wake.wait(wait)
                if self._closing:
                    return
                _, _, act = heapq.heappop(self._due)
                act()
                self.save()

    def resume(self) -> None:
        """What ran when the site stopped runs again; tasks that were under way are lost."""
        for task in self.tasks.values():
            if task.ended is None:
                self.ended(task, "ovhError", "the site stopped meanwhile")
        for server in self.servers.values():
            if server.runs != "power":
                self.boot(server)

    def close(self) -> None:
        """Power fails."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self.guests.close()
        self.save()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Whatever is done within is on disk afterwards."""
        with self.lock:
            yield
            self.save()

    # -- the database --------------------------------------------------------------------------

    def save(self) -> None:
        with self.lock:
            state = {
                "servers": [asdict(each) for each in self.servers.values()],
                "addresses": [asdict(each) for each in self.addresses.values()],
                "tasks": [asdict(each) for each in self.tasks.values()],
                "vracks": self.vracks,
                "numbers": self.numbers,
            }
            coming = self.folder / "estate.new"
            coming.touch(mode=0o600)
            coming.write_text(json.dumps(state))
            coming.replace(self.folder / "estate.json")

    def _load(self) -> None:
        kept = self.folder / "estate.json"
        if not kept.exists():
            return
        state: dict[str, Any] = json.loads(kept.read_text())
        for each in state["servers"]:
            each["interfaces"] = [Interface(**nic) for nic in each["interfaces"]]
            self.servers[each["name"]] = Server(**each)
        self.addresses = {each["block"]: Address(**each) for each in state["addresses"]}
        self.tasks = {each["id"]: Task(**each) for each in state["tasks"]}
        self.vracks, self.numbers = state["vracks"], state["numbers"]
