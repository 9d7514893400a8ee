"""The NBD server of a simulated host: VDIs, read-only, for who has a session.

Each reader is a VBD of the control domain, as xapi-nbd makes one; unplugging it cuts the reader.
"""

import os
import socket
import ssl
import struct
import threading
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

from drivers.simulators.faults import Direction
from drivers.simulators.xcpng.pool import Failure, Pool

MOST = 16
_OPTION_REPLY = 0x3E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_EXPORT_NAME, _ABORT, _LIST, _STARTTLS = 1, 2, 3, 5
_ACK, _UNSUPPORTED, _TLS_REQUIRED = 1, 0x80000001, 0x80000005
_READ, _DISCONNECT = 0, 2
_EINVAL, _EPERM, _EIO = 22, 1, 5
_LARGEST = 32 << 20
_IDLE_SECONDS = 60


class NbdServer:
    def __init__(self, pool: Pool, *, port: int, tls: ssl.SSLContext) -> None:
        self.pool, self.port, self._tls = pool, port, tls
        self._open: dict[str, socket.socket] = {}  # by VBD
        self._guard = threading.Lock()
        self._listening: socket.socket | None = None

    def start(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def stop(self) -> None:
        if self._listening is not None:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        for vbd in list(self._open):
            self.cut(vbd)

    def cut(self, vbd: str) -> None:
        with self._guard:
            stream = self._open.get(vbd)
        if stream is not None:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                stream, _ = listening.accept()
            except OSError:
                return
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.settimeout(_IDLE_SECONDS)
            threading.Thread(target=self._served, args=(stream,), daemon=True).start()

    def _served(self, stream: socket.socket) -> None:
        with suppress(OSError, ConnectionError, Failure, struct.error):
            try:
                self._serve(stream)
            finally:
                stream.close()

    # -- one reader ----------------------------------------------------------------------------

    def _serve(self, stream: socket.socket) -> None:
        stream.sendall(struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3))
        (flags,) = struct.unpack(">I", _received(stream, 4))
        must = not any("insecure_nbd" in n["purpose"] for n in self._networks())
        secure = False
        while True:
            magic, option, length = struct.unpack(">8sII", _received(stream, 16))
            data = _received(stream, min(length, 1 << 16))
            if magic != b"IHAVEOPT" or option == _ABORT:
                return
            if option == _STARTTLS and must and not secure:
                _option(stream, option, _ACK)
                stream = self._tls.wrap_socket(stream, server_side=True)
                secure = True
            elif must and not secure:
                if option == _EXPORT_NAME:
                    return
                _option(stream, option, _TLS_REQUIRED)
            elif option == _EXPORT_NAME:
                try:
                    self._export(stream, data.decode(), zeroes=not flags & 2)
                finally:
                    stream.close()
                return
            else:
                _option(stream, option, _ACK if option == _LIST else _UNSUPPORTED)

    def _networks(self) -> list[dict[str, list[str]]]:
        return list(self.pool.tables["network"].values())

    def _export(self, stream: socket.socket, name: str, *, zeroes: bool) -> None:
        pool, where = self.pool, urlsplit(name)
        pool.session(parse_qs(where.query).get("session_id", [""])[0])
        vdi = pool.by_uuid("VDI", where.path.lstrip("/"))
        if pool.row("VDI", vdi)["type"] == "cbt_metadata":
            return
        with pool.holding(vdi, "read"):
            control = pool.where("VM", is_control_domain=True)[0]
            with self._guard:
                if len(self._open) >= MOST:
                    return
                vbd = pool.add(
                    "VBD",
                    VM=control,
                    VDI=vdi,
                    userdevice=f"nbd{len(self._open)}",
                    mode="RO",
                    type="Disk",
                    bootable=False,
                    currently_attached=True,
                    other_config={},
                )
                self._open[vbd] = stream
            try:
                size = pool.row("VDI", vdi)["virtual_size"]
                stream.sendall(struct.pack(">QH", size, 3) + (bytes(124) if zeroes else b""))
                self._answer(stream, vdi, size)
            finally:
                with self._guard:
                    del self._open[vbd]
                pool.drop("VBD", vbd)

    def _answer(self, stream: socket.socket, vdi: str, size: int) -> None:
        with self.pool.file(vdi).open("rb") as file:
            while True:
                magic, _, kind, cookie, offset, length = struct.unpack(
                    ">IHHQQI", _received(stream, 28)
                )
                if magic != _REQUEST or kind == _DISCONNECT:
                    return
                error, data = 0, b""
                if kind != _READ:
                    error = _EPERM
                elif offset + length > size or length > _LARGEST:
                    error = _EINVAL
                else:
                    data = os.pread(file.fileno(), length, offset).ljust(length, b"\0")
                    data = self.pool.faults.passed(Direction.OUT, offset, data)
                    if wait := self.pool.faults.transfer_seconds(length):
                        self.pool.pause(wait)
                stream.sendall(struct.pack(">IIQ", _REPLY, error, cookie) + data)


def _option(stream: socket.socket, option: int, kind: int) -> None:
    stream.sendall(struct.pack(">QIII", _OPTION_REPLY, option, kind, 0))


def _received(stream: socket.socket, length: int) -> bytes:
    out = b""
    while len(out) < length:
        part = stream.recv(length - len(out))
        if not part:
            raise ConnectionError
        out += part
    return out
