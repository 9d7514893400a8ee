"""The disk that the data path is measured with: 4 GiB with 1.5 GiB of files, noise and zeros."""

import os
import random
import sys
import sysconfig
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from controlplane.domain.disk import KIB, MIB

SIZE = 4096 * MIB
BLOCK = 64 * KIB
_STRETCH = 16 * MIB
_FILES, _NOISE, _ZEROS = 1024 * MIB, 320 * MIB, 192 * MIB
DATA = _FILES + _NOISE + _ZEROS
_OTHER = bytes(255 - byte for byte in range(256))
_FOLDERS = ("/usr/lib", "/usr/bin", "/usr/share", sys.prefix, sysconfig.get_path("stdlib"))


def make_disk(path: Path) -> None:
    """Stretches of this machine's files, of random bytes and of written zeros, with holes between."""
    seed = random.Random(5)
    kinds = [
        kind
        for kind, size in (("files", _FILES), ("noise", _NOISE), ("zeros", _ZEROS))
        for _ in range(size // _STRETCH)
    ]
    kinds += ["hole"] * (SIZE // _STRETCH - len(kinds))
    seed.shuffle(kinds)
    files = _files()
    with path.open("wb", buffering=0) as disk:
        disk.truncate(SIZE)
        for number, kind in enumerate(kinds):
            disk.seek(number * _STRETCH)
            if kind == "files":
                disk.write(next(files))
            elif kind == "noise":
                disk.write(seed.randbytes(_STRETCH))
            elif kind == "zeros":
                disk.write(bytes(_STRETCH))


def change(path: Path, *, share: float, seed: int) -> list[int]:
    """Writes new blocks, half of them files, over that share of the data, all over it; where."""
    dice = random.Random(seed)
    held = list(_held(path))
    places = sorted(dice.sample(held, int(len(held) * share)))
    with path.open("r+b", buffering=0) as disk:
        for number, place in enumerate(places):
            if number % 2:
                new = dice.randbytes(BLOCK)
            else:
                disk.seek(dice.choice(held))
                new = disk.read(BLOCK).translate(_OTHER)
            disk.seek(place)
            disk.write(new)
    return places


def _held(path: Path) -> Iterator[int]:
    """Blocks that hold something."""
    with path.open("rb", buffering=0) as disk:
        at = 0
        while at < SIZE:
            try:
                start = os.lseek(disk.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(disk.fileno(), start, os.SEEK_HOLE)
            for place in range(start, at, BLOCK):
                if any(os.pread(disk.fileno(), BLOCK, place)):
                    yield place


def _files() -> Iterator[bytes]:
    """What this machine's files hold, in stretches, as often as is wanted."""
    bag = bytearray()
    while True:
        for path in chain.from_iterable(sorted(Path(folder).rglob("*")) for folder in _FOLDERS):
            if path.is_symlink() or not path.is_file():
                continue
            content = path.read_bytes()
            bag += content + bytes(-len(content) % (4 * KIB))
            while len(bag) >= _STRETCH:
                yield bytes(bag[:_STRETCH])
                del bag[:_STRETCH]
