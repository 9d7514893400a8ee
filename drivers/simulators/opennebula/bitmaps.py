"""Dirty bitmaps of disks, which QEMU keeps in the qcow2 file: here a file beside the disk.

The simulator compares bytes with those of the moment when the bitmap began: a block that was
written with what it held is not dirty, other than in a real bitmap.
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from drivers.simulators.sparse import data_ranges

GRANULE = 64 << 10


def beside(disk: Path) -> Path:
    """Where a disk's bitmap is kept."""
    return disk.with_name(disk.name + ".bitmap")


def begin(disk: Path, name: str) -> None:
    """From now on what changes is told under `name`; an earlier bitmap goes."""
    kept = {str(number): _digest(data) for number, data in granules(disk)}
    beside(disk).write_text(json.dumps({"name": name, "granules": kept}))


def changed(disk: Path, name: str) -> frozenset[int] | None:
    """The numbers of the granules that changed since; None where there is no such bitmap."""
    try:
        kept = json.loads(beside(disk).read_text())
    except FileNotFoundError:
        return None
    if kept["name"] != name:
        return None
    before = {int(number): digest for number, digest in kept["granules"].items()}
    now = {number: _digest(data) for number, data in granules(disk)}
    return frozenset(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))


def move(disk: Path, target: Path) -> None:
    """With its disk to where that goes."""
    if beside(disk).exists():
        beside(disk).replace(beside(target))


def drop(disk: Path) -> None:
    beside(disk).unlink(missing_ok=True)


def granules(disk: Path) -> Iterator[tuple[int, bytes]]:
    """What of a sparse file is not zeros, ascending."""
    after = 0
    with disk.open("rb") as file:
        for start, length in data_ranges(file.fileno()):
            for number in range(max(start // GRANULE, after), -(-(start + length) // GRANULE)):
                file.seek(number * GRANULE)
                data = file.read(GRANULE)
                if data.strip(b"\0"):
                    yield number, data
                after = number + 1


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
