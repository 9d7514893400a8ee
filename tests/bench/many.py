"""Fifty warm moves at once on the embedded system, and what five hundred that wait cost.

Half of the instances start at each site and go to the other. Their guests write all the while; at
the end every write that a guest's outside journal calls durable must be on its disk, and the sweep
must find nothing. `MOVES=10` makes it smaller.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import httpx

from controlplane.domain.admission import Bounds
from controlplane.domain.ids import ResourceId, SiteName, TenantName, WorkspaceName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind
from controlplane.services.admission import QUEUED, ask
from drivers.simulators.sites import OPENSTACK, PROXMOX
from tests.api.world import MOBILITY, World, world
from tests.bench.result import Result
from tests.e2e.dev import TENANT, Dev, dev
from tests.e2e.images import MIB
from tests.e2e.kills import VICTIMS
from tests.e2e.shop import Shop
from tests.e2e.system import until
from tests.store.nouns import operation

SIZE, DATA = 16 * MIB, 4 * MIB
PATIENCE = 3600.0
SHARE, READABLE, WAITING = 0.5, 1.0, 500
_OPERATIONS = "/providers/fedctl.federation/v1/tenants/{}/workspaces/{}/operations"


def measure() -> Iterator[Result]:
    yield from _moves(int(os.environ.get("MOVES", "50")))
    yield from _waiting()


# Moves that run


@dataclass
class Watched:
    """What was seen beside the moves: seconds of answers, bytes of memory, moves that ran."""

    answers: dict[str, list[float]] = field(default_factory=lambda: {"one": [], "list": []})
    memory: int = 0
    most: int = 0


def _moves(count: int) -> Iterator[Result]:
    with TemporaryDirectory(prefix="fedctl-many-") as folder, dev(Path(folder)) as made:
        shop = _shop(made, Path(folder))
        homes = {shop.fresh("web"): OPENSTACK if n % 2 else PROXMOX for n in range(count)}
        _run_guests(shop, homes)
        before = _cpu(made)
        began = time.monotonic()
        paths = [_ask(shop, name, home) for name, home in homes.items()]
        with _watching(made, shop, paths[0]) as seen:
            until(lambda: not _open(made), "all moves end", PATIENCE, every=0.5)
        wall = time.monotonic() - began
        spent = {f"CPU of {n}": round(s - before[n], 1) for n, s in _cpu(made).items()}
        ended = [made.look(path)["status"] for path in paths]
        _check(made, ended)
    results = [status["result"] for status in ended]
    whole = sum(each["seconds"] for each in results)
    yield Result(
        name=f"{count} warm moves at once: share of time outside provider calls and copying",
        ours=round(sum(each["overheadSeconds"] for each in results) / whole, 3),
        unit="of it",
        goal=SHARE,
        breakdown=_where(ended)
        | {
            "wall": round(wall, 1),
            "all moves": round(whole, 1),
            "longest move": max(each["seconds"] for each in results),
            "median downtime": round(median(each["downtimeSeconds"] for each in results), 2),
            "most that ran at once": seen.most,
            "worker's memory at its highest (MiB)": round(seen.memory / MIB, 1),
        }
        | spent,
    )
    yield Result(
        name=f"while {count} moves run: one is shown (95 % of all answers)",
        ours=round(quantiles(seen.answers["one"], n=20)[-1], 3),
        unit="s",
        goal=READABLE,
        breakdown={f"median, {what}": round(median(a), 3) for what, a in seen.answers.items()},
    )


def _shop(made: Dev, folder: Path) -> Shop:
    path = f"/providers/seca.workspace/v1/tenants/{TENANT}/workspaces/many"
    made.http.put(path, json={"spec": {}}).raise_for_status()
    return Shop(system=made, name="many", folder=folder, tenant=TENANT)  # type: ignore[arg-type]


def _run_guests(shop: Shop, homes: dict[str, str]) -> None:
    """Each guest has a disk of its own identity, and writes."""
    made: Dev = shop.system  # type: ignore[assignment]
    images = {name: f"{name}-image" for name in homes}
    imports = [shop.upload(shop.file(size=SIZE, data=DATA), each) for each in images.values()]
    for each in imports:
        made.done(each, PATIENCE)
    births = [
        shop.ask_instance(name, images[name], home, address=f"10.0.4.{100 + number}")
        for number, (name, home) in enumerate(homes.items())
    ]
    for each in births:
        made.done(each, PATIENCE)
    for each in [shop.act(name, "start") for name in homes]:
        made.done(each, PATIENCE)
    until(lambda: _writing(made) == len(homes), "all guests write", PATIENCE)


def _writing(made: Dev) -> int:
    return sum(guest["written"] > 0 for guest in made.observed()["guests"])


def _ask(shop: Shop, name: str, home: str) -> str:
    to = PROXMOX if home == OPENSTACK else OPENSTACK
    wish = shop.wish(name, to, method="warm")
    answer = shop.http.put(shop.move_path(f"{name}-away"), json={"spec": wish})
    path: str = shop.system.operation(answer)
    return path


def _open(made: Dev) -> int:
    return int(made.rows("select count(*) from operations where kind = 'move' and not ended")[0][0])


@contextmanager
def _watching(made: Dev, shop: Shop, path: str) -> Iterator[Watched]:
    """As a person who looks at one of them and at the list, again and again."""
    seen, over = Watched(), Event()
    page = _OPERATIONS.format(TENANT, shop.name)

    def look() -> None:
        with httpx.Client(
            base_url=made.http.base_url, headers=made.http.headers, timeout=60
        ) as http:
            while not over.wait(0.5):
                seen.answers["one"].append(_timed(lambda: http.get(path)))
                seen.answers["list"].append(_timed(lambda: http.get(page, params={"limit": 100})))
                running = made.rows("select count(*) from operations where kind = 'move'"
                                    " and state = 'running'")  # fmt: skip
                seen.most = max(seen.most, running[0][0])
                seen.memory = max(seen.memory, _highest(made.pid("worker")))

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(60)


def _timed(ask: Callable[[], httpx.Response]) -> float:
    began = time.monotonic()
    ask().raise_for_status()
    return time.monotonic() - began


def _highest(pid: int | None) -> int:
    """The most memory that the process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text() if pid else ""
    return next((int(x.split()[1]) * 1024 for x in status.splitlines() if x[:6] == "VmHWM:"), 0)


