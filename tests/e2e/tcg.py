"""Guests of simulated sites that QEMU really runs, without an accelerator.

A guest boots from its disk over NBD, so that whatever the site keeps its disk in, QEMU sees what the
site sees; what it prints on its serial console is what the site's console tells. It keeps no
journal. `tests.live.guest` makes disks of guests that boot in less than a second.
"""

import asyncio
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from drivers.simulators.faults import STEADY, Faults, Profile
from drivers.simulators.guest import Disk, Guests, _Guest
from drivers.simulators.nbd import serve_any
from drivers.simulators.witness import Witness
from tests.live import guest as guest_disk

QEMU = shutil.which("qemu-system-x86_64")
_EXPORT = "disk"
_PATIENCE = 30.0


@dataclass(slots=True)
class _Machine:
    """One QEMU and the disk that it is given."""

    folder: "TemporaryDirectory[str]"
    process: "subprocess.Popen[str]"
    serving: "_Serving"
    listener: threading.Thread


class TcgGuests(Guests):
    """In the place of `drivers.simulators.guest.Guests`."""

    def __init__(self, site: str, *, profile: Profile, witness: Witness | None = None) -> None:
        self._machines: dict[int, _Machine] = {}
        super().__init__(site, profile=profile, witness=witness)

    def _boot(self, guest: _Guest) -> None:
        with guest.lock:
            if guest.on and guest.disk is not None:
                self._machines[id(guest)] = self._started(guest, guest.disk)

    def _started(self, guest: _Guest, disk: Disk) -> _Machine:
        folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="fedctl-tcg-")
        serving = _Serving(Path(folder.name) / "nbd", disk)
        process = subprocess.Popen(
            [
                QEMU or "", "-machine", "pc", "-accel", "tcg", "-m", "32", "-nodefaults",
                "-display", "none", "-no-reboot", "-serial", "stdio",
                "-monitor", f"unix:{folder.name}/monitor,server=on,wait=off",
                "-drive", f"file=nbd+unix:///{_EXPORT}?socket={serving.path},format=raw,if=virtio",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        listener = threading.Thread(target=self._listen, args=(guest, process), daemon=True)
        listener.start()
        return _Machine(folder, process, serving, listener)

    def _listen(self, guest: _Guest, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as console:
            for line in console:
                self._say(guest, line.rstrip())
                if line.startswith(guest_disk.UP):
                    guest.up = True

    def _leave(self, guest: _Guest, on_down: Callable[[], None]) -> None:
        """The power button, and the end of the guest."""
        machine = self._machines.get(id(guest))
        if machine is not None:
            with suppress(OSError):
                _press(Path(machine.folder.name) / "monitor")
            with suppress(subprocess.TimeoutExpired):
                machine.process.wait(_PATIENCE)
        super()._leave(guest, on_down)

    def _off(self, guest: _Guest) -> None:
        if (machine := self._machines.pop(id(guest), None)) is not None:
            machine.process.kill()
            machine.process.wait()
            machine.listener.join()
            machine.serving.close()
            machine.folder.cleanup()
        super()._off(guest)


class _Serving:
    """A disk over NBD on a socket in a folder, for one client."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = _Shown(disk)
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(_PATIENCE)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_unix_server(self._serve, path=str(self.path))
        )
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await serve_any(
                lambda name: self._disk if name == _EXPORT else None,
                [_EXPORT],
                reader,
                writer,
                faults=Faults(STEADY, seed=1),
            )
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)


class _Shown:
    """A guest's disk as an NBD export; longer than any disk of these tests needs to be."""

    readonly, bitmap_name, bitmap, depths = False, "", None, None
    size = 64 * guest_disk.MIB

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def read(self, offset: int, length: int) -> bytes:
        return self._disk.read(offset, length).ljust(length, b"\0")

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        yield start, end

    def write(self, offset: int, data: bytes) -> None:
        self._disk.write(offset, data)
        self._disk.flush()

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))

    def close(self) -> None:
        self._disk.flush()


def _press(monitor: Path) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_PATIENCE)
        line.connect(str(monitor))
        line.sendall(b"system_powerdown\n")
        said = b""
        while said.count(b"(qemu)") < 2 and (part := line.recv(4096)):
            said += part
