"""Sites fetch images from the gateway: whole, in parts, many at a time, and no longer than allowed."""

import asyncio
import hashlib
import json
import random
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from time import monotonic
from typing import Any
from uuid import UUID

import httpx
import pytest

from controlplane.domain.disk import MIB, DiskFormat, Extent, ExtentKind
from controlplane.domain.errors import Integrity, Unavailable
from controlplane.domain.ids import OperationId
from controlplane.domain.placement import Served
from drivers.disks.http import HttpSource, Where
from drivers.disks.image import fingerprint, image_file, served_as
from drivers.disks.qcow2 import Qcow2Reader
from tests.api.serving import serving

TOKEN = "t" * 43
DISK = random.Random(1).randbytes(2 * MIB) + bytes(5 * MIB) + random.Random(2).randbytes(MIB + 512)


class Disk:
    """A disk over bytes with a hole; it may break, wait, and says when it is closed."""

    def __init__(self, site: "Site") -> None:
        self.site = site
        self.open = True
        site.opened += 1
        site.ever_opened += 1

    size = len(DISK)

    def extents(self) -> Iterator[Extent]:
        yield Extent(offset=0, length=2 * MIB, kind=ExtentKind.DATA)
        yield Extent(offset=2 * MIB, length=5 * MIB, kind=ExtentKind.ZERO)
        yield Extent(offset=7 * MIB, length=self.size - 7 * MIB, kind=ExtentKind.DATA)

    def read(self, offset: int, length: int) -> bytes:
        assert self.open
        if self.site.broken_at is not None and offset + length > self.site.broken_at:
            raise Integrity("recovery point 5, disk 0, offset 0: stored data is damaged")
        self.site.note(offset + length)
        return DISK[offset : offset + length]

    def close(self) -> None:
        if self.open:
            self.site.opened -= 1
        self.open = False


class Site:
    """What the gateway is given: exports and disks."""

    def __init__(self) -> None:
        self.exports: dict[str, Served] = {}
        self.opened = self.ever_opened = 0
        self.now = datetime(2026, 12, 1, tzinfo=UTC)
        self.reached = 0
        self.broken_at: int | None = None
        self.down = False
        self.url = ""

    def find(self, token_sha256: str) -> Served | None:
        if self.down:
            raise Unavailable("the database does not answer")
        return self.exports.get(token_sha256)

    def note(self, at: int) -> None:
        self.reached = max(self.reached, at)

    def open_disk(self, served: Served) -> Disk:
        return Disk(self)

    def serve(self, form: DiskFormat, token: str = TOKEN, **more: Any) -> str:
        image = image_file(Disk(self), form, of=served_as("5", 0))
        print_ = fingerprint(image)
        image.close()
        key = hashlib.sha256(token.encode()).hexdigest()
        self.exports[key] = Served(
            token_sha256=key,
            operation=OperationId(UUID(int=1)),
            point="5",
            disk=0,
            format=form,
            length=print_.length,
            size=len(DISK),
            sha256=print_.sha256,
            sha512=print_.sha512,
            domain="acme/shop",
            **more,
        )
        self.ever_opened = 0
        return f"{self.url}/images/{token}.{form.called}"

    def revoke(self) -> None:
        self.exports = {k: replace(s, revoked=True) for k, s in self.exports.items()}


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with serving(find=site.find, open_disk=site.open_disk, clock=lambda: site.now) as site.url:
        yield site
    assert site.opened == 0


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10) as client:
        yield client