def _cpu(made: Dev) -> dict[str, float]:
    """Seconds that each process has computed so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    pids = {name: made.pid(name) for name in VICTIMS}
    stats = {n: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] for n, pid in pids.items()}
    return {n: sum(int(x) for x in text.split()[11:13]) / ticks for n, text in stats.items()}


def _check(made: Dev, ended: list[dict[str, Any]]) -> None:
    """All went well, nothing was lost, nothing is left."""
    outcomes = Counter(status.get("outcome") for status in ended)
    problems = [status["problem"] for status in ended if status.get("problem")]
    assert outcomes == {"succeeded": len(ended)}, (outcomes, problems)
    assert all(p["equal"] for status in ended for p in status["result"]["proof"])
    seen = made.observed()
    assert len(seen["guests"]) == len(ended), f"{len(seen['guests'])} guests run"
    lost = [guest for guest in seen["guests"] if guest["lost"]]
    assert not lost, f"lost durable writes: {lost}"
    assert not made.witness.twins(), "two copies ran"
    swept = made.done(made.http.post("/providers/fedctl.federation/v1/sweep"), PATIENCE)["result"]
    strange = [what for site in swept["sites"] for what in (*site["unaccounted"], *site["missing"])]
    assert not strange, strange


def _where(ended: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of all moves together; the ten steps that cost most of our own, then the rest."""
    provider, copying, own, between, again = 0.0, 0.0, Counter[str](), 0.0, 0
    for status in ended:
        for step in status["steps"]:
            provider += step["providerSeconds"]
            copying += step["copySeconds"]
            again += step["attempts"] - 1 if step["copySeconds"] else 0
            own[step["name"]] += step.get("overheadSeconds", 0.0)
        inside = sum(step.get("overheadSeconds", 0.0) for step in status["steps"])
        between += max(status["result"]["overheadSeconds"] - inside, 0.0)
    costly = {f"our own in {name}": round(seconds, 1) for name, seconds in own.most_common(10)}
    return {
        "in provider calls": round(provider, 1),
        "copying": round(copying, 1),
        "our own in steps": round(own.total(), 1),
        "between steps": round(between, 1),
        "copies tried again": float(again),
        **costly,
    }


# Moves that wait


def _waiting() -> Iterator[Result]:
    """Of rows alone: nothing but the API runs, so that only the line itself is measured."""
    with TemporaryDirectory() as folder, world(Path(folder), bounds=Bounds(waiting=WAITING)) as w:
        shop, source, target = w.workspace(), w.site("openstack"), w.site("proxmox")
        _line_up(w, shop, (SiteName(source), SiteName(target)))
        w.admit()
        rounds = [_duration(w.admit) for _ in range(20)]
        page = w.in_workspace(MOBILITY, shop, "moves")
        last = f"{page}/m-{Bounds().at_once + WAITING - 1}"
        lists = [_timed(lambda: w.http.get(page, params={"limit": 100})) for _ in range(20)]
        shown = [_timed(lambda: w.http.get(last)) for _ in range(20)]
        assert w.http.get(last).json()["status"]["waitsFor"].startswith(f"{WAITING}th of {WAITING}")
        refused = w.put(
            f"{page}/one-more",
            {
                "instanceRef": {"resource": f"instances/{w.running_instance(shop, source)}"},
                "target": {"site": target},
            },
        )
        assert refused.status_code == httpx.codes.INSUFFICIENT_STORAGE, refused.text
    yield Result(
        name=f"{WAITING} moves wait: a page of 100 is listed",
        ours=round(median(lists), 3),
        unit="s",
        goal=READABLE,
        breakdown={
            "one is shown": round(median(shown), 3),
            "one more is refused": round(refused.elapsed.total_seconds(), 3),
            "a round of the starter": round(median(rounds), 3),
        },
    )


def _line_up(w: World, shop: str, sites: tuple[SiteName, SiteName]) -> None:
    """As many moves as may run and wait, as the service writes them down."""
    now = datetime.now(UTC)
    with w.store.begin() as tx:
        for number in range(Bounds().at_once + WAITING):
            op = operation(tenant=w.tenant, workspace=shop, order={"deadlineSeconds": 3600.0})
            tx.operations.add(op)
            move, _ = tx.resources.put(
                facts(Kind.MOVE).key(f"m-{number}", TenantName(w.tenant), WorkspaceName(shop)),
                id=ResourceId(uuid4()),
                spec={"instanceRef": {"resource": "instances/web"}, "target": {"site": sites[1]}},
                status={"phase": QUEUED, "operation": op.name},
                labels={}, annotations={}, extensions={}, expected_version=None, now=now,
            )  # fmt: skip
            ask(tx, move, op, sites, Bounds(waiting=WAITING))


def _duration(do: Callable[[], None]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began
