"""A server of an earlier life does not start, and ends when a later one begins."""

import asyncio
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import uvicorn
from starlette.applications import Starlette

from api.lives import serve
from controlplane.domain.errors import Conflict
from controlplane.vault.lives import Lives
from tests.workflows.world import World


async def started(server: uvicorn.Server, serving: asyncio.Future[None]) -> None:
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)


async def test_a_server_ends_when_a_later_life_begins(tmp_path: Path) -> None:
    world = World.build(tmp_path)
    lives = Lives(world.objects, world.homes._signer)
    server = uvicorn.Server(uvicorn.Config(Starlette(), port=0, log_config=None))
    serving = asyncio.ensure_future(
        serve(server, world.store, lives, look_every=timedelta(milliseconds=10))
    )
    await started(server, serving)
    lives.claim(uuid4())
    with pytest.raises(Conflict, match="life 2 was begun"):
        await asyncio.wait_for(serving, 10)
    again = uvicorn.Server(uvicorn.Config(Starlette(), port=0, log_config=None))
    with pytest.raises(Conflict, match="life 2 was begun"):
        await serve(again, world.store, lives)
    assert not again.started
    world.close()


async def test_a_server_of_the_last_life_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    world = World.build(tmp_path)
    lives = Lives(world.objects, world.homes._signer)
    server = uvicorn.Server(uvicorn.Config(Starlette(), port=0, log_config=None))
    serving = asyncio.ensure_future(
        serve(server, world.store, lives, look_every=timedelta(milliseconds=10))
    )
    await started(server, serving)
    await asyncio.sleep(0.05)
    assert not serving.done()
    server.should_exit = True
    await asyncio.wait_for(serving, 10)
    world.close()
