"""How a simulated site misbehaves: its pace, its seeded chance, and the faults a test asks for."""

import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Call(StrEnum):
    """The classes of calls that a profile gives latencies for."""

    LOGIN = "login"
    READ = "read"
    LIST = "list"
    WRITE = "write"
    BULK = "bulk"


class Direction(StrEnum):
    """Which way bulk bytes travel, seen from the site."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The pace and the everyday failings of a site; every figure is published here."""

    name: str
    latency: Mapping[Call, tuple[float, float]]  # seconds a call takes, from and to
    staleness: tuple[float, float]  # seconds until listings show a change
    lost_answers: float  # share of changing calls whose effect happens and whose answer is lost
    step_seconds: (
        float  # an asynchronous step (create, start, attach, snapshot) stays visible so long
    )
    boot_seconds: float  # from power-on to the guest's first line
    shutdown_seconds: float  # a guest's way down when asked politely
    login_failure_seconds: float  # what a wrong password costs
    lock_wait_seconds: float  # how long a call waits for a lock before it gives up
    journal_rate: float = 5.0  # records a second that each guest writes
    scribble_rate: float = 0.0  # bytes a second that it writes besides, all over its disk
    bandwidth: float | None = None  # bytes a second of bulk transfers; None: as fast as it goes


REALISTIC = Profile(
    name="realistic",
    latency={
        Call.LOGIN: (0.020, 0.040),
        Call.READ: (0.005, 0.015),
        Call.LIST: (0.010, 0.030),
        Call.WRITE: (0.010, 0.030),
        Call.BULK: (0.010, 0.020),
    },
    staleness=(1.0, 2.0),
    lost_answers=0.01,
    step_seconds=0.15,
    boot_seconds=0.3,
    shutdown_seconds=0.3,
    login_failure_seconds=1.0,
    lock_wait_seconds=2.0,
)

FAST = Profile(
    name="fast",
    latency=dict.fromkeys(Call, (0.0, 0.001)),
    staleness=(0.05, 0.2),
    lost_answers=0.01,
    step_seconds=0.02,
    boot_seconds=0.02,
    shutdown_seconds=0.02,
    login_failure_seconds=0.02,
    lock_wait_seconds=0.2,
    journal_rate=20.0,
)

STEADY = Profile(
    name="steady",
    latency=FAST.latency,
    staleness=FAST.staleness,
    lost_answers=0.0,
    step_seconds=FAST.step_seconds,
    boot_seconds=FAST.boot_seconds,
    shutdown_seconds=FAST.shutdown_seconds,
    login_failure_seconds=FAST.login_failure_seconds,
    lock_wait_seconds=FAST.lock_wait_seconds,
    journal_rate=FAST.journal_rate,
)
"""FAST without lost answers, for tests that ask for each fault by name."""

PROFILES = {profile.name: profile for profile in (REALISTIC, FAST, STEADY)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Answer with this status and do nothing."""

    code: int
    reason: str = "injected fault"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Answer 200 with bytes that are no answer, and do nothing."""

    body: bytes = b"<html>\x00\xff it works"


@dataclass(frozen=True, slots=True)
class Hang:
    """Accept the call, do nothing, never answer."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Do nothing and reset the connection."""


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """Do what was asked, then close the connection without a word."""


Fault = Status | Garbage | Hang | Reset | LostAnswer


def too_many(retry_after: int) -> Status:
    """The fault of a site that asks for patience."""
    return Status(code=429, reason="Too Many Requests", headers={"Retry-After": str(retry_after)})


@dataclass(slots=True)
class _Planned:
    method: str
    path: re.Pattern[str]
    fault: Fault
    left: int


class Faults:
    """A seeded source of everyday failings, and a list of the failings that a test asked for."""

    def __init__(self, profile: Profile, *, seed: int) -> None:
        self.profile = profile
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._planned: list[_Planned] = []
        self._corruptions: dict[Direction, list[int]] = {Direction.IN: [], Direction.OUT: []}
        self._down = threading.Event()
        self._full = threading.Event()
        self._watchers: list[Callable[[bool], None]] = []
        self.carried = dict.fromkeys(Direction, 0)  # bytes of disks and images so far
        self.fired: list[str] = []  # what happened, for a test's message and the demo's report

    # -- what tests ask for --------------------------------------------------------------------

    def fail(self, fault: Fault, *, method: str = ".*", path: str = ".*", times: int = 1) -> None:
        """Let the next `times` calls whose method and path match (regular expressions) fail so."""
        with self._lock:
            self._planned.append(
                _Planned(method=method, path=re.compile(path), fault=fault, left=times)
            )

    def corrupt(self, direction: Direction, *, offset: int) -> None:
        """Flip the lowest bit of the byte at `offset` of the next bulk transfer that passes it."""
        with self._lock:
            self._corruptions[direction].append(offset)

    def go_down(self) -> None:
        """Refuse connections until `come_back`."""
        self._down.set()
        self._tell(down=True)

    def come_back(self) -> None:
        self._down.clear()
        self._tell(down=False)

    def fill_disk(self) -> None:
        """Let every allocation of the site's storage fail until `free_disk`."""
        self._full.set()

    def free_disk(self) -> None:
        self._full.clear()

    def clear(self) -> None:
        """Forget what was planned and not yet fired."""
        with self._lock:
            self._planned.clear()
            for offsets in self._corruptions.values():
                offsets.clear()
        self._full.clear()

    # -- what simulators ask -------------------------------------------------------------------

    @property
    def is_down(self) -> bool:
        return self._down.is_set()

    @property
    def disk_full(self) -> bool:
        return self._full.is_set()

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(down)` whenever the site goes down or comes back."""
        self._watchers.append(changed)

    def next_for(self, method: str, path: str, *, changes: bool) -> Fault | None:
        """The fault that this call must show, if any; an asked-for one first, then chance."""
        with self._lock:
            for planned in self._planned:
                if re.fullmatch(planned.method, method) and planned.path.search(path):
                    planned.left -= 1
                    if not planned.left:
                        self._planned.remove(planned)
                    self.fired.append(f"{planned.fault} on {method} {path}")
                    return planned.fault
            if changes and self._random.random() < self.profile.lost_answers:
                self.fired.append(f"{LostAnswer()} on {method} {path}")
                return LostAnswer()
        return None

    def latency(self, call: Call) -> float:
        """Seconds that this call takes before it has its effect."""
        with self._lock:
            return self._random.uniform(*self.profile.latency[call])

    def staleness(self) -> float:
        """Seconds until listings show the change that was just made."""
        with self._lock:
            return self._random.uniform(*self.profile.staleness)

    def transfer_seconds(self, length: int) -> float:
        """Seconds that so many bulk bytes take beyond their real time."""
        return length / self.profile.bandwidth if self.profile.bandwidth else 0.0

    def passed(self, direction: Direction, offset: int, data: bytes) -> bytes:
        """The bytes of a bulk transfer as they arrive: with the asked-for flip, if it is here."""
        with self._lock:
            self.carried[direction] += len(data)
            offsets = self._corruptions[direction]
            hits = [at for at in offsets if offset <= at < offset + len(data)]
            if not hits:
                return data
            damaged = bytearray(data)
            for at in hits:
                offsets.remove(at)
                damaged[at - offset] ^= 1
                self.fired.append(f"flipped a bit of byte {at} on its way {direction}")
            return bytes(damaged)

    def _tell(self, *, down: bool) -> None:
        for changed in tuple(self._watchers):
            changed(down)
