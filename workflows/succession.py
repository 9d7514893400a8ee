"""A control plane stops working once a later life of it has begun."""

import asyncio
import logging
from datetime import timedelta

from controlplane.domain.errors import Conflict, FedctlError
from controlplane.store.engine import Store
from controlplane.vault.lives import Lives

_log = logging.getLogger(__name__)
_LOOK_EVERY = timedelta(seconds=30)


async def outlived(
    store: Store, lives: Lives, stop: asyncio.Event, *, look_every: timedelta = _LOOK_EVERY
) -> None:
    """Returns at `stop`; Conflict when the store says that a later life was claimed.

    It looks before it waits for the first time. A store that does not answer says nothing.
    """
    while not stop.is_set():
        try:
            newest = await asyncio.to_thread(lives.newest)
            with store.read() as tx:
                mine = tx.settings.life
        except FedctlError as error:
            _log.warning("which life of the control plane is the last cannot be seen: %s", error)
        else:
            if newest > mine:
                raise Conflict(
                    f"this is life {mine} of the control plane, and life {newest} was begun from a"
                    " backup: this one does nothing any more; stop its processes for good"
                )
        try:
            await asyncio.wait_for(stop.wait(), look_every.total_seconds())
        except TimeoutError:
            continue
