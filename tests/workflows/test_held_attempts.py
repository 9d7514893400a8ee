"""An attempt that was given up and goes on running changes nothing once its successor began.

Each is held where it stands, as a process is that was suspended or lacked time: Temporal took it
for dead, another attempt began and ended, and then it wakes.
"""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from controlplane.domain.disk import MIB, DiskSource, ExportStage
from controlplane.domain.errors import SUPERSEDED
from controlplane.domain.ids import ArtefactId, InstanceId, PointId, SiteName
from controlplane.domain.instance import Manner, Power
from controlplane.domain.operation import StepState
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import SigningPurpose
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services.bandwidth import Bandwidth
from controlplane.services.vaulting import StoreSigner, domain_keys
from controlplane.store.ports import StoredVault
from controlplane.vault.local import LocalObjects
from controlplane.vault.vault import Vault
from drivers.contract import DiskExport, Driver, require
from tests.workflows.world import DISK, HOME, TENANT, BytesDisk, World, content, now
from workflows.activities.changes import ChangeActivities, WriteChanges
from workflows.activities.moving import Copied
from workflows.activities.orders import At, CloseImport, SetPower
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.steps import Steps, Work
from workflows.activities.transfer import CommitPoint, CopyDisk, TransferActivities
from workflows.connections import Connect
from workflows.failures import reason_of
from workflows.target import POWER_ON

T = TypeVar("T")
DOMAIN = f"{TENANT}/shop"
PARTS = content(1)
CHANGED = {at * MIB: random.Random(at).randbytes(256 * 1024) for at in (3, 9, 30, 31, 40, 50, 60)}
PATIENCE = 20.0


def attempt(number: int, do: Callable[[Any], T], order: object) -> T:
    """The attempt of that number, as Temporal would make it."""
    env = ActivityEnvironment()
    later = env.info.scheduled_time + timedelta(seconds=number - 1)
    env.info = replace(env.info, attempt=number, current_attempt_scheduled_time=later)
    return env.run(do, order)


def superseded(held: "Future[Any]") -> bool:
    failure = held.exception(PATIENCE)
    return isinstance(failure, ApplicationError) and (
        failure.non_retryable and reason_of(failure) == SUPERSEDED
    )


