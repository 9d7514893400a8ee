"""The ssh side of simulated servers: a rescue system each, while it runs, with a new host key."""

import asyncio
import hashlib
import json
import threading
import urllib.request
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from drivers.simulators.faults import Direction
from drivers.simulators.ovhcloud.estate import Estate, Server
from drivers.simulators.ssh import Exports, Failed, Loop, SshServer, nbd_options, ran

T = TypeVar("T")
_RUN = "/run/fedctl/"
_DEVICE = "/dev/nvme0n1"
_ONCE = 'exec 9> "{0}.lock"; flock -n 9 || exit 0; [ -e "{0}" ] && exit 0; '
_WIPING = _ONCE.format("$2") + 'blkdiscard -f -z "$1" && echo done > "$2.new" && mv "$2.new" "$2"'
_FETCHING = (
    _ONCE.format("$3") + 'curl -fsS "$1" | tee "$2" | sha256sum > "$3.new" && mv "$3.new" "$3"'
)


class Rescues:
    """All servers' rescue systems, in one thread with an event loop of its own."""

    def __init__(self, estate: Estate, *, ports: dict[str, int]) -> None:
        self.estate, self.ports = estate, ports
        self._up: dict[str, RescueSystem] = {}
        self._down = False
        self._loop = Loop(f"rescue-{estate.name}")
        for server in estate.servers.values():
            if server.name not in ports:
                ports[server.name] = self.run(_free_port(set(ports.values())))
        estate.rescued, estate.left = self.begin, self.end

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work)

    def begin(self, server: Server) -> None:
        """The rescue system of a server is up, with the key that the API was given before."""
        system = RescueSystem(self.estate, server, self.ports[server.name])
        self._up[server.name] = system
        if not self._down:
            self.run(system.listen())

    def end(self, server: Server) -> None:
        """Power is cut: connections, exports and everything in its memory are gone."""
        system = self._up.pop(server.name, None)
        if system is not None:
            self.run(system.ended())

    def cut(self, *, down: bool) -> None:
        """The network around all servers goes down, or comes back."""
        self._down = down
        for system in self._up.values():
            self.run(system.cut() if down else system.listen())

    def system(self, name: str) -> "RescueSystem":
        """A server's rescue system, for tests that look behind."""
        return self._up[name]

    def close(self) -> None:
        for system in tuple(self._up.values()):
            self.run(system.ended())
        self._up.clear()
        self._loop.close()


