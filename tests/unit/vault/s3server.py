"""A real S3 server, moto's, as a process of an environment of its own below `.venv`.

The environment is made from `requirements-s3.lock` when it is first needed; without a package
registry the tests that need it are skipped, and say so.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from controlplane.vault.s3 import S3Key, S3Place
from tests.e2e.system import free_port

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "requirements-s3.lock"
HOME = ROOT / ".venv" / "s3"
KEY = S3Key(id="AKIDEXAMPLE", secret="a-secret-of-the-store")


class NotThere(Exception):
    """The server cannot be installed on this machine."""


def environment() -> Path:
    """The environment's python, made when it is not there or of an older lock file; NotThere."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    made = HOME / "made"
    HOME.parent.mkdir(exist_ok=True)
    with (HOME.parent / "s3.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(HOME, ignore_errors=True)
            venv.create(HOME, with_pip=False)
            install = subprocess.run(
                [
                    Path(sys.executable).parent / "uv", "pip", "install", "-q", "--require-hashes",
                    "--compile-bytecode", "--python", HOME / "bin" / "python", "-r", LOCK,
                ],
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )  # fmt: skip
            if install.returncode:
                raise NotThere(install.stderr[-300:])
            made.write_text(wanted)
    return HOME / "bin" / "python"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The server's address."""
    try:
        python, port = environment(), free_port()
    except (NotThere, subprocess.TimeoutExpired) as e:
        pytest.skip(f"the S3 server cannot be installed here: {e}")
    url = f"http://127.0.0.1:{port}"
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + 60
        while True:
            with suppress(httpx.TransportError):
                httpx.get(f"{url}/moto-api/", timeout=5)
                break
            assert process.poll() is None, (folder / "s3.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def place(url: str, bucket: str, **other) -> S3Place:
    given = {
        "key": lambda: KEY, "prefix": "fed/ctl", "plain_http": True,
        "timeout": timedelta(seconds=20), "patience": timedelta(seconds=2),
    }  # fmt: skip
    return S3Place(bucket=bucket, endpoint=url, **{**given, **other})


if __name__ == "__main__":
    environment()
