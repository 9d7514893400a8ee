"""The NBD server behind a simulated qemu-nbd: one export over one stream."""

import asyncio
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drivers.simulators.faults import Direction, Faults
from drivers.simulators.sparse import data_ranges, is_zero

_OPTION_REPLY = 0x3E889045565A9
_SIMPLE, _STRUCTURED = 0x67446698, 0x668E33EF
_ACK, _SERVER, _INFO, _META = 1, 2, 3, 4
_ERR_UNSUPPORTED, _ERR_INVALID, _ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
_EXPORT_NAME, _ABORT, _LIST, _ASK_INFO, _GO, _STRUCTURED_REPLY = 1, 2, 3, 6, 7, 8
_LIST_META, _SET_META = 9, 10
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM, _WRITE_ZEROES, _BLOCK_STATUS = 0, 1, 2, 3, 4, 6, 7
_EPERM, _EIO, _EINVAL, _ENOSPC = 1, 5, 22, 28
_LARGEST = 32 << 20
_BASE_CONTEXT, _CONTEXT_ID, _DIRTY_ID = b"base:allocation", 1, 2
_DEPTH_CONTEXT, _DEPTH_ID = b"qemu:allocation-depth", 3
_GRANULE = 64 << 10
_MOST_RUNS = 512  # in one answer


class Reader(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Export:
    """A running qemu-nbd: what it serves, and who is connected.

    `content` opens what shows where that is not the bytes of the file.
    """

    pid: int
    arguments: list[str]
    socket: str
    name: str
    description: str
    file: Path
    readonly: bool
    content: "Callable[[], Content] | None" = None
    clients: set["asyncio.Task[None]"] = field(default_factory=set)


class Content(Protocol):
    """What an export shows; granules are of 64 KiB.

    `depths` tells in which file of a chain a granule is allocated, from 1; None: it is not told.
    """

    @property
    def size(self) -> int: ...
    @property
    def readonly(self) -> bool: ...
    @property
    def bitmap_name(self) -> str: ...
    @property
    def bitmap(self) -> frozenset[int] | None: ...
    @property
    def depths(self) -> Callable[[int], int] | None: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def zero(self, offset: int, length: int) -> None: ...
    def close(self) -> None: ...


class FileContent:
    """A file behind a qemu-nbd, maybe with what a bitmap says of it."""

    depths: Callable[[int], int] | None = None

    def __init__(
        self,
        file: Path,
        *,
        readonly: bool,
        bitmap_name: str = "",
        bitmap: frozenset[int] | None = None,
    ) -> None:
        self.readonly, self.bitmap_name, self.bitmap = readonly, bitmap_name, bitmap
        self._descriptor = os.open(file, os.O_RDONLY if readonly else os.O_RDWR)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        return data_ranges(self._descriptor, start=start, end=end)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._descriptor, data, offset)

    def zero(self, offset: int, length: int) -> None:
        _zero(self._descriptor, offset, length)

    def close(self) -> None:
        os.close(self._descriptor)


async def serve(export: Export, reader: Reader, writer: Writer, *, faults: Faults) -> None:
    """Speak NBD for one qemu-nbd until the client leaves."""

    def choose(name: str) -> Content | None:
        if name != export.name:
            return None
        if export.content is not None:
            return export.content()
        return FileContent(export.file, readonly=export.readonly)

    await serve_any(choose, [export.name], reader, writer, faults=faults)


async def serve_any(
    choose: Callable[[str], Content | None],
    names: Iterable[str],
    reader: Reader,
    writer: Writer,
    *,
    faults: Faults,
) -> None:
    """Speak NBD for a server of several exports until the client leaves."""
    session = _Session(choose, [*names], reader, writer, faults)
    try:
        if await session.negotiated():
            await session.transmission()
    finally:
        if session.content is not None:
            session.content.close()