class RescueSystem:
    """One boot of one server's rescue: a host key, processes, and files in memory."""

    def __init__(self, estate: Estate, server: Server, port: int) -> None:
        self.estate, self.server = estate, server
        self.files: dict[str, str] = {}
        self.mounted = ""
        self.over = False
        self._working: set[str] = set()
        self._guard = threading.Lock()
        self._exports = Exports(estate.faults)
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "hostname": lambda _: "rescue12-customer-eu\n",
            "lsblk": self._lsblk,
            "qemu-nbd": self._exported,
            "mkdir": self._mkdir,
            "setsid": self._worked,
            "cat": self._cat,
        }
        self.ssh = SshServer(
            port=port,
            host_key=asyncssh.generate_private_key("ssh-ed25519"),
            authorized=server.rescue_key or "",
            faults=estate.faults,
            reads=("hostname", "lsblk", "cat", "pgrep"),
            run=lambda words, _: ran(self._commands, self._exports, words),
            streamed=self._exports.streamed,
        )

    @property
    def disk(self) -> Path:
        return self.estate.file(self.server)

    async def listen(self) -> None:
        await self.ssh.listen()

    async def cut(self) -> None:
        await self.ssh.cut()

    async def ended(self) -> None:
        self.over = True
        await self._exports.end()
        await self.ssh.cut()

    # -- commands ------------------------------------------------------------------------------

    def _lsblk(self, words: list[str]) -> str:
        if words != ["-J", "-b", "-o", "NAME,SIZE,TYPE,MOUNTPOINT"]:
            raise Failed(1, "lsblk: this simulator knows one way only")
        loop = {"name": "loop0", "size": 1 << 28, "type": "loop", "mountpoint": "/run/live/rootfs"}
        disk = {
            "name": _DEVICE.removeprefix("/dev/"),
            "size": self.disk.stat().st_size,
            "type": "disk",
            "mountpoint": self.mounted or None,
        }
        return json.dumps({"blockdevices": [loop, disk]})

    def _mkdir(self, words: list[str]) -> str:
        path = words[-1]
        self._own(path, "mkdir: cannot create directory")
        if "-p" not in words and path in self.files:
            raise Failed(1, f"mkdir: cannot create directory '{path}': File exists")
        self.files[path] = ""
        return ""

    def _cat(self, words: list[str]) -> str:
        if words[-1] not in self.files:
            raise Failed(1, f"cat: {words[-1]}: No such file or directory")
        return self.files[words[-1]]

    def _worked(self, words: list[str]) -> str:
        """`setsid -f sh -c SCRIPT NAME ... TARGET`, of the two scripts that are known here."""
        script = words[3] if words[:3] == ["-f", "sh", "-c"] else ""
        given = words[5:]
        works: dict[str, tuple[Callable[..., str], int]] = {
            _WIPING: (self._wiped, 2),
            _FETCHING: (self._fetched, 3),
        }
        if script not in works or len(given) != works[script][1]:
            raise Failed(127, "setsid: failed to execute")
        act, target = works[script][0], given[-1]
        self._own(target, "sh: cannot create")
        self._device(given[-2])

        with self._guard:
            if target in self._working or target in self.files:
                return ""  # the lock is held, or it is done
            self._working.add(target)

        def work() -> None:
            with suppress(OSError, ValueError):
                told = act(*given[:-1])
                if not self.over:
                    self.files[target] = told
            self._working.discard(target)

        threading.Thread(target=work, name="rescue-work", daemon=True).start()
        return ""

    def _wiped(self, device: str) -> str:
        del device
        with self.disk.open("r+b") as disk:
            disk.truncate(0)
            disk.truncate(self.server.disk)
        return "done\n"

    def _fetched(self, url: str, device: str) -> str:
        """What curl gives tee and sha256sum: bytes land as they come, their digest is told last."""
        del device
        digest, at = hashlib.sha256(), 0
        # Where curl fails, the pipe's digest is that of what came.
        with (
            suppress(OSError),
            self.disk.open("r+b") as disk,
            urllib.request.urlopen(url, timeout=20) as answer,  # noqa: S310  # curl takes any
        ):
            while not self.over and (piece := answer.read(1 << 20)):
                data = self.estate.faults.passed(Direction.IN, at, piece)
                disk.write(data[: max(self.server.disk - at, 0)])
                digest.update(data)
                at += len(data)
        return f"{digest.hexdigest()}  -\n"

    def _own(self, path: str, what: str) -> None:
        if not f"{path}/".startswith(_RUN) or ".." in path:
            raise Failed(1, f"{what} '{path}': Permission denied")

    def _device(self, path: str) -> None:
        if path != _DEVICE:
            raise Failed(1, f"cannot open {path}: No such file or directory")

    # -- qemu-nbd ------------------------------------------------------------------------------

    def _exported(self, words: list[str]) -> str:
        options = nbd_options(words)
        if options.get("format") != "raw":
            raise Failed(1, "qemu-nbd: this simulator serves raw disks only")
        self._device(words[-1])
        self._exports.unbound(options["socket"])
        self._exports.begin(words, options, self.disk)
        return ""


async def _free_port(taken: set[int]) -> int:
    while True:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = int(server.sockets[0].getsockname()[1])
        server.close()
        await server.wait_closed()
        if port not in taken:
            return port
