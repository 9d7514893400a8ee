"""NBD: a small synchronous client.

Fixed newstyle negotiation, TLS, structured replies; `base:allocation`, and what QEMU tells of
changes: dirty bitmaps, and how deep in a chain of files something lies. Works on any connected
stream socket. Requests are of at most 256 KiB, which stay in the caches of who answers, and many
are sent before the first answer is awaited: a link's delay is paid once a call, and by writes not
before they are flushed. Each answer must end within the socket's timeout after the one before it.
"""

import errno
import itertools
import os
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from controlplane.domain.disk import ExtentKind
from controlplane.domain.errors import (
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
)
from drivers.disks.stream import TimedStream

_OPTION_REPLY = 0x3E889045565A9
_REQUEST, _SIMPLE, _STRUCTURED = 0x25609513, 0x67446698, 0x668E33EF
_EXPORT_NAME, _ABORT, _STARTTLS, _GO, _STRUCTURED_REPLY, _SET_META = 1, 2, 5, 7, 8, 10
_ACK, _INFO, _META = 1, 3, 4
_ERR_UNSUPPORTED, _ERR_UNKNOWN = 0x80000001, 0x80000006
_READ, _WRITE, _DISCONNECT, _FLUSH, _WRITE_ZEROES, _BLOCK_STATUS = 0, 1, 2, 3, 6, 7
_DATA, _HOLE, _STATUS, _ERROR = 1, 2, 5, 0x8000
_FLAG_READ_ONLY, _FLAG_FLUSH, _FLAG_ZEROES = 2, 4, 64
_CONTEXT = b"base:allocation"
_DIRTY, _DEPTH = b"qemu:dirty-bitmap:", b"qemu:allocation-depth"
_IS_ZERO, _IS_DIRTY = 2, 1
_PIECE = 1 << 18
_ZERO_SPAN = 1 << 30
_JOINED = 1 << 14
_IN_FLIGHT, _ZEROS_IN_FLIGHT = 64, 16
_LONGEST_REPLY = 1 << 26
_LONGEST_OPTION, _MOST_REPLIES = 1 << 20, 64
_MOST_EXTENTS = 1 << 20
_FAREWELL = struct.pack(">IHHQQI", _REQUEST, 0, _DISCONNECT, 0, 0, 0)

R = TypeVar("R")
Secure = Callable[[socket.socket], socket.socket]


@dataclass(slots=True, kw_only=True)
class _Reply:
    """What came for one request."""

    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    error: int = 0


@dataclass(slots=True, kw_only=True)
class _Piece:
    """Where the bytes of a read go, and how many have not come yet."""

    at: int
    place: memoryview
    missing: int


