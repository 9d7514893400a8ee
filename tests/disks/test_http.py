"""Disks behind HTTP: ranges, broken connections, credentials that ran out, files that change."""

import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from controlplane.domain.disk import KIB, MIB
from controlplane.domain.errors import (
    Conflict,
    Denied,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from drivers.disks.http import HttpSource, Where
from drivers.disks.qcow2 import Qcow2Reader
from drivers.disks.qcow2_image import Qcow2Image
from drivers.disks.raw import RawReader

CONTENT = random.Random(1).randbytes(3 * MIB + 123)


class Server(ThreadingHTTPServer):
    """Serves `content`; what goes wrong is set by the test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.token = "good"
        self.cut_after: list[int] = []
        self.statuses: list[int] = []
        self.ranges: list[tuple[int, int]] = []
        self.plain = False
        self.shift = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/image"

    def where(self) -> Where:
        return Where(url=self.url, headers={"Authorization": f"Bearer {self.token}"})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut_after:
            self.wfile.write(body[: self.server.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def do_GET(self) -> None:
        served = self.server
        if served.statuses:
            self.answer(served.statuses.pop(0), {}, b"")
            return
        if self.headers["Authorization"] != f"Bearer {served.token}":
            self.answer(401, {}, b"")
            return
        if served.plain:
            self.answer(200, {}, served.content)
            return
        start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        size = len(served.content)
        if start >= size:
            self.answer(416, {"Content-Range": f"bytes */{size}"}, b"")
            return
        end = min(end, size - 1)
        served.ranges.append((start, end + 1 - start))
        first = start + served.shift
        headers = {"Content-Range": f"bytes {first}-{end}/{size}", "ETag": served.etag}
        self.answer(206, headers, served.content[start : end + 1])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def opened() -> Iterator[list[HttpSource]]:
    sources: list[HttpSource] = []
    yield sources
    for source in sources:
        source.close()


@pytest.fixture
def connect(server, opened):
    def connect() -> HttpSource:
        opened.append(HttpSource(server.where, what="the export of web-1", timeout=5))
        return opened[-1]

    return connect


def test_any_range_is_read(connect):
    source = connect()
    assert source.size == len(CONTENT)
    rng = random.Random(2)
    for _ in range(30):
        at = rng.randrange(len(CONTENT))
        length = min(rng.choice((0, 1, 512, 70_000, MIB)), len(CONTENT) - at)
        assert source.read(at, length) == CONTENT[at : at + length]
    with pytest.raises(Invalid):
        source.read(len(CONTENT), 1)


def test_reading_forward_takes_few_requests_and_each_byte_once(server, connect):
    server.content = bytes(40 * MIB)
    source = connect()
    for at in range(0, source.size, 64 * KIB):
        source.read(at, 64 * KIB)
    assert sum(n for _, n in server.ranges) == source.size
    assert len(server.ranges) < 14


def test_a_small_read_somewhere_fetches_little(server, connect):
    source = connect()
    source.read(2 * MIB, 512)
    assert server.ranges[-1][1] <= 256 * KIB


def test_broken_connections_are_gone_on_with(server, connect):
    source = connect()
    server.cut_after = [100_000, 1, 50_000, 7]
    assert source.read(300_000, 2 * MIB) == CONTENT[300_000 : 300_000 + 2 * MIB]
    assert server.cut_after == []


def test_a_server_that_gives_nothing_is_unavailable(server, connect):
    source = connect()
    server.cut_after = [0] * 100
    with pytest.raises(Unavailable, match="no bytes from 1000000"):
        source.read(1_000_000, 512)
    server.cut_after = []
    server.statuses = [503, 500]
    assert source.read(1_000_000, 512) == CONTENT[1_000_000:1_000_512]


def test_a_server_that_is_not_there_is_unavailable(server):
    gone = Server()
    gone.server_close()
    with pytest.raises(Unavailable):
        HttpSource(gone.where, what="the export")


def test_credentials_that_ran_out_are_asked_for_anew(server, connect):
    source = connect()
    server.token = "newer"
    assert source.read(MIB, 10) == CONTENT[MIB : MIB + 10]


def test_credentials_that_stay_refused_are_denied_and_never_shown(server, opened):
    wrong = Where(url=server.url, headers={"Authorization": "Bearer hunter2"})
    with pytest.raises(Denied) as caught:
        HttpSource(lambda: wrong, what="the export of web-1")
    assert "hunter2" not in str(caught.value) + repr(wrong)


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFound), (410, NotFound), (400, Unavailable), (503, Unavailable)]
)
def test_refusals_are_told_apart(server, connect, status, error):
    server.statuses = [status] * 10
    with pytest.raises(error):
        connect()


def test_a_file_that_changes_is_not_mixed(server, connect):
    source = connect()
    server.etag = '"two"'
    with pytest.raises(Conflict) as caught:
        source.read(MIB, 10)
    assert caught.value.reason == "changed"
    server.etag = '"one"'
    server.content = CONTENT[:MIB]
    with pytest.raises(Conflict):
        source.read(2 * MIB, 10)


def test_servers_without_ranges_or_with_others_are_refused(server, connect):
    server.plain = True
    with pytest.raises(Unsupported, match="ranges"):
        connect()
    server.plain = False
    server.shift = 1
    with pytest.raises(Integrity, match="another range"):
        connect()


def test_an_empty_file_has_no_bytes(server, connect):
    server.content = b""
    assert connect().size == 0
    server.plain = True
    assert connect().size == 0


def test_a_qcow2_image_is_read_over_http(server, connect):
    class Disk:
        size = len(CONTENT)

        def extents(self):
            return RawReader(self).extents()

        def read(self, offset, length):
            return CONTENT[offset : offset + length]

        def close(self):
            pass

    image = Qcow2Image(Disk())
    server.content = image.read(0, image.size)
    reader = Qcow2Reader(connect(), what="the image")
    assert reader.read(0, reader.size) == CONTENT.ljust(reader.size, b"\0")
