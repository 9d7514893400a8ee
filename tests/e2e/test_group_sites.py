"""Recovery points of guests at every kind of site, held against the disks as they were then.

The simulators are watched from behind: what was on each disk at the moment at which its site took
the snapshot, and when that was. One system with all five sites takes seconds to set up, and each of
its instances some more.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.disk import MIB, ExtentKind
from controlplane.domain.ids import PointId
from controlplane.domain.resource import ResourceKey
from controlplane.planning.provision import DiskWish
from controlplane.store.tx import Tx
from drivers.simulators.opennebula import backups
from drivers.simulators.opennebula.template import vectors
from drivers.simulators.opennebula.vms import disk_path
from drivers.simulators.proxmox.live import Live
from drivers.simulators.sites import (
    EVERY,
    OPENNEBULA,
    OPENSTACK,
    OVHCLOUD,
    PROXMOX,
    XCPNG,
)
from drivers.simulators.sparse import data_ranges, is_zero
from drivers.simulators.xcpng import disks
from tests.e2e.census import census
from tests.e2e.shop import Shop
from tests.e2e.system import System, running
from tests.e2e.test_faults import Breaks
from tests.e2e.test_faults import _becomes as becomes
from tests.e2e.test_groups import protected, taken
from tests.workflows.faults import Fault, FaultAt
from tests.workflows.running import counted
from workflows.activities import wishes

pytestmark = pytest.mark.timeout(240)
FOUR = (OPENSTACK, PROXMOX, OPENNEBULA, XCPNG)
PARTS = 3  # each in minutes
_BLOCK = 64 << 10


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of 1 GB has 64 MiB, where a site has such: reading holes takes most of the time."""
    wished = wishes._disk_wish

    def small(tx: Tx, key: ResourceKey) -> DiskWish:
        return replace(wished(tx, key), size=64 * MIB)

    monkeypatch.setattr(wishes, "_disk_wish", small)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running(names=EVERY) as made:
        yield made


def digest(blocks: Iterator[tuple[int, bytes]]) -> str:
    """Of what is not zero, wherever holes are told."""
    found = sha256()
    for number, block in blocks:
        if not is_zero(block):
            found.update(number.to_bytes(8) + block)
    return found.hexdigest()


