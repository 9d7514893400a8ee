"""A file behind HTTP as a byte source: ranges, read-ahead, going on where a connection broke."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx

from controlplane.domain.disk import KIB, MIB
from controlplane.domain.errors import (
    Conflict,
    Denied,
    FedctlError,
    Integrity,
    NotFound,
    Unavailable,
    Unsupported,
)
from drivers.disks.raw import checked_range

_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_SMALL = 256 * KIB
_LARGE = 8 * MIB
_WINDOWS = 4
_TRIES = 4
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_REFUSED = (401, 403)
_GONE = (404, 410)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A URL and the headers that open it now; the headers never show up in messages."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Again(Exception):
    """A try came to nothing, another may succeed."""


class HttpSource:
    """Random reading over HTTP Range requests.

    `where` is asked at the beginning and again when the server refuses what it gave. A file that
    changes while it is read raises Conflict with reason `changed`.
    """

    def __init__(
        self, where: Callable[[], Where], *, what: str, client: httpx.Client | None = None,
        timeout: float = 30.0,
    ) -> None:  # fmt: skip
        self._where = where
        self._what = what
        self._client = client or httpx.Client(follow_redirects=True)
        self._owned = client is None
        self._timeout = timeout
        self._now = where()
        self._etag: str | None = None
        self._windows: OrderedDict[int, bytes] = OrderedDict()
        self._next = -1
        self._ahead = _SMALL
        self._size = -1
        try:
            first = self._fetch(0, _SMALL)
        except BaseException:
            self.close()
            raise
        self._windows[0] = first

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self._size, what=self._what)
        parts: list[bytes] = []
        while length:
            part = self._kept(offset, length) or self._load(offset, length)
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._windows.clear()
        if self._owned:
            self._client.close()

    def _kept(self, offset: int, length: int) -> bytes:
        for start, window in self._windows.items():
            if start <= offset < start + len(window):
                self._windows.move_to_end(start)
                return window[offset - start : offset - start + length]
        return b""

    def _load(self, offset: int, length: int) -> bytes:
        """Fetch a window; windows grow while reading goes on forward, and start small elsewhere."""
        self._ahead = min(self._ahead * 2, _LARGE) if offset == self._next else _SMALL
        wanted = min(max(self._ahead, min(length, _LARGE)), self._size - offset)
        window = self._fetch(offset, wanted)
        self._next = offset + len(window)
        self._windows[offset] = window
        while len(self._windows) > _WINDOWS:
            self._windows.popitem(last=False)
        return window[:length]

    def _fetch(self, offset: int, length: int) -> bytes:
        """That range, however many connections it takes; each that brings nothing counts."""
        got = bytearray()
        fruitless, renewed = 0, False
        problem: Exception | None = None
        while len(got) < length and (self._size < 0 or offset + len(got) < self._size):
            before = len(got)
            try:
                renewed |= self._try(offset, length, got, renewed=renewed)
            except (httpx.TransportError, _Again) as e:
                problem = e
            fruitless = 0 if len(got) > before else fruitless + 1
            if fruitless >= _TRIES:
                raise Unavailable(
                    f"{self._what}: no bytes from {offset + len(got)} on came in {_TRIES} tries",
                    detail=repr(problem),
                ) from problem
        return bytes(got)

    def _try(self, offset: int, length: int, got: bytearray, *, renewed: bool) -> bool:
        """One request for the rest; whether the address had to be asked for anew."""
        start = offset + len(got)
        headers = {
            **self._now.headers,
            "Range": f"bytes={start}-{offset + length - 1}",
            "Accept-Encoding": "identity",
        }
        with self._client.stream(
            "GET", self._now.url, headers=headers, timeout=self._timeout
        ) as response:
            if response.status_code in _REFUSED and not renewed:
                self._now = self._where()
                return True
            if self._empty(response):
                return False
            self._check(response, start)
            for part in response.iter_raw():
                got += part
                if len(got) > length:
                    raise Integrity(f"{self._what}: the server sent more than the range asked for")
        return False

    def _empty(self, response: httpx.Response) -> bool:
        """An empty file has no range that could be satisfied."""
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        no_bytes = response.status_code == _NOT_SATISFIABLE or (
            response.status_code == _OK and response.headers.get("Content-Length") == "0"
        )
        if self._size < 0 and no_bytes and (found is None or found[3] == "0"):
            self._size = 0
            return True
        return False

    def _check(self, response: httpx.Response, start: int) -> None:
        if response.status_code != _PARTIAL:
            raise self._refusal(response.status_code)
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or found[1] is None or int(found[1]) != start:
            raise Integrity(f"{self._what}: the server answered with another range than asked for")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Unsupported(f"{self._what}: the server compresses ranges, so they mean nothing")
        etag = response.headers.get("ETag")
        if self._size >= 0 and (int(found[3]) != self._size or etag != self._etag):
            raise Conflict(f"{self._what} changed while it was read: begin anew", reason="changed")
        self._size, self._etag = int(found[3]), etag

    def _refusal(self, status: int) -> FedctlError | _Again:
        if status in _REFUSED:
            return Denied(f"{self._what}: the server refuses us ({status}): check its credentials")
        if status in _GONE:
            return NotFound(f"{self._what}: the server does not have it (any more)")
        if status == _OK:
            return Unsupported(f"{self._what}: the server does not serve ranges")
        if status == _NOT_SATISFIABLE:
            return Conflict(f"{self._what} became shorter while it was read", reason="changed")
        return _Again(f"status {status}")
