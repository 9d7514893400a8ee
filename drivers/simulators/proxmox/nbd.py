"""The NBD server behind a simulated qemu-nbd: one export over one stream."""

import asyncio
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drivers.simulators.faults import Direction, Faults
from drivers.simulators.proxmox.storage import data_ranges, is_zero

_OPTION_REPLY = 0x3E889045565A9
_SIMPLE, _STRUCTURED = 0x67446698, 0x668E33EF
_ACK, _SERVER, _INFO, _META = 1, 2, 3, 4
_ERR_UNSUPPORTED, _ERR_INVALID, _ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
_EXPORT_NAME, _ABORT, _LIST, _ASK_INFO, _GO, _STRUCTURED_REPLY = 1, 2, 3, 6, 7, 8
_LIST_META, _SET_META = 9, 10
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM, _WRITE_ZEROES, _BLOCK_STATUS = 0, 1, 2, 3, 4, 6, 7
_EPERM, _EIO, _EINVAL, _ENOSPC = 1, 5, 22, 28
_LARGEST = 32 << 20
_BASE_CONTEXT, _CONTEXT_ID = b"base:allocation", 1


class Reader(Protocol):
    async def readexactly(self, n: int, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Export:
    """A running qemu-nbd: what it serves, and who is connected."""

    pid: int
    arguments: list[str]
    socket: str
    name: str
    description: str
    file: Path
    readonly: bool
    clients: set["asyncio.Task[None]"] = field(default_factory=set)


async def serve(export: Export, reader: Reader, writer: Writer, *, faults: Faults) -> None:
    """Speak NBD until the client leaves."""
    session = _Session(export, reader, writer, faults)
    try:
        if await session.negotiated():
            await session.transmission()
    finally:
        os.close(session.descriptor)


class _Session:
    def __init__(self, export: Export, reader: Reader, writer: Writer, faults: Faults) -> None:
        self.export, self.reader, self.writer, self.faults = export, reader, writer, faults
        mode = os.O_RDONLY if export.readonly else os.O_RDWR
        self.descriptor = os.open(export.file, mode)
        self.size = os.fstat(self.descriptor).st_size
        self.structured = self.context = False
        # has flags, flush, FUA, trim, write zeroes, DF, multi-conn; read-only where it is
        self.flags = 1 | 4 | 8 | 32 | 64 | 128 | (2 | 256 if export.readonly else 0)

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
                if data.decode() != self.export.name:
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
            if data[4 : 4 + length].decode() != self.export.name:
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
            name = self.export.name.encode()
            self._reply(option, _SERVER, struct.pack(">I", len(name)) + name)
            self._reply(option, _ACK)
        elif option in {_LIST_META, _SET_META}:
            if not self.structured:
                self._reply(option, _ERR_INVALID)
                return False
            if _BASE_CONTEXT in data:
                self.context = self.context or option == _SET_META
                self._reply(option, _META, struct.pack(">I", _CONTEXT_ID) + _BASE_CONTEXT)
            self._reply(option, _ACK)
        else:
            self._reply(option, _ERR_UNSUPPORTED)
        return False

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
        if kind in {_WRITE, _TRIM, _WRITE_ZEROES} and self.export.readonly:
            return _EPERM
        if offset + length > self.size:
            return _ENOSPC if kind in {_WRITE, _WRITE_ZEROES} else _EINVAL
        if kind == _READ and length > _LARGEST:
            return _EINVAL
        if kind == _BLOCK_STATUS and not (self.context and length):
            return _EINVAL
        known = {_READ, _WRITE, _FLUSH, _TRIM, _WRITE_ZEROES, _BLOCK_STATUS}
        return 0 if kind in known else _EINVAL

    def _read(self, cookie: int, offset: int, length: int) -> None:
        data = self.faults.passed(Direction.OUT, offset, os.pread(self.descriptor, length, offset))
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
                os.pwrite(self.descriptor, data, offset)
            elif kind in {_TRIM, _WRITE_ZEROES}:
                _zero(self.descriptor, offset, what)
        except OSError:
            self._error(cookie, _EIO, kind)
            return
        self._done(cookie)

    def _status(self, cookie: int, offset: int, length: int) -> None:
        at, end, parts = offset, offset + length, b""
        for begin, count in data_ranges(self.descriptor, start=offset, end=end):
            if begin > at:
                parts += struct.pack(">II", begin - at, 3)  # hole, reads as zeros
            parts += struct.pack(">II", count, 0)
            at = begin + count
            if len(parts) >= 8 * 1024:  # the rest is for the next question
                end = at
                break
        if at < end:
            parts += struct.pack(">II", end - at, 3)
        self._chunk(cookie, 5, struct.pack(">I", _CONTEXT_ID) + parts)

    def _chunk(self, cookie: int, kind: int, data: bytes) -> None:
        header = struct.pack(">IHHQI", _STRUCTURED, 1, kind, cookie, len(data))
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
