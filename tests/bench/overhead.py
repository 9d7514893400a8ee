"""Time of a cold move of an empty disk of a gibibyte outside of provider calls and copying."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.result import Result
from tests.e2e.images import MIB
from tests.e2e.shop import Shop, start_shop
from tests.e2e.system import OPENSTACK, PROXMOX, running

ROUNDS = 3
GOAL = 3.0


def measure() -> Iterator[Result]:
    with running() as system, TemporaryDirectory() as folder:
        shop = start_shop(system, "bench", Path(folder))
        name = shop.instance(OPENSTACK, image=shop.image(shop.file(size=1024 * MIB, data=0)))
        there, home = [], []
        for _ in range(ROUNDS):
            there.append(_move(shop, name, PROXMOX))
            home.append(_move(shop, name, OPENSTACK))
        shop.clear()
    yield _result("overhead of a cold move of an empty 1 GiB disk to Proxmox VE", there)
    yield _result("overhead of a cold move of an empty 1 GiB disk to OpenStack", home)


def _move(shop: Shop, name: str, to: str) -> tuple[float, dict[str, float]]:
    status = shop.moved(name, to)
    return status["result"]["overheadSeconds"], _by_step(status["steps"])


def _by_step(steps: list[dict[str, Any]]) -> dict[str, float]:
    return {step["name"]: step["overheadSeconds"] for step in steps if "overheadSeconds" in step}


def _result(name: str, rounds: list[tuple[float, dict[str, float]]]) -> Result:
    middle = median(seconds for seconds, _ in rounds)
    steps = next(steps for seconds, steps in rounds if seconds == middle)
    between = max(middle - sum(steps.values()), 0.0)
    return Result(
        name=name,
        ours=round(middle, 3),
        unit="s",
        goal=GOAL,
        breakdown={**steps, "between steps": round(between, 3)},
    )
