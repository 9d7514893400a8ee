"""A site that was away is frozen and surveyed; an outlived control plane stops."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio.client import Client

from controlplane.domain.errors import Conflict, Denied
from controlplane.domain.instance import Power
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind, Resource
from controlplane.services.freezing import FROZEN, freeze
from controlplane.vault.lives import Lives
from tests.workflows.running import run
from tests.workflows.world import AWAY, HOME, World, content, now
from workflows.succession import outlived
from workflows.watching import SiteWatch

PATIENCE = timedelta(minutes=10)


class Watched:
    """The watch over a world whose sites were seen once, and a clock that is set by hand."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = now()
        self.watch = SiteWatch(
            world.store, world.connections.look, lambda: self.now, patience=PATIENCE
        )
        with world.store.begin() as tx:
            for name in world.orders:
                site = tx.resources.get(facts(Kind.SITE).key(name, None, None))
                tx.resources.patch_status(site.id, {"lastSeenAt": self.now.isoformat()}, now=now())

    async def look(self, after: timedelta) -> None:
        self.now += after
        await self.watch.look()

    def site(self) -> Resource:
        found = self.world.resource(facts(Kind.SITE).key(HOME, None, None))
        assert found is not None
        return found

    def survey(self) -> Operation | None:
        with self.world.store.read() as tx:
            return tx.operations.open_for(self.site().id)


@pytest.mark.timeout(120)  # a whole move, then a survey
async def test_a_site_that_was_long_away_is_frozen_and_surveyed_when_it_is_back(
    client: Client, world: World
) -> None:
    world.running_instance(content(1))
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, op.problem
    watched = Watched(world)
    world.home.down = True
    await watched.look(timedelta())
    await watched.look(timedelta(minutes=9))
    assert watched.site().status.get(FROZEN) is None
    await watched.look(timedelta(minutes=1))
    assert "did not answer for 10 minutes" in str(watched.site().status[FROZEN])
    world.home.down = False
    with world.home.lock:  # it came up with our old copy running
        [old] = world.home.instances.values()
        old.fenced, old.power = False, Power.ON
    await watched.look(timedelta(minutes=1))
    await watched.look(timedelta(minutes=1))
    survey = watched.survey()
    assert survey is not None
    assert survey.kind is OperationKind.SURVEY
    done = await run(client, world, survey)
    assert done.state is OperationState.SUCCEEDED, done.problem
    assert watched.site().status.get(FROZEN) is None
    assert old.power is Power.OFF
    assert old.fenced
    await watched.look(timedelta(minutes=1))
    assert watched.site().status.get("awaySince") is None
    assert watched.survey() is None
    other = world.resource(facts(Kind.SITE).key(AWAY, None, None))
    assert other is not None
    assert other.status.get("awaySince") is None


async def test_a_short_outage_freezes_nothing(world: World) -> None:
    watched = Watched(world)
    world.home.down = True
    await watched.look(timedelta())
    world.home.down = False
    await watched.look(timedelta(minutes=9))
    world.home.down = True
    await watched.look(timedelta(minutes=9))
    assert watched.site().status.get(FROZEN) is None


async def test_a_site_that_refuses_us_is_not_away(world: World) -> None:
    watched = Watched(world)
    world.home.refusing = Denied("north refused the token")
    await watched.look(timedelta())
    await watched.look(timedelta(minutes=30))
    assert watched.site().status.get(FROZEN) is None


async def test_what_people_must_survey_is_not_surveyed_by_itself(world: World) -> None:
    watched = Watched(world)
    world.home.down = True
    await watched.look(timedelta())
    with world.store.begin() as tx:
        freeze(tx, tx.resources.get(watched.site().key), "restored from a backup", now())
    await watched.look(timedelta(minutes=30))
    world.home.down = False
    await watched.look(timedelta(minutes=1))
    assert watched.survey() is None
    assert watched.site().status.get(FROZEN) is not None


async def test_an_outlived_control_plane_stops(world: World) -> None:
    lives = Lives(world.objects, world.homes._signer)
    stop = asyncio.Event()
    going = asyncio.ensure_future(
        outlived(world.store, lives, stop, look_every=timedelta(milliseconds=10))
    )
    done, _ = await asyncio.wait({going}, timeout=0.2)
    assert not done
    lives.claim(uuid4())
    with pytest.raises(Conflict, match="life 2 was begun"):
        await asyncio.wait_for(going, 5)


async def test_the_newest_life_goes_on_until_it_is_told_to_stop(world: World) -> None:
    lives = Lives(world.objects, world.homes._signer)
    with world.store.begin() as tx:
        tx.settings.renew(uuid4(), lives.claim(uuid4()))
    stop = asyncio.Event()
    going = asyncio.ensure_future(
        outlived(world.store, lives, stop, look_every=timedelta(milliseconds=10))
    )
    done, _ = await asyncio.wait({going}, timeout=0.2)
    assert not done
    stop.set()
    await asyncio.wait_for(going, 5)
