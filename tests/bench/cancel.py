"""How soon a cancel is acknowledged, and how soon after it a copy has stopped."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from drivers.simulators.faults import STEADY
from tests.bench.result import Result
from tests.e2e.images import MIB
from tests.e2e.shop import Shop, start_shop
from tests.e2e.system import OPENSTACK, PROXMOX, running, until

ROUNDS = 3
SLOW = replace(STEADY, name="a slow link", bandwidth=8.0 * MIB)
GOAL = 1.0


def measure() -> Iterator[Result]:
    with running(SLOW) as system, TemporaryDirectory() as folder:
        shop = start_shop(system, "bench", Path(folder))
        name = shop.instance(PROXMOX, image=shop.image(shop.file(size=256 * MIB, data=96 * MIB)))
        rounds = [_cancelled(shop, name) for _ in range(ROUNDS)]
    for what, seconds in zip(
        ("a cancel is acknowledged", "a copy has stopped after a cancel"),
        zip(*rounds, strict=True),
        strict=True,
    ):
        yield Result(name=what, ours=round(median(seconds), 3), unit="s", goal=GOAL)


def _cancelled(shop: Shop, name: str) -> tuple[float, float]:
    _, path = shop.begin_move(name, OPENSTACK)

    def copied() -> bool:
        status = shop.system.look(path)["status"]
        return any(p["what"] == "copy 0" and p["done"] > MIB for p in status["progress"])

    until(copied, "the copy is under way")
    began = monotonic()
    shop.http.post(f"{shop.move_path(shop.last_move)}/cancel").raise_for_status()
    told = monotonic() - began
    until(lambda: _state(shop, path, "copy 0") != "running", "the copy stops", every=0.01)
    stopped = monotonic() - began
    shop.system.ended(path, 120)
    return told, stopped


def _state(shop: Shop, path: str, name: str) -> str:
    steps: list[dict[str, Any]] = shop.system.look(path)["status"]["steps"]
    return str(next(step["state"] for step in steps if step["name"] == name))
