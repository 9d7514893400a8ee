"""Which process is killed when: drawn from a seed, told by steps of moves, not by the clock."""

import random
import threading
import time
from dataclasses import dataclass, field

from tests.e2e.dev import Dev
from tests.e2e.system import OPENSTACK, PROXMOX

VICTIMS = {
    "worker": 34, "temporal": 20, "api": 16, "simulators": 14, "gateway": 10, "agent": 6,
}  # fmt: skip
_SERVING = ("api", "gateway")
_PATIENCE = 60.0
_ASKED = "(asked)"
_PASSES = (
    "pass 0 snapshot", "pass 0 export 0", "pass 0 copy 0", "pass 0 commit copy",
    "pass 0 release export 0",
)  # fmt: skip
_TAIL = (
    "fence source", "verify fence", "power on isolated", "target runs", "check 0 booted",
    "switch", "connect", "retire source",
)  # fmt: skip
_COLD = ("stop source", "export 0", "copy 0", "commit copy")
_BY_IMAGE = ("publish 0", "image 0", "image 0 in")
_DISKS_FIRST = ("volume 0", "read back 0", "proof 0", "instance")
_READY = ("instance", "instance ready")
_PROVEN = ("read back 0", "proof 0")
_PAUSED = ("pause source", "export 0", "copy 0", "commit copy", "stop source")
_CHANGED = ("stop source", "copy 0", "last write changes 0", "last proof 0")


def story(method: str, home: str) -> tuple[str, ...]:
    """Steps of a move from `home` to the other site, in about their order."""
    to_proxmox = home == OPENSTACK
    if method == "cold" and to_proxmox:
        body = (*_READY, "preflight again", *_COLD, *_PROVEN, *_TAIL)
    elif method == "cold":
        body = (*_COLD, *_BY_IMAGE, *_DISKS_FIRST, *_TAIL, "remove image 0")
    elif to_proxmox:
        body = (*_READY, *_PASSES, *_PROVEN, "preflight again", *_CHANGED, *_TAIL)
    else:
        body = (*_PASSES, *_PAUSED, *_BY_IMAGE, *_DISKS_FIRST, *_TAIL, "remove image 0")
    return (_ASKED, "preflight", "lease", *body)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """`victim` dies `delay` seconds after `step` was seen to begin."""

    step: str
    delay: float
    victim: str

    def __str__(self) -> str:
        return f"{self.victim} {self.delay:.2f} s into {self.step!r}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One move of one lane, and who dies on the way."""

    lane: int
    home: str
    method: str
    kills: tuple[Kill, ...]

    @property
    def to(self) -> str:
        return PROXMOX if self.home == OPENSTACK else OPENSTACK

    def __str__(self) -> str:
        kills = ", ".join(map(str, self.kills))
        return f"lane {self.lane}: {self.method} from {self.home}: {kills}"


def drawn(seed: int, case: int, *, lanes: int, kills: int) -> tuple[Plan, ...]:
    """The moves of one case. Instances change places from case to case, so `home` follows."""
    plans = []
    for lane in range(lanes):
        chance = random.Random(f"{seed}:{case}:{lane}")
        home = OPENSTACK if (case + lane) % 2 == 0 else PROXMOX
        method = chance.choice(("cold", "warm"))
        steps = story(method, home)
        places = sorted(chance.sample(range(len(steps)), min(kills, len(steps))))
        plans.append(
            Plan(
                lane=lane,
                home=home,
                method=method,
                kills=tuple(
                    Kill(
                        step=steps[place],
                        delay=_delay(chance),
                        victim=chance.choices(tuple(VICTIMS), tuple(VICTIMS.values()))[0],
                    )
                    for place in places
                ),
            )
        )
    return tuple(plans)


def each_once(seed: int) -> tuple[Plan, ...]:
    """A cold and a warm move at once, on each of which every process dies once."""
    plans = []
    for lane, (method, home) in enumerate((("cold", OPENSTACK), ("warm", PROXMOX))):
        chance = random.Random(f"{seed}:once:{lane}")
        steps = story(method, home)
        places = sorted(chance.sample(range(len(steps)), len(VICTIMS)))
        victims = chance.sample(tuple(VICTIMS), len(VICTIMS))
        kills = tuple(
            Kill(step=steps[place], delay=_delay(chance), victim=victim)
            for place, victim in zip(places, victims, strict=True)
        )
        plans.append(Plan(lane=lane, home=home, method=method, kills=kills))
    return tuple(plans)


def _delay(chance: random.Random) -> float:
    """Seconds: mostly within a short step, now and then beyond it."""
    return round(chance.choice((0.0, 0.02, 0.1, 0.3, 0.8)) * chance.random(), 3)


@dataclass(kw_only=True)
class Killed:
    """`back`: seconds until what serves people or sites answered again, of those that do."""

    kill: Kill
    at: float
    operation: str
    back: float | None = None

    def watch(self, dev: Dev) -> None:
        while time.time() - self.at < _PATIENCE:
            if dev.serves(self.kill.victim):
                self.back = time.time() - self.at
                return
            time.sleep(0.05)


@dataclass
class Killer:
    """Watches one move and kills as planned; what was never reached stays alive."""

    dev: Dev
    plan: Plan
    operation: str = ""
    killed: list[Killed] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        for kill in self.plan.kills:
            if kill.step != _ASKED and not self._reached(kill.step):
                continue
            time.sleep(kill.delay)
            self._strike(kill)

    def _reached(self, step: str) -> bool:
        while not self.over.wait(0.02):
            if self.operation and any(s.name == step for s in self.dev.steps(self.operation)):
                return True
        return False

    def _strike(self, kill: Kill) -> None:
        # It may be on its way up from the kill before: then as soon as it is there.
        for _ in range(100):
            at = time.time()
            if self.dev.kill(kill.victim):
                killed = Killed(kill=kill, at=at, operation=self.operation)
                self.killed.append(killed)
                if kill.victim in _SERVING:
                    threading.Thread(target=killed.watch, args=(self.dev,), daemon=True).start()
                return
            if self.over.wait(0.05):
                return
