"""HTTP to a provider: an answer ends in its time and size, and comes from the host that was asked.

A socket's own timeout begins anew with each byte, so that a server which drips would be read for
ever; here the time runs from the end of the request to the last byte of the answer.
"""

import http.client
import io
import math
import socket
import time
from collections.abc import Mapping
from ssl import CERT_NONE, SSLContext
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

LARGEST = 256 << 20
"""The bytes that an answer may have."""

UNREADABLE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What reading an answer of another shape than was taken for granted raises."""

_PORTS = {"http": 80, "https": 443}


class Astray(requests.RequestException):
    """The answer is of a kind that no provider gives: to another host, or packed unasked."""


class BoundedSocket:
    """A connected socket whose answers are read up to a moment and a size, and no further."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._end, self._left = math.inf, LARGEST

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever a socket has
        return getattr(self._stream, name)

    def begin(self, seconds: float | None) -> None:
        """An answer is waited for from now on, `seconds` for all of it; None: without an end."""
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._left = LARGEST

    def makefile(self, *_how: object) -> io.BufferedReader:
        """What `http.client` reads an answer from."""
        return io.BufferedReader(_Bounded(self, self._stream.makefile("rb", buffering=0)))

    def await_bytes(self) -> None:
        """Let the next read take what is left of the time."""
        if self._left < 0:
            raise OSError(f"the answer is longer than {LARGEST} bytes")
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not end in time")
        self._stream.settimeout(None if left == math.inf else left)

    def count(self, length: int) -> None:
        self._left -= length


class _Bounded(io.RawIOBase):
    def __init__(self, stream: BoundedSocket, raw: io.RawIOBase) -> None:
        self._stream, self._raw = stream, raw

    def readable(self) -> bool:
        return True

    def readinto(self, place: Any) -> int | None:  # noqa: ANN401  # any writable buffer
        self._stream.await_bytes()
        count = self._raw.readinto(place)
        self._stream.count(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Timed(http.client.HTTPConnection):
    """A connection that reads each answer through a bounded socket."""

    bounded: BoundedSocket

    def connect(self) -> None:
        super().connect()
        # Kept besides: an answer that ends with the connection is read when `sock` is gone.
        self.bounded = BoundedSocket(self.sock)
        self.sock: Any = self.bounded

    def getresponse(self) -> Any:  # noqa: ANN401  # the answer of the class it is mixed into
        self.go_on()
        return super().getresponse()

    def go_on(self) -> None:
        """The time begins anew: for an answer, or for the next part of a long one."""
        self.bounded.begin(self.timeout)


class PlainConnection(_Timed):
    """`http.client`'s connection, bounded."""


class SecureConnection(_Timed, http.client.HTTPSConnection):
    """`http.client`'s connection over TLS, bounded."""


class _Http(_Timed, HTTPConnection):
    pass


class _Https(_Timed, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    """Accepts one certificate by its SHA-256 fingerprint, whoever signed it, if it is given one."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__(max_retries=0)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002  # the base class's shape
        **pool: Any,  # noqa: ANN401  # the base class's shape
    ) -> None:
        if self._fingerprint:
            # Of its own: urllib3's reads all of the machine's authorities at each connection.
            context: SSLContext = create_urllib3_context(cert_reqs=CERT_NONE)
            pool |= {"assert_fingerprint": self._fingerprint, "ssl_context": context}
        super().init_poolmanager(connections, maxsize, block, **pool)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def send(  # noqa: PLR0917  # the base class's shape
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002  # the base class's shape
        timeout: Any = None,  # noqa: ANN401  # the base class's shape
        verify: bool | str = True,  # noqa: FBT001, FBT002  # the base class's shape
        cert: Any = None,  # noqa: ANN401  # the base class's shape
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        answer = super().send(request, stream, timeout, verify, cert, proxies)
        if reason := _strange(str(request.url), answer):
            answer.close()
            raise Astray(reason, request=request, response=answer)
        return answer


def guard(session: requests.Session, *, fingerprint: str = "") -> None:
    """Bound every answer of a session, and make it deaf to the environment."""
    session.trust_env = False
    session.max_redirects = 0
    session.headers["Accept-Encoding"] = "identity"
    if fingerprint:
        session.verify = False  # the fingerprint decides
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(fingerprint))


def _strange(asked: str, answer: requests.Response) -> str:
    """Why an answer is not read at all; empty where it may be."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        return "the answer is packed, which was not asked for"
    if answer.is_redirect and _origin(urljoin(asked, answer.headers["Location"])) != _origin(asked):
        return "the answer leads to another host"
    return ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    where = urlsplit(url)
    return where.scheme, where.hostname, where.port or _PORTS.get(where.scheme)
