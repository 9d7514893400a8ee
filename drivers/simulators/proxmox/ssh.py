"""The ssh side of a simulated node: root's shell with the commands that a driver needs."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from drivers.simulators.nbd import serve_any
from drivers.simulators.proxmox import config
from drivers.simulators.proxmox.access import Caller
from drivers.simulators.proxmox.config import Job
from drivers.simulators.proxmox.live import Live, LiveExport
from drivers.simulators.proxmox.node import Node, Vm
from drivers.simulators.proxmox.params import Fails, Refused, checked, parse_property, size_bytes
from drivers.simulators.proxmox.qmp import Monitor
from drivers.simulators.proxmox.timers import Timers
from drivers.simulators.proxmox.work import same_digest, unlocked
from drivers.simulators.ssh import (
    Exports,
    Failed,
    Loop,
    Process,
    Session,
    SshServer,
    nbd_options,
    ran,
)

ROOT = Caller(user="root@pam")
_SCRAPS = "/var/tmp/fedctl"  # noqa: S108  # a path on the node


class NodeShell:
    """A node as root reaches it."""

    def __init__(self, node: Node, *, port: int, host_key: str, authorized: str) -> None:
        self.node = node
        self._exports = Exports(node.faults)
        self._timers = Timers(lambda words: self._qm(words[1:]))
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "pvesm": self._pvesm,
            "qm": self._qm,
            "mkdir": lambda _: "",
            "ls": self._ls,
            "qemu-img": self._create,
            "touch": self._touch,
            "zfs": self._zfs,
            "rm": self._rm,
            "systemd-run": self._timers.start,
            "systemctl": self._timers.systemctl,
        }
        self._loop = Loop(f"ssh-{node.name}")
        self._server = SshServer(
            port=port,
            host_key=asyncssh.import_private_key(host_key),
            authorized=authorized,
            faults=node.faults,
            reads=("pvesm path", "pgrep"),
            run=self._ran,
            streamed=self._streamed,
        )
        node.exports = self._held_files
        node.writers = self._written_files

    @property
    def port(self) -> int:
        return self._server.port

    def start(self) -> None:
        self._loop.run(self._server.listen())

    def stop(self) -> None:
        """Refuse new connections and cut the open ones; exports go on."""
        self._loop.run(self._server.cut())

    def close(self) -> None:
        """End everything, exports and timers too."""
        self._timers.close()
        self._loop.run(self._exports.end())
        self._loop.run(self._server.cut())
        self._loop.close()

    def timers(self) -> list[str]:
        return self._timers.units()

    # -- sockets -------------------------------------------------------------------------------

    def _streamed(self, path: str) -> Session | None:
        """What answers behind a unix socket of the node."""
        if match := re.fullmatch(r"/run/qemu-server/(\d+)\.qmp", path):
            return self._monitored(int(match[1]))
        for live in tuple(self.node.live.values()):
            if live.socket == path:
                return self._live(live)
        return self._exports.streamed(path)

    def _monitored(self, vmid: int) -> Session | None:
        live, vm = self.node.live.get(vmid), self.node.vms.get(vmid)
        if live is None or vm is None:
            return None

        async def session(reader: Any, writer: Any) -> None:
            with suppress(ConnectionError, asyncssh.Error, OSError):
                await Monitor(self.node, vm, live).serve(reader, writer)
            writer.close()

        return session

    def _live(self, live: Live) -> Session:
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

    def _held_files(self) -> set[str]:
        return {str(export.file) for export in self._exports}

    def _written_files(self) -> set[str]:
        return {str(export.file) for export in self._exports if not export.readonly}

    # -- commands ------------------------------------------------------------------------------

    async def _ran(self, words: list[str], process: Process) -> str:
        name, rest = (words[0], words[1:]) if words else ("", [])
        try:
            if name == "qemu-nbd":
                return self._exported(rest)
            if name == "timeout":
                return await self._ran(rest[1:], process)
            if name == "tee":
                return self._tee(rest, await process.stdin.read())
            return await ran(self._commands, self._exports, words)
        except (Refused, Fails) as error:
            raise Failed(255, str(error)) from error

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
        options, path = nbd_options(words, "load-snapshot", "detect-zeroes", "cache"), words[-1]
        try:
            volume, file = self.node.storages.at(path)
            if name := options.get("load-snapshot"):
                file = volume.file.with_name(f"{volume.file.name}@{name}")
        except Fails as error:
            raise Failed(1, f"qemu-nbd: Failed to blk_new_open '{path}': {error}") from error
        if not file.exists():
            raise Failed(1, f"qemu-nbd: Failed to load snapshot: Can't find snapshot on {path}")
        self._exports.unbound(options["socket"])
        if "read-only" not in options:
            self._exclusive(volume.vmid, file, path)
        self._exports.begin(words, options, file)
        return ""

    def _exclusive(self, vmid: int | None, file: Path, path: str) -> None:
        """QEMU's image locks: no writer beside a running VM; a second one on raw disks only."""
        vm = self.node.vms.get(vmid or 0)
        running = vm is not None and vm.running
        qcow2 = file.suffix == ".qcow2"
        writers = [e for e in self._exports if e.file == file and not e.readonly]
        if running or (qcow2 and writers):
            raise Failed(
                1,
                f"qemu-nbd: Failed to blk_new_open '{path}': Failed to get \"write\" lock"
                " Is another process using the image?",
            )


def _options(words: list[str]) -> dict[str, str]:
    """`--key value --key value` -> a mapping."""
    if len(words) % 2 or not all(word.startswith("-") for word in words[::2]):
        raise Failed(255, "400 unable to parse options")
    return {key.lstrip("-"): value for key, value in zip(words[::2], words[1::2], strict=True)}