def test_a_raw_image_is_the_disk_with_length_and_digests(site, client):
    url = site.serve(DiskFormat.RAW)
    head, got = client.head(url), client.get(url)
    assert got.content == DISK
    assert head.content == b""
    for answer in (head, got):
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(len(DISK))
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["etag"] == f'"{hashlib.sha256(DISK).hexdigest()}"'
        assert answer.headers["cache-control"] == "private, no-store"
        digests = dict(part.split("=", 1) for part in answer.headers["repr-digest"].split(", "))
        assert b64decode(digests["sha-256"].strip(":")) == hashlib.sha256(DISK).digest()
        assert b64decode(digests["sha-512"].strip(":")) == hashlib.sha512(DISK).digest()


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=100-1999999", 206, 100, 2_000_000),
        ("bytes=7000000-", 206, 7_000_000, len(DISK)),
        ("bytes=-5", 206, len(DISK) - 5, len(DISK)),
        ("bytes=-99999999999", 206, 0, len(DISK)),
        ("bytes=5-99999999999", 206, 5, len(DISK)),
        (f"bytes={len(DISK)}-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=9-3", 200, 0, len(DISK)),
        ("bytes=-", 200, 0, len(DISK)),
        ("bytes=0-1,5-6", 200, 0, len(DISK)),
        ("lines=1-2", 200, 0, len(DISK)),
        ("bytes=" + "9" * 5000 + "-", 200, 0, len(DISK)),
        ("bytes=7-" + "9" * 60, 206, 7, len(DISK)),
        ("bytes=" + "9" * 60 + "-", 416, 0, 0),
        ("bytes=-" + "9" * 60, 206, 0, len(DISK)),
        ("Bytes = 3 - 9", 206, 3, 10),
        ("bytes=--5", 200, 0, len(DISK)),
        ("bytes=0x3-9", 200, 0, len(DISK)),
        ("bytes=+3-9", 200, 0, len(DISK)),
        ("bytes=\xb2-9", 200, 0, len(DISK)),
        ("bytes", 200, 0, len(DISK)),
        ("", 200, 0, len(DISK)),
    ],
)
def test_ranges_are_answered_as_the_standard_says(site, client, asked, status, start, end):
    got = client.get(site.serve(DiskFormat.RAW), headers={"Range": asked.encode("latin-1")})
    assert got.status_code == status
    assert got.content == DISK[start:end]
    if status == 206:
        assert got.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DISK)}"
    if status == 416:
        assert got.headers["content-range"] == f"bytes */{len(DISK)}"


def test_conditions_go_by_the_digest(site, client):
    url = site.serve(DiskFormat.RAW)
    etag = client.head(url).headers["etag"]
    part = {"Range": "bytes=0-9"}
    assert client.get(url, headers={**part, "If-Range": etag}).status_code == 206
    assert client.get(url, headers={**part, "If-Range": '"old"'}).status_code == 200
    assert client.get(url, headers={"If-None-Match": f'"x", {etag}'}).status_code == 304
    assert client.get(url, headers={"If-Match": '"old"'}).status_code == 412
    assert client.get(url, headers={**part, "If-Match": "*"}).status_code == 206
    weak, date = f"W/{etag}", "Tue, 01 Dec 2026 00:00:00 GMT"
    assert client.get(url, headers={**part, "If-Range": weak}).status_code == 200
    assert client.get(url, headers={**part, "If-Range": date}).status_code == 200
    assert client.get(url, headers={**part, "If-Match": weak}).status_code == 412
    assert client.get(url, headers={"If-None-Match": weak}).status_code == 304
    assert client.get(url, headers={"If-None-Match": "*", "If-Match": etag}).status_code == 304
    assert client.get(url, headers={"If-None-Match": "*", "If-Match": '"old"'}).status_code == 412
    assert client.get(url, headers={**part, "If-Modified-Since": date}).status_code == 206
    several = [("If-Match", '"old"'), ("If-Match", etag), ("Range", "bytes=0-1")]
    assert client.get(url, headers=several).status_code == 206
    assert client.get(url, headers=[*several, ("Range", "bytes=3-4")]).status_code == 200


def test_a_head_heeds_conditions_and_no_range(site, client):
    url = site.serve(DiskFormat.RAW)
    head = client.head(url, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DISK)))
    assert "content-range" not in head.headers
    assert client.head(url, headers={"Range": "bytes=999999999-"}).status_code == 200
    assert client.head(url, headers={"If-None-Match": "*"}).status_code == 304
    assert client.head(url, headers={"If-Match": '"old"'}).status_code == 412


def test_a_qcow2_image_is_read_by_others(site, client, tmp_path):
    url = site.serve(DiskFormat.QCOW2)
    source = HttpSource(lambda: Where(url=url), what="the image")
    reader = Qcow2Reader(source, what="the image")
    assert reader.read(0, reader.size) == DISK
    reader.close()
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed: only our own reader looked at it")
    file, raw = tmp_path / "got.qcow2", tmp_path / "raw"
    got = client.get(url)
    file.write_bytes(got.content)
    raw.write_bytes(DISK)
    seen = subprocess.run(
        ["qemu-img", "check", "--output=json", file], check=True, capture_output=True
    )
    assert json.loads(seen.stdout)["check-errors"] == 0
    subprocess.run(["qemu-img", "compare", file, raw], check=True, capture_output=True)