@dataclass
class Held:
    """Stops whoever comes by, once, until it is let go."""

    reached: Event = field(default_factory=Event)
    go: Event = field(default_factory=Event)

    def pass_by(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(PATIENCE), "nobody let it go"


def held_in(driver: Driver, method: str, *, place: str, by: Held) -> Driver:
    """A driver that stops before or after a call, or in the second byte range of what it opened."""
    call = getattr(driver, method)

    def stopping(*args: Any) -> Any:
        if place == "before":
            by.pass_by()
        made = call(*args)
        if place == "after":
            by.pass_by()
        if place in {"write", "read"}:
            _hold_second(made, place, by)
        return made

    setattr(driver, method, stopping)
    return driver


def _hold_second(made: Any, method: str, by: Held) -> None:
    call, calls = getattr(made, method), iter(range(1_000_000))

    def stopping(*args: Any) -> Any:
        if next(calls):
            by.pass_by()
        return call(*args)

    setattr(made, method, stopping)


@dataclass
class Scene:
    """A stopped instance at home whose disk is brought from one recovery point to the next."""

    world: World
    vault: Vault
    threads: ThreadPoolExecutor
    steps: Steps
    work: Work
    copy: ArtefactId
    volume: str
    base: UUID
    point: UUID

    def at(self, step: str) -> At:
        return At(work=self.work, site=HOME, artefact=self.copy, step=step)

    @property
    def writing(self) -> WriteChanges:
        return WriteChanges(
            at=self.at("write changes 0"), volume=self.volume, disk=0, base=self.base,
            point=self.point,
        )  # fmt: skip

    def shut(self) -> CloseImport:
        return CloseImport(
            at=self.at("undo: close writer 0"), volume=self.volume, writer="write changes 0"
        )

    def mover(self, kind: Callable[..., T], connect: Connect | None = None) -> T:
        return kind(
            store=self.world.store, steps=self.steps,
            connect=connect or self.world.connections.connect, clock=now, vault=self.vault,
            bandwidth=Bandwidth(self.world.store),
        )  # fmt: skip

    def holding(self, method: str, place: str, by: Held) -> Connect:
        @contextmanager
        def held(site: SiteName) -> Iterator[Driver]:
            with self.world.connections.connect(site) as driver:
                yield held_in(driver, method, place=place, by=by)

        return held

    def site(self, connect: Connect) -> SiteActivities:
        return SiteActivities(self.world.store, self.steps, connect, now)

    def content(self) -> bytes:
        return self.world.home.read_disk(self.volume)

    def step(self, name: str) -> tuple[StepState, int]:
        found = next(s for s in self.world.steps(self.work.operation) if s.name == name)
        return found.state, found.attempts

    def kept(self, disk: BytesDisk) -> UUID:
        point = uuid4()
        self.vault.copy(
            disk, point=PointId(point), disk=0, domain=DOMAIN, subject="web-1", attempt=1
        )
        self.vault.commit(
            PointId(point), disks=(0,), domain=DOMAIN, tenant=TENANT,
            instance=InstanceId(self.work.instance), mark=None, attempt=1,
        )  # fmt: skip
        return point


@contextmanager
def stored_vault(world: World, folder: Path) -> Iterator[Vault]:
    """Over the real records, which decide what a late attempt may do."""
    rows = MemoryKeys()
    agent = LocalAgent(RootKey(root=uuid4(), material=bytes(range(32))))
    with Vault(
        records=StoredVault(world.store),
        objects=LocalObjects(folder),
        keys=domain_keys(Keyring(agent=agent, rows=rows), rows),
        signer=StoreSigner(agent, SigningPurpose.VAULT_HEAD),
        clock=now,
    ) as vault:
        yield vault


@pytest.fixture
def scene(world: World, tmp_path: Path) -> Iterator[Scene]:
    world.running_instance(PARTS, on=False)
    copy = world.placement().copy
    assert copy is not None
    op = world.ask_move()
    with stored_vault(world, tmp_path / "points") as vault, ThreadPoolExecutor(4) as threads:
        made = Scene(
            world=world, vault=vault, threads=threads, steps=Steps(world.store, now),
            work=Work(operation=op.id, instance=world.instance, epoch=1), copy=copy,
            volume=world.home.instances[copy].volumes[0].ref, base=uuid4(), point=uuid4(),
        )  # fmt: skip
        made.base = made.kept(BytesDisk(PARTS))
        made.point = made.kept(BytesDisk({**PARTS, **CHANGED}))
        yield made


# Writing at a target


PLACES = [
    ("connect", "before"), ("open_import", "before"), ("open_import", "after"),
    ("open_import", "write"),
]  # fmt: skip


def hold_writer(scene: Scene, method: str, place: str, by: Held) -> "Future[int]":
    """The first attempt at writing, which stands still there."""
    connect = scene.holding(method, place, by)
    if method == "connect":

        def connect(site: SiteName) -> AbstractContextManager[Driver]:
            by.pass_by()
            return scene.world.connections.connect(site)

    late = scene.mover(ChangeActivities, connect)
    held = scene.threads.submit(attempt, 1, late.write_changes, scene.writing)
    assert by.reached.wait(PATIENCE), held.exception(1)
    return held


@pytest.mark.parametrize(("method", "place"), PLACES)
def test_a_writer_that_wakes_when_its_successor_is_done_writes_nothing(
    scene: Scene, method: str, place: str
) -> None:
    by = Held()
    held = hold_writer(scene, method, place, by)
    successor = scene.mover(ChangeActivities)
    assert attempt(2, successor.write_changes, scene.writing) > 0
    assert scene.content() == bytes(BytesDisk({**PARTS, **CHANGED}).data)
    for at in CHANGED:
        scene.world.home.write_disk(scene.volume, at, b"written since" * 100)
    after = scene.content()
    by.go.set()
    assert held.exception(PATIENCE) is not None
    assert superseded(held) or place == "write"
    assert scene.content() == after
    assert scene.step("write changes 0") == (StepState.OK, 2)
    assert scene.world.home.writers == {}


@pytest.mark.parametrize(("method", "place"), PLACES)
def test_a_writer_that_wakes_beside_its_successor_spoils_nothing(
    scene: Scene, method: str, place: str
) -> None:
    """It may cut the successor's writer off, whose next try then goes on."""
    first, second = Held(), Held()
    held = hold_writer(scene, method, place, first)
    busy = scene.mover(ChangeActivities, scene.holding("open_import", "write", second))
    under_way = scene.threads.submit(attempt, 2, busy.write_changes, scene.writing)
    assert second.reached.wait(PATIENCE)
    first.go.set()
    assert held.exception(PATIENCE) is not None
    second.go.set()
    if (failure := under_way.exception(PATIENCE)) is not None:
        assert isinstance(failure, ApplicationError)
        assert not failure.non_retryable, failure
        attempt(3, scene.mover(ChangeActivities).write_changes, scene.writing)
    assert scene.content() == bytes(BytesDisk({**PARTS, **CHANGED}).data)
    assert scene.step("write changes 0")[0] is StepState.OK
    assert scene.world.home.writers == {}


@pytest.mark.parametrize(("method", "place"), PLACES)
@pytest.mark.parametrize("number", [1, 2])
def test_a_writer_that_wakes_when_its_move_unwound_writes_nothing(
    scene: Scene, method: str, place: str, number: int
) -> None:
    """No successor began: what was undone is over for every attempt, also for one that is late."""
    by = Held()
    held = hold_writer(scene, method, place, by)
    before = scene.content()
    undoing = SnapshotActivities(
        scene.world.store, scene.steps, scene.world.connections.connect, now
    )
    attempt(1, undoing.close_import, scene.shut())
    part = scene.content() if place == "write" else before
    if number == 1:
        by.go.set()
        assert held.exception(PATIENCE) is not None
    else:
        late = scene.threads.submit(
            attempt, 2, scene.mover(ChangeActivities).write_changes, scene.writing
        )
        assert superseded(late)
        by.go.set()
        held.exception(PATIENCE)
    assert scene.content() == part
    assert scene.step("write changes 0")[0] is StepState.UNDONE
    assert scene.world.home.writers == {}


def test_a_first_attempt_that_begins_after_its_successor_ended_writes_nothing(
    scene: Scene,
) -> None:
    late = scene.mover(ChangeActivities)
    attempt(2, late.write_changes, scene.writing)
    scene.world.home.write_disk(scene.volume, 3 * MIB, b"written since")
    after = scene.content()
    held = scene.threads.submit(attempt, 1, late.write_changes, scene.writing)
    assert superseded(held)
    assert scene.content() == after


# Copying into the vault


def transfers(scene: Scene, connect: Connect) -> TransferActivities:
    def made(**given: Any) -> TransferActivities:
        return TransferActivities(**given, uploads=scene.world.uploads, gateway_url="")

    return scene.mover(made, connect)


def copying(scene: Scene) -> CopyDisk:
    """The order to copy the disk, whose export stands."""
    export = ArtefactId(uuid4())
    source = DiskSource(volume=scene.volume)
    with scene.world.connections.connect(HOME) as driver:
        exports, tag = require(driver, DiskExport), scene.work.tag(export)
        while exports.prepare_export(tag, source).stage != ExportStage.READY:
            continue
    at = At(work=scene.work, site=HOME, artefact=export, step="copy 0")
    return CopyDisk(at=at, point=uuid4(), disk=0, domain=DOMAIN)


def assert_committed(scene: Scene, order: CopyDisk, copied: Copied) -> None:
    """The copy becomes a recovery point that holds what the disk holds."""
    committing = CommitPoint(
        work=scene.work, point=order.point, domain=DOMAIN, step="commit copy", copied=(copied,)
    )
    attempt(1, transfers(scene, scene.world.connections.connect).commit_point, committing)
    with closing(scene.vault.open(PointId(order.point), 0)) as disk:
        assert disk.digest == copied.digest
        assert disk.read(0, DISK) == bytes(BytesDisk(PARTS).data)


@pytest.mark.parametrize("place", ["after", "read"])
def test_a_copy_that_wakes_when_its_successor_is_done_stores_nothing(
    scene: Scene, place: str
) -> None:
    order, by = copying(scene), Held()
    late = transfers(scene, scene.holding("open_export", place, by))
    held = scene.threads.submit(attempt, 1, late.copy_disk, order)
    assert by.reached.wait(PATIENCE), held.exception(1)
    prompt = transfers(scene, scene.world.connections.connect)
    assert_committed(scene, order, attempt(2, prompt.copy_disk, order))
    by.go.set()
    assert superseded(held)
    scene.vault.collect(holding=timedelta())
    assert scene.vault.unknown_packs() == ()


@pytest.mark.parametrize("place", ["after", "read"])
def test_a_copy_that_wakes_beside_its_successor_stores_nothing(scene: Scene, place: str) -> None:
    order, first, second = copying(scene), Held(), Held()
    late = transfers(scene, scene.holding("open_export", place, first))
    held = scene.threads.submit(attempt, 1, late.copy_disk, order)
    assert first.reached.wait(PATIENCE), held.exception(1)
    busy = transfers(scene, scene.holding("open_export", "read", second))
    under_way = scene.threads.submit(attempt, 2, busy.copy_disk, order)
    assert second.reached.wait(PATIENCE), under_way.exception(1)
    first.go.set()
    assert superseded(held)
    second.go.set()
    assert_committed(scene, order, under_way.result(PATIENCE))
    scene.vault.collect(holding=timedelta())
    assert scene.vault.unknown_packs() == ()


# Power


@pytest.mark.parametrize("last", [1, 2])
def test_a_power_on_that_wakes_when_its_move_unwound_starts_nothing(
    scene: Scene, last: int
) -> None:
    """Its source may run again by then. Another attempt may have gone on, or none."""
    by = Held()
    on = SetPower(at=scene.at(POWER_ON), power=Power.ON, sole=True)
    late = scene.site(scene.holding("find", "after", by))
    held = scene.threads.submit(attempt, 1, late.set_power, on)
    assert by.reached.wait(PATIENCE), held.exception(1)
    prompt = scene.site(scene.world.connections.connect)
    if last > 1:
        attempt(last, prompt.set_power, on)
        assert scene.world.power_at(scene.world.home, scene.copy) is Power.ON
    off = SetPower(
        at=scene.at("undo: target off"), power=Power.OFF, manner=Manner.HARD, undoes=(POWER_ON,)
    )
    attempt(1, prompt.set_power, off)
    by.go.set()
    assert superseded(held)
    assert scene.world.power_at(scene.world.home, scene.copy) is Power.OFF


def test_a_stop_that_wakes_when_its_source_runs_again_stops_nothing(scene: Scene) -> None:
    """Neither the one that asks the guest nor the one that cuts it when it is deaf."""
    world = scene.world
    prompt = scene.site(world.connections.connect)
    on = SetPower(
        at=scene.at("undo: start source"), power=Power.ON,
        undoes=("stop source", "source stopped"),
    )  # fmt: skip
    attempt(1, prompt.set_power, replace(on, undoes=()))
    asking, cutting = Held(), Held()
    off = SetPower(at=scene.at("stop source"), power=Power.OFF, sole=True)
    stop = scene.threads.submit(
        attempt, 1, scene.site(scene.holding("find", "after", asking)).set_power, off
    )
    cut = scene.threads.submit(
        attempt,
        2,
        scene.site(scene.holding("find", "after", cutting)).wait_power,
        replace(off, at=scene.at("source stopped"), patience=timedelta()),
    )
    assert asking.reached.wait(PATIENCE)
    assert cutting.reached.wait(PATIENCE)
    attempt(1, prompt.set_power, on)
    for each in (asking, cutting):
        each.go.set()
    assert superseded(stop)
    assert superseded(cut)
    assert world.power_at(world.home, scene.copy) is Power.ON
