"""The ssh side of simulated hosts: commands in, disks behind unix sockets, faults between."""

import asyncio
import re
import shlex
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from drivers.simulators.faults import Call, Faults, Hang, LostAnswer, Reset, Status
from drivers.simulators.nbd import Content, Export, serve

T = TypeVar("T")
Process = asyncssh.SSHServerProcess[str]
Session = Callable[[Any, Any], Awaitable[None]]


class Failed(Exception):
    """A command ended with this status and these words on stderr."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        self.run(_rest_cancelled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SshServer:
    """A real ssh server; it can go down and come back on the same port.

    `run` gets a command's words and gives what it prints, or raises Failed. `streamed` gives what
    answers behind a unix socket of the host. `reads` are the commands that change nothing.
    """

    def __init__(
        self,
        *,
        port: int,
        host_key: asyncssh.SSHKey,
        authorized: str,
        faults: Faults,
        reads: tuple[str, ...],
        run: Callable[[list[str], Process], Awaitable[str]],
        streamed: Callable[[str], Session | None],
    ) -> None:
        self.port, self.streamed = port, streamed
        self.host_key, self._faults, self._reads, self._run = host_key, faults, reads, run
        self._authorized = asyncssh.import_authorized_keys(authorized) if authorized else None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._listener: asyncssh.SSHAcceptor | None = None
        self._ending = asyncio.Event()

    async def listen(self) -> None:
        """Let clients in; an unset port is chosen once and kept."""
        self._ending.clear()
        self._listener = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Door(self),
            server_host_keys=[self.host_key],
            authorized_client_keys=self._authorized,
            process_factory=self._command,
            encoding="utf-8",
            compression_algs=None,
            # as a modern server prefers; the GCM cipher is also the fastest here
            encryption_algs=["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"],
        )
        self.port = self._listener.get_port()

    async def cut(self) -> None:
        """Refuse new connections and cut the open ones."""
        self._ending.set()
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            self._listener = None
        for connection in tuple(self._connections):
            connection.abort()
        for connection in tuple(self._connections):
            with suppress(Exception):
                await connection.wait_closed()

    def connected(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.add(connection)

    def lost(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.discard(connection)

    async def _command(self, process: Process) -> None:
        line = process.command or ""
        reads = line.startswith(self._reads)
        fault = self._faults.next_for("SSH", line, changes=not reads)
        await asyncio.sleep(self._faults.latency(Call.READ if reads else Call.WRITE))
        connection = process.channel.get_connection()
        if isinstance(fault, Hang):
            await self._ending.wait()
            connection.abort()
            return
        if isinstance(fault, Reset):
            connection.abort()
            return
        if isinstance(fault, Status):
            process.stderr.write(fault.reason + "\n")
            process.exit(255)
            return
        try:
            out, status = await self._run(shlex.split(line), process), 0
        except Failed as failed:
            out, status = "", failed.status
            process.stderr.write(failed.text + "\n")
        if isinstance(fault, LostAnswer):
            connection.abort()
            return
        process.stdout.write(out)
        process.exit(status)


class _Door(asyncssh.SSHServer):
    """One connection: one user, by key only, no forwarding but to the host's sockets."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connected(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # told by asyncssh
        if self._connection is not None:
            self._server.lost(self._connection)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002  # the keys are one user's alone
        return True

    def password_auth_supported(self) -> bool:
        return False

    def unix_connection_requested(self, dest_path: str) -> Any:
        return self._server.streamed(dest_path) or False


class Exports:
    """The qemu-nbd processes of a host: each serves a file behind a unix socket."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._exports: dict[str, Export] = {}
        self._pid = 50_000

    def __iter__(self) -> Iterator[Export]:
        return iter(tuple(self._exports.values()))

    def unbound(self, socket: str) -> None:
        """Failed where another qemu-nbd has the socket."""
        if socket in self._exports:
            raise Failed(1, f"qemu-nbd: Failed to bind socket: Address already in use: {socket}")

    def begin(
        self,
        words: list[str],
        options: Mapping[str, str],
        file: Path,
        content: Callable[[], Content] | None = None,
    ) -> None:
        self._pid += 1
        self._exports[options["socket"]] = Export(
            pid=self._pid,
            arguments=["qemu-nbd", *words],
            socket=options["socket"],
            name=options.get("export-name", ""),
            description=options.get("description", ""),
            file=file,
            readonly="read-only" in options,
            content=content,
        )

    def streamed(self, path: str) -> Session | None:
        """What answers behind a socket."""
        export = self._exports.get(path)
        if export is None:
            return None

        async def session(reader: Any, writer: Any) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  # we are in one
            export.clients.add(task)
            try:
                await serve(export, reader, writer, faults=self._faults)
            except (asyncio.IncompleteReadError, ConnectionError, asyncssh.Error, OSError):
                pass
            except asyncio.CancelledError:
                if export.socket in self._exports:
                    raise
            finally:
                export.clients.discard(task)
                writer.close()

        return session

    def pgrep(self, words: list[str]) -> str:
        """`pgrep -a -x qemu-nbd`."""
        lines = [f"{each.pid} {' '.join(each.arguments)}\n" for each in self]
        if words[-1:] != ["qemu-nbd"] or not lines:
            raise Failed(1, "")
        return "".join(lines)

    async def kill(self, words: list[str]) -> str:
        """`kill PID`."""
        pid = words[-1] if words and re.fullmatch(r"\d+", words[-1]) else ""
        for export in self:
            if str(export.pid) == pid:
                await self._killed(export)
                return ""
        raise Failed(1, f"bash: line 1: kill: ({pid}) - No such process")

    async def end(self) -> None:
        """End them all, and with them their clients."""
        for export in self:
            await self._killed(export)

    async def _killed(self, export: Export) -> None:
        self._exports.pop(export.socket, None)
        for client in tuple(export.clients):
            client.cancel()
        await asyncio.gather(*export.clients, return_exceptions=True)


_NBD_OPTIONS = {
    "fork", "persistent", "read-only", "socket", "export-name", "description", "format", "shared",
    "discard",
}  # fmt: skip


def nbd_options(words: list[str], *further: str) -> dict[str, str]:
    """The options of a qemu-nbd that forks; `further` are known beside the usual ones."""
    options = dict(w.removeprefix("--").partition("=")[::2] for w in words[:-1])
    if unknown := set(options) - _NBD_OPTIONS - set(further):
        raise Failed(1, f"qemu-nbd: unrecognized option '--{min(unknown)}'")
    if "fork" not in options:
        raise Failed(1, "qemu-nbd: this simulator only forks")
    return options


async def ran(
    commands: Mapping[str, Callable[[list[str]], str]], exports: Exports, words: list[str]
) -> str:
    """Run one of the commands, beside the loop, or one on the exports."""
    name, rest = (words[0], words[1:]) if words else ("", [])
    if name == "kill":
        return await exports.kill(rest)
    if name == "pgrep":
        return exports.pgrep(rest)
    if name not in commands:
        raise Failed(127, f"bash: line 1: {name}: command not found")
    return await asyncio.to_thread(commands[name], rest)


async def _rest_cancelled() -> None:
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
