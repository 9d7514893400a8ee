"""The storages of a simulated node: a directory and a ZFS pool, with real bytes in sparse files.

Every guest volume keeps its bytes raw in a file of ours, also one that Proxmox VE would keep as
qcow2: nobody sees the file, only what qemu-nbd or an import shows of it.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drivers.simulators.faults import Faults
from drivers.simulators.proxmox.params import Fails, Refused
from drivers.simulators.qcow2 import NotQcow2, Qcow2, virtual_size
from drivers.simulators.sparse import copy_sparse, data_ranges, is_zero

MIB = 1 << 20
IMPORT_NAME = re.compile(r"[^/]+\.(ova|qcow2|raw|vmdk)")
_GUEST_VOLUME = re.compile(r"(vm|base)-(\d+)-[A-Za-z0-9._-]+")
_DIRS = {"import": "/var/lib/vz/import", "snippets": "/var/lib/vz/snippets"}
_DIRS |= {"iso": "/var/lib/vz/template/iso"}
_POOL = "/dev/zvol/rpool/data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One volume: its Proxmox name, the path that the node's tools use, and our file."""

    volid: str
    storage: str
    content: str
    format: str
    path: str
    file: Path
    vmid: int | None = None

    @property
    def size(self) -> int:
        """The guest's length for an image, whatever the format of the file."""
        length = self.file.stat().st_size
        if self.content == "import" and self.format == "qcow2":
            return virtual_size(self.file) or length
        return length


