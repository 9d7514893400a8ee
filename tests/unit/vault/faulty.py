"""A way to an S3 server on which things go wrong, as the test says."""

import http.client
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = "<Error><Code>{}</Code><Message>as the test wished</Message></Error>"


@dataclass
class Asked:
    """One request that came by."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def checksum_is_right(self) -> bool:
        told = self.headers.get("x-amz-checksum-sha256")
        return told == b64encode(sha256(self.body).digest()).decode()

    @property
    def signed_as_sent(self) -> bool:
        """The signature covers the body, which some servers check in the checksum's place."""
        return self.headers.get("x-amz-content-sha256") == sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own, without asking the server."""

    status: int
    code: str = ""


SLOW_DOWN, BROKEN = Answer(503, "SlowDown"), Answer(500, "InternalError")
CUT_BEFORE = "cut before the server is asked"
CUT_AFTER = "cut after the server did it"
CUT_IN_ANSWER = "cut in the middle of the answer's body"
CUT_IN_REQUEST = "cut in the middle of the request's body"
SILENCE = "never answered"

Fault = Answer | str | None


@dataclass
class Way:
    """`fault` is asked for each request; what it gives is done to it."""

    server: str
    fault: Callable[[Asked], Fault] = lambda _: None
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    _http: ThreadingHTTPServer | None = None
    _closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def open(self) -> None:
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_args: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, OSError):
                    self.close_connection = True

            def _serve(self) -> None:
                way.serve(self)

        for method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
            setattr(Handler, f"do_{method}", Handler._serve)
        self._closing.clear()
        ThreadingHTTPServer.allow_reuse_address = True
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._http.daemon_threads = True
        if self.tls is not None:
            self._http.socket = self.tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def fail(self, times: int, fault: Fault, method: str = "") -> None:
        """The next so many requests (of that method) meet the fault, those after it do not."""
        left = [times]
        lock = threading.Lock()

        def next_one(asked: Asked) -> Fault:
            with lock:
                if left[0] > 0 and asked.method.startswith(method):
                    left[0] -= 1
                    return fault
                return None

        self.fault = next_one

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers, b"")
        fault = self.fault(asked)
        self.asked.append(asked)
        if fault == CUT_IN_REQUEST:
            handler.rfile.read(length // 2)
            self._cut(handler)
            return
        asked.body = handler.rfile.read(length)
        if fault == SILENCE:
            self._closing.wait(30)
        if fault in {CUT_BEFORE, SILENCE}:
            self._cut(handler)
        elif isinstance(fault, Answer):
            body = b"" if asked.method == "HEAD" else ERROR.format(fault.code).encode()
            self._answer(handler, fault.status, [("Content-Type", "application/xml")], body)
        else:
            status, answered, body = self._forward(asked)
            if fault != CUT_AFTER:
                upto = len(body) // 2 if fault == CUT_IN_ANSWER else None
                self._answer(handler, status, answered, body, upto=upto)
            if fault is not None:
                self._cut(handler)

    def _forward(self, asked: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
        to = urlsplit(self.server)
        line = http.client.HTTPConnection(to.hostname or "", to.port, timeout=20)
        try:
            line.request(asked.method, asked.path, asked.body, asked.headers)
            answer = line.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            line.close()

    def _answer(self, handler, status, headers, body, upto: int | None = None) -> None:
        head = handler.command == "HEAD"
        handler.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                handler.send_header(name, value)
        kept = [value for name, value in headers if name.lower() == "content-length"]
        handler.send_header("Content-Length", kept[0] if head and kept else str(len(body)))
        handler.end_headers()
        if not head:
            handler.wfile.write(body[:upto])
            handler.wfile.flush()

    def _cut(self, handler) -> None:
        handler.close_connection = True
        time.sleep(0.01)
        handler.connection.close()
