"""What the QEMU of a running VM keeps of its disks: dirty bitmaps, fleecing backups, exports.

Bitmaps are not persistent: they are gone with the process, as on raw disks.
"""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivers.simulators.sparse import data_ranges

GRANULE = 64 << 10


class QmpError(Exception):
    """What QEMU answers instead of a return: its class and its words."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(slots=True)
class Bitmap:
    dirty: set[int] = field(default_factory=set)
    recording: bool = True


@dataclass(slots=True)
class Drive:
    """A disk of the VM: its node's name, its file, and the bitmaps on it."""

    node: str
    file: Path
    bitmaps: dict[str, Bitmap] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.file.stat().st_size


@dataclass(slots=True)
class Scrap:
    """A node over a drive, in which a backup without sync keeps what is overwritten."""

    drive: Drive
    file: Path
    kept: set[int] = field(default_factory=set)
    job: bool = False


@dataclass(slots=True, kw_only=True)
class LiveExport:
    """A block export of the process: reads of its scrap node, and a bitmap of its drive."""

    name: str
    scrap: Scrap
    bitmap_name: str = ""
    bitmap: frozenset[int] | None = None
    depths: Callable[[int], int] | None = None
    gone: bool = False
    live: "Live"

    @property
    def size(self) -> int:
        return self.scrap.drive.size

    def read(self, offset: int, length: int) -> bytes:
        if self.gone:
            raise ConnectionResetError("the export was deleted")
        return self.live.read(self.scrap, offset, length)

    readonly = True

    def write(self, offset: int, data: bytes) -> None:
        raise OSError(f"{len(data)} bytes at {offset}: read-only")

    def zero(self, offset: int, length: int) -> None:
        raise OSError(f"{length} bytes at {offset}: read-only")

    def close(self) -> None:
        """The export goes on without this reader."""

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Data: what was kept, and what the drive has where nothing was."""
        with self.live.lock:
            kept = sorted(self.scrap.kept)
            descriptor = os.open(self.scrap.drive.file, os.O_RDONLY)
            try:
                found = [*data_ranges(descriptor, start=start, end=end)]
            finally:
                os.close(descriptor)
        found += [
            (max(n * GRANULE, start), min((n + 1) * GRANULE, end) - max(n * GRANULE, start))
            for n in kept
            if n * GRANULE < end and (n + 1) * GRANULE > start
        ]
        return iter(_merged(found))


class Live:
    """One running VM's block layer; `write` is how its guest writes."""

    def __init__(self, drives: dict[str, Path], translate: Callable[[str], Path]) -> None:
        self.lock = threading.RLock()
        self.drives = {slot: Drive(f"drive-{slot}", file) for slot, file in drives.items()}
        self.scraps: dict[str, Scrap] = {}
        self.exports: dict[str, LiveExport] = {}
        self.socket = ""
        self._translate = translate  # a path on the node -> our file

    # -- the guest -----------------------------------------------------------------------------

    def write(self, file: Path, offset: int, length: int, do: Callable[[], None]) -> None:
        """Do a write of the guest; before it is kept what a backup must keep."""
        with self.lock:
            drive = next((d for d in self.drives.values() if d.file == file), None)
            if drive is not None:
                granules = range(offset // GRANULE, (offset + length - 1) // GRANULE + 1)
                for scrap in self.scraps.values():
                    if scrap.drive is drive and scrap.job:
                        for number in granules:
                            self._keep(scrap, number)
                for bitmap in drive.bitmaps.values():
                    if bitmap.recording:
                        bitmap.dirty.update(granules)
            do()

    def _keep(self, scrap: Scrap, number: int) -> None:
        if number in scrap.kept:
            return
        with scrap.drive.file.open("rb") as source, scrap.file.open("r+b") as target:
            source.seek(number * GRANULE)
            target.seek(number * GRANULE)
            target.write(source.read(GRANULE))
        scrap.kept.add(number)

    def read(self, scrap: Scrap, offset: int, length: int) -> bytes:
        out = bytearray()
        with self.lock, scrap.drive.file.open("rb") as base, scrap.file.open("rb") as kept:
            while length:
                number, start = divmod(offset, GRANULE)
                count = min(GRANULE - start, length)
                file = kept if number in scrap.kept else base
                file.seek(offset)
                out += file.read(count)
                offset, length = offset + count, length - count
        return bytes(out)

    # -- commands ------------------------------------------------------------------------------

    def add_scrap(self, node: str, path: str, backing: str) -> None:
        with self.lock:
            if len(node) > 31:
                raise QmpError(f"Invalid node-name: '{node}'")
            if node in self.scraps:
                raise QmpError(f"Duplicate nodes with node-name='{node}'")
            drive = self._drive(backing)
            file = self._translate(path)
            if not file.exists():
                raise QmpError(f"Could not open '{path}': No such file or directory")
            os.truncate(file, drive.size)
            self.scraps[node] = Scrap(drive, file)

    def drop_scrap(self, node: str) -> None:
        with self.lock:
            scrap = self._scrap(node)
            if scrap.job or any(e.scrap is scrap for e in self.exports.values()):
                raise QmpError(f"Node '{node}' is busy: node is used as backup target")
            del self.scraps[node]

    def checked(self, kind: str, data: dict[str, Any]) -> Callable[[], None]:
        """One action of a transaction: refused now, or done when all of them can be."""
        if kind == "blockdev-backup":
            scrap = self._scrap(data["target"])
            if data["job-id"] in self.jobs():
                raise QmpError(f"Job ID '{data['job-id']}' already in use")
            if data["sync"] != "none" or scrap.drive is not self._drive(data["device"]):
                raise QmpError("this simulator backs up without sync, into a node over the disk")
            return lambda: setattr(scrap, "job", True)
        drive = self._drive(data["node"])
        if kind == "block-dirty-bitmap-merge":
            return self._merging(drive, data["target"], data["bitmaps"])
        name = data["name"]
        if kind == "block-dirty-bitmap-add":
            if name in drive.bitmaps:
                raise QmpError(f"Bitmap already exists: {name}")
            made = Bitmap(recording=not data.get("disabled", False))
            return lambda: drive.bitmaps.update({name: made})
        if kind == "block-dirty-bitmap-disable":
            bitmap = self._bitmap(drive, name)
            return lambda: setattr(bitmap, "recording", False)
        raise QmpError(f"Invalid parameter '{kind}'")

    def _merging(self, drive: Drive, target: str, names: list[str]) -> Callable[[], None]:
        """Into one that an earlier action of the transaction may add."""
        sources = [self._bitmap(drive, name) for name in names]
        return lambda: self._bitmap(drive, target).dirty.update(*(s.dirty for s in sources))

    def cancel(self, job: str) -> None:
        with self.lock:
            if job not in self.jobs():
                raise QmpError(f"Block job '{job}' not found", "DeviceNotActive")
            self.scraps[job].job = False

    def drop_bitmap(self, node: str, name: str) -> None:
        with self.lock:
            drive = self._drive(node)
            self._bitmap(drive, name)
            del drive.bitmaps[name]

    def jobs(self) -> list[str]:
        return [name for name, scrap in self.scraps.items() if scrap.job]

    def serve(self, path: str) -> None:
        if self.socket:
            raise QmpError("NBD server already running")
        self.socket = path

    def export(self, name: str, node: str, bitmaps: list[dict[str, str]]) -> None:
        with self.lock:
            if not self.socket:
                raise QmpError("NBD server not running")
            if name in self.exports:
                raise QmpError(f"Block export id '{name}' is already in use")
            scrap = self._scrap(node)
            shown, dirty = "", None
            for told in bitmaps:
                shown = told["name"]
                bitmap = self._bitmap(self._drive(told["node"]), shown)
                if bitmap.recording:
                    raise QmpError(f"Enabled bitmap '{shown}' incompatible with readonly export")
                dirty = frozenset(bitmap.dirty)
            self.exports[name] = LiveExport(
                name=name, scrap=scrap, bitmap_name=shown, bitmap=dirty, live=self
            )

    def drop_export(self, name: str) -> None:
        with self.lock:
            if name not in self.exports:
                raise QmpError(f"Export '{name}' is not found")
            self.exports.pop(name).gone = True

    def close(self) -> None:
        """The process has ended."""
        with self.lock:
            for export in self.exports.values():
                export.gone = True
            self.exports.clear()
            self.scraps.clear()
            self.drives.clear()

    # -- inside --------------------------------------------------------------------------------

    def _drive(self, node: str) -> Drive:
        for drive in self.drives.values():
            if drive.node == node:
                return drive
        raise QmpError(f"Cannot find device='{node}' nor node-name='{node}'", "DeviceNotFound")

    def _scrap(self, node: str) -> Scrap:
        if node not in self.scraps:
            raise QmpError(f"Failed to find node with node-name='{node}'")
        return self.scraps[node]

    @staticmethod
    def _bitmap(drive: Drive, name: str) -> Bitmap:
        if name not in drive.bitmaps:
            raise QmpError(f"Dirty bitmap '{name}' not found")
        return drive.bitmaps[name]


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if out and start <= out[-1][0] + out[-1][1]:
            first, count = out[-1]
            out[-1] = (first, max(count, start + length - first))
        else:
            out.append((start, length))
    return out
