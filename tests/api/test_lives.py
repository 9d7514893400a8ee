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


class Serving:
    """A server that serves, of a control plane whose lives are looked at all the time."""

    def __init__(self, folder: Path) -> None:
        self.world = World.build(folder)
        self.lives = Lives(self.world.objects, self.world.homes._signer)
        self.server = server()

    async def begun(self) -> asyncio.Future[None]:
        look_every = timedelta(milliseconds=10)
        serving = asyncio.ensure_future(
            serve(self.server, self.world.store, self.lives, look_every=look_every)
        )
        while not self.server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        return serving


def server() -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(Starlette(), port=0, log_config=None))


async def test_a_server_ends_when_a_later_life_begins(tmp_path: Path) -> None:
    old = Serving(tmp_path)
    serving = await old.begun()
    old.lives.claim(uuid4())
    with pytest.raises(Conflict, match="life 2 was begun"):
        await asyncio.wait_for(serving, 10)
    again = server()
    with pytest.raises(Conflict, match="life 2 was begun"):
        await serve(again, old.world.store, old.lives)
    assert not again.started
    old.world.close()


async def test_a_server_of_the_last_life_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    last = Serving(tmp_path)
    serving = await last.begun()
    await asyncio.sleep(0.05)
    assert not serving.done()
    last.server.should_exit = True
    await asyncio.wait_for(serving, 10)
    last.world.close()
