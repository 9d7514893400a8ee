"""Who may have an image and until when; many clients, slow ones, and ones that only look."""

import asyncio
import hashlib
import logging
import random
import socket
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from api.gateway.shelf import Shelf
from controlplane.domain.disk import KIB, MIB, DiskFormat
from controlplane.domain.errors import Unavailable
from tests.api.serving import serving
from tests.api.test_gateway import DISK, TOKEN, Disk, Site
from tests.e2e.system import until

OTHER = "o" * 43


@pytest.fixture
def site() -> Site:
    return Site()


def with_gateway(site: Site, stack: ExitStack, **more) -> None:
    given = {"find": site.find, "open_disk": site.open_disk, "clock": lambda: site.now, **more}
    site.url = stack.enter_context(serving(**given))


@pytest.fixture
def running(site: Site):
    with ExitStack() as stack:
        with_gateway(site, stack)
        yield site
    assert site.opened == 0


@pytest.fixture
def client():
    with httpx.Client(timeout=20) as client:
        yield client


def test_what_has_expired_is_not_there(running, client):
    url = running.serve(DiskFormat.RAW, expires_at=running.now + timedelta(seconds=60))
    part = {"Range": "bytes=0-9"}
    assert client.get(url, headers=part).content == DISK[:10]
    running.now += timedelta(seconds=60)
    assert client.get(url, headers=part).status_code == client.head(url).status_code == 404


def test_what_expires_ends_in_the_middle(running, client):
    """More is asked for than the connection holds, so the rest is read after it expired."""
    url = running.serve(DiskFormat.RAW, expires_at=running.now + timedelta(seconds=60))
    with client.stream("GET", url) as got:
        parts = got.iter_raw(1000)
        next(parts)
        running.now += timedelta(seconds=60)
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in parts:
                pass


@pytest.mark.parametrize(
    ("clients", "status"),
    [
        ((), 200),
        (("127.0.0.1",), 200),
        (("192.0.2.0/24", "127.0.0.0/8"), 200),
        (("192.0.2.0/24",), 404),
        (("2001:db8::/32", "127.0.0.2/32"), 404),
    ],
)
def test_an_image_is_for_its_clients_alone(running, client, caplog, clients, status):
    url = running.serve(DiskFormat.RAW, clients=clients)
    caplog.set_level(logging.DEBUG)
    spoofed = {"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"}
    got = client.get(url, headers=spoofed)
    unknown = client.get(url.replace(TOKEN, OTHER))
    assert got.status_code == status
    told = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    if status == 404:
        assert got.content == unknown.content
        assert told == [
            f"an image for {', '.join(clients)} was asked for by 127.0.0.1, with its token: refused"
        ]
    assert bool(told) == (status == 404)
    assert TOKEN not in "\n".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records
                                  if r.name.startswith("api."))  # fmt: skip


def test_the_word_of_a_named_proxy_counts(site, client):
    """The last address that is no proxy's: what stands before it anybody may have written."""
    with ExitStack() as stack:
        with_gateway(site, stack, proxies=("127.0.0.0/8", "10.9.9.0/24"))
        url = site.serve(DiskFormat.RAW, clients=("192.0.2.0/24",))
        for forwarded, status in (
            ("192.0.2.7", 200),
            ("192.0.2.7, 10.9.9.1", 200),
            ("192.0.2.7, 203.0.113.5", 404),
            ("203.0.113.5", 404),
            ("no address", 404),
        ):
            got = client.get(url, headers={"X-Forwarded-For": forwarded})
            assert got.status_code == status, forwarded
        assert client.get(url).status_code == 404


