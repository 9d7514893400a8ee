"""Retained copies expire, the sweep comes round, and nothing else is touched."""

import logging
from datetime import timedelta

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import Denied
from controlplane.domain.operation import OperationKind, OperationState
from controlplane.domain.resource import Kind
from controlplane.services.sites import EVERYWHERE
from controlplane.vault.local import LocalObjects
from tests.workflows.running import run
from tests.workflows.world import AWAY, HOME, World, content, now
from workflows.housekeeping import HOLDING, Housekeeping, finalize_expired

PARTS = content(1)


async def moved(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED


async def test_nothing_is_finalized_before_it_expires(client: Client, world: World) -> None:
    await moved(client, world)
    with world.store.begin() as tx:
        assert finalize_expired(tx, now() + timedelta(days=6)) == 0


async def test_an_expired_old_home_is_finalized_once(client: Client, world: World) -> None:
    await moved(client, world)
    later = now() + timedelta(days=8)
    with world.store.begin() as tx:
        assert finalize_expired(tx, later) == 1
    with world.store.begin() as tx:
        assert finalize_expired(tx, later) == 0
    with world.store.read() as tx:
        asked = tx.operations.open_for(_subject(world))
    assert asked is not None
    done = await run(client, world, asked)
    assert done.state is OperationState.SUCCEEDED
    assert {a.state for a in world.artefacts(site=HOME)} == {ArtefactState.RELEASED}
    assert {a.state for a in world.artefacts(site=AWAY)} <= {
        ArtefactState.ATTACHED,
        ArtefactState.RELEASED,
    }
    assert world.home.is_empty()
    assert world.unaccounted() == []


async def test_a_round_begins_the_scheduled_sweep_once(world: World) -> None:
    moment = [now()]
    keeper = Housekeeping(world.store, world.vault, lambda: moment[0])
    keeper.look()
    with world.store.read() as tx:
        assert tx.operations.open_for(EVERYWHERE) is None
    moment[0] += timedelta(hours=7)
    keeper.look()
    keeper.look()
    with world.store.read() as tx:
        sweep = tx.operations.open_for(EVERYWHERE)
    assert sweep is not None
    assert sweep.kind is OperationKind.SWEEP


def _subject(world: World):
    with world.store.read() as tx:
        return tx.resources.get(world.key(Kind.INSTANCE, "web-1")).id


async def test_uploads_that_cannot_be_swept_hold_nothing_up(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(LocalObjects):
        def sweep(self, before):
            raise Denied("the key may not list them")

    moment = [now()]
    world.vault._objects = Closed(world.objects._root)
    world.objects.put("packs/aa/stranger", b"x")
    collect, collected = world.vault.collect, []
    monkeypatch.setattr(
        world.vault,
        "collect",
        lambda *, holding: [collected.append(holding), collect(holding=holding)][1],
    )
    keeper = Housekeeping(world.store, world.vault, lambda: moment[0])
    moment[0] += timedelta(hours=7)
    with caplog.at_level(logging.INFO, logger="workflows.housekeeping"):
        keeper.look()
    assert [message.partition(":")[2] for message in caplog.messages] == [
        " they stay",
        " the key may not list them",
    ]
    assert collected == [HOLDING]
    assert "1 packs in the vault's store are on no record" in caplog.messages[0]