class Storages:
    """`local` (a directory) and `local-zfs` (a pool)."""

    def __init__(self, folder: Path, *, sizes: dict[str, int], faults: Faults) -> None:
        self.folder, self.sizes, self.faults = folder, sizes, faults
        self._lock = threading.RLock()
        for part in ("import", "snippets", "iso", "images", "pool"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    # -- looking -------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def kind(self, storage: str) -> str:
        if storage not in self.sizes:
            raise Refused(500, f"storage '{storage}' does not exist")
        return "zfspool" if storage.endswith("zfs") else "dir"

    def contents(self, storage: str) -> str:
        zfs = self.kind(storage) == "zfspool"
        return "images,rootdir" if zfs else "images,import,iso,snippets,vztmpl"

    def used(self, storage: str) -> int:
        return sum(volume.file.stat().st_size for volume in self.volumes(storage))

    def volumes(self, storage: str) -> list[Volume]:
        if self.kind(storage) == "zfspool":
            return [
                self._pool_volume(storage, file.name)
                for file in sorted((self.folder / "pool").iterdir())
                if "@" not in file.name
            ]
        found = [
            self._dir_volume(storage, content, file.name)
            for content in _DIRS
            for file in sorted((self.folder / content).iterdir())
            if not file.name.endswith(".tmp")
        ]
        return found + [
            self._image(storage, int(file.parent.name), file.name)
            for file in sorted((self.folder / "images").glob("*/*"))
            if "@" not in file.name
        ]

    def volume(self, volid: str) -> Volume:
        """The volume with this name; 500 when there is none."""
        storage, _, name = volid.partition(":")
        kind = self.kind(storage)
        parts = name.split("/")
        if kind == "zfspool" and _GUEST_VOLUME.fullmatch(name):
            volume = self._pool_volume(storage, name)
        elif kind == "dir" and len(parts) == 2 and parts[0] in _DIRS and parts[1] not in {"", ".."}:
            volume = self._dir_volume(storage, parts[0], parts[1])
        elif kind == "dir" and len(parts) == 2 and parts[0].isdecimal():
            volume = self._image(storage, int(parts[0]), parts[1])
        else:
            raise Refused(500, f"unable to parse volume ID '{volid}'")
        if not volume.file.exists():
            raise Refused(500, f"volume '{volid}' does not exist")
        return volume

    def at(self, path: str) -> tuple[Volume, Path]:
        """The volume behind a node's path, and the file to read (a snapshot's, after `@`)."""
        plain, at, snapshot = path.partition("@")
        for storage in self.names():
            for volume in self.volumes(storage):
                if volume.path == plain:
                    file = snapshot_file(volume, snapshot) if at else volume.file
                    if file.exists():
                        return volume, file
        raise Fails(f"Could not open '{path}': No such file or directory")

    # -- changing ------------------------------------------------------------------------------

    def allocate(self, storage: str, vmid: int, size: int, *, format: str = "") -> Volume:  # noqa: A002  # Proxmox VE's word
        """A new empty guest volume under the next free name."""
        with self._lock:
            pool = self.kind(storage) == "zfspool"
            suffix = "" if pool else f".{format or 'raw'}"
            if pool and format not in {"", "raw"}:
                raise Fails(f"unsupported format '{format}'")
            taken = {v.file.name.partition(".")[0] for v in self.volumes(storage)}
            number = next(n for n in range(1000) if f"vm-{vmid}-disk-{n}" not in taken)
            return self.allocate_named(storage, vmid, f"vm-{vmid}-disk-{number}{suffix}", size)

    def allocate_named(self, storage: str, vmid: int, name: str, size: int) -> Volume:
        with self._lock:
            pool = self.kind(storage) == "zfspool"
            size = -(-size // MIB) * MIB if pool else size
            self.room(storage, size)
            volume = self._pool_volume(storage, name) if pool else self._image(storage, vmid, name)
            if volume.file.exists():
                raise Fails(f"disk image '{volume.path}' already exists")
            volume.file.parent.mkdir(exist_ok=True)
            with volume.file.open("xb") as file:
                file.truncate(size)
            return volume

    def room(self, storage: str, size: int) -> None:
        """Fail as the storage does when `size` more bytes do not fit."""
        if self.faults.disk_full or self.used(storage) + size > self.sizes[storage]:
            if self.kind(storage) == "zfspool":
                raise Fails("zfs error: cannot create 'rpool/data': out of space")
            raise Fails("unable to create image: No space left on device")

    def free(self, volid: str) -> None:
        with self._lock:
            file = self.volume(volid).file
            for beside in file.parent.glob(f"{file.name}@*"):
                beside.unlink()
            file.unlink()

    def resize(self, volume: Volume, size: int) -> int:
        with self._lock:
            self.room(volume.storage, size - volume.file.stat().st_size)
            if volume.storage.endswith("zfs"):
                size = -(-size // MIB) * MIB
            os.truncate(volume.file, size)
            return size

    def snapshot(self, volume: Volume, name: str) -> None:
        if not self.can_snapshot(volume):
            raise Fails("snapshot feature is not available")
        copy_sparse(volume.file, snapshot_file(volume, name))

    def rollback(self, volume: Volume, name: str) -> None:
        copy_sparse(snapshot_file(volume, name), volume.file)

    def drop_snapshot(self, volume: Volume, name: str) -> None:
        snapshot_file(volume, name).unlink(missing_ok=True)

    def can_snapshot(self, volume: Volume) -> bool:
        return self.kind(volume.storage) == "zfspool" or volume.format == "qcow2"

    def fill(
        self, source: Volume, target: Volume, *, step: Callable[[int], None]
    ) -> Iterator[tuple[int, int]]:
        """Convert `source` into the empty `target`; yields (bytes done, size) now and then."""
        size = source.size
        done = 0
        try:
            with target.file.open("r+b") as out, _converted(source) as chunks:
                for offset, data in chunks:
                    step(len(data))
                    if not is_zero(data):
                        os.pwrite(out.fileno(), data, offset)
                    if offset + len(data) - done >= 64 * MIB:
                        done = offset + len(data)
                        yield done, size
        except NotQcow2 as error:
            raise Fails(f"qemu-img: Could not open '{source.path}': {error}") from error
        yield size, size

    # -- inside --------------------------------------------------------------------------------

    def _pool_volume(self, storage: str, name: str) -> Volume:
        match = _GUEST_VOLUME.fullmatch(name)
        return Volume(
            volid=f"{storage}:{name}",
            storage=storage,
            content="images",
            format="raw",
            path=f"{_POOL}/{name}",
            file=self.folder / "pool" / name,
            vmid=int(match[2]) if match else None,
        )

    def _dir_volume(self, storage: str, content: str, name: str) -> Volume:
        return Volume(
            volid=f"{storage}:{content}/{name}",
            storage=storage,
            content=content,
            format=name.rpartition(".")[2],
            path=f"{_DIRS[content]}/{name}",
            file=self.folder / content / name,
        )

    def _image(self, storage: str, vmid: int, name: str) -> Volume:
        return Volume(
            volid=f"{storage}:{vmid}/{name}",
            storage=storage,
            content="images",
            format=name.rpartition(".")[2],
            path=f"/var/lib/vz/images/{vmid}/{name}",
            file=self.folder / "images" / str(vmid) / name,
            vmid=vmid,
        )


def snapshot_file(volume: Volume, name: str) -> Path:
    return volume.file.with_name(f"{volume.file.name}@{name}")


@contextlib.contextmanager
def _converted(source: Volume) -> Iterator[Iterator[tuple[int, bytes]]]:
    with source.file.open("rb") as file:
        if source.content == "import" and source.format == "qcow2":
            yield Qcow2(file).clusters()
        else:
            yield (
                (at, os.pread(file.fileno(), min(4 * MIB, begin + length - at), at))
                for begin, length in data_ranges(file.fileno())
                for at in range(begin, begin + length, 4 * MIB)
            )
