"""What was written to a target is made durable now and then, and told to whoever goes on."""

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

from controlplane.domain.disk import BlockWriter

EVERY = 10.0
"""Seconds."""
T = TypeVar("T")


class Durable(Generic[T]):
    """Called by any thread after it wrote; one of them is at it at a time.

    `here` tells what is written, under `counting`; the writer is used under `writing`.
    """

    def __init__(
        self,
        writer: BlockWriter,
        *,
        writing: Lock,
        counting: Lock,
        here: Callable[[], T],
        reached: Callable[[T], None],
    ) -> None:
        self._writer = writer
        self._writing, self._counting = writing, counting
        self._here, self._reached = here, reached
        self._at, self._busy = monotonic(), False

    def __call__(self) -> None:
        with self._counting:
            if self._busy or monotonic() - self._at < EVERY:
                return
            self._busy, here = True, self._here()
        with self._writing:
            self._writer.finish()
        self._reached(here)
        with self._counting:
            self._at, self._busy = monotonic(), False
