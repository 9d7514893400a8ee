"""Processes are killed over whole moves, and after each what must always hold is looked at."""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from controlplane.audit.checkpoint import parse_verifier_key
from controlplane.audit.export import verify
from tests.e2e.dev import TENANT, Dev, dev
from tests.e2e.images import MIB
from tests.e2e.kills import VICTIMS, Killed, Killer, Plan, drawn
from tests.e2e.shop import Shop
from tests.e2e.system import until

SIZE, DATA = 64 * MIB, 8 * MIB
PROCESSES = len(VICTIMS)
_WHOLE = frozenset({"succeeded", "rolled-back", "failed", "blocked", "needs-attention"})
_EMPTY = ("gave no answer within its time", "unexpected", "Traceback")
_TRIES = 4
_PATIENCE = 900.0  # each death of a worker costs its ten seconds, also on a busy machine


@dataclass
class Tally:
    """What came of it all; `troubles` is what must never be."""

    victims: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, float] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    cases: int = 0

    @property
    def kills(self) -> int:
        return self.victims.total()

    def count(self, killed: Killed, recovered: float | None) -> None:
        self.victims[killed.kill.victim] += 1
        self.steps[killed.kill.step] += 1
        if recovered is not None:
            longest = self.recovery.get(killed.kill.victim, 0.0)
            self.recovery[killed.kill.victim] = max(longest, recovered)


