"""A shell and forwarded sockets of another host: asyncssh behind a synchronous face.

One connection with an event loop in a thread of its own. The host key is pinned, which happened
when the site was registered; where a host gets a new one with each boot, the caller says so with
None, and pins what it was told (`Ssh.fingerprint`) until the next.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from controlplane.domain.errors import Denied, Integrity, Invalid, Unavailable

T = TypeVar("T")
_PART, _LARGEST = 1 << 16, 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAccess:
    """Where to log in and as whom. `host_key` is `SHA256:...` or a public key line; None: any."""

    host: str
    port: int
    user: str
    private_key: str
    host_key: str | None

    def __repr__(self) -> str:
        return f"SshAccess({self.user}@{self.host}:{self.port})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A finished command."""

    status: int
    out: str
    err: str


class Forward:
    """A local unix socket that leads to one of the far host, until closed."""

    def __init__(self, path: Path, end: Callable[[], None]) -> None:
        self.path = path
        self._end = end
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._end()


class Ssh:
    """One open connection; every call ends within its timeout."""

    def __init__(self, access: SshAccess, *, timeout: float) -> None:
        """Connect. Denied, Integrity (another host key), Unavailable."""
        self._access, self._timeout = access, timeout
        self._where = f"ssh {access.user}@{access.host}:{access.port}"
        try:
            self._key = asyncssh.import_private_key(access.private_key)
        except (asyncssh.KeyImportError, ValueError) as e:
            raise Invalid(f"{self._where}: the private key cannot be read: store another") from e
        self._folder: Path | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=self._where, daemon=True
        )
        self._thread.start()
        self._open = True
        try:
            self._connection = self._await(self._connect(), timeout)
        except BaseException:
            self._end_loop()
            raise

    @property
    def fingerprint(self) -> str:
        """`SHA256:...` of the key that the far host showed."""
        key = self._connection.get_server_host_key()
        return "" if key is None else key.get_fingerprint()

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as this end knows."""
        return self._open and not self._connection.is_closed()

    def run(self, command: str, *, stdin: str = "", timeout: float | None = None) -> Ran:
        """Run one command line of the far shell and wait for its end."""

        async def ran() -> Ran:
            async with self._connection.create_process(
                command, input=stdin, errors="replace"
            ) as running:
                out, err = await asyncio.gather(_all(running.stdout), _all(running.stderr))
                await running.wait_closed()
            status = -1 if running.exit_status is None else running.exit_status
            if status < 0 and not running.exit_signal:
                raise ConnectionResetError("the connection ended before the command's answer")
            return Ran(status=status, out=out, err=err)

        return self._await(ran(), timeout or self._timeout)

    def forward(self, remote: str) -> Forward:
        """A local socket, in a folder that only we may enter, for the far host's `remote`."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="fedctl-"))
        local = Path(tempfile.mkdtemp(dir=self._folder)) / "s"

        async def listening() -> asyncssh.SSHListener:
            return await self._connection.forward_local_path(str(local), remote)

        listener = self._await(listening(), self._timeout)

        async def ended() -> None:
            listener.close()
            await listener.wait_closed()

        def end() -> None:
            if self._open:
                self._await(ended(), self._timeout)
            shutil.rmtree(local.parent, ignore_errors=True)

        return Forward(local, end)

    def close(self) -> None:
        """End the connection and with it every forward; twice is fine."""
        if not self._open:
            return
        self._open = False
        try:
            self._await(self._closed(), self._timeout)
        except Unavailable:
            pass  # it is gone, which is what was asked
        finally:
            self._end_loop()

    # -- inside --------------------------------------------------------------------------------

    async def _connect(self) -> asyncssh.SSHClientConnection:
        access = self._access
        return await asyncssh.connect(
            access.host,
            access.port,
            username=access.user,
            client_keys=[self._key],
            client_factory=lambda: _Pinned(access.host_key),
            known_hosts=_nobody,
            config=[],
            agent_path=None,
            preferred_auth="publickey",
            compression_algs=None,
            login_timeout=self._timeout,
            connect_timeout=self._timeout,
            keepalive_interval=self._timeout,
        )

    async def _closed(self) -> None:
        self._connection.abort()
        await self._connection.wait_closed()

    def _await(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except Late as e:
            future.cancel()
            raise Unavailable(
                f"{self._where}: no answer in {timeout:g} s: look whether the host is up"
            ) from e
        except asyncssh.HostKeyNotVerifiable as e:
            raise Integrity(
                f"{self._where}: this is not the host that was registered (another host key):"
                " compare the key at its console before registering it anew"
            ) from e
        except asyncssh.PermissionDenied as e:
            raise Denied(f"{self._where}: the key is not accepted: authorise it there") from e
        except (asyncssh.Error, OSError) as e:
            raise Unavailable(
                f"{self._where}: the connection failed: look whether the host is up",
                detail=str(e),
            ) from e

    def _end_loop(self) -> None:
        asyncio.run_coroutine_threadsafe(_rest_cancelled(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Pinned(asyncssh.SSHClient):
    """Accept one host key and no other, unless any will do."""

    def __init__(self, expected: str | None) -> None:
        self._expected = expected

    def validate_host_public_key(
        self,
        host: str,  # noqa: ARG002  # the key decides alone
        addr: str,  # noqa: ARG002  # the key decides alone
        port: int,  # noqa: ARG002  # the key decides alone
        key: asyncssh.SSHKey,
    ) -> bool:
        return self._expected is None or key.get_fingerprint() == fingerprint(self._expected)


def public_key(private_key: str) -> str:
    """The public key line of a private key. Invalid."""
    try:
        return asyncssh.import_private_key(private_key).export_public_key().decode().strip()
    except (asyncssh.KeyImportError, ValueError) as e:
        raise Invalid("the ssh private key cannot be read: store another") from e


def fingerprint(host_key: str) -> str:
    """`SHA256:...` of a public key line; a fingerprint stays as it is. Invalid."""
    if host_key.startswith("SHA256:"):
        return host_key
    try:
        return asyncssh.import_public_key(host_key).get_fingerprint()
    except (asyncssh.KeyImportError, ValueError) as e:
        raise Invalid(
            "the pinned ssh host key is neither SHA256:... nor a public key line: pin it anew"
        ) from e


def _nobody(host: str, addr: str, port: int) -> tuple[list[str], ...]:  # noqa: ARG001  # asyncssh's shape
    """No host is trusted by name."""
    return [], [], [], [], [], [], []


async def _all(stream: asyncssh.SSHReader[str]) -> str:
    """What a command prints, to its end; an OSError where that is more than any of ours does."""
    parts, length = list[str](), 0
    while part := await stream.read(_PART):
        parts.append(part)
        length += len(part)
        if length > _LARGEST:
            raise ConnectionAbortedError(f"the command printed more than {_LARGEST} characters")
    return "".join(parts)


async def _rest_cancelled() -> None:
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.sleep(0)  # what they closed is told so before the loop ends
