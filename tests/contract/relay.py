"""A relay before a server that may turn hostile: what it had promised it then does not keep."""

import select
import socket
import threading
import time
from contextlib import suppress
from enum import StrEnum
from typing import Self

DRIP_SECONDS = 0.1
_connect = socket.create_connection  # a test may lead others astray, not the relay
_HEAD = b"\r\n\r\n"
_PART = 1 << 16


class Manner(StrEnum):
    """How connections are treated, those that stand already as well."""

    WELL = "well"
    DEAF = "deaf"  # accepts, reads, never answers: not even a handshake of TLS
    DRIPPING = "dripping"  # a byte every now and then, sooner than any timeout
    HALTING = "halting"  # the head of an answer and a little more


class Relay:
    """Listens on a port of its own.

    With `renaming` an address of the server in its answers becomes the relay's, so that who
    follows it comes here; nothing else may be as long as a port.
    """

    def __init__(self, port: int, *, renaming: bool = False) -> None:
        self._to, self._renaming = ("127.0.0.1", port), renaming
        self.manner = Manner.WELL
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open = True
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        for each in [self._listening, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._thread.join()

    def _accept(self) -> None:
        while self._open:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(near)
            threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        with suppress(OSError, ValueError), _connect(self._to) as far:
            self._sockets.append(far)
            while self._open:
                ready, _, _ = select.select([near, far], [], [])
                if near in ready:
                    if not (asked := near.recv(_PART)):
                        break
                    if self.manner is not Manner.DEAF:
                        far.sendall(asked)
                if far in ready:
                    if not (told := far.recv(_PART)):
                        break
                    self._tell(near, told)
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    def _tell(self, near: socket.socket, told: bytes) -> None:
        if self._renaming:
            told = told.replace(b":%d/" % self._to[1], b":%d/" % self.port)
        match self.manner:
            case Manner.WELL:
                near.sendall(told)
            case Manner.DRIPPING:
                while told and self.manner is Manner.DRIPPING:
                    near.sendall(told[:1])
                    told = told[1:]
                    time.sleep(DRIP_SECONDS)
                near.sendall(told)
            case Manner.HALTING:
                head, found, _ = told.partition(_HEAD)
                near.sendall(head + found + b"{" if found else told[:10])
                while self._open and self.manner is Manner.HALTING:
                    time.sleep(DRIP_SECONDS)
            case Manner.DEAF:
                pass