def of_file(file: Path) -> str:
    with file.open("rb") as opened:
        fd = opened.fileno()
        numbers = {
            number
            for begin, length in data_ranges(fd)
            for number in range(begin // _BLOCK, -(-(begin + length) // _BLOCK))
        }
        return digest((n, os.pread(fd, _BLOCK, n * _BLOCK)) for n in sorted(numbers))


def of_point(system: System, point: str) -> str:
    with closing(system.parts.vault.open(PointId(UUID(point)), 0)) as disk:
        numbers = {
            number
            for extent in disk.extents()
            if extent.kind is ExtentKind.DATA
            for number in range(
                extent.offset // _BLOCK, -(-(extent.offset + extent.length) // _BLOCK)
            )
        }
        return digest(
            (n, disk.read(n * _BLOCK, min(_BLOCK, disk.size - n * _BLOCK))) for n in sorted(numbers)
        )


@dataclass
class Watched:
    """By site, what was on a disk when its last snapshot was taken, and when that was."""

    disks: dict[str, str] = field(default_factory=dict)
    at: dict[str, float] = field(default_factory=dict)

    def see(self, site: str, file: Path) -> None:
        self.disks[site], self.at[site] = of_file(file), time.time()


@pytest.fixture
def watched(system: System, monkeypatch: pytest.MonkeyPatch) -> Watched:
    seen, sites = Watched(), system.sites
    before = Live.checked
    _watch_openstack(seen, sites.openstack, monkeypatch)

    def checked(self: Live, kind: str, data: dict[str, str]) -> Callable[[], None]:
        if kind == "blockdev-backup":
            seen.see(PROXMOX, self.scraps[data["target"]].drive.file)
        return before(self, kind, data)

    snapshot, copy = disks.snapshot, backups._copy

    def frozen(pool: Any, session: str, vdi: str, *more: Any) -> str:
        seen.see(XCPNG, pool.file(vdi))
        return snapshot(pool, session, vdi, *more)

    def copied(site: Any, vm: Any, place: str, *, number: int) -> bool:
        for disk in vectors(vm.template, "DISK"):
            seen.see(OPENNEBULA, site.file(disk_path(vm, disk)).resolve())
        return copy(site, vm, place, number=number)

    monkeypatch.setattr(Live, "checked", checked)
    monkeypatch.setattr(disks, "snapshot", frozen)
    monkeypatch.setattr(backups, "_copy", copied)
    return seen


def _watch_openstack(seen: Watched, cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = cloud.cinder.volumes
    freeze: Callable[[str], AbstractContextManager[None]] = volumes.freeze

    @contextmanager
    def frozen(volume: str) -> Iterator[None]:
        with freeze(volume):
            if cloud.world.get("volume", volume)["attachments"]:  # not what is read later
                seen.see(OPENSTACK, volumes.path(volume))
            yield

    monkeypatch.setattr(volumes, "freeze", frozen)


def started(shop: Shop, sites: Sequence[str]) -> dict[str, str]:
    """A running instance at each, made side by side."""
    names = {site: shop.fresh("web") for site in sites}
    images = {site: shop.image() for site in sites}
    made = [shop.ask_instance(names[site], images[site], site) for site in sites]
    for each in made:
        shop.system.done(each)
    for each in [shop.act(name, "start") for name in names.values()]:
        shop.system.done(each)
    return names


def moment(point: dict[str, Any]) -> tuple[float, float]:
    asked, answered = (datetime.fromisoformat(point[key]) for key in ("asked", "answered"))
    return asked.timestamp(), answered.timestamp()


def true_to(system: System, watched: Watched, names: dict[str, str], path: str) -> dict[str, int]:
    """Points equal the disks as they were, moments hold what happened; what was read, by site."""
    status = system.look(path)["status"]
    points = {each["instance"]: each for each in status["points"]}
    assert points.keys() == set(names.values())
    for site, name in names.items():
        assert of_point(system, points[name]["point"]) == watched.disks[site], site
        asked, answered = moment(points[name])
        assert asked <= watched.at[site] <= answered, site
    apart = [watched.at[site] for site in names]
    assert max(apart) - min(apart) <= status["spreadSeconds"]
    return {site: points[name]["bytesRead"] for site, name in names.items()}


def test_points_hold_what_was_on_the_disks_of_four_kinds_of_sites(
    system: System, shop: Shop, watched: Watched
) -> None:
    """Twice: the second time those sites that can tell are asked for what changed."""
    names = started(shop, FOUR)
    path = protected(shop, *names.values())
    read: list[dict[str, int]] = []
    for _ in range(2):
        before = {site: shop.writing(name) for site, name in names.items()}
        taken(shop, path)
        read.append(true_to(system, watched, names, path))
        for site, name in names.items():
            shop.written_on(name, before[site])
    first, second = read
    assert all(second[site] < first[site] for site in {*FOUR} - {OPENSTACK})
    assert system.parts.vault.survey() == ()
    assert shop.http.delete(path).is_success


def test_bare_metal_is_refused_by_a_finding(shop: Shop) -> None:
    """Its disks are read while it is off, and nothing is done to it before that is known."""
    (metal,) = started(shop, [OVHCLOUD]).values()
    before = shop.writing(metal)
    path = protected(shop, metal)
    status = shop.system.ended(shop.http.post(f"{path}/sync"))
    assert (status["outcome"], status["problem"]["code"]) == ("failed", "unsupported")
    found = [f for f in status["findings"] if f["severity"] == "blocker"]
    assert [(f["id"], f["subject"]) for f in found] == [("SRC05", metal)]
    assert OVHCLOUD in found[0]["evidence"]
    assert [step["name"] for step in status["steps"]] == ["preflight"]
    shop.written_on(metal, before)
    assert shop.http.delete(path).is_success


@pytest.mark.long
def test_workers_that_are_killed_are_followed_by_others(
    system: System, shop: Shop, watched: Watched
) -> None:
    """While snapshots are asked for, and while disks are copied; each death costs ten seconds."""
    names = started(shop, FOUR)
    path = protected(shop, *names.values())
    with system.killable_worker() as worker:
        going = system.operation(shop.http.post(f"{path}/sync"))
        for step in ("snapshots", f"{names[OPENSTACK]} export 0", f"{names[XCPNG]} copy 0"):
            shop.step(going, step, state="any")
            worker.kill()
            worker.start()
        system.done(going)
    true_to(system, watched, names, path)
    for name in names.values():
        shop.written_on(name, shop.writing(name))
    assert shop.http.delete(path).is_success


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_fault_at_any_step_of_a_group_leaves_no_more_than_a_taking_that_went_well(
    system: System, shop: Shop, watched: Watched, part: int
) -> None:
    """Each activity once after its effect, and before it where an undo then finds nothing."""
    breaks = Breaks()
    system.stop_worker()
    system.interceptors.append(breaks)
    system.start_worker()
    names = started(shop, FOUR)
    path = protected(shop, *names.values())
    taken(shop, path)
    breaks.now = watch = FaultAt("none", 0, None)
    taken(shop, path)

    def books() -> dict[str, dict[str, int]]:
        return {site: census(system.sites, site) for site in FOUR}

    usual, steps = books(), counted(watch.calls)
    begun, committed = steps.index(("take_leases", 1)), steps.index(("commit_group", 1))
    effects = {"freeze", "prepare_export", "release_export", "remove", "commit_group"}
    cases = [*product(steps[1:-2], [Fault.AFTER])]
    cases += [(step, Fault.BEFORE) for step in steps if step[0] in effects]
    for step, fault in cases[part::PARTS]:
        breaks.now = FaultAt(*step, fault)
        status = system.ended(shop.http.post(f"{path}/sync"))
        assert breaks.now.hit, step
        wanted = "rolled-back" if steps.index(step) >= begun else "failed"
        wanted = "succeeded" if steps.index(step) > committed else wanted
        assert status["outcome"] == wanted, (step, fault, status["problem"])
        if step[0] == "remove" and fault is Fault.BEFORE:  # it stays on record, and expires
            becomes(system.swept, [])
            usual = books()
        becomes(books, usual)
        if wanted != "succeeded":
            breaks.now = FaultAt("none", 0, None)
            taken(shop, path)  # what changed since is whole, whatever became of the one before
        true_to(system, watched, names, path)
        becomes(books, usual)
    assert shop.http.delete(path).is_success
