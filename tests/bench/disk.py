"""The disk that the data path is measured with: 4 GiB raw, about 1.5 GiB of it data.

Files of this machine (what compresses as systems do), random bytes (what does not), zeros that were
written and are no holes, and holes; in pieces of 16 MiB all over the disk. The same on the same
machine, whatever is measured.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from controlplane.domain.disk import GIB, KIB, MIB

SIZE = 4 * GIB
BLOCK = 64 * KIB
_OTHER = bytes(255 - byte for byte in range(256))
_PIECE = 16 * MIB
_FILES, _RANDOM, _ZEROS = 57, 22, 16  # pieces of each; the others are holes
_ROOM = 6 * GIB
_LIKE = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/local", "/usr/include", "/opt")


@contextmanager
def folder() -> Iterator[Path]:
    """A place for the disk and what is made of it: in memory where there is room."""
    memory = Path("/dev/shm")  # not guessable by others: a folder of our own in it
    there = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM
    with TemporaryDirectory(prefix="fedctl-bench-", dir=memory if there else None) as name:
        yield Path(name)


def make(path: Path, *, size: int = SIZE) -> int:
    """Write the disk; bytes that are not holes. With another size the same mixture in small."""
    rng = random.Random(20261130)
    pieces = size // _PIECE
    share = size / SIZE
    kinds = [
        *("file" for _ in range(round(_FILES * share))),
        *("random" for _ in range(round(_RANDOM * share))),
        *("zeros" for _ in range(round(_ZEROS * share))),
    ]
    kinds += ["hole"] * (pieces - len(kinds))
    rng.shuffle(kinds)
    content = _files()
    with path.open("wb") as disk:
        disk.truncate(size)
        for number, kind in enumerate(kinds):
            disk.seek(number * _PIECE)
            if kind == "file":
                disk.write(next(content))
            elif kind == "random":
                disk.write(rng.randbytes(_PIECE))
            elif kind == "zeros":
                disk.write(bytes(_PIECE))
    return path.stat().st_blocks * 512


def change(path: Path, *, share: float, seed: int) -> list[int]:
    """Write new blocks, half of them noise, to that share of what is held, all over it; where."""
    rng = random.Random(seed)
    held = list(_held(path))
    places = sorted(rng.sample(held, int(len(held) * share)))
    with path.open("r+b", buffering=0) as disk:
        for number, place in enumerate(places):
            new = rng.randbytes(BLOCK)
            if not number % 2:
                disk.seek(rng.choice(held))
                new = disk.read(BLOCK).translate(_OTHER)
            disk.seek(place)
            disk.write(new)
    return places


def _held(path: Path) -> Iterator[int]:
    """Blocks that hold something."""
    with path.open("rb", buffering=0) as disk:
        at, size = 0, path.stat().st_size
        while at < size:
            try:
                start = os.lseek(disk.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(disk.fileno(), start, os.SEEK_HOLE)
            for place in range(start, at, BLOCK):
                if any(os.pread(disk.fileno(), BLOCK, place)):
                    yield place


def _files() -> Iterator[bytes]:
    """This machine's own files in the order of their names, in pieces; begun anew at the end."""
    held = bytearray()
    while True:
        for path in _paths():
            try:
                held += path.read_bytes()
            except OSError:
                continue
            held += bytes(-len(held) % 4096)
            while len(held) >= _PIECE:
                yield bytes(held[:_PIECE])
                del held[:_PIECE]


def _paths() -> Iterator[Path]:
    for root in _LIKE:
        for place, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                path = Path(place) / name
                if path.is_file() and not path.is_symlink():
                    yield path