class _Session:
    content: Content | None = None

    def __init__(
        self,
        choose: Callable[[str], Content | None],
        names: list[str],
        reader: Reader,
        writer: Writer,
        faults: Faults,
    ) -> None:
        self.choose, self.names = choose, names
        self.reader, self.writer, self.faults = reader, writer, faults
        self.structured = self.context = self.dirty = self.layered = False

    @property
    def it(self) -> Content:
        assert self.content is not None  # noqa: S101  # transmission begins with a choice
        return self.content

    @property
    def size(self) -> int:
        return self.it.size

    @property
    def flags(self) -> int:
        # has flags, flush, FUA, trim, write zeroes, DF, multi-conn; read-only where it is
        return 1 | 4 | 8 | 32 | 64 | 128 | (2 | 256 if self.it.readonly else 0)

    def chosen(self, name: str) -> bool:
        if self.content is None:
            self.content = self.choose(name)
        return self.content is not None

    async def negotiated(self) -> bool:
        """Fixed newstyle negotiation; whether transmission begins."""
        self.writer.write(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        (client,) = struct.unpack(">I", await self.reader.readexactly(4))
        while True:
            magic, option, length = struct.unpack(">8sII", await self.reader.readexactly(16))
            if magic != b"IHAVEOPT" or length > 4096:
                return False
            data = await self.reader.readexactly(length)
            if option == _EXPORT_NAME:
                if not self.chosen(data.decode()):
                    return False
                pad = b"" if client & 2 else bytes(124)
                self.writer.write(struct.pack(">QH", self.size, self.flags) + pad)
                return True
            if option == _ABORT:
                self._reply(option, _ACK)
                return False
            if self._optioned(option, data):
                return True

    def _optioned(self, option: int, data: bytes) -> bool:
        """Answer one option; True when it was a GO that goes."""
        if option in {_GO, _ASK_INFO}:
            (length,) = struct.unpack_from(">I", data)
            if not self.chosen(data[4 : 4 + length].decode()):
                self._reply(option, _ERR_UNKNOWN)
                return False
            self._reply(option, _INFO, struct.pack(">HQH", 0, self.size, self.flags))
            self._reply(option, _INFO, struct.pack(">HIII", 3, 1, 4096, _LARGEST))
            self._reply(option, _ACK)
            return option == _GO
        if option == _STRUCTURED_REPLY:
            self.structured = True
            self._reply(option, _ACK)
        elif option == _LIST:
            for known in self.names:
                name = known.encode()
                self._reply(option, _SERVER, struct.pack(">I", len(name)) + name)
            self._reply(option, _ACK)
        elif option in {_LIST_META, _SET_META}:
            self._contexts(option, data)
        else:
            self._reply(option, _ERR_UNSUPPORTED)
        return False

    def _contexts(self, option: int, data: bytes) -> None:
        if not self.structured:
            self._reply(option, _ERR_INVALID)
            return
        (length,) = struct.unpack_from(">I", data)
        if not self.chosen(data[4 : 4 + length].decode()):
            self._reply(option, _ERR_UNKNOWN)
            return
        wished = f"qemu:dirty-bitmap:{self.it.bitmap_name}".encode()
        if self.it.bitmap is not None and wished in data:
            self.dirty = self.dirty or option == _SET_META
            self._reply(option, _META, struct.pack(">I", _DIRTY_ID) + wished)
        if self.it.depths is not None and _DEPTH_CONTEXT in data:
            self.layered = self.layered or option == _SET_META
            self._reply(option, _META, struct.pack(">I", _DEPTH_ID) + _DEPTH_CONTEXT)
        if _BASE_CONTEXT in data:
            self.context = self.context or option == _SET_META
            self._reply(option, _META, struct.pack(">I", _CONTEXT_ID) + _BASE_CONTEXT)
        self._reply(option, _ACK)

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.writer.write(struct.pack(">QIII", _OPTION_REPLY, option, kind, len(data)) + data)

    async def transmission(self) -> None:
        while True:
            header = await self.reader.readexactly(28)
            magic, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", header)
            if magic != 0x25609513 or kind == _DISCONNECT:
                return
            data = await self.reader.readexactly(length) if kind == _WRITE else b""
            await asyncio.sleep(
                self.faults.transfer_seconds(length if kind in {_READ, _WRITE} else 0)
            )
            refusal = self._refusal(kind, offset, length)
            if refusal:
                self._error(cookie, refusal, kind)
            elif kind == _READ:
                self._read(cookie, offset, length)
            elif kind == _BLOCK_STATUS:
                self._status(cookie, offset, length)
            else:
                self._change(kind, cookie, offset, data or length)
            await self.writer.drain()

    def _refusal(self, kind: int, offset: int, length: int) -> int:
        if kind in {_WRITE, _TRIM, _WRITE_ZEROES} and self.it.readonly:
            return _EPERM
        if offset + length > self.size:
            return _ENOSPC if kind in {_WRITE, _WRITE_ZEROES} else _EINVAL
        if kind == _READ and length > _LARGEST:
            return _EINVAL
        if kind == _BLOCK_STATUS and not ((self.context or self.dirty or self.layered) and length):
            return _EINVAL
        known = {_READ, _WRITE, _FLUSH, _TRIM, _WRITE_ZEROES, _BLOCK_STATUS}
        return 0 if kind in known else _EINVAL

    def _read(self, cookie: int, offset: int, length: int) -> None:
        data = self.faults.passed(Direction.OUT, offset, self.it.read(offset, length))
        if not self.structured:
            self.writer.write(struct.pack(">IIQ", _SIMPLE, 0, cookie) + data)
        elif is_zero(data):
            self._chunk(cookie, 2, struct.pack(">QI", offset, length))  # a hole
        else:
            self._chunk(cookie, 1, struct.pack(">Q", offset) + data)

    def _change(self, kind: int, cookie: int, offset: int, what: bytes | int) -> None:
        try:
            if isinstance(what, bytes):
                data = self.faults.passed(Direction.IN, offset, what)
                self.it.write(offset, data)
            elif kind in {_TRIM, _WRITE_ZEROES}:
                self.it.zero(offset, what)
        except OSError:
            self._error(cookie, _EIO, kind)
            return
        self._done(cookie)

    def _status(self, cookie: int, offset: int, length: int) -> None:
        bitmap, depths = self.it.bitmap or frozenset(), self.it.depths
        if self.dirty:
            dirty = _marked(offset, length, bitmap)
            self._told(cookie, _DIRTY_ID, dirty, last=not (self.context or self.layered))
        if self.layered and depths is not None:
            depth = self._granules(offset, length, depths)
            self._told(cookie, _DEPTH_ID, depth, last=not self.context)
        if not self.context:
            return
        at, end, parts = offset, offset + length, b""
        for begin, count in self.it.ranges(offset, end):
            if begin > at:
                parts += struct.pack(">II", begin - at, 3)  # hole, reads as zeros
            parts += struct.pack(">II", count, 0)
            at = begin + count
            if len(parts) >= 8 * 1024:  # the rest is for the next question
                end = at
                break
        if at < end:
            parts += struct.pack(">II", end - at, 3)
        self._told(cookie, _CONTEXT_ID, parts, last=True)

    def _granules(self, offset: int, length: int, flags: Callable[[int], int]) -> bytes:
        """Runs of granules with the same flags."""
        at, parts = offset, b""
        while at < offset + length and len(parts) < 8 * 1024:
            begin, here = at, flags(at // _GRANULE)
            while at < offset + length and flags(at // _GRANULE) == here:
                at = min((at // _GRANULE + 1) * _GRANULE, offset + length)
            parts += struct.pack(">II", at - begin, here)
        return parts

    def _told(self, cookie: int, context: int, parts: bytes, *, last: bool) -> None:
        self._chunk(cookie, 5, struct.pack(">I", context) + parts, last=last)

    def _chunk(self, cookie: int, kind: int, data: bytes, *, last: bool = True) -> None:
        header = struct.pack(">IHHQI", _STRUCTURED, int(last), kind, cookie, len(data))
        self.writer.write(header + data)

    def _done(self, cookie: int) -> None:
        if self.structured:
            self._chunk(cookie, 0, b"")
        else:
            self.writer.write(struct.pack(">IIQ", _SIMPLE, 0, cookie))

    def _error(self, cookie: int, code: int, kind: int) -> None:
        if self.structured and kind in {_READ, _BLOCK_STATUS}:
            text = os.strerror(code).encode()
            self._chunk(cookie, 0x8001, struct.pack(">IH", code, len(text)) + text)
        else:
            self.writer.write(struct.pack(">IIQ", _SIMPLE, code, cookie))


def _zero(descriptor: int, offset: int, length: int) -> None:
    """Zero a range: where it already is a hole nothing is written."""
    for begin, count in list(data_ranges(descriptor, start=offset, end=offset + length)):
        at = begin
        while at < begin + count:
            at += os.pwrite(descriptor, bytes(min(1 << 20, begin + count - at)), at)


def _marked(offset: int, length: int, bitmap: Iterable[int]) -> bytes:
    """Runs of granules that are in a bitmap, and of those between."""
    end, runs = offset + length, list[list[int]]()
    for number in sorted(bitmap):
        begin, stop = max(number * _GRANULE, offset), min((number + 1) * _GRANULE, end)
        if begin >= stop:
            continue
        if runs and runs[-1][1] == begin:
            runs[-1][1] = stop
        else:
            runs.append([begin, stop])
    at, parts = offset, b""
    for begin, stop in [*runs[:_MOST_RUNS], [end, end]]:
        if len(runs) > _MOST_RUNS and begin == end:
            break  # the rest is for the next question
        if begin > at:
            parts += struct.pack(">II", begin - at, 0)
        if stop > begin:
            parts += struct.pack(">II", stop - begin, 1)
        at = stop
    return parts
