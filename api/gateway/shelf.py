"""Opened images that all clients share, and blocks of them for who asks for small parts."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from controlplane.domain.disk import KIB, MIB, BlockReader, DiskFormat
from controlplane.domain.errors import Integrity
from controlplane.domain.placement import Served
from drivers.disks.image import image_file, served_as
from drivers.disks.raw import ByteSource

BLOCK = 64 * KIB
_AHEAD = 16
_BLOCKS_KEPT = 64 * MIB // BLOCK
_AT_REST = 4
_THREADS = 8

T = TypeVar("T")
_Key = tuple[str, int, str, int, str]


@dataclass(slots=True, kw_only=True)
class _Held:
    opening: "asyncio.Future[ByteSource]"
    users: int = 0


class Shelf:
    """Each image is opened once, read by many threads, and stays open a while without users.

    For one event loop; only opening and reading happen in threads. What `open_disk` gives must be
    fit for many threads.
    """

    def __init__(self, open_disk: Callable[[Served], BlockReader]) -> None:
        self._open = open_disk
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="image")
        self._held: OrderedDict[_Key, _Held] = OrderedDict()
        self._blocks: OrderedDict[tuple[_Key, int], bytes] = OrderedDict()
        self._closed = False

    async def read(self, image: ByteSource, offset: int, length: int) -> bytes:
        return await self._in_thread(lambda: image.read(offset, length))

    @asynccontextmanager
    async def image(self, served: Served) -> AsyncIterator[ByteSource]:
        """The open image; Integrity when it is not as long as was announced."""
        key = _key(served)
        held = self._held.get(key)
        if held is None or _failed(held.opening):
            opening = asyncio.ensure_future(self._in_thread(lambda: self._opened(served)))
            held = self._held[key] = _Held(opening=opening)
        held.users += 1
        try:
            # Whoever gives up does not end it for the others.
            yield await asyncio.shield(held.opening)
        finally:
            held.users -= 1
            if self._held.get(key) is held:
                self._held.move_to_end(key)
            await self._tidy()

    def kept(self, served: Served, start: int, length: int) -> bytes | None:
        """A small part, if its blocks are at hand; never waits."""
        key = _key(served)
        first, end = start // BLOCK, -(-(start + length) // BLOCK)
        blocks = [self._blocks.get((key, number)) for number in range(first, end)]
        at = start - first * BLOCK
        if len(blocks) == 1 and blocks[0] is not None:
            return blocks[0][at : at + length]
        if None in blocks:
            return None
        return b"".join(block for block in blocks if block is not None)[at : at + length]

    async def small(self, served: Served, start: int, length: int) -> bytes:
        """A small part; a client that goes on forward gets the next megabyte read along."""
        key = _key(served)
        first, end = start // BLOCK, -(-(start + length) // BLOCK)
        if not first or (key, first - 1) in self._blocks:
            end = max(end, first + _AHEAD)
        begin, stop = first * BLOCK, min(end * BLOCK, served.length)
        async with self.image(served) as image:
            data = await self.read(image, begin, stop - begin)
        for at in range(0, len(data), BLOCK):
            self._blocks[key, (begin + at) // BLOCK] = data[at : at + BLOCK]
        while len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return data[start - begin : start - begin + length]

    async def close(self) -> None:
        self._closed = True
        await self._tidy()
        self._pool.shutdown()

    # -- inside --------------------------------------------------------------------------------

    async def _in_thread(self, do: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, do)

    def _opened(self, served: Served) -> ByteSource:
        image = self._file(served)
        if image.size != served.length:
            image.close()
            raise Integrity(
                f"disk {served.disk} of recovery point {served.point} makes an image of"
                f" {image.size} bytes, not the {served.length} that were announced"
            )
        return image

    def _file(self, served: Served) -> ByteSource:
        disk = self._open(served)
        try:
            of = served_as(served.point, served.disk)
            return image_file(disk, DiskFormat(served.format), of=of)
        except BaseException:
            disk.close()
            raise

    async def _tidy(self) -> None:
        """Close what nobody uses and too many others rest beside; forget what did not open.

        One after the other, looking anew: while one is closed another may be wanted again.
        """
        while (key := self._longest_at_rest()) is not None:
            image = self._held.pop(key).opening.result()
            for block in [each for each in self._blocks if each[0] == key]:
                del self._blocks[block]
            await self._in_thread(image.close)

    def _longest_at_rest(self) -> _Key | None:
        idle = [key for key, held in self._held.items() if not held.users and held.opening.done()]
        failed = [key for key in idle if _failed(self._held[key].opening)]
        for key in failed:
            del self._held[key]
        resting = [key for key in idle if key not in failed]
        return resting[0] if len(resting) > (0 if self._closed else _AT_REST) else None


def _failed(opening: "asyncio.Future[ByteSource]") -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


def _key(served: Served) -> _Key:
    """Tokens for the same bytes share an image."""
    return served.point, served.disk, served.format, served.length, served.sha256
