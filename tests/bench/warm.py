"""Downtime of warm moves of a disk of 4 GiB whose guest writes on, over links of 50 MiB/s.

From Proxmox VE, which tells what changed, to another one whose disks can be written to; and from
OpenStack, which tells nothing: there the downtime that was announced is compared with what it was.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from drivers.simulators.faults import STEADY
from drivers.simulators.guest import lost_writes
from drivers.simulators.proxmox import ProxmoxSim
from drivers.simulators.sites import proxmox_described
from tests.bench.result import Result
from tests.e2e.images import MIB, qcow2_image
from tests.e2e.shop import Shop, start_shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, running, until

LYON = "lyo-pve"
SIZE, DATA = 4096 * MIB, 512 * MIB
LINK, WRITES = 50.0 * MIB, 1.0 * MIB
PROFILE = replace(
    STEADY, name="a link of 50 MiB/s", bandwidth=LINK, scribble_rate=WRITES, journal_rate=16.0
)
GOAL, WITHIN = 2.0, 0.25


def measure() -> Iterator[Result]:
    with running(PROFILE) as system, TemporaryDirectory() as folder:
        shop = start_shop(system, "bench", Path(folder))
        lyon = ProxmoxSim(
            system.folder / LYON, name=LYON, profile=PROFILE, witness=system.sites.witness, seed=9
        )
        with lyon:
            system.register(LYON, proxmox_described(lyon))
            yield from _told(system, shop, lyon)
        yield from _untold(system, shop)


def _told(system: System, shop: Shop, lyon: ProxmoxSim) -> Iterator[Result]:
    name = _instance(shop, PROXMOX)
    # The worker in a process of its own, as it is: here the sites and the guests run.
    with system.killable_worker():
        status = _moved(system, shop, name, LYON, [{"from": "vmbr0", "to": "vmbr0"}])
    journals = lyon.node.guests.journals
    identity = next(iter(journals().values())).identity
    # The guest writes on: what was promised is asked first, and what is there after it.
    promised = system.sites.promised(identity.hex())
    lost = lost_writes(next(iter(journals().values())), promised)
    assert lost == (), f"durable writes were lost: {lost}"
    result = status["result"]
    yield Result(
        name="warm move of 4 GiB, changes told: downtime outside of provider calls",
        ours=round(_outside(status), 3),
        unit="s",
        goal=GOAL,
        breakdown=_breakdown(status)
        | {"whole downtime": result["downtimeSeconds"], "passes": len(result["passes"])},
    )


def _untold(system: System, shop: Shop) -> Iterator[Result]:
    name = _instance(shop, OPENSTACK)
    with system.killable_worker():
        status = _moved(system, shop, name, PROXMOX, [{"from": "shop-net", "to": "vmbr0"}])
    assert system.troubles() == []
    was, announced = status["result"]["downtimeSeconds"], status["result"]["announcedDowntime"]
    yield Result(
        name="warm move of 4 GiB, changes not told: downtime against what was announced",
        ours=round(abs(was - announced) / announced, 3),
        unit="of it",
        goal=WITHIN,
        breakdown=_breakdown(status) | {"announced": announced, "was": was},
    )


def _instance(shop: Shop, site: str) -> str:
    raw = shop.file(size=SIZE, data=DATA)
    image = shop.image(qcow2_image(raw.with_suffix(".qcow2"), raw))
    name = shop.fresh("web")
    system = shop.system
    system.done(shop.ask_instance(name, image, site, size=SIZE // (1024 * MIB)), 300)
    system.done(shop.act(name, "start"))
    until(lambda: shop.journal(name).boots, f"{name} boots")
    until(lambda: shop.journal(name).last > 30, "the guest writes", 60)
    return name


def _moved(
    system: System, shop: Shop, name: str, to: str, networks: list[dict[str, str]]
) -> dict[str, Any]:
    _, path = shop.begin_move(name, to, method="warm", networkMap=networks)
    return system.done(path, 900)


def _window(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps from the pause or stop of the source to the target's connection."""
    names = [step["name"] for step in status["steps"]]
    first = names.index("pause source" if "pause source" in names else "stop source")
    return list(status["steps"][first : names.index("connect") + 1])


def _outside(status: dict[str, Any]) -> float:
    """The downtime without the times in which at least one provider call was under way."""
    provider, until = 0.0, datetime.min.replace(tzinfo=UTC)
    for step in sorted(_window(status), key=lambda each: each["startedAt"]):
        began = datetime.fromisoformat(step["startedAt"])
        ended = began + timedelta(seconds=step["providerSeconds"])
        provider += max((ended - max(began, until)).total_seconds(), 0.0)
        until = max(until, ended)
    return float(status["result"]["downtimeSeconds"]) - provider


def _breakdown(status: dict[str, Any]) -> dict[str, float]:
    return {step["name"]: step.get("seconds", 0.0) for step in _window(status)}
