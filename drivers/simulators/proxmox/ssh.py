"""The ssh side of a simulated node: root's shell with the commands that a driver needs."""

import asyncio
import re
import shlex
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from drivers.simulators.faults import Call, Hang, LostAnswer, Reset, Status
from drivers.simulators.proxmox import config
from drivers.simulators.proxmox.access import Caller
from drivers.simulators.proxmox.config import Job
from drivers.simulators.proxmox.live import Live, LiveExport
from drivers.simulators.proxmox.nbd import Export, serve, serve_any
from drivers.simulators.proxmox.node import Node, Vm
from drivers.simulators.proxmox.params import Fails, Refused, checked, parse_property, size_bytes
from drivers.simulators.proxmox.qmp import Monitor
from drivers.simulators.proxmox.timers import Failed, Timers
from drivers.simulators.proxmox.work import same_digest, unlocked

ROOT = Caller(user="root@pam")
_SCRAPS = "/var/tmp/fedctl"  # noqa: S108  # a path on the node


class SshServer:
    """A real ssh server in a thread with an event loop of its own."""

    def __init__(self, node: Node, *, port: int, host_key: str, authorized: str) -> None:
        self.node, self.port = node, port
        self._host_key = asyncssh.import_private_key(host_key)
        self._authorized = asyncssh.import_authorized_keys(authorized)
        self._exports: dict[str, Export] = {}
        self._pid = 50_000
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._timers = Timers(lambda words: self._qm(words[1:]))
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._listener: asyncssh.SSHAcceptor | None = None
        self._ending = asyncio.Event()
        node.exports = self._held_files
        node.writers = self._written_files

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._loop.run_forever, name=f"ssh-{self.node.name}"
            )
            self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Refuse new connections and cut the open ones; exports go on."""
        if self._thread is not None and self._listener is not None:
            self._run(self._cut())

    def close(self) -> None:
        """End everything, exports and timers too."""
        self._timers.close()
        if self._thread is None:
            return
        self._run(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._thread = None

    def timers(self) -> list[str]:
        return self._timers.units()

    def exports(self) -> list[Export]:
        return list(self._exports.values())

    # -- the server ----------------------------------------------------------------------------

    def _run(self, work: Awaitable[None]) -> None:
        async def awaited() -> None:
            await work

        asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._ending.clear()
        self._listener = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Door(self),
            server_host_keys=[self._host_key],
            authorized_client_keys=self._authorized,
            process_factory=self._command,
            encoding="utf-8",
            compression_algs=None,
            # as a modern server prefers; the GCM cipher is also the fastest here
            encryption_algs=["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"],
        )
        self.port = self._listener.get_port()

    async def _cut(self) -> None:
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

    async def _ended(self) -> None:
        for export in self.exports():
            await self._killed(export)
        await self._cut()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def connected(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.add(connection)

    def lost(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.discard(connection)

    def streamed(self, path: str) -> Callable[[Any, Any], Awaitable[None]] | None:
        """What answers behind a unix socket of the node."""
        if match := re.fullmatch(r"/run/qemu-server/(\d+)\.qmp", path):
            return self._monitored(int(match[1]))
        for live in tuple(self.node.live.values()):
            if live.socket == path:
                return self._live(live)
        export = self._exports.get(path)
        if export is None:
            return None

        async def session(reader: Any, writer: Any) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  # we are in one
            export.clients.add(task)
            try:
                await serve(export, reader, writer, faults=self.node.faults)
            except (asyncio.IncompleteReadError, ConnectionError, asyncssh.Error, OSError):
                pass
            except asyncio.CancelledError:
                if export.socket in self._exports:
                    raise
            finally:
                export.clients.discard(task)
                writer.close()

        return session

    def _monitored(self, vmid: int) -> Callable[[Any, Any], Awaitable[None]] | None:
        live, vm = self.node.live.get(vmid), self.node.vms.get(vmid)
        if live is None or vm is None:
            return None

        async def session(reader: Any, writer: Any) -> None:
            with suppress(ConnectionError, asyncssh.Error, OSError):
                await Monitor(self.node, vm, live).serve(reader, writer)
            writer.close()

        return session

    def _live(self, live: Live) -> Callable[[Any, Any], Awaitable[None]]:
        def chosen(name: str) -> LiveExport | None:
            return live.exports.get(name)

        async def session(reader: Any, writer: Any) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncssh.Error, OSError):
                await serve_any(
                    chosen,
                    tuple(live.exports),
                    reader,
                    writer,
                    faults=self.node.faults,
                )
            writer.close()

        return session

    async def _killed(self, export: Export) -> None:
        self._exports.pop(export.socket, None)
        for client in tuple(export.clients):
            client.cancel()
        await asyncio.gather(*export.clients, return_exceptions=True)

    def _held_files(self) -> set[str]:
        return {str(export.file) for export in self.exports()}

    def _written_files(self) -> set[str]:
        return {str(export.file) for export in self.exports() if not export.readonly}

    # -- commands ------------------------------------------------------------------------------

    async def _command(self, process: "asyncssh.SSHServerProcess[str]") -> None:
        line = process.command or ""
        faults = self.node.faults
        fault = faults.next_for("SSH", line, changes=_changes(line))
        await asyncio.sleep(faults.latency(Call.WRITE))
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
            out, status = await self._ran(shlex.split(line), process), 0
        except Failed as failed:
            out, status = "", failed.status
            process.stderr.write(failed.text + "\n")
        except (Refused, Fails) as error:
            out, status = "", 255
            process.stderr.write(f"{error}\n")
        if isinstance(fault, LostAnswer):
            connection.abort()
            return
        process.stdout.write(out)
        process.exit(status)

    async def _ran(self, words: list[str], process: "asyncssh.SSHServerProcess[str]") -> str:
        if not words:
            raise Failed(127, "no command")
        name, rest = words[0], words[1:]
        if name == "qemu-nbd":
            return self._exported(words)
        if name == "kill":
            return await self._kill(rest)
        if name == "timeout":
            return await self._ran(rest[1:], process)
        if name == "tee":
            return self._tee(rest, await process.stdin.read())
        commands: dict[str, Callable[[list[str]], str]] = {
            "pvesm": self._pvesm,
            "qm": self._qm,
            "pgrep": self._pgrep,
            "mkdir": lambda _: "",
            "ls": self._ls,
            "qemu-img": self._create,
            "touch": self._touch,
            "zfs": self._zfs,
            "rm": self._rm,
            "systemd-run": self._timers.start,
            "systemctl": self._timers.systemctl,
        }
        if name not in commands:
            raise Failed(127, f"bash: line 1: {name}: command not found")
        return await asyncio.to_thread(commands[name], rest)

    def _pvesm(self, words: list[str]) -> str:
        storages = self.node.storages
        if words[:1] == ["path"] and len(words) == 2:
            storage, _, name = words[1].partition(":")
            if name.startswith(("snippets/", "import/")) and storages.kind(storage) == "dir":
                return f"/var/lib/vz/{name}\n"  # told whether or not it is there
            return storages.volume(words[1]).path + "\n"
        if words[:1] == ["alloc"] and len(words) >= 5:
            storage, vmid, name, size = words[1:5]
            length = size_bytes(size) if size[-1].isalpha() else int(size) << 10
            if name:
                volume = storages.allocate_named(storage, int(vmid), name, length)
            else:
                volume = storages.allocate(storage, int(vmid), length)
            return f"successfully created '{volume.volid}'\n"
        if words[:1] == ["free"] and len(words) == 2:
            storages.free(words[1])
            return f"Removed volume '{words[1]}'\n"
        raise Failed(255, "ERROR: unknown command 'pvesm " + " ".join(words) + "'")

    def _qm(self, words: list[str]) -> str:
        if words[:1] == ["unlock"] and len(words) == 2:
            vm = self.node.vm(int(words[1]))
            with self.node.locked(vm.vmid):
                vm.config.pop("lock", None)
            self.node.changed(vm.vmid)
            return ""
        if words[:1] == ["resume"] and len(words) == 2:
            vm = self.node.vm(int(words[1]))
            with self.node.locked(vm.vmid):
                unlocked(vm)
                if vm.running and vm.suspended:
                    vm.suspended = False
                    self.node.unpause(vm)
            return ""
        if words[:2] == ["guest", "cmd"] and len(words) == 4:
            return self._agent(self.node.vm(int(words[2])), words[3])
        if words[:1] == ["set"] and len(words) >= 4:
            return self._set(int(words[1]), _options(words[2:]))
        raise Failed(255, "ERROR: unknown command 'qm " + " ".join(words) + "'")

    def _agent(self, vm: Vm, command: str) -> str:
        """A command of the guest agent; what takes longer than anybody waits is cut off."""
        guests, native = self.node.guests, str(vm.vmid)
        agent = parse_property(vm.config.get("agent", "0"), default="enabled")
        if agent.get("enabled") != "1":
            raise Failed(255, "No QEMU guest agent configured")
        if vm.suspended or not guests.ping(native):
            raise Failed(255, "QEMU guest agent is not running")
        if command == "fsfreeze-status":
            return "frozen\n" if guests.is_frozen(native) else "thawed\n"
        if command not in {"fsfreeze-freeze", "fsfreeze-thaw"}:
            raise Failed(255, f"400 Parameter verification failed.\ncommand: {command}")
        if not guests.freeze(native, frozen=command == "fsfreeze-freeze"):
            raise Failed(124, "")
        return "1\n"

    def _set(self, vmid: int, changes: dict[str, str]) -> str:
        vm = self.node.vm(vmid)
        with self.node.locked(vmid):
            skip = changes.pop("skiplock", "0") == "1"
            same_digest(vm, changes.pop("digest", None))
            if not skip:
                unlocked(vm)
            delete = changes.pop("delete", "")
            config.allowed(self.node, ROOT, vmid, checked(changes))
            config.remove(self.node, vm, delete)
            config.apply(self.node, vm, changes, job=Job(caller=ROOT))
        self.node.changed(vmid)
        return f"update VM {vmid}: {' '.join(f'-{key} {changes[key]}' for key in changes)}\n"

    def _zfs(self, words: list[str]) -> str:
        if len(words) == 3 and words[:2] == ["set", "snapdev=visible"]:
            self.node.storages.at("/dev/zvol/" + words[2])
            return ""
        raise Failed(1, "cannot open: dataset does not exist")

    def _tee(self, words: list[str], text: str) -> str:
        path = words[-1] if words else ""
        match = re.fullmatch(r"/var/lib/vz/(snippets|import)/([A-Za-z0-9._-]+)", path)
        if match is None:
            raise Failed(1, f"tee: {path}: No such file or directory")
        (self.node.folder / match[1] / match[2]).write_text(text)
        return text

    def _ls(self, words: list[str]) -> str:
        """The names in the folder of scrap files."""
        if words != ["-1", _SCRAPS] or not self._scrap.exists():
            raise Failed(2, f"ls: cannot access '{words[-1]}': No such file or directory")
        return "".join(f"{each.name}\n" for each in sorted(self._scrap.iterdir()))

    def _create(self, words: list[str]) -> str:
        if words[:3] != ["create", "-f", "qcow2"] or len(words) != 5:
            raise Failed(1, "qemu-img: this simulator only creates qcow2")
        file = self._scrap_file(words[3])
        file.write_bytes(b"")
        return f"Formatting '{words[3]}', fmt=qcow2 size={words[4]}\n"

    def _touch(self, words: list[str]) -> str:
        self._scrap_file(words[-1]).touch()
        return ""

    @property
    def _scrap(self) -> Path:
        return self.node.translated("x").parent

    def _scrap_file(self, path: str) -> Path:
        if Path(path).parent != Path(_SCRAPS):
            raise Failed(1, f"cannot touch '{path}': Permission denied")
        self._scrap.mkdir(exist_ok=True)
        return self.node.translated(path)

    def _rm(self, words: list[str]) -> str:
        if words[-1].startswith(f"{_SCRAPS}/"):
            for word in words[words[0] == "-f" :]:
                self._scrap_file(word).unlink(missing_ok=True)
            return ""
        match = re.fullmatch(r"/var/lib/vz/snippets/([A-Za-z0-9._-]+)", words[-1])
        if match is None:
            raise Failed(1, f"rm: cannot remove '{words[-1]}': Operation not permitted")
        (self.node.folder / "snippets" / match[1]).unlink(missing_ok=True)
        return ""

    # -- qemu-nbd ------------------------------------------------------------------------------

    def _exported(self, words: list[str]) -> str:
        options = {
            key: value
            for key, _, value in (w.removeprefix("--").partition("=") for w in words[1:-1])
        }
        known = {"fork", "persistent", "read-only", "socket", "export-name", "description"}
        known |= {"format", "load-snapshot", "shared", "discard", "detect-zeroes", "cache"}
        if unknown := set(options) - known:
            raise Failed(1, f"qemu-nbd: unrecognized option '--{min(unknown)}'")
        if "fork" not in options:
            raise Failed(1, "qemu-nbd: this simulator only forks")
        path, socket = words[-1], options["socket"]
        try:
            volume, file = self.node.storages.at(path)
            if name := options.get("load-snapshot"):
                file = volume.file.with_name(f"{volume.file.name}@{name}")
        except Fails as error:
            raise Failed(1, f"qemu-nbd: Failed to blk_new_open '{path}': {error}") from error
        if not file.exists():
            raise Failed(1, f"qemu-nbd: Failed to load snapshot: Can't find snapshot on {path}")
        if socket in self._exports:
            raise Failed(1, f"qemu-nbd: Failed to bind socket: Address already in use: {socket}")
        if "read-only" not in options:
            self._exclusive(volume.vmid, file, path)
        self._pid += 1
        self._exports[socket] = Export(
            pid=self._pid,
            arguments=words,
            socket=socket,
            name=options.get("export-name", ""),
            description=options.get("description", ""),
            file=file,
            readonly="read-only" in options,
        )
        return ""

    def _exclusive(self, vmid: int | None, file: Path, path: str) -> None:
        """QEMU's image locks: no writer beside a running VM; a second one on raw disks only."""
        vm = self.node.vms.get(vmid or 0)
        running = vm is not None and vm.running
        qcow2 = file.suffix == ".qcow2"
        writers = [e for e in self.exports() if e.file == file and not e.readonly]
        if running or (qcow2 and writers):
            raise Failed(
                1,
                f"qemu-nbd: Failed to blk_new_open '{path}': Failed to get \"write\" lock"
                " Is another process using the image?",
            )

    def _pgrep(self, words: list[str]) -> str:
        if words[-1:] != ["qemu-nbd"]:
            raise Failed(1, "")
        lines = [f"{e.pid} {' '.join(e.arguments)}\n" for e in self.exports()]
        if not lines:
            raise Failed(1, "")
        return "".join(lines)

    async def _kill(self, words: list[str]) -> str:
        pid = words[-1]
        for export in self.exports():
            if str(export.pid) == pid:
                await self._killed(export)
                return ""
        raise Failed(1, f"bash: line 1: kill: ({pid}) - No such process")


class _Door(asyncssh.SSHServer):
    """One connection: root only, by key only, no forwarding but to our sockets."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connected(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # told by asyncssh
        if self._connection is not None:
            self._server.lost(self._connection)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002  # the keys are root's alone
        return True

    def password_auth_supported(self) -> bool:
        return False

    def unix_connection_requested(self, dest_path: str) -> Any:
        return self._server.streamed(dest_path) or False


def _changes(line: str) -> bool:
    return not line.startswith(("pvesm path", "pgrep"))


def _options(words: list[str]) -> dict[str, str]:
    """`--key value --key value` -> a mapping."""
    if len(words) % 2 or not all(word.startswith("-") for word in words[::2]):
        raise Failed(255, "400 unable to parse options")
    return {key.lstrip("-"): value for key, value in zip(words[::2], words[1::2], strict=True)}
