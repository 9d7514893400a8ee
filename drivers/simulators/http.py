"""The HTTP side of simulated sites: a socket that goes down and comes back, and failures."""

import socket
import ssl
import struct
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, TypeVar

from drivers.simulators.faults import Fault, Garbage, Hang, LostAnswer, Reset, Status

S = TypeVar("S")
_IDLE_SECONDS = 60


class HttpServer(Generic[S]):
    """A listening socket; it can go down and come back on the same port.

    Its handlers find `site` at their `server`. What a client's hanging up raises is in `hung_up`.
    """

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        site: S,
        *,
        name: str,
        port: int,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        hung_up: tuple[type[Exception], ...] = (OSError,),
    ) -> None:
        self.site, self.port = site, port
        self._handler, self._name, self._address = handler, name, address
        self._tls, self._hung_up = tls, hung_up
        self._serving: Serving[S] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; an unset port is chosen once and kept."""
        where = (self._address, self.port)
        self._serving = Serving(where, self._handler, self.site, self._tls, self._hung_up)
        self.port = self._serving.server_address[1]
        self._thread = threading.Thread(
            target=self._serving.serve_forever, args=(0.05,), name=self._name
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse new connections and cut the open ones."""
        if self._serving is None or self._thread is None:
            return
        self._serving.ending.set()
        self._serving.shutdown()
        self._thread.join()
        self._serving.cut()
        self._serving.server_close()  # joins the connections' threads
        self._serving = None


class Serving(ThreadingHTTPServer, Generic[S]):
    """One life of the socket."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        site: S,
        tls: ssl.SSLContext | None,
        hung_up: tuple[type[Exception], ...],
    ) -> None:
        self.site = site
        self.ending = threading.Event()
        self._tls, self._hung_up = tls, hung_up
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, peer = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_IDLE_SECONDS)
        if self._tls is not None:
            # The handshake is the handler's: nobody else waits for a slow client.
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        with self._guard:
            self._open.add(connection)
        return connection, peer

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        with suppress(OSError):
            request.close()

    def cut(self) -> None:
        with self._guard:
            for connection in tuple(self._open):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is its own business; anything else is ours and is shown."""
        if not isinstance(sys.exc_info()[1], self._hung_up):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler, Generic[S]):
    """One connection, of which every request may fail as it was asked for."""

    server: Serving[S]
    protocol_version = "HTTP/1.1"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's word
        """Keep quiet: the tests' own output matters."""

    def tell(self, status: int, body: bytes, headers: Mapping[str, str], reason: str = "") -> None:
        """Answer with these headers and the body's length."""
        self.send_response(status, reason or None)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, fault: Fault, *, garbage: Mapping[str, str]) -> None:
        """Misbehave; `garbage` are the headers that bytes without sense come with."""
        match fault:
            case Status(code=code, body=body, headers=headers, reason=reason):
                self.tell(code, body, headers, reason)
            case Garbage(body=body):
                self.tell(200, body, garbage)
            case Hang():
                self.server.ending.wait()
                self.cut()
            case Reset():
                option = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                self.cut()
            case LostAnswer():
                raise AssertionError("its effect comes first")

    def cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
