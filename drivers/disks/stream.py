"""A connected stream of which one answer is awaited for a time, however slowly its bytes drip."""

import math
import socket
import time
from collections.abc import Callable


class TimedStream:
    """The socket's own timeout is the patience, counted from `begin` and not from the last byte.

    Every failure is an OSError, the far side's end of the connection included.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._patience = stream.gettimeout()
        self._end = math.inf
        self.begin()

    def begin(self) -> None:
        """An answer is awaited from now on."""
        self._end = math.inf if self._patience is None else time.monotonic() + self._patience

    def send(self, data: bytes | memoryview) -> None:
        self._stream.settimeout(self._patience)
        self._stream.sendall(data)

    def some(self, most: int) -> bytes:
        """At least one byte."""
        self._wait()
        got = self._stream.recv(most)
        if not got:
            raise ConnectionResetError("the far side ended the connection")
        return got

    def fill(self, place: memoryview) -> None:
        got = 0
        while got < len(place):
            self._wait()
            count = self._stream.recv_into(place[got:])
            if not count:
                raise ConnectionResetError("the far side ended the connection")
            got += count

    def secure(self, wrap: Callable[[socket.socket], socket.socket]) -> None:
        """Go on inside of what `wrap` makes of the socket."""
        self._stream.settimeout(self._patience)
        self._stream = wrap(self._stream)

    def close(self, farewell: bytes = b"") -> None:
        """Say goodbye if anybody listens; twice is fine."""
        if self._stream.fileno() < 0:
            return
        try:
            self._stream.settimeout(1)
            self._stream.sendall(farewell)
        except OSError:
            pass  # the far side is gone already, which is what we want
        finally:
            self._stream.close()

    def _wait(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not end in time")
        self._stream.settimeout(None if left == math.inf else left)
