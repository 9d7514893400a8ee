"""Orphans of a sweep: adopted, or released when they are still what was reported."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from uuid import uuid4

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import VolumeSpec
from controlplane.domain.errors import Conflict, FedctlError, NotFound
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.orphan import Orphan
from controlplane.domain.owner import OwnerTag
from controlplane.services.orphans import Orphans
from drivers.contract import Volumes, require
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, run, run_and_cancel
from tests.workflows.world import CALLER, HOME, World, content, now
from workflows.sites import ReleaseOrphan

RELEASE: Steps = counted(["begin", "release_orphan"])
TOLD = {ReleaseOrphan: RELEASE}


class _Clock:
    now = staticmethod(now)


def orphans(world: World) -> Orphans:
    return Orphans(store=world.store, clock=_Clock())


def plant(world: World, instance: InstanceId | None = None, epoch: int = 1) -> OwnerTag:
    """A volume under our tag that no record knows."""
    tag = OwnerTag(
        artefact=ArtefactId(uuid4()),
        instance=instance or InstanceId(uuid4()),
        operation=OperationId(uuid4()),
        epoch=epoch,
    )
    with world.connections.connect(HOME) as driver:
        require(driver, Volumes).create_volume(tag, VolumeSpec(name="left", size=1 << 20))
    return tag


def reported(world: World) -> list[Orphan]:
    with world.store.read() as tx:
        return tx.orphans.list(HOME)


async def sweep(client: Client, world: World) -> list[Orphan]:
    op = await run(client, world, world.ask_site(OperationKind.SWEEP, HOME))
    assert op.state is OperationState.SUCCEEDED, op.problem
    return reported(world)


def asked(world: World, tag: OwnerTag) -> Operation:
    return orphans(world).release(CALLER, HOME, str(tag.artefact))


def refused(ask: Callable[..., object], tag: OwnerTag, kind: type[FedctlError], why: str) -> None:
    with pytest.raises(kind, match=why):
        ask(CALLER, HOME, str(tag.artefact))


async def test_a_report_is_replaced_and_remembers_when_it_was_first_seen(
    client: Client, world: World
) -> None:
    tag = plant(world)
    [first] = await sweep(client, world)
    assert first.found.owner == tag
    assert first.first_seen == first.last_seen
    other = plant(world)
    both = {each.found.owner.artefact: each for each in await sweep(client, world)}
    assert set(both) == {tag.artefact, other.artefact}
    assert both[tag.artefact].first_seen == first.first_seen < both[tag.artefact].last_seen
    assert both[other.artefact].first_seen > first.first_seen
    with world.home.lock:
        world.home.volumes.pop(tag.artefact)
    assert [each.found.owner for each in await sweep(client, world)] == [other]


async def test_what_is_released_is_gone_and_nothing_else(client: Client, world: World) -> None:
    world.running_instance(content(6))
    tag, other = plant(world), plant(world)
    await sweep(client, world)
    before = set(world.home.volumes)
    watch = FaultAt("none", 0, None)
    op = await run(client, world, asked(world, tag), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert watch.calls == [name for name, _ in (*RELEASE, ("finish", 1))]
    assert set(world.home.volumes) == before - {tag.artefact}
    assert [each.found.owner for each in reported(world)] == [other]


@pytest.mark.parametrize(("step", "fault"), list(product(RELEASE, list(Fault))))
async def test_a_broken_release_can_be_asked_for_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    tag = plant(world)
    await sweep(client, world)
    broken = FaultAt(*step, fault)
    op = await run(client, world, asked(world, tag), [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    if reported(world):
        op = await run(client, world, asked(world, tag))
    if not (step[0] == "release_orphan" and fault is Fault.AFTER):
        assert op.state is OperationState.SUCCEEDED, op.problem
    assert not world.home.volumes
    assert not reported(world)


async def test_a_step_of_a_release_that_runs_twice_changes_nothing(
    client: Client, world: World
) -> None:
    tag = plant(world)
    await sweep(client, world)
    twice = StepsTwice(world.standing)
    op = await run(client, world, asked(world, tag), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*RELEASE, ("finish", 1))]
    assert twice.changed == []
    assert not world.home.volumes
    assert not reported(world)


@crossing
@pytest.mark.parametrize("step", RELEASE)
async def test_a_cancelled_release_did_all_or_nothing(
    client: Client, world: World, step: tuple[str, int]
) -> None:
    tag = plant(world)
    await sweep(client, world)
    op = await run_and_cancel(client, world, asked(world, tag), *step)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}
    await sweep(client, world)  # a deletion that the site had begun goes on without us
    assert bool(world.home.volumes) == bool(reported(world))


async def test_what_could_be_somebodys_is_not_released(client: Client, world: World) -> None:
    world.running_instance(content(6))
    home = world.placement()
    newer = plant(world, home.instance, home.epoch + 1)
    unreported = replace(newer, artefact=ArtefactId(uuid4()))
    await sweep(client, world)
    release = orphans(world).release
    refused(release, newer, Conflict, "carries epoch")
    refused(release, unreported, NotFound, "reported no orphan")
    assert home.copy is not None
    with world.store.read() as tx:
        recorded = tx.artefacts.get(home.copy)
        volume = next(a for a in tx.artefacts.list(site=HOME) if a.kind is ArtefactKind.VOLUME)
    with world.home.lock:
        there = [world.home.volumes[volume.id].ref, world.home.instances[home.copy].ref]
    for artefact, why in ((recorded, "is the home"), (volume, "is on record")):
        with world.connections.connect(HOME) as driver:
            found = [f for f in driver.owned() if f.owner.artefact == artefact.id]
        assert found[0].ref in there
        with world.store.begin() as tx:
            tx.orphans.replace(HOME, found, now())
        refused(release, artefact.owner, Conflict, why)


async def test_it_looks_again_right_before_it_deletes(client: Client, world: World) -> None:
    world.running_instance(content(6))
    home = world.placement()
    tag = plant(world, home.instance, home.epoch)
    [orphan] = await sweep(client, world)
    op = asked(world, tag)
    with world.store.begin() as tx:
        tx.orphans.forget(orphan)
    ended = await run(client, world, op)
    assert ended.state is OperationState.FAILED
    assert ended.problem is not None
    assert "not as the last sweep reported it" in ended.problem.message
    assert tag.artefact in world.home.volumes


async def test_what_is_adopted_is_on_record_and_no_orphan(client: Client, world: World) -> None:
    world.running_instance(content(6))
    home = world.placement()
    mine, strange = plant(world, home.instance), plant(world)
    await sweep(client, world)
    adopt = orphans(world).adopt
    adopt(CALLER, HOME, str(mine.artefact))
    refused(adopt, mine, NotFound, "reported no orphan")
    refused(adopt, strange, Conflict, "not known here.*orphans release")
    with world.store.read() as tx:
        kept = tx.artefacts.get(mine.artefact)
    assert (kept.state, kept.expires_at) == (ArtefactState.RETAINED, None)
    assert [each.found.owner for each in await sweep(client, world)] == [strange]
    op = await run(client, world, world.ask(OperationKind.FINALIZE))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert mine.artefact not in world.home.volumes
    assert strange.artefact in world.home.volumes
