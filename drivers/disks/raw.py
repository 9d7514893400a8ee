"""Raw disks: a file is the disk, holes are zeros."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from controlplane.domain.disk import MIB, Extent, ExtentKind
from controlplane.domain.errors import (
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
)

_PIECE = 4 * MIB
_ZEROS = bytes(_PIECE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ByteSource(Protocol):
    """Random reading of a file's bytes, wherever it is. Used by one thread at a time."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; `offset + length` must not pass `size`."""
        ...

    def close(self) -> None: ...


class RawReader:
    """The bytes of any source as a disk, all of it data."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source

    @property
    def size(self) -> int:
        return self._source.size

    def extents(self) -> Iterator[Extent]:
        if self.size:
            yield Extent(offset=0, length=self.size, kind=ExtentKind.DATA)

    def read(self, offset: int, length: int) -> bytes:
        return self._source.read(offset, length)

    def close(self) -> None:
        self._source.close()


class RawFile:
    """A disk in a local file or block device; extents are the file system's own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as e:
            raise _translated(path, e) from e
        self._size = self._file.seek(0, os.SEEK_END)

    @property
    def size(self) -> int:
        return self._size

    @property
    def shared(self) -> bool:
        return True

    def extents(self) -> Iterator[Extent]:
        at = 0
        while at < self._size:
            start = min(self._seek(at, os.SEEK_DATA), self._size)
            if start > at:
                yield Extent(offset=at, length=start - at, kind=ExtentKind.ZERO)
            if start == self._size:
                return
            at = min(self._seek(start, os.SEEK_HOLE), self._size)
            yield Extent(offset=start, length=at - start, kind=ExtentKind.DATA)

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self._size, what=str(self._path))
        parts: list[bytes] = []
        at, left = offset, length
        while left:
            try:
                part = os.pread(self._file.fileno(), left, at)
            except OSError as e:
                raise _translated(self._path, e) from e
            if not part:
                raise Integrity(f"{self._path} was cut to {at} bytes while it was read")
            parts.append(part)
            at += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._file.close()

    def _seek(self, at: int, whence: int) -> int:
        try:
            return os.lseek(self._file.fileno(), at, whence)
        except OSError as e:
            if e.errno == errno.ENXIO:
                return self._size
            # A block device knows no holes: from here on all of it is data.
            return at if whence == os.SEEK_DATA else self._size


class RawFileWriter:
    """A disk of `size` bytes in a local file, which is made when missing and kept otherwise."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(handle, "r+b", buffering=0)
            if path.is_file():
                self._file.truncate(size)
        except OSError as e:
            raise _translated(path, e) from e

    @property
    def size(self) -> int:
        return self._size

    def write(self, offset: int, data: bytes) -> None:
        checked_range(offset, len(data), self._size, what=str(self._path))
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[done:], offset + done
        except OSError as e:
            raise _translated(self._path, e) from e

    def zero(self, offset: int, length: int) -> None:
        """Holes stay holes; what held data is overwritten."""
        checked_range(offset, length, self._size, what=str(self._path))
        end = offset + length
        while offset < end:
            offset = self._next_data(offset)
            piece = min(_PIECE, end - offset)
            if piece > 0:
                self.write(offset, _ZEROS[:piece])
                offset += piece

    def finish(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as e:
            raise _translated(self._path, e) from e

    def close(self) -> None:
        self._file.close()

    def _next_data(self, at: int) -> int:
        try:
            return os.lseek(self._file.fileno(), at, os.SEEK_DATA)
        except OSError as e:
            return self._size if e.errno == errno.ENXIO else at


def checked_range(offset: int, length: int, size: int, *, what: str) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise Invalid(f"{what} has {size} bytes; {length} bytes at {offset} are not within")


def _translated(path: Path, error: OSError) -> FedctlError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{path} is not there")
    if isinstance(error, PermissionError):
        return Denied(f"{path} may not be opened by us: check its owner and mode")
    if error.errno in _FULL:
        return Exhausted(f"{path}: no room is left: free some")
    return Unavailable(f"{path}: {error.strerror}")
