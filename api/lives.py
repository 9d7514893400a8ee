"""A server of the control plane ends once a later life of it has begun."""

import asyncio
import sys
from datetime import timedelta

import uvicorn

from controlplane.domain.errors import Conflict
from controlplane.services.assembly import Assembly
from controlplane.store.engine import Store
from controlplane.vault.lives import Lives
from workflows.succession import LOOK_EVERY, check_present, outlived


def run(server: uvicorn.Server, parts: Assembly) -> None:
    """Serve until told to stop; exits with the reason in the life that is not the last."""
    try:
        asyncio.run(serve(server, parts.store, parts.lives))
    except Conflict as later:
        sys.exit(str(later))


async def serve(
    server: uvicorn.Server, store: Store, lives: Lives, *, look_every: timedelta = LOOK_EVERY
) -> None:
    """Conflict, at the start or later on, when a later life was claimed."""
    await check_present(store, lives)
    stop = asyncio.Event()
    looking = asyncio.ensure_future(outlived(store, lives, stop, look_every=look_every))

    def end(_: object) -> None:
        server.should_exit = True

    looking.add_done_callback(end)
    await server.serve()
    stop.set()
    await looking
