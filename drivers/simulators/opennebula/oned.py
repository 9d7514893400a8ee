"""The state of a simulated oned: users, datastores, images, networks, VMs, and what comes later."""

import heapq
import itertools
import json
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drivers.simulators.faults import Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.opennebula.template import Template
from drivers.simulators.witness import Witness

MIB = 1 << 20
SYSTEM_DS, IMAGE_DS, FILES_DS, BACKUP_DS = 0, 1, 2, 100
DATASTORES = "/var/lib/one/datastores"
AUTHENTICATION, AUTHORIZATION, NO_EXISTS, ACTION = 256, 512, 1024, 2048
API, INTERNAL, ALLOCATE = 4096, 8192, 16384

READY, USED, LOCKED, ERROR, CLONE, DELETE, USED_PERS = 1, 2, 4, 5, 6, 7, 8
PENDING, HOLD, ACTIVE, STOPPED, SUSPENDED, DONE, POWEROFF, UNDEPLOYED = 1, 2, 3, 4, 5, 6, 8, 9
RUNNING, BACKUP, BACKUP_POWEROFF = 3, 69, 70
BACKUP_IMAGE = 6  # the type of images that are backups
FULL, INCREMENT = "FULL", "INCREMENT"  # modes of backups


class Refusal(Exception):
    """A failure answer: `[false, message, code, resource, -1]`."""

    def __init__(self, code: int, message: str, resource: int = -1) -> None:
        super().__init__(message)
        self.code, self.message, self.resource = code, message, resource


@dataclass(slots=True, kw_only=True)
class User:
    id: int
    name: str
    password: str = field(repr=False)
    tokens: dict[str, float] = field(default_factory=dict, repr=False)  # token -> until
    vm_quota: dict[str, int] = field(default_factory=dict)  # VMS, CPU, MEMORY -> limit
    datastore_quota: dict[str, int] = field(default_factory=dict)  # IMAGES, SIZE -> limit


@dataclass(slots=True, kw_only=True)
class Image:
    id: int
    uid: int
    name: str
    type: int = 0
    persistent: bool = False
    state: int = LOCKED
    size: int = 0
    source: str = ""
    path: str = ""
    format: str = "raw"
    datastore: int = IMAGE_DS
    template: Template = field(default_factory=dict)
    vms: list[int] = field(default_factory=list)
    clones: int = 0
    regtime: int = 0
    increments: list[dict[str, str]] = field(default_factory=list)  # of a chain of backups


@dataclass(slots=True, kw_only=True)
class Vm:
    id: int
    uid: int
    name: str
    state: int = PENDING
    lcm: int = 0
    template: Template = field(default_factory=dict)
    user_template: Template = field(default_factory=dict)
    lock: int = 0  # level; 0 is none
    lock_owner: int = -1
    deployed: bool = False
    backups: list[int] = field(default_factory=list)
    backup_second: int = 0  # when the last one began
    backup_mode: str = FULL
    chain: int = -1  # the image that increments go into
    last_increment: int = -1
    disk_snapshots: int = 0  # made by others; there is no call for them here
    stime: int = 0
    etime: int = 0


@dataclass(slots=True, kw_only=True)
class Network:
    id: int
    uid: int
    name: str
    template: Template = field(default_factory=dict)
    ranges: list[dict[str, str]] = field(default_factory=list)
    leases: dict[str, int] = field(default_factory=dict)  # mac -> VM


class Oned:
    """Everything under one lock; what happens later happens on one thread, under it too."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        profile: Profile,
        faults: Faults,
        witness: Witness | None,
        tm: str,
        seed: int,
    ) -> None:
        self.folder, self.name, self.profile, self.faults, self.tm = (
            folder,
            name,
            profile,
            faults,
            tm,
        )
        self.lock = threading.RLock()
        self.guests = Guests(name, profile=profile, witness=witness)
        self.random = random.Random(seed)
        self.users: dict[int, User] = {}
        self.images: dict[int, Image] = {}
        self.vms: dict[int, Vm] = {}
        self.networks: dict[int, Network] = {}
        self.datastore_mib = 500 * 1024
        self.numbers = {"image": 0, "vm": 0, "network": 0}
        self.writers: Callable[[], set[Path]] = set  # files that a qemu-nbd writes to
        self._ticket = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._wake = threading.Condition(self.lock)
        self._closing = False
        for number in (SYSTEM_DS, IMAGE_DS, FILES_DS, BACKUP_DS):
            self.file(f"{DATASTORES}/{number}").mkdir(parents=True, exist_ok=True)
        self._load()
        self._thread = threading.Thread(target=self._run, name=f"oned-{name}", daemon=True)
        self._thread.start()

    # -- files ---------------------------------------------------------------------------------

    def file(self, path: str) -> Path:
        """Where a path of the site lies here."""
        return self.folder / "root" / path.lstrip("/")

    def new_source(self, datastore: int) -> str:
        return f"{DATASTORES}/{datastore}/{secrets.token_hex(16)}"

    @property
    def free_mib(self) -> int:
        used = sum(image.size for image in self.images.values())
        return 0 if self.faults.disk_full else max(self.datastore_mib - used, 0)

    # -- objects -------------------------------------------------------------------------------

    def number(self, kind: str) -> int:
        number = self.numbers[kind]
        self.numbers[kind] += 1
        return number

    def user(self, session: str) -> User | None:
        """Who a session is, by password or by a token that has not expired."""
        name, _, secret = session.partition(":")
        for user in self.users.values():
            if user.name == name and (
                secret == user.password or user.tokens.get(secret, 0) > time.time()
            ):
                return user
        return None

    # -- time ----------------------------------------------------------------------------------

    def stale(self) -> float:
        """How long an action that was accepted does not show yet."""
        return self.random.uniform(0.010, 0.070)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._ticket), act))
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

    def close(self) -> None:
        """Power fails: guests stop, what was under way is not finished."""
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
                "users": [asdict(user) for user in self.users.values()],
                "images": [asdict(image) for image in self.images.values()],
                "vms": [asdict(vm) for vm in self.vms.values()],
                "networks": [asdict(network) for network in self.networks.values()],
                "numbers": self.numbers,
            }
            coming = self.folder / "oned.new"
            coming.touch(mode=0o600)
            coming.write_text(json.dumps(state))
            coming.replace(self.folder / "oned.json")

    def _load(self) -> None:
        kept = self.folder / "oned.json"
        if not kept.exists():
            return
        state: dict[str, Any] = json.loads(kept.read_text())
        self.users = {each["id"]: User(**each) for each in state["users"]}
        self.images = {each["id"]: Image(**each) for each in state["images"]}
        self.vms = {each["id"]: Vm(**each) for each in state["vms"]}
        self.networks = {each["id"]: Network(**each) for each in state["networks"]}
        self.numbers = state["numbers"]
        for image in self.images.values():
            image.clones = 0
            if image.state == CLONE:
                image.state = READY
            if image.state == LOCKED:
                image.state = ERROR
                image.template["ERROR"] = ["oned stopped while the image was being made"]
