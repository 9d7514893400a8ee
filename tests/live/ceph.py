"""A small Ceph with an S3 gateway, of Debian's packages, on loopback and in a folder of its own.

    apt-get install --no-install-recommends ceph-mon ceph-osd radosgw
    python -m tests.live.ceph            until Ctrl-C; prints the LIVE_S3 that names it

One monitor, one OSD whose disk is a sparse file, one gateway (the frontend is beast); no manager,
which none of them needs. Nothing of it asks for root or systemd, and about 300 MB are enough. It
is a server for tests: one copy of everything. Ceph is under the LGPL and no part of ours.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
from httpx_auth import AWS4Auth

from controlplane.vault.s3 import S3Key
from tests.e2e.system import free_port, until

COMMANDS = (
    "ceph-mon",
    "ceph-osd",
    "ceph",
    "ceph-authtool",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
)
GATEWAY = "client.rgw.a"
DISK = 16 << 30  # a sparse file
PATIENCE = 90
_ALL = ("mon", "allow *"), ("osd", "allow *"), ("mgr", "allow *")
_WHO = {
    "mon.": (("mon", "allow *"),),
    "client.admin": _ALL,
    "osd.0": (("mon", "allow profile osd"), ("osd", "allow *")),
    GATEWAY: (("mon", "allow rw"), ("osd", "allow rwx")),
}
_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
admin socket =
pid file =
crash dir = {folder}
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
log max recent = 100
mon data = {folder}/mon
mon data avail warn = 1
mon allow pool size one = true
osd data = {folder}/osd
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
osd client watch timeout = 5
osd memory target = 939524096
bluestore block size = {disk}
bluestore block create = true
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw user quota bucket sync interval = 1
rgw bucket quota ttl = 0
"""


def missing() -> list[str]:
    """The commands that this machine has not."""
    return [name for name in COMMANDS if shutil.which(name) is None]


class Ceph:
    """One cluster in `folder`; `close` ends it. `url` stays the same over all restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._make()
        try:
            self._start("ceph-mon", "-i", "a")
            self._run("ceph", "osd", "new", self._osd)
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", self._osd)
            self._start("ceph-osd", "-i", "0")
            self.start()
            self.key = self.user("fedctl")
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        told = self._run("radosgw", "--version").split()
        return f"Ceph {told[told.index('version') + 1]}"

    def start(self) -> None:
        """The gateway, which answers when this returns."""
        self._start("radosgw", "-n", GATEWAY)
        until(self._answers, f"the gateway answers at {self.url}; see {self._folder}", PATIENCE)

    def kill(self) -> None:
        """The gateway, by SIGKILL."""
        self._end("radosgw", 0)

    def user(self, name: str, *given: str) -> S3Key:
        made = json.loads(self.admin("user", "create", f"--uid={name}", "--display-name=x", *given))
        return S3Key(id=made["keys"][0]["access_key"], secret=made["keys"][0]["secret_key"])

    def make_bucket(self, name: str) -> None:
        auth = AWS4Auth(self.key.id, self.key.secret, "us-east-1", "s3")
        assert httpx.put(f"{self.url}/{name}", auth=auth, timeout=30).is_success

    def key_of(self, user: str, name: str, access: str) -> S3Key:
        """A further key of a user, that may do only so much: read, write, readwrite or full."""
        who = f"{user}:{name}"
        made = json.loads(
            self.admin(
                "subuser", "create", f"--uid={user}", f"--subuser={who}", f"--access={access}",
                "--key-type=s3", "--gen-access-key", "--gen-secret",
            )
        )  # fmt: skip
        [key] = [each for each in made["keys"] if each["user"] == who]
        return S3Key(id=key["access_key"], secret=key["secret_key"])

    def admin(self, *words: str) -> str:
        return self._run("radosgw-admin", *words)

    def close(self) -> None:
        for name in ("radosgw", "ceph-osd", "ceph-mon"):
            self._end(name, 10)

    def _make(self) -> None:
        folder, fsid, port = self._folder, str(uuid4()), free_port()
        self._osd = str(uuid4())
        (folder / "ceph.conf").write_text(
            _CONFIGURATION.format(fsid=fsid, mon=port, port=self.port, folder=folder, disk=DISK)
        )
        for each in ("mon", "osd"):
            (folder / each).mkdir()
        keyring = str(folder / "keyring")
        self._bare("ceph-authtool", "--create-keyring", keyring)
        for who, caps in _WHO.items():
            given = [word for on, may in caps for word in ("--cap", on, may)]
            self._bare("ceph-authtool", keyring, "--gen-key", "-n", who, *given)
        monmap = str(folder / "monmap")
        address = f"[v2:127.0.0.1:{port}]"
        self._bare("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)

    def _answers(self) -> bool:
        ended = self._running["radosgw"].poll()
        assert ended is None, f"the gateway ended with {ended}: {self._folder}/{GATEWAY}.log"
        with suppress(httpx.TransportError):
            return httpx.get(self.url, timeout=5).is_success
        return False

    def _start(self, command: str, *words: str) -> None:
        with (self._folder / f"{command}.out").open("ab") as out:
            self._running[command] = subprocess.Popen(
                [command, "-c", self._folder / "ceph.conf", *words, "-f"], stdout=out, stderr=out
            )

    def _end(self, command: str, patience: float) -> None:
        process = self._running.pop(command, None)
        if process is None:
            return
        if patience:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        process.kill()
        process.wait()

    def _run(self, command: str, *words: str) -> str:
        return self._bare(command, "-c", str(self._folder / "ceph.conf"), *words)

    def _bare(self, *command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-1000:]}"
        return done.stdout


@contextmanager
def serving() -> Iterator[Ceph]:
    """In a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="fedctl-ceph-") as folder:
        ceph = Ceph(Path(folder))
        try:
            yield ceph
        finally:
            ceph.close()


if __name__ == "__main__":
    if absent := missing():
        sys.exit(f"there are no commands {', '.join(absent)}: {__doc__}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with serving() as running, suppress(KeyboardInterrupt):
        running.make_bucket("vault")
        _, _, host = running.url.partition("://")
        key = f"{running.key.id}:{running.key.secret}"
        sys.stdout.write(f"{running.version}\nexport LIVE_S3=http://{key}@{host}/vault\n")
        sys.stdout.flush()
        signal.pause()