class NbdConnection:
    """One client connection to one export. Used by one thread at a time."""

    def __init__(
        self,
        stream: socket.socket,
        export: str,
        *,
        where: str,
        bitmap: str | None = None,
        layers: int = 0,
        secure: Secure | None = None,
    ) -> None:
        """Negotiate; the stream belongs to the connection from here on.

        Changed is what a dirty bitmap of QEMU's (`bitmap`) says, or what lies in the topmost
        `layers` files of a chain; NotFound when the export does not tell it. `secure` puts TLS on
        the stream before anything else is said.
        """
        self.where = where
        self._stream = TimedStream(stream)
        self._cookies = itertools.count(1)
        self._owed: dict[int, _Reply] = {}
        self.size = 0
        self._flags = 0
        self._context: int | None = None
        self._changes: int | None = None
        self._told_by = b"" if bitmap is None else _DIRTY + bitmap.encode()
        if layers:
            self._told_by = _DEPTH
        self._layers = layers
        try:
            self._negotiate(export.encode(), secure)
        except BaseException:
            self._stream.close()
            raise

    @classmethod
    def over_unix(
        cls,
        path: Path,
        export: str,
        *,
        timeout: float,
        bitmap: str | None = None,
        layers: int = 0,
    ) -> "NbdConnection":
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(timeout)
        try:
            stream.connect(str(path))
        except OSError as e:
            stream.close()
            raise Unavailable(f"disk export at {path}: nobody answers; prepare it again") from e
        return cls(stream, export, where=str(path), bitmap=bitmap, layers=layers)

    @classmethod
    def over_tcp(
        cls, host: str, port: int, export: str, *, timeout: float, secure: Secure | None = None
    ) -> "NbdConnection":
        try:
            stream = socket.create_connection((host, port), timeout=timeout)
        except OSError as e:
            raise Unavailable(f"disk export at {host}:{port}: nobody answers") from e
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(stream, export, where=f"{host}:{port}", secure=secure)

    @property
    def read_only(self) -> bool:
        return bool(self._flags & _FLAG_READ_ONLY)

    def read_each(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, length), all asked for before the first answer is awaited."""
        for offset, length in parts:
            self._inside(offset, length)
        self._settle()
        out = [bytearray(length) for _, length in parts]
        pieces = (
            (offset + at, memoryview(whole)[at : at + _PIECE])
            for (offset, length), whole in zip(parts, out, strict=True)
            for at in range(0, length, _PIECE)
        )
        waiting: dict[int, _Piece] = {}
        while True:
            for at, place in itertools.islice(pieces, _IN_FLIGHT - len(waiting)):
                cookie = self._ask(_READ, at, len(place))
                waiting[cookie] = _Piece(at=at, place=place, missing=len(place))
            if not waiting:
                return [bytes(whole) for whole in out]
            self._read_reply(waiting)

    def write(self, offset: int, data: bytes) -> None:
        """Done when a later `flush` returned; a write that failed fails what follows it."""
        self._writable(offset, len(data))
        whole = memoryview(data)
        for at in range(0, len(data), _PIECE):
            part = whole[at : at + _PIECE]
            self._owed[self._ask(_WRITE, offset + at, len(part), part)] = _Reply()
            self._settle(_IN_FLIGHT)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._writable(offset, length)
        if not self._flags & _FLAG_ZEROES:
            for at in range(offset, offset + length, _PIECE):
                self.write(at, bytes(min(_PIECE, offset + length - at)))
            return
        for at in range(offset, offset + length, _ZERO_SPAN):
            count = min(_ZERO_SPAN, offset + length - at)
            self._owed[self._ask(_WRITE_ZEROES, at, count)] = _Reply()
            self._settle(_ZEROS_IN_FLIGHT)

    def flush(self) -> None:
        """Everything written is durable when this returns."""
        self._settle()
        if self._flags & _FLAG_FLUSH:
            self._answered(self._ask(_FLUSH, 0, 0), "flush")

    def block_status(self, offset: int, length: int) -> list[tuple[int, ExtentKind]]:
        """(length, kind) from `offset` on, as far as the server tells at once.

        Unchanged is what the bitmap or the chain says is old, zero what reads as zeros, data the
        rest: all of it, where a server tells neither.
        """
        self._inside(offset, length)
        self._settle()
        if self._context is None and self._changes is None:
            return [(length, ExtentKind.DATA)]
        reply = self._answered(self._ask(_BLOCK_STATUS, offset, length), "block status")
        zeros = [(length, False)]
        if self._context is not None:
            zeros = self._told(reply, self._context, lambda flags: bool(flags & _IS_ZERO), length)
        dirty = [(length, True)]
        if self._changes is not None:
            dirty = self._told(reply, self._changes, self._is_changed, length)
        found: list[tuple[int, ExtentKind]] = []
        while zeros and dirty:
            (zero_for, zero), (dirty_for, changed) = zeros.pop(), dirty.pop()
            both = min(zero_for, dirty_for)
            zeros += [(zero_for - both, zero)] if zero_for > both else []
            dirty += [(dirty_for - both, changed)] if dirty_for > both else []
            found.append((both, _kind(zero=zero, changed=changed)))
        return found

    def _is_changed(self, flags: int) -> bool:
        return 0 < flags <= self._layers if self._layers else bool(flags & _IS_DIRTY)

    def _told(
        self, reply: _Reply, context: int, means: Callable[[int], bool], length: int
    ) -> list[tuple[int, bool]]:
        """What a context says of at most `length` bytes, the last first."""
        told, left = list[tuple[int, bool]](), length
        for count, flags in reply.extents.get(context, []):
            if not count:
                raise self._garbled("an empty block status")
            if left:
                told.append((min(count, left), means(flags)))
                left -= told[-1][0]
        if not told:
            raise self._garbled("an empty block status")
        return told[::-1]

    def close(self) -> None:
        """Say goodbye if anybody listens; twice is fine."""
        self._stream.close(_FAREWELL)

    # -- negotiation ---------------------------------------------------------------------------

    def _negotiate(self, export: bytes, secure: Secure | None) -> None:
        magic, style, flags = struct.unpack(">8s8sH", self._received(18))
        if magic != b"NBDMAGIC" or style != b"IHAVEOPT" or not flags & 1:
            raise self._garbled("no fixed newstyle greeting")
        self._send(struct.pack(">I", flags & 3))
        if secure is not None:
            self._secured(secure)
        structured = self._option(_STRUCTURED_REPLY, b"")[-1][0] == _ACK
        if structured:
            self._ask_contexts(export)
        go = struct.pack(">I", len(export)) + export + struct.pack(">H", 0)
        replies = self._option(_GO, go)
        for kind, data in replies:
            if kind == _INFO and data[:2] == b"\0\0":
                self.size, self._flags = self._unpacked(">QH", data[2:12])
        last = replies[-1][0]
        if last == _ERR_UNKNOWN:
            raise NotFound(f"disk export at {self.where}: it has no export of that name")
        if last == _ERR_UNSUPPORTED:
            self._export_by_name(export, zeroes=not flags & 2)
        elif last != _ACK:
            raise self._garbled(f"option reply {last:#x}")
        if self._told_by and self._changes is None:
            raise NotFound(
                f"disk export at {self.where}: it does not tell {self._told_by.decode()}"
            )

    def _secured(self, secure: Secure) -> None:
        if self._option(_STARTTLS, b"")[-1][0] != _ACK:
            raise self._garbled("no TLS")
        try:
            self._stream.secure(secure)
        except ssl.SSLCertVerificationError as e:
            raise Integrity(
                f"disk export at {self.where}: its certificate is not the one that was announced:"
                " look who answers there"
            ) from e
        except OSError as e:
            raise self._gone() from e

    def _export_by_name(self, export: bytes, *, zeroes: bool) -> None:
        """As servers before NBD_OPT_GO have it: one that refuses hangs up."""
        self._send(struct.pack(">8sII", b"IHAVEOPT", _EXPORT_NAME, len(export)) + export)
        self.size, self._flags = struct.unpack(">QH", self._received(10))
        if zeroes:
            self._received(124)

    def _ask_contexts(self, export: bytes) -> None:
        query = struct.pack(">I", len(export)) + export
        wished = [name for name in (_CONTEXT, self._told_by) if name]
        query += struct.pack(">I", len(wished))
        query += b"".join(struct.pack(">I", len(name)) + name for name in wished)
        for kind, data in self._option(_SET_META, query):
            if kind == _META and data[4:] == _CONTEXT:
                (self._context,) = self._unpacked(">I", data[:4])
            elif kind == _META and data[4:] == self._told_by:
                (self._changes,) = self._unpacked(">I", data[:4])

    def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        """Send an option and collect its replies up to the ack or the error."""
        self._send(struct.pack(">8sII", b"IHAVEOPT", option, len(data)) + data)
        replies = list[tuple[int, bytes]]()
        while len(replies) < _MOST_REPLIES:
            magic, about, kind, length = struct.unpack(">QIII", self._received(20))
            if magic != _OPTION_REPLY or about != option or length > _LONGEST_OPTION:
                raise self._garbled("an option reply that answers nothing")
            replies.append((kind, self._received(length)))
            if kind == _ACK or kind & 0x80000000:
                return replies
        raise self._garbled("replies to an option without an end")

    # -- transmission --------------------------------------------------------------------------

    def _ask(self, kind: int, offset: int, length: int, data: bytes | memoryview = b"") -> int:
        cookie = next(self._cookies)
        header = struct.pack(">IHHQQI", _REQUEST, 0, kind, cookie, offset, length)
        if len(data) < _JOINED:
            self._send(header + bytes(data))
        else:
            self._send(header)
            self._send(data)
        return cookie

    def _answered(self, cookie: int, what: str) -> _Reply:
        reply = _Reply()
        while self._chunk({cookie: reply}) is None:
            pass
        if reply.error:
            raise self._refused(reply.error, what)
        return reply

    def _settle(self, most: int = 0) -> None:
        """Take in answers to writes until at most so many are owed."""
        while len(self._owed) > most:
            done = self._chunk(self._owed)
            if done is None:
                continue
            self._stream.begin()
            if error := self._owed.pop(done).error:
                raise self._refused(error, "write")

    def _read_reply(self, waiting: dict[int, _Piece]) -> None:
        """Take in one chunk of any of the reads that are under way."""
        (magic,) = struct.unpack(">I", self._received(4))
        if magic == _SIMPLE:
            error, cookie = struct.unpack(">IQ", self._received(12))
            piece = self._known(waiting, cookie)
            if error:
                raise self._refused(error, f"read at {piece.at}")
            self._received_into(piece.place)
            piece.missing, last = 0, True
        else:
            cookie, last = self._read_chunk(magic, waiting)
        if last:
            if waiting.pop(cookie).missing:
                raise self._garbled("less than was asked for")
            self._stream.begin()

    def _read_chunk(self, magic: int, waiting: dict[int, _Piece]) -> tuple[int, bool]:
        """Whose structured chunk it was, and whether it was the last."""
        flags, kind, cookie, length = self._structured_header(magic)
        piece = self._known(waiting, cookie)
        if kind == _DATA:
            (offset,) = struct.unpack(">Q", self._received(8))
            part = self._part(piece.place, offset - piece.at, length - 8)
            self._received_into(part)
            piece.missing -= len(part)
        elif kind == _HOLE:
            offset, count = struct.unpack(">QI", self._received(12))
            # What it is read into is zero already.
            piece.missing -= len(self._part(piece.place, offset - piece.at, count))
        elif kind & _ERROR:
            (error,) = self._unpacked(">I", self._received(length)[:4])
            raise self._refused(error, f"read at {piece.at}")
        else:
            self._received(length)
        return cookie, bool(flags & 1)

    def _chunk(self, waiting: dict[int, _Reply]) -> int | None:
        """Take in one chunk of a reply that is no read; the reply's number when it was the last."""
        (magic,) = struct.unpack(">I", self._received(4))
        if magic == _SIMPLE:
            error, cookie = struct.unpack(">IQ", self._received(12))
            self._known(waiting, cookie).error = error
            return int(cookie)
        flags, kind, cookie, length = self._structured_header(magic)
        body = self._received(length)
        reply = self._known(waiting, cookie)
        if kind & _ERROR:
            (reply.error,) = self._unpacked(">I", body[:4])
        elif kind == _STATUS:
            (context,) = self._unpacked(">I", body[:4])
            told = reply.extents.setdefault(context, [])
            if (len(body) - 4) % 8 or len(told) > _MOST_EXTENTS:
                raise self._garbled("a block status of another shape")
            told.extend(struct.iter_unpack(">II", body[4:]))
        return cookie if flags & 1 else None

    def _structured_header(self, magic: int) -> tuple[int, int, int, int]:
        if magic != _STRUCTURED:
            raise self._garbled("a reply without its magic number")
        flags, kind, cookie, length = struct.unpack(">HHQI", self._received(16))
        if length > _LONGEST_REPLY:
            raise self._garbled(f"a reply of {length} bytes")
        return flags, kind, cookie, length

    def _known(self, waiting: dict[int, R], cookie: int) -> R:
        if cookie not in waiting:
            raise self._garbled("an answer that nobody asked for")
        return waiting[cookie]

    def _part(self, place: memoryview, start: int, length: int) -> memoryview:
        if start < 0 or length < 0 or start + length > len(place):
            raise self._garbled("bytes outside of what was asked")
        return place[start : start + length]

    # -- bytes ---------------------------------------------------------------------------------

    def _inside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Invalid(
                f"bytes {offset} to {offset + length} are outside of the disk ({self.size} bytes)"
            )

    def _writable(self, offset: int, length: int) -> None:
        self._inside(offset, length)
        if self.read_only:
            raise Denied(f"disk export at {self.where} is read-only: open it as an import")

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._stream.begin()
            self._stream.send(data)
        except OSError as e:
            raise self._gone() from e

    def _received(self, length: int) -> bytes:
        out = bytearray(length)
        self._received_into(memoryview(out))
        return bytes(out)

    def _received_into(self, place: memoryview) -> None:
        try:
            self._stream.fill(place)
        except OSError as e:
            raise self._gone() from e

    def _unpacked(self, form: str, data: bytes) -> tuple[int, ...]:
        try:
            return struct.unpack(form, data)
        except struct.error as e:
            raise self._garbled("a reply that is too short") from e

    def _gone(self) -> Unavailable:
        return Unavailable(
            f"disk export at {self.where}: the connection ended or did not answer in time;"
            " it may have been revoked: prepare it again"
        )

    def _garbled(self, what: str) -> Unavailable:
        return Unavailable(
            f"disk export at {self.where}: the answer is no NBD", detail=f"received {what}"
        )

    def _refused(self, code: int, what: str) -> FedctlError:
        text = f"disk export at {self.where}: {what} failed: {os.strerror(code & 0xFFFF)}"
        if code == errno.EPERM:
            return Denied(text)
        if code == errno.ENOSPC:
            return Exhausted(text)
        return Invalid(text) if code == errno.EINVAL else Unavailable(text)


def _kind(*, zero: bool, changed: bool) -> ExtentKind:
    if not changed:
        return ExtentKind.UNCHANGED
    return ExtentKind.ZERO if zero else ExtentKind.DATA
