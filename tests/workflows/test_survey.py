"""A site is surveyed before anything else is done there; a restored control plane knows no more."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.worker import Interceptor

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import Busy, Conflict, Denied, Integrity, Invalid, NotFound
from controlplane.domain.ids import ResourceId, SiteName
from controlplane.domain.instance import Power
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services import backup
from controlplane.services.freezing import FROZEN, freeze
from controlplane.store.engine import Store
from controlplane.vault.lives import Lives
from drivers.contract import Fencing, Instances, require
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, run, run_and_cancel
from tests.workflows.world import AWAY, HOME, World, content, now
from workflows.restoring import Ground, Restored, restore
from workflows.sites import SurveySite

PARTS = content(1)
STILL: Steps = counted(["begin", "survey_site", "still_copy", "thaw_site"])
FREE: Steps = counted(["begin", "survey_site", "free_home", "thaw_site"])
TOLD = {SurveySite: STILL}


def frozen(world: World, name: SiteName) -> object:
    site = world.resource(facts(Kind.SITE).key(name, None, None))
    assert site is not None
    return site.status.get(FROZEN)


def freeze_site(world: World, *names: SiteName) -> None:
    with world.store.begin() as tx:
        for name in names:
            site = tx.resources.get(facts(Kind.SITE).key(name, None, None))
            freeze(tx, site, "it was away", now())


async def survey(client: Client, world: World, name: SiteName, *faults: Interceptor) -> Operation:
    return await run(client, world, world.ask_site(OperationKind.SURVEY, name), list(faults))


def report(op: Operation) -> dict[str, object]:
    assert op.state is OperationState.SUCCEEDED, op.problem
    found = op.result["survey"]
    assert isinstance(found, dict)
    return found


async def moved(client: Client, world: World) -> None:
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, op.problem


def wake_the_old_home(world: World) -> None:
    """Somebody at the site took our fence away and started the old copy."""
    with world.home.lock:
        [old] = world.home.instances.values()
        old.fenced = False
        old.power = Power.ON


async def woken_and_frozen(client: Client, world: World) -> None:
    """An instance that was moved away, whose old home runs again at a site that is not surveyed."""
    world.running_instance(PARTS)
    await moved(client, world)
    wake_the_old_home(world)
    freeze_site(world, HOME)


async def test_nothing_is_done_at_a_frozen_site_until_it_was_surveyed(
    client: Client, world: World
) -> None:
    world.running_instance(PARTS)
    freeze_site(world, HOME)
    with (
        pytest.raises(Busy, match="fedctl site survey north"),
        world.connections.connect(HOME),
    ):
        pass
    op = await run(client, world, world.ask(OperationKind.STOP))
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "frozen" in op.problem.message
    assert report(await survey(client, world, HOME))["homes"] == 1
    assert frozen(world, HOME) is None
    op = await run(client, world, world.ask(OperationKind.STOP))
    assert op.state is OperationState.SUCCEEDED, op.problem


async def test_an_old_copy_that_runs_at_a_returning_site_is_stopped_and_fenced(
    client: Client, world: World
) -> None:
    await woken_and_frozen(client, world)
    watch = FaultAt("none", 0, None)
    op = await survey(client, world, HOME, watch)
    assert watch.calls == [name for name, _ in (*STILL, ("finish", 1))]
    assert len(report(op)["stilled"]) == 1  # type: ignore[arg-type]
    assert_old_home_is_still(world)
    assert world.power_at(world.away, world.placement().copy) is Power.ON  # type: ignore[arg-type]


def assert_old_home_is_still(world: World) -> None:
    with world.home.lock:
        [old] = world.home.instances.values()
        assert old.power is Power.OFF
        assert old.fenced
        assert all(nic.isolated for nic in old.nics)
    assert frozen(world, HOME) is None


@pytest.mark.parametrize(("step", "fault"), list(product(STILL, list(Fault))))
async def test_a_broken_survey_can_be_made_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    await woken_and_frozen(client, world)
    broken = FaultAt(*step, fault)
    op = await survey(client, world, HOME, broken)
    assert broken.hit
    assert op.state is OperationState.FAILED
    op = await survey(client, world, HOME)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_old_home_is_still(world)


async def test_a_step_of_a_survey_that_runs_twice_changes_nothing(
    client: Client, world: World
) -> None:
    await woken_and_frozen(client, world)
    twice = StepsTwice(world.standing)
    op = await survey(client, world, HOME, twice)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*STILL, ("finish", 1))]
    assert twice.changed == []
    assert_old_home_is_still(world)


@crossing
@pytest.mark.parametrize("step", STILL[:3])
async def test_a_cancelled_survey_leaves_the_site_frozen(
    client: Client, world: World, step: tuple[str, int]
) -> None:
    world.running_instance(PARTS)
    freeze_site(world, HOME)
    op = await run_and_cancel(client, world, world.ask_site(OperationKind.SURVEY, HOME), *step)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}
    assert (frozen(world, HOME) is None) is (op.state is OperationState.SUCCEEDED)


async def test_what_an_operation_holds_is_left_to_it(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    holder = world.ask(OperationKind.STOP)
    with world.store.begin() as tx:
        tx.leases.take(world.instance, holder.id, now())
    copy = world.placement().copy
    assert copy is not None
    with world.home.lock:
        world.home.instances[copy].fenced = True
        world.home.instances[copy].power = Power.OFF
    freeze_site(world, HOME)
    found = report(await survey(client, world, HOME))
    assert str(holder.id) in str(found["left"])
    assert found["freed"] == []
    with world.home.lock:
        assert world.home.instances[copy].fenced


async def test_a_survey_that_an_operation_overtook_changes_nothing(
    client: Client, world: World
) -> None:
    """Between its look and its effect a move took the lease and fenced the source."""
    world.running_instance(PARTS, on=False)
    tag = next(a for a in world.artefacts() if a.id == world.placement().copy).owner

    def overtake() -> None:
        with world.connections.connect(HOME) as driver:
            require(driver, Fencing).fence(replace(tag, epoch=tag.epoch + 1))

    op = await survey(client, world, HOME, FaultAt("survey_site", 1, None, then=overtake))
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == "conflict"
    with world.home.lock:
        assert world.home.instances[tag.artefact].fenced


async def test_a_partial_listing_leaves_the_site_frozen(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    freeze_site(world, HOME)
    world.home.stale_for(99)
    op = await survey(client, world, HOME)
    assert op.state is OperationState.FAILED
    assert frozen(world, HOME) is not None


# Restored from a backup


@contextmanager
def new_life(world: World, folder: Path, path: Path) -> Iterator[tuple[World, Restored]]:
    """The control plane begins anew from the backup; sites and vault are as they are."""
    store = Store(f"sqlite:///{folder}/restored.db")
    after = world.restored(store)
    try:
        yield after, restore(ground(after), path, now)
    finally:
        after.vault.close()
        store.close()


def ground(world: World) -> Ground:
    return Ground(
        store=world.store,
        agent=world.agent,
        keys=world.keys,
        vault=world.vault,
        homes=world.homes,
        lives=Lives(world.objects, world.homes._signer),
    )


def taken(world: World, folder: Path) -> Path:
    path = folder / "state.backup"
    written = backup.create(world.store, world.agent, path, now())
    assert written.size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    return path


@pytest.mark.parametrize("woken", [False, True])
async def test_a_restore_from_before_a_move_finds_the_new_home_and_never_starts_the_old(
    client: Client, world: World, tmp_path: Path, *, woken: bool
) -> None:
    """Even when somebody at the old site has taken our fence away and started it there."""
    world.running_instance(PARTS)
    path = taken(world, tmp_path)
    await moved(client, world)
    home = world.placement()
    if woken:
        wake_the_old_home(world)
    with new_life(world, tmp_path, path) as (after, restored):
        assert restored.homes == ("acme/shop/web-1 at south",)
        assert restored.life == 2
        adopted = after.placement()
        assert (adopted.site, adopted.copy) == (home.site, home.copy)
        assert frozen(after, HOME) is not None
        assert frozen(after, AWAY) is not None
        for name in (HOME, AWAY):
            with (
                pytest.raises(Busy, match="restored from a backup"),
                after.connections.connect(name),
            ):
                pass
        op = await run(client, after, after.ask(OperationKind.START))
        assert op.state is OperationState.ROLLED_BACK
        found = report(await survey(client, after, HOME))
        assert len(found["stilled"]) == 1  # type: ignore[arg-type]
        found = report(await survey(client, after, AWAY))
        assert found["homes"] == 1
        assert found["missing"] == []
        assert after.placement().epoch >= home.epoch
        assert_old_home_is_still(after)
        assert after.power_at(after.away, home.copy) is Power.ON  # type: ignore[arg-type]
        assert after.disk_of(after.away, home.copy, PARTS)  # type: ignore[arg-type]
        assert after.unaccounted() == []
        assert (after.overlaps() == ()) is not woken
        instance = after.resource(after.key(Kind.INSTANCE, "web-1"))
        assert instance is not None
        assert instance.spec["zone"] == AWAY
        # It is whole: it moves back, and nothing of the old life stands in the way.
        op = await run(client, after, after.ask_move(to=HOME))
        assert op.state is OperationState.SUCCEEDED, op.problem
        assert after.placement().site == HOME
        assert after.unaccounted() == []


async def test_a_restore_in_the_middle_of_a_move_lets_the_source_go_on(
    client: Client, world: World, tmp_path: Path
) -> None:
    """The worst moment: the source is fenced, the target was made, and nobody had switched."""
    world.running_instance(PARTS)
    died = FaultAt("switch_home", 1, Fault.BEFORE)
    path = tmp_path / "state.backup"
    undo = FaultAt("set_power", 3, Fault.BEFORE)
    op = await run(client, world, world.ask_move(), [died, undo])
    assert op.state is OperationState.NEEDS_ATTENTION
    backup.create(world.store, world.agent, path, now())
    source = world.placement().copy
    assert source is not None
    with new_life(world, tmp_path, path) as (after, restored):
        assert restored.operations == (op.name,)
        assert restored.homes == ()
        first = report(await survey(client, after, HOME))
        assert first["freed"] == []  # the other site may run a copy
        second = report(await survey(client, after, AWAY))
        assert len(second["stilled"]) == 1  # type: ignore[arg-type]
        watch = FaultAt("none", 0, None)
        again = report(await survey(client, after, HOME, watch))
        assert watch.calls == [name for name, _ in (*FREE, ("finish", 1))]
        assert again["freed"] == ["acme/shop/web-1"]
        op = await run(client, after, after.ask(OperationKind.START))
        assert op.state is OperationState.SUCCEEDED, op.problem
        assert after.power_at(after.home, source) is Power.ON
        assert after.overlaps() == ()
        states = {a.state for a in after.artefacts(site=AWAY)}
        assert states <= {ArtefactState.RETAINED, ArtefactState.RELEASED}, states


async def test_what_was_made_after_the_backup_is_named_and_left(
    client: Client, world: World, tmp_path: Path
) -> None:
    path = taken(world, tmp_path)
    world.image(PARTS)
    op = await run(
        client, world, world.ask(OperationKind.PROVISION, key=world.wished_instance(active=False))
    )
    assert op.state is OperationState.SUCCEEDED, op.problem
    with new_life(world, tmp_path, path) as (after, restored):
        assert str(world.instance) in restored.unknown[0]
        found = report(await survey(client, after, HOME))
        assert len(found["strange"]) == 1  # type: ignore[arg-type]
        assert len(found["unaccounted"]) == 2  # type: ignore[arg-type]
        with after.home.lock:
            assert len(after.home.instances) == 1


async def test_a_restore_that_broke_off_goes_on_and_nothing_works_with_half_of_it(
    client: Client, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.running_instance(PARTS)
    path = taken(world, tmp_path)
    await moved(client, world)
    store = Store(f"sqlite:///{tmp_path}/restored.db")
    after = world.restored(store)
    with monkeypatch.context() as broken:
        broken.setattr(after.vault, "recall", _fails)
        with pytest.raises(Integrity, match="the store was changed"):
            restore(ground(after), path, now)
    with pytest.raises(Conflict, match="was not finished"):
        store.await_schema()
    restored = restore(ground(after), path, now)
    assert restored.homes == ("acme/shop/web-1 at south",)
    assert restored.life == 2
    store.await_schema()
    with pytest.raises(Conflict, match="not empty"):
        restore(ground(after), path, now)
    after.vault.close()
    store.close()


def _fails(_: object) -> None:
    raise Integrity("the store was changed")


def test_a_backup_that_was_changed_or_cut_off_restores_nothing(
    world: World, tmp_path: Path
) -> None:
    world.running_instance(PARTS)
    path = taken(world, tmp_path)
    whole = path.read_bytes()
    store = Store(f"sqlite:///{tmp_path}/restored.db")
    after = world.restored(store)
    for number, bad in enumerate(
        (
            whole[:-1],
            whole[: len(whole) // 2],
            whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:],
            whole + b"x",
            whole.replace(b'"createdAt": "2', b'"createdAt": "3'),
        )
    ):
        changed = tmp_path / f"bad-{number}"
        changed.write_bytes(bad)
        with pytest.raises(Integrity):
            backup.verify(world.agent, changed)
        with pytest.raises(Integrity):
            restore(ground(after), changed, now)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(Invalid, match="not a fedctl backup"):
        restore(ground(after), tmp_path / "text", now)
    other = LocalAgent(RootKey(root=ResourceId(world.instance), material=bytes(32)))
    with pytest.raises(Denied, match="root key"):
        backup.verify(other, path)
    with store.read() as tx:
        assert tx.is_empty()
    assert Lives(world.objects, world.homes._signer).newest() == 1  # the old life goes on
    with pytest.raises(NotFound, match="make its folder"):
        backup.create(world.store, world.agent, tmp_path / "none" / "state", now())
    assert backup.verify(world.agent, path).rows["artefacts"] == 2
    with pytest.raises(Conflict, match="not written over"):
        backup.create(world.store, world.agent, path, now())
    after.vault.close()
    store.close()


async def test_a_fence_at_the_site_of_a_home_is_lifted_only_when_every_site_was_seen(
    client: Client, world: World
) -> None:
    world.running_instance(PARTS, on=False)
    placement = world.placement()
    assert placement.copy is not None
    tag = next(a for a in world.artefacts() if a.id == placement.copy).owner
    with world.connections.connect(HOME) as driver:
        require(driver, Fencing).fence(tag)
        assert require(driver, Instances).find(tag).it.fenced  # type: ignore[union-attr]
    freeze_site(world, HOME, AWAY)
    assert report(await survey(client, world, HOME))["freed"] == []
    report(await survey(client, world, AWAY))
    assert report(await survey(client, world, HOME))["freed"] == ["acme/shop/web-1"]
    assert world.power_at(world.home, placement.copy) is Power.OFF
