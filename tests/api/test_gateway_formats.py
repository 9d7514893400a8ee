"""Recovery points of a real vault through the gateway, for QEMU: by address and as files.

QEMU's own HTTP driver comes in a package of its own; without it only files are looked at.
"""

import json
import random
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from controlplane.domain.disk import KIB, MIB, DiskFormat
from controlplane.domain.ids import OperationId, PointId
from controlplane.domain.placement import Served
from drivers.disks.image import fingerprint, image_file, served_as
from drivers.simulators.identity import make_certificate
from tests.api.serving import serving
from tests.unit.vault.support import World, some_disk

QEMU = shutil.which("qemu-img")
FORMATS = list(DiskFormat)
KINDS = {DiskFormat.VHD: "vpc", DiskFormat.RAW: "raw"}
DISKS = {
    "an odd end": some_disk(1, "TTRZZTRTTTRRZZZZTTT") + b"the end" * 77,
    "zeros, then data at the very end": bytes(12 * MIB) + some_disk(2, "R")[:512],
    "nothing compresses": some_disk(3, "R" * 20),
    "all compresses": some_disk(4, "T" * 60),
    "all zero": bytes(3 * MIB + 512),
}


def padded(data: bytes) -> bytes:
    """Whole sectors, as image files have them."""
    return data.ljust(-(-len(data) // 512) * 512, b"\0")


class Offered:
    """Points of a vault, each served in one format under a token of its own."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.vault = self.world.vault()
        self.points: dict[str, PointId] = {}
        self.served: dict[str, Served] = {}
        self.opener = self.vault

    def point(self, data: bytes) -> str:
        point, _ = self.world.take(self.vault, data)
        self.points[str(point)] = point
        return str(point)

    def token(self, point: str, form: DiskFormat) -> str:
        disk = self.vault.open(self.points[point], 0)
        with closing(image_file(disk, form, of=served_as(point, 0))) as image:
            told = fingerprint(image)
        token = sha256(f"{point} {form}".encode()).hexdigest()
        key = sha256(token.encode()).hexdigest()
        self.served[key] = Served(
            token_sha256=key, operation=OperationId(UUID(int=1)), point=point, disk=0, format=form,
            length=told.length, size=disk.size, sha256=told.sha256, sha512=told.sha512, domain="",
        )  # fmt: skip
        return f"/images/{token}.{form.called}"

    @contextmanager
    def gateway(self, **how: Path) -> Iterator[str]:
        with serving(
            find=self.served.get,
            open_disk=lambda served: self.opener.open(self.points[served.point], 0),
            **how,
        ) as url:
            yield url


@pytest.fixture
def offered(tmp_path: Path) -> Iterator[Offered]:
    offered = Offered(tmp_path / "vault")
    yield offered
    offered.world.close()


def qemu(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["qemu-img", *map(str, words)], check=True, capture_output=True, text=True
    )


def of_file(path: Path, form: DiskFormat) -> str:
    return _named(form, {"driver": "file", "filename": str(path)})


def of_address(url: str, form: DiskFormat) -> str:
    scheme = url.partition(":")[0]
    more = {"sslverify": False} if scheme == "https" else {}
    return _named(form, {"driver": scheme, "url": url, **more})


def _named(form: DiskFormat, file: dict[str, object]) -> str:
    return "json:" + json.dumps({"driver": KINDS.get(form, "qcow2"), "file": file})


def needs_qemu() -> None:
    if QEMU is None:
        pytest.skip("qemu-img is not installed")


def reads_addresses() -> bool:
    """Whether QEMU has its HTTP driver; the address is one that nobody listens at."""
    asked = _named(DiskFormat.RAW, {"driver": "http", "url": "http://127.0.0.1:1/"})
    seen = subprocess.run(["qemu-img", "info", asked], capture_output=True, text=True, check=False)
    return "Unknown driver" not in seen.stderr


@pytest.mark.parametrize("what", DISKS)
def test_qemu_finds_the_disk_in_each_file(offered: Offered, tmp_path: Path, what: str):
    """Check, compare and convert of what was fetched."""
    needs_qemu()
    content, raw = padded(DISKS[what]), tmp_path / "raw"
    raw.write_bytes(content)
    point = offered.point(DISKS[what])
    paths = {form: offered.token(point, form) for form in FORMATS}
    with offered.gateway() as url, httpx.Client(base_url=url, timeout=20) as client:
        for form, path in paths.items():
            head, got = client.head(path), client.get(path)
            assert int(head.headers["content-length"]) == len(got.content)
            assert got.headers["etag"] == f'"{sha256(got.content).hexdigest()}"'
            file, out = tmp_path / "file", tmp_path / "out"
            file.write_bytes(padded(got.content))
            if KINDS.get(form) is None:
                checked = json.loads(qemu("check", "--output=json", of_file(file, form)).stdout)
                assert checked["check-errors"] == 0
                assert not checked.get("leaks")
            qemu("compare", of_file(raw, DiskFormat.RAW), of_file(file, form))
            qemu("convert", "-O", "raw", of_file(file, form), out)
            assert out.read_bytes() == content


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_qemu_reads_each_at_its_address(offered: Offered, tmp_path: Path, scheme: str):
    """Its driver asks for ranges, many at a time, on kept connections."""
    needs_qemu()
    if not reads_addresses():
        pytest.skip("QEMU's HTTP driver (block-curl) is not installed")
    data = padded(DISKS["an odd end"])
    raw, how = tmp_path / "raw", {}
    raw.write_bytes(data)
    if scheme == "https":
        how = {"certificate": tmp_path / "pem", "key": tmp_path / "key"}
        make_certificate(how["certificate"], how["key"], name="g", addresses=("127.0.0.1",))
    point = offered.point(data)
    paths = {form: offered.token(point, form) for form in FORMATS}
    with offered.gateway(**how) as url:
        for form, path in paths.items():
            out = tmp_path / "out"
            if KINDS.get(form) is None:
                qemu("check", of_address(url + path, form))
            qemu("compare", of_file(raw, DiskFormat.RAW), of_address(url + path, form))
            qemu("convert", "-O", "raw", of_address(url + path, form), out)
            assert out.read_bytes() == data


@pytest.mark.parametrize("form", FORMATS)
def test_a_flipped_bit_breaks_the_connection_and_no_wrong_byte_is_sent(
    offered: Offered, form: DiskFormat
):
    """Whole files and small parts; the bit is in what was stored first, and towards the end."""
    data = some_disk(6, "TRTTRTTTZR" * 3)
    path = offered.token(offered.point(data), form)
    [pack] = offered.world.files("packs")
    stored = pack.read_bytes()
    with offered.gateway() as url, httpx.Client(base_url=url, timeout=20) as client:
        sound = client.get(path).content
    for share in (0.02, 0.9):
        spoilt = bytearray(stored)
        spoilt[int(len(stored) * share)] ^= 16
        pack.write_bytes(spoilt)
        offered.opener = offered.world.vault()
        with offered.gateway() as url, httpx.Client(base_url=url, timeout=20) as client:
            assert sound.startswith(_until_it_broke(client, path))
            wrong = 0
            for at in range(0, len(sound), 64 * KIB):
                part = sound[at : at + 64 * KIB]
                got = client.get(path, headers={"Range": f"bytes={at}-{at + len(part) - 1}"})
                wrong += got.status_code == 500
                assert got.status_code == 500 or got.content == part
            assert wrong


def _until_it_broke(client: httpx.Client, path: str) -> bytes:
    got = bytearray()
    with client.stream("GET", path) as answer:
        if answer.status_code == 500:
            return b""
        with pytest.raises(httpx.RemoteProtocolError):
            deque(map(got.extend, answer.iter_raw()), maxlen=0)
    return bytes(got)


def test_ranges_of_all_sizes_make_the_file(offered: Offered):
    """As an importer that fetches in parts of its own liking."""
    data = some_disk(7, "TRZTTTRZZTTR" * 4) + b"x" * 700
    point = offered.point(data)
    paths = [offered.token(point, form) for form in FORMATS]
    rng = random.Random(5)
    with offered.gateway() as url, httpx.Client(base_url=url, timeout=20) as client:
        for path in paths:
            sound = client.get(path).content
            made = bytearray()
            while len(made) < len(sound):
                end = min(len(made) + rng.choice((512, 4096, 70_001, 256 * KIB, MIB)), len(sound))
                asked = f"bytes={len(made)}-{end - 1}"
                made += client.get(path, headers={"Range": asked}).content
            assert bytes(made) == sound
