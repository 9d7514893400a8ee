"""Sparse files: where they hold data, and copies that keep the holes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def is_zero(data: bytes) -> bool:
    """Whether all bytes are zero, at the speed of a comparison."""
    return data == bytes(len(data))


def data_ranges(fd: int, *, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file between `start` and `end` that hold data, as (offset, length)."""
    stop = os.fstat(fd).st_size if end is None else end
    at = start
    while at < stop:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            return
        if begin >= stop:
            return
        at = min(os.lseek(fd, begin, os.SEEK_HOLE), stop)
        yield begin, at - begin


def copy_sparse(source: Path, target: Path) -> None:
    """Make `target` the same as `source`, holes kept."""
    part = target.with_name(target.name + ".tmp")
    with source.open("rb") as reading, part.open("wb") as writing:
        writing.truncate(os.fstat(reading.fileno()).st_size)
        for begin, length in data_ranges(reading.fileno()):
            at = begin
            while at < begin + length:
                at += os.copy_file_range(
                    reading.fileno(), writing.fileno(), begin + length - at, at, at
                )
    shutil.move(part, target)