def test_what_is_not_served_is_not_there(site, client, monkeypatch):
    """At once, where an answer is not good for the second that it otherwise is."""
    monkeypatch.setattr("api.gateway.access._LOOK_AGAIN", -1.0)
    url = site.serve(DiskFormat.RAW)
    for other in (
        url.replace(".raw", ".qcow2"),
        url.replace(".raw", ".exe"),
        url.replace(TOKEN, "u" * 43),
        url.replace(TOKEN, "short"),
        url.replace(TOKEN, "x" * 3000),
        url.replace(TOKEN, "%2e%2e%2f" * 10),
    ):
        assert client.get(other).status_code == 404
    assert client.post(url).status_code == 405
    site.revoke()
    assert client.get(url).status_code == client.head(url).status_code == 404
    site.down = True
    assert client.get(url).status_code == 503


def test_many_readers_at_a_time_on_kept_connections(site):
    url = site.serve(DiskFormat.RAW)

    async def one(client: httpx.AsyncClient, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(10):
            start = rng.randrange(len(DISK))
            end = min(start + rng.randrange(1, 2 * MIB), len(DISK))
            got = await client.get(url, headers={"Range": f"bytes={start}-{end - 1}"})
            assert got.content == DISK[start:end]

    async def all_of_them() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            await asyncio.gather(*(one(client, seed) for seed in range(8)))

    asyncio.run(all_of_them())
    assert site.opened <= 4


def test_small_ranges_are_answered_without_delay(site, client):
    """Forty milliseconds each would be the sign of a socket that waits for company."""
    url = site.serve(DiskFormat.RAW)
    took = []
    for n in range(30):
        began = monotonic()
        assert len(client.get(url, headers={"Range": f"bytes={n}-{n + 511}"}).content) == 512
        took.append(monotonic() - began)
    assert median(took) < 0.035


def test_damage_in_the_middle_ends_the_connection(site, client):
    url = site.serve(DiskFormat.RAW)
    site.broken_at = 3 * MIB
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(url)
    site.broken_at = 0
    assert client.get(url).status_code == 500


def test_an_image_of_another_length_than_announced_is_not_served(site, client):
    url = site.serve(DiskFormat.RAW)
    site.exports = {k: replace(s, length=s.length - 1) for k, s in site.exports.items()}
    assert client.get(url).status_code == 500


def test_what_is_revoked_ends_in_the_middle(site, client, monkeypatch):
    monkeypatch.setattr("api.gateway.access._LOOK_AGAIN", -1.0)
    url = site.serve(DiskFormat.RAW)
    with client.stream("GET", url) as got:
        parts = got.iter_raw(1000)
        next(parts)
        site.revoke()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in parts:
                pass


def test_a_client_that_hangs_up_stops_the_reading(site, client, monkeypatch):
    """The image is longer than what sockets hold."""
    monkeypatch.setattr(Disk, "size", 1024 * MIB)
    monkeypatch.setattr(
        Disk, "extents", lambda d: iter([Extent(offset=0, length=d.size, kind=ExtentKind.DATA)])
    )
    monkeypatch.setattr(Disk, "read", lambda d, at, n: site.note(at + n) or bytes(n))
    key = hashlib.sha256(TOKEN.encode()).hexdigest()
    served = Served(
        token_sha256=key,
        operation=OperationId(UUID(int=1)),
        point="5",
        disk=0,
        format=DiskFormat.RAW,
        length=1024 * MIB,
        size=1024 * MIB,
        sha256="00" * 32,
        sha512="00" * 64,
        domain="acme/shop",
    )
    site.exports[key] = served
    with client.stream("GET", f"{site.url}/images/{TOKEN}.raw") as got:
        next(got.iter_raw(1000))
    reached, deadline = -1, monotonic() + 10
    while reached != site.reached and monotonic() < deadline:
        reached = site.reached
        for _ in range(20):  # each takes the server as long as some reads would
            client.get(f"{site.url}/healthz")
    assert 0 < site.reached < 512 * MIB