class Soak:
    """Instances in lanes, each of which goes to the other site in every case.

    A case has that many `lanes`, and at most that many `kills` in each.
    """

    def __init__(
        self, made: Dev, folder: Path, *, seed: int, lanes: int = 0, kills: int = 0
    ) -> None:
        self.dev = made
        self.seed, self.lanes, self.kills = seed, lanes, kills
        self.shop = _shop(made, folder)
        self.tally = Tally()
        self._names: dict[int, str] = {}

    def case(self, number: int) -> None:
        """A case of the seed: a move of each lane with its kills."""
        self.play(
            drawn(self.seed, number, lanes=self.lanes, kills=self.kills),
            f"make bench WHAT=soak SEED={self.seed} CASE={number} LANES={self.lanes}"
            f" EACH={self.kills}",
        )

    def play(self, plans: tuple[Plan, ...], again: str) -> None:
        """Moves with their kills, then made whole and looked at; `again` plays them once more."""
        for plan in plans:
            if plan.lane not in self._names:
                self._names[plan.lane] = self._instance(plan.home, plan.lane)
        self._calm()
        runs = [_Lane(self, plan, self._names[plan.lane]) for plan in plans]
        threads = [threading.Thread(target=run.run, daemon=True) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._calm()
        found = [trouble for run in runs for trouble in run.judged()]
        found += self.looked()
        self.tally.cases += 1
        if found:
            self.tally.troubles += [*found, "; ".join(map(str, plans)), f"again by {again}"]

    def _instance(self, site: str, lane: int) -> str:
        shop = self.shop
        name = shop.fresh("web")
        image = shop.fresh("image")
        self.dev.done(shop.upload(shop.file(size=SIZE, data=DATA), image))
        self.dev.done(shop.ask_instance(name, image, site, address=f"10.0.4.{100 + lane}"))
        self.dev.done(shop.act(name, "start"))
        return name

    def _calm(self) -> None:
        """Everything runs again and answers."""
        until(lambda: all(self.dev.pid(name) for name in VICTIMS), "all processes run", 60)
        for port in ("control", "gateway", "api"):
            until(lambda port=port: self.dev.serves(port), f"{port} answers", 60)

    # what must always hold

    def looked(self) -> list[str]:
        """Everything that must never be, in words."""
        made = self.dev
        found = [f"two copies ran: {twins}" for twins in made.witness.twins()]
        guests = made.observed()["guests"]
        found += [f"lost durable writes: {guest}" for guest in guests if guest["lost"]]
        running = Counter(guest["identity"] for guest in guests)
        found += [f"{number} copies of {who} run" for who, number in running.items() if number > 1]
        if len(running) != len(self._names):
            found.append(f"{len(running)} guests run, {len(self._names)} should")
        found += [f"a lease is held: {row}" for row in made.rows(_LEASES)]
        found += [f"left in the records: {row}" for row in made.rows(_LEFT)]
        found += [f"an operation is open: {row}" for row in made.rows(_OPEN)]
        found += self._swept()
        lines = made.http.get(_AUDIT + "audit-log").text.splitlines()
        _, key = parse_verifier_key(made.http.get(_AUDIT + "audit-key").text)
        verify(lines, key)
        if len(children := made.children()) != PROCESSES:
            found.append(f"{len(children)} processes run: {children}")
        return found

    def _swept(self) -> list[str]:
        left: list[str] = []

        def clean() -> bool:
            result = self.dev.done(self.dev.http.post(_AUDIT + "sweep"))["result"]
            left[:] = [
                f"{site['site']}: {what}"
                for site in result["sites"]
                for what in (*site["unaccounted"], *site["missing"])
            ]
            return not left

        with suppress(AssertionError):
            until(clean, "the sweep finds nothing", 8, every=0.5)
        return [f"the sweep finds {what}" for what in left]

    def end(self) -> None:
        """Everything is deleted, and nothing of it is left."""
        self._calm()
        for name in self._names.values():
            self.dev.done(self.dev.http.delete(self.shop.instance_path(name)))
        self._names.clear()
        self.tally.troubles += [f"at the end of SEED={self.seed}: {x}" for x in self.looked()]
        kept = self.dev.rows(_KEPT)
        self.tally.troubles += [
            f"still on record at the end of SEED={self.seed}: {row}" for row in kept
        ]


class _Lane:
    """One move with its kills, asked for again until it is done."""

    def __init__(self, soak: Soak, plan: Plan, name: str) -> None:
        self.soak, self.plan, self.name = soak, plan, name
        self.killer = Killer(soak.dev, plan)
        self.move = ""
        self.ends: list[dict[str, Any]] = []
        self.failure = ""

    def run(self) -> None:
        try:
            self._run()
        except Exception as e:  # noqa: BLE001  # told as a trouble of this case
            self.failure = f"{type(e).__name__}: {e}"
        finally:
            self.killer.over.set()

    def _run(self) -> None:
        shop, plan = self.soak.shop, self.plan
        more = {"method": plan.method}
        self.move, planned = _planned(shop, self.name, plan.to, **more)
        thread = threading.Thread(target=self.killer.run, daemon=True)
        thread.start()
        wish = {**shop.wish(self.name, plan.to, **more), "planDigest": planned["planDigest"]}
        path = self.soak.dev.operation(
            shop.http.put(shop.move_path(self.move), json={"spec": wish})
        )
        self._follow(path)
        for _ in range(_TRIES):
            if self._arrived():
                break
            self._follow(self._asked_again(path))
        self.killer.over.set()
        thread.join(10)

    def _follow(self, path: str) -> None:
        self.killer.operation = path
        self.ends.append(self.soak.dev.ended(path, _PATIENCE))

    def _asked_again(self, path: str) -> str:
        """The path of the next operation; its answer may have been lost with the API."""
        answer = self.soak.dev.http.post(f"{self.soak.shop.move_path(self.move)}/retry")
        if answer.status_code != HTTPStatus.CONFLICT:
            return self.soak.dev.operation(answer)
        return f"{path.rpartition('/')[0]}/{self._shown()['operation']}"

    def _shown(self) -> dict[str, Any]:
        status: dict[str, Any] = self.soak.dev.look(self.soak.shop.move_path(self.move))["status"]
        return status

    def _arrived(self) -> bool:
        there = self.soak.shop.home(self.name) == self.plan.to
        return there and self._shown()["phase"] != "needs-attention"

    def judged(self) -> list[str]:
        """What was wrong with how it ended."""
        soak = self.soak
        found = [self.failure] if self.failure else []
        for killed in self.killer.killed:
            soak.tally.count(killed, self._recovery(killed))
        for number, status in enumerate(self.ends):
            found += self._judged(status, "again: " if number else "")
        if not self._arrived():
            found.append(f"{self.name} did not get to {self.plan.to}")
        if soak.shop.power(self.name) != "on":
            found.append(f"{self.name} is {soak.shop.power(self.name)}")
        return found

    def _judged(self, status: dict[str, Any], label: str) -> list[str]:
        outcome = str(status.get("outcome"))
        self.soak.tally.outcomes[label + outcome] += 1
        if outcome == "succeeded":
            proofs = status["result"].get("proof", ())
            return [f"proof differs: {p}" for p in proofs if not p["equal"]]
        problem = status.get("problem") or {}
        said = str(problem.get("message", "")) or _stands_against(status)
        self.soak.tally.problems[f"{outcome} in {problem.get('step')!r}: {said}"] += 1
        if outcome not in _WHOLE:
            return [f"it ended {outcome}: {problem}"]
        if not said or any(words in said for words in _EMPTY):
            return [f"its problem says nothing: {problem}"]
        return []

    def _recovery(self, killed: Killed) -> float | None:
        """Seconds until it answered, or the move went on: its next step began, or one ended."""
        if killed.back is not None:
            return killed.back
        if not killed.operation:
            return None
        steps = self.soak.dev.steps(killed.operation)
        times = [t for s in steps for t in (s.began, s.ended) if t is not None and t > killed.at]
        return min(times) - killed.at if times else None


def _stands_against(status: dict[str, Any]) -> str:
    """What a plan says that was blocked, as by a site that does not answer just now."""
    found = [f["evidence"] for f in status["findings"] if f["severity"] == "blocker"]
    return "; ".join(found)


def _planned(shop: Shop, name: str, to: str, **more: object) -> tuple[str, dict[str, Any]]:
    called = shop.fresh("move")
    spec = {**shop.wish(name, to, **more), "planOnly": True}
    path = shop.system.operation(shop.http.put(shop.move_path(called), json={"spec": spec}))
    shop.system.ended(path)
    status = shop.system.look(shop.move_path(called))["status"]
    assert "planDigest" in status, status
    return called, status


def _shop(made: Dev, folder: Path) -> Shop:
    path = f"/providers/seca.workspace/v1/tenants/{TENANT}/workspaces/soak"
    made.http.put(path, json={"spec": {}}).raise_for_status()
    return Shop(system=made, name="soak", folder=folder, tenant=TENANT)  # type: ignore[arg-type]


@contextmanager
def soaking(*, seed: int, lanes: int = 0, kills: int = 0) -> Iterator[Soak]:
    """Everything stays in its folder when something went wrong, and is named then."""
    folder = Path(mkdtemp(prefix="fedctl-soak-"))
    with dev(folder, seed=seed) as made:
        made_soak = Soak(made, folder, seed=seed, lanes=lanes, kills=kills)
        yield made_soak
    if made_soak.tally.troubles:
        made_soak.tally.troubles.append(f"state and logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def soak(
    *, seed: int, kills: int, lanes: int = 4, each: int = 2, case: int | None = None,
    seconds: float = 270,
) -> Tally:  # fmt: skip
    """Case after case until so many were killed, or so long has passed; or that one case."""
    began = time.monotonic()
    with soaking(seed=seed, lanes=lanes, kills=each) as running:
        number = case or 0
        while True:
            running.case(number)
            number += 1
            tally, longest = running.tally, (time.monotonic() - began) / max(running.tally.cases, 1)
            late = time.monotonic() - began + longest > seconds
            if case is not None or tally.kills >= kills or late or tally.troubles:
                break
        if not tally.troubles:
            running.end()
    return tally


_AUDIT = "/providers/fedctl.federation/v1/"
_LEASES = "select * from leases where operation is not null"
_OPEN = "select name, state, phase from operations where not ended and kind != 'sweep'"
_LEFT = (
    "select a.kind, a.ref, a.site, a.state, o.name, o.state from artefacts a join operations o"
    " on o.id = a.operation where o.ended and a.state not in ('attached', 'retained', 'released')"
)
_KEPT = "select kind, ref, site, state from artefacts where state not in ('released', 'intended')"
