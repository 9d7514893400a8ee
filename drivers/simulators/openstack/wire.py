"""HTTP/1.1 as the OpenStack services speak it: keep-alive, streamed bodies, lost answers."""

import contextlib
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

BLOCK = 1 << 20
MAX_JSON = 8 << 20
MAX_DRAIN = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; `file` streams a file's bytes from `start` for `length` bytes."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    start: int = 0
    length: int = 0
    through: Callable[[int, bytes], bytes] | None = None  # what the line does to the file's bytes
    cut_after: int | None = None  # the connection breaks after so many bytes of the file


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer: `cut` breaks the connection at once, else it stays open till the client goes."""

    cut: bool
    reset: bool = False


class Refusal(Exception):
    """A handler refuses; the service turns it into its own kind of error body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.headers = dict(headers or {})


class Body:
    """The request's bytes, by content length or in chunks, read once."""

    def __init__(self, handler: "_Handler") -> None:
        self._handler = handler
        self._chunked = "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
        self._left = int(handler.headers.get("Content-Length") or 0)
        self._expects = handler.headers.get("Expect", "").lower() == "100-continue"
        self.finished = not self._chunked and self._left == 0

    def blocks(self) -> Iterator[bytes]:
        """Yield the body; ConnectionError when the sender stops early."""
        if self._expects:
            self._expects = False
            self._handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._handler.wfile.flush()
        while not self.finished:
            if self._chunked and self._left == 0:
                line = self._handler.rfile.readline(66)
                if not line.endswith(b"\n"):
                    raise ConnectionError("the sender stopped between chunks")
                self._left = int(line.split(b";")[0], 16)
                if self._left == 0:
                    while self._handler.rfile.readline(8192) not in {b"\r\n", b"\n", b""}:
                        pass
                    self.finished = True
                    return
            block = self._handler.rfile.read(min(self._left, BLOCK))
            if not block:
                raise ConnectionError("the sender stopped before the end of its body")
            self._left -= len(block)
            if self._chunked and self._left == 0:
                self._handler.rfile.readline(8)
            if not self._chunked and self._left == 0:
                self.finished = True
            yield block

    def drain(self) -> bool:
        """Read what is left, if it is little; False when the connection must go."""
        if self._expects and not self.finished:
            return False
        seen = 0
        for block in self.blocks():
            seen += len(block)
            if seen > MAX_DRAIN:
                return False
        return True


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, as a service sees it."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: "Headers"
    body: Body
    base: str
    token: dict[str, Any] = field(default_factory=dict)
    version: tuple[int, int] = (0, 0)
    spoken: Mapping[str, str] = field(default_factory=dict)  # headers that tell the version

    def json(self) -> dict[str, Any]:
        raw = bytearray()
        for block in self.body.blocks():
            raw += block
            if len(raw) > MAX_JSON:
                raise Refusal(413, "Request is too large.")
        try:
            value = json.loads(raw or b"{}")
        except ValueError as e:
            raise Refusal(400, "Malformed request body") from e
        return value if isinstance(value, dict) else {"": value}

    def one(self, name: str) -> str | None:
        return next((value for key, value in self.query if key == name), None)

    @property
    def project(self) -> str:
        return str(self.token["project_id"])

    @property
    def admin(self) -> bool:
        return "admin" in self.token["roles"]


Headers = Mapping[str, str] | Message
Endpoint = Callable[..., Reply]


class Routes:
    """The paths of one service: `{id}` stands for one segment, handed on by name."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Endpoint]] = []

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
        self._routes.append((method, re.compile(pattern + r"/?(?:\.json)?"), endpoint))

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        other = False
        for verb, pattern, endpoint in self._routes:
            if match := pattern.fullmatch(path):
                if verb == method:
                    return endpoint, {k: unquote(v) for k, v in match.groupdict().items()}
                other = True
        raise Refusal(405 if other else 404, "The resource could not be found.")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    timeout = 300
    server: "WireServer"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, ValueError, OSError):
            self.close_connection = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        call = Call(
            method=self.command,
            path=parts.path,
            query=parse_qsl(parts.query, keep_blank_values=True),
            headers=self.headers,
            body=Body(self),
            base=self.server.base,
        )
        reply = self.server.answer(call)
        if isinstance(reply, Silence):
            self._keep_silent(reply)
            return
        if not call.body.finished and not call.body.drain():
            self.close_connection = True
        self._send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  # http.server's names

    def _send(self, reply: Reply) -> None:
        headers = {"Content-Type": "application/json", **reply.headers}
        payload = b""
        if reply.body is not None:
            raw = isinstance(reply.body, bytes)
            payload = reply.body if raw else json.dumps(reply.body).encode()
        elif reply.file is None:
            headers.pop("Content-Type")
        length = reply.length if reply.file else len(payload)
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(payload)
        self.wfile.flush()
        if reply.file:
            self._send_file(reply, reply.file)

    def _send_file(self, reply: Reply, path: Path) -> None:
        cut = reply.length if reply.cut_after is None else min(reply.length, reply.cut_after)
        at, end = reply.start, reply.start + cut
        with path.open("rb", buffering=0) as source:
            while at < end:
                block = os.pread(source.fileno(), min(BLOCK, end - at), at)
                if not block:
                    break
                self.connection.sendall(reply.through(at, block) if reply.through else block)
                at += len(block)
        if at < reply.start + reply.length:
            self.close_connection = True

    def _keep_silent(self, silence: Silence) -> None:
        self.close_connection = True
        if silence.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif not silence.cut:
            self.connection.settimeout(None)
            while self.rfile.read1(4096):  # until the client gives up or the server stops
                pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Say nothing: the simulator keeps its own record of calls."""


class WireServer(ThreadingHTTPServer):
    """Listens on loopback and hands every call to `answer`; knows its open connections."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, port: int, answer: Callable[[Call], Reply | Silence]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer
        self.base = f"http://127.0.0.1:{self.server_address[1]}"
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is the client's business."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and cut what is open."""
        self.shutdown()
        self._thread.join()
        self.cut()
        self.server_close()

    def cut(self) -> None:
        """Break every open connection, as a restarted proxy would."""
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