def test_thirty_two_clients_share_one_open_image(running):
    """Whole files and small parts at once, of two formats."""
    urls = {
        DiskFormat.RAW: running.serve(DiskFormat.RAW),
        DiskFormat.VHD: running.serve(DiskFormat.VHD, OTHER),
    }
    digests = {form: running.exports[_sha(token)].sha256
               for form, token in ((DiskFormat.RAW, TOKEN), (DiskFormat.VHD, OTHER))}  # fmt: skip

    async def whole(client: httpx.AsyncClient, form: DiskFormat) -> None:
        got = await client.get(urls[form])
        assert hashlib.sha256(got.content).hexdigest() == digests[form]

    async def parts(client: httpx.AsyncClient, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(6):
            start = rng.randrange(len(DISK))
            end = min(start + rng.choice((1, 512, 64 * KIB, 300 * KIB)), len(DISK))
            headers = {"Range": f"bytes={start}-{end - 1}"}
            got = await client.get(urls[DiskFormat.RAW], headers=headers)
            assert got.content == DISK[start:end]

    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            forms = [DiskFormat.RAW, DiskFormat.VHD] * 8
            await asyncio.gather(
                *(whole(client, form) for form in forms), *(parts(client, n) for n in range(16))
            )

    asyncio.run(all_of_them())
    assert running.ever_opened <= 2
    assert running.opened <= 2


def _sha(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Long(Disk):
    """So long that no socket holds it."""

    size = 64 * MIB

    def extents(self):
        yield from ()

    def read(self, offset: int, length: int) -> bytes:
        self.site.note(offset + length)
        return bytes(length)


def test_who_does_not_read_holds_nobody_up(site, client):
    """More of them than there are threads that read images; each holds two pieces at most."""
    with ExitStack() as stack:
        disks = {TOKEN: Disk, OTHER: Long}
        with_gateway(
            site, stack,
            open_disk=lambda s: next(d for t, d in disks.items() if _sha(t) == s.token_sha256)(site),
        )  # fmt: skip
        url = site.serve(DiskFormat.RAW)
        site.exports[_sha(OTHER)] = replace(
            site.exports[_sha(TOKEN)], token_sha256=_sha(OTHER), length=Long.size, point="6"
        )
        port = int(site.url.rpartition(":")[2])
        for number in range(24):
            hangs = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
            hangs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            start = number * 512 * KIB
            hangs.sendall(
                f"GET /images/{OTHER}.raw HTTP/1.1\r\nHost: g\r\nRange: bytes={start}-\r\n\r\n".encode()
            )
        for _ in range(3):
            assert client.get(url).content == DISK
            assert client.get(url, headers={"Range": "bytes=5-9"}).content == DISK[5:10]
        assert 0 < site.reached < Long.size
    assert site.opened == 0


def test_a_client_that_takes_nothing_for_long_is_given_up(site, caplog, monkeypatch):
    """It gets what was on its way, and no more."""
    monkeypatch.setattr("api.gateway.sending._STALLED", 0.2)
    with ExitStack() as stack:
        with_gateway(site, stack, open_disk=lambda _: Long(site))
        site.serve(DiskFormat.RAW)
        key = _sha(TOKEN)
        site.exports[key] = replace(site.exports[key], length=Long.size)
        port = int(site.url.rpartition(":")[2])
        hangs = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        hangs.sendall(f"GET /images/{TOKEN}.raw HTTP/1.1\r\nHost: g\r\n\r\n".encode())
        hangs.settimeout(20)
        assert hangs.recv(1, socket.MSG_PEEK)
        until(lambda: "has stopped reading" in caplog.text, "it is given up")
        got = 0
        while some := hangs.recv(1 << 20):
            got += len(some)
        assert 0 < got < Long.size
    assert site.opened == 0


def test_an_image_that_opens_slowly_holds_no_other_up(site):
    """All who wait for it wait together; none of the others waits for them."""
    opens, may_open = threading.Event(), threading.Event()

    def open_disk(served) -> Disk:
        if served.point == "6":
            opens.set()
            assert may_open.wait(20)
        return Disk(site)

    async def both() -> None:
        async with httpx.AsyncClient(timeout=20) as client:
            slow = [asyncio.ensure_future(client.get(f"{site.url}/images/{OTHER}.raw"))
                    for _ in range(16)]  # fmt: skip
            assert await asyncio.to_thread(opens.wait, 20)
            assert (await client.get(url)).content == DISK
            may_open.set()
            assert all(got.content == DISK for got in await asyncio.gather(*slow))

    with ExitStack() as stack:
        with_gateway(site, stack, open_disk=open_disk)
        url = site.serve(DiskFormat.RAW)
        served = site.exports[_sha(TOKEN)]
        site.exports[_sha(OTHER)] = replace(served, token_sha256=_sha(OTHER), point="6")
        asyncio.run(both())
        assert site.ever_opened == 2
    assert site.opened == 0


def test_an_image_that_did_not_open_is_tried_again(site, client):
    tries = []

    def open_disk(_served) -> Disk:
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("the store does not answer")
        return Disk(site)

    with ExitStack() as stack:
        with_gateway(site, stack, open_disk=open_disk)
        url = site.serve(DiskFormat.RAW)
        part = {"Range": "bytes=0-9"}
        assert client.get(url).status_code == client.get(url, headers=part).status_code == 500
        assert client.get(url, headers=part).content == DISK[:10]


def test_every_byte_that_is_sent_is_counted(site, client):
    """Small answers together, whole ones with their last piece."""
    counted = []
    with ExitStack() as stack:
        with_gateway(site, stack, owed=lambda _s, length: counted.append(length) or 0.0)
        url = site.serve(DiskFormat.RAW)
        client.get(url)
        assert sum(counted) == len(DISK)
        for at in range(0, 3 * MIB, 64 * KIB):
            client.get(url, headers={"Range": f"bytes={at}-{at + 64 * KIB - 1}"})
        assert sum(counted) == len(DISK) + 3 * MIB


def test_a_limit_that_cannot_be_asked_for_is_a_named_failure(site, client, caplog):
    """Of small parts, too, which are counted together."""

    def owed(_served, _length):
        raise Unavailable("the database does not answer")

    with ExitStack() as stack:
        with_gateway(site, stack, owed=owed)
        url = site.serve(DiskFormat.RAW)
        answers = [
            client.get(url, headers={"Range": f"bytes={at}-{at + 256 * KIB - 1}"})
            for at in range(0, MIB, 256 * KIB)
        ]
        assert [got.status_code for got in answers] == [206, 206, 206, 503]
        assert "the database does not answer" in caplog.text
        assert "Traceback" not in caplog.text
        assert TOKEN not in caplog.text


def test_an_image_that_is_wanted_again_is_not_closed_among_those_at_rest(site):
    """Eight that nobody waited for came to rest at once; while one is closed another is taken."""
    may_open, may_close = threading.Event(), threading.Event()

    class Slow(Disk):
        def __init__(self, site: Site) -> None:
            assert may_open.wait(20)
            super().__init__(site)
            self.closed = False

        def read(self, offset: int, length: int) -> bytes:
            assert not self.closed
            return super().read(offset, length)

        def close(self) -> None:
            assert may_close.wait(20)
            self.closed = True
            super().close()

    async def all_of_them() -> None:
        shelf = Shelf(lambda _: Slow(site))
        served = [replace(it, point=str(number)) for number in range(8)]

        async def take(number: int) -> None:
            async with shelf.image(served[number]):
                pass

        gave_up = [asyncio.ensure_future(take(number)) for number in range(8)]
        await asyncio.sleep(0)
        for each in gave_up:
            each.cancel()
        await asyncio.gather(*gave_up, return_exceptions=True)
        may_open.set()
        for held in shelf._held.values():
            await held.opening
        closing_first = asyncio.ensure_future(take(7))
        other = asyncio.ensure_future(take(6))
        async with shelf.image(served[1]) as image:
            may_close.set()
            await asyncio.gather(closing_first, other)
            assert await shelf.read(image, 0, 10) == DISK[:10]
        assert len(shelf._held) == 4
        await shelf.close()

    site.serve(DiskFormat.RAW)
    [it] = site.exports.values()
    asyncio.run(all_of_them())
    assert site.opened == 0


def test_an_opening_that_failed_after_its_client_left_does_not_fail_the_next(site):
    tries = []

    def open_disk(_served) -> Disk:
        tries.append(1)
        if len(tries) == 1:
            raise Unavailable("the store does not answer")
        return Disk(site)

    async def both() -> None:
        shelf = Shelf(open_disk)

        async def take() -> bytes:
            async with shelf.image(it) as image:
                return await shelf.read(image, 0, 10)

        left = asyncio.ensure_future(take())
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        [held] = shelf._held.values()
        await asyncio.wait({held.opening})
        assert await take() == DISK[:10]
        await shelf.close()

    site.serve(DiskFormat.RAW)
    [it] = site.exports.values()
    asyncio.run(both())


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost:"], ids=["nothing", "half"])
def test_who_asks_for_nothing_takes_nobodys_place(site, client, monkeypatch, said):
    """More connections than the gateway serves at a time, and no token is needed for them."""
    monkeypatch.setattr("api.gateway.app.PATIENCE", 0.3)
    with ExitStack() as stack:
        with_gateway(site, stack)
        url = site.serve(DiskFormat.RAW)
        port = int(site.url.rpartition(":")[2])
        for _ in range(130):
            idle = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
            idle.sendall(said)
        until(
            lambda: client.get(url, headers={"Range": "bytes=0-9"}).content == DISK[:10], "served"
        )


def test_a_request_that_takes_long_is_none_that_asks_for_nothing(site, client, monkeypatch):
    monkeypatch.setattr("api.gateway.app.PATIENCE", 0.1)
    with ExitStack() as stack:
        with_gateway(site, stack, owed=lambda _served, length: length / (16 * MIB))
        url = site.serve(DiskFormat.RAW)
        for _ in range(2):
            assert client.get(url).content == DISK  # half a second each
