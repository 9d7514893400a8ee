"""A control plane stops working once a later life of it has begun."""

import asyncio
import logging
from datetime import timedelta

from controlplane.domain.errors import Conflict, FedctlError
from controlplane.store.engine import Store
from controlplane.vault.lives import Lives
from workflows.rounds import rounds

_log = logging.getLogger(__name__)
LOOK_EVERY = timedelta(seconds=30)


async def check_present(store: Store, lives: Lives) -> None:
    """Conflict when the store says that a later life was claimed; silent, it says nothing."""
    try:
        mine, newest = await asyncio.to_thread(_lives, store, lives)
    except FedctlError as error:
        _log.warning("which life of the control plane is the last cannot be seen: %s", error)
        return
    if newest > mine:
        raise Conflict(
            f"this is life {mine} of the control plane, and life {newest} was begun from a backup:"
            " this one does nothing any more; stop its processes for good"
        )


async def outlived(
    store: Store, lives: Lives, stop: asyncio.Event, *, look_every: timedelta = LOOK_EVERY
) -> None:
    """Returns at `stop`; raises what `check_present` raises, which it asks again and again."""
    await rounds(stop, look_every, lambda: check_present(store, lives))


def _lives(store: Store, lives: Lives) -> tuple[int, int]:
    with store.read() as tx:
        mine = tx.settings.life
    return mine, lives.newest()
