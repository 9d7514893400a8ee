"""An object store in a local directory: whole, durable, immutable files."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from controlplane.domain.errors import Conflict, Denied, Exhausted, NotFound, Unavailable
from controlplane.vault.names import checked

_COMING = ".coming"
_AT_ONCE = 1024  # as many as one call takes (IOV_MAX)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LocalObjects:
    """Objects as files below `root`; a file appears under its name only when it is complete.

    What has returned outlives a power failure: a file, its name, the folders above it, a removal.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable = {root}
        with _named(str(root)):
            if not root.exists():
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sync_folder(root.parent)
            self._make_folder(root / _COMING)

    def upload(self, name: str) -> "LocalUpload":
        target = self._path(name)
        with _named(name):
            self._make_folder(target.parent)
            coming = self._root / _COMING / secrets.token_hex(16)
            return LocalUpload(name, target, coming, self._make_folder_again)

    def put(self, name: str, data: bytes) -> None:
        upload = self.upload(name)
        try:
            upload.write(data)
            upload.finish()
        finally:
            upload.abort()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with _named(name), self._path(name).open("rb", buffering=0) as file:
            wanted = os.fstat(file.fileno()).st_size - offset if length is None else length
            parts: list[bytes] = []
            while wanted > 0 and (part := os.pread(file.fileno(), wanted, offset)):
                parts.append(part)
                offset += len(part)
                wanted -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, name: str) -> int:
        with _named(name):
            return self._path(name).stat().st_size

    def names(self, folder: str) -> Iterator[str]:
        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # none was made yet, or it just went
                with _named(folder):
                    raise error

        for found, folders, files in os.walk(self._path(folder), onerror=failed):
            folders.sort()
            for file in sorted(files):
                yield (Path(found) / file).relative_to(self._root).as_posix()

    def delete(self, name: str) -> None:
        path = self._path(name)
        with _named(name), suppress(FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            _sync_folder(path.parent)  # one that is gone may be so in memory only

    def sweep(self, before: datetime) -> int:
        """Remove uploads that were last written before that time and never finished; how many."""
        count = 0
        for path in (self._root / _COMING).iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before.timestamp():
                    os.unlink(path)
                    count += 1
        return count

    def _make_folder(self, folder: Path) -> None:
        """There, and sure to be; another process may have made it and not synced it yet."""
        if folder in self._durable:
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        _sync_folder(folder.parent)
        self._durable.add(folder)

    def _make_folder_again(self, folder: Path) -> None:
        """One that was there: the store was put back as it was on an earlier day."""
        self._durable = {self._root}
        self._make_folder(folder)

    def _path(self, name: str) -> Path:
        return self._root / checked(name)


class FoundObjects(LocalObjects):
    """A folder that has to be there: where a disk is not mounted, none is made in its place."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable = {root}

    def upload(self, name: str) -> "LocalUpload":
        self._reach()
        self._durable = {self._root}  # another disk may be mounted there since
        with _named(name):
            self._make_folder(self._root / _COMING)
        return super().upload(name)

    def sweep(self, before: datetime) -> int:
        self._reach()
        return super().sweep(before) if (self._root / _COMING).exists() else 0

    def _path(self, name: str) -> Path:
        self._reach()
        return super()._path(name)

    def _reach(self) -> None:
        if not self._root.is_dir():
            raise Unavailable(f"the folder {self._root} is not there: mount its disk, or make it")


class LocalUpload:
    """A temporary file that becomes the object by one atomic step."""

    def __init__(
        self, name: str, target: Path, coming: Path, make_folder: Callable[[Path], None]
    ) -> None:
        self._name = name
        self._make_folder = make_folder
        self._target = target
        self._coming = coming
        self._file: int | None = os.open(coming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, *parts: bytes) -> None:
        if self._file is None:
            raise Conflict(f"the upload of {self._name} has ended")
        with _named(self._name):
            for at in range(0, len(parts), _AT_ONCE):
                left = [memoryview(part) for part in parts[at : at + _AT_ONCE]]
                while left:
                    left = _after(left, os.writev(self._file, left))

    def finish(self) -> None:
        if self._file is None:
            raise Conflict(f"the upload of {self._name} has ended")
        with _named(self._name):
            os.fsync(self._file)
            try:
                self._link()
            except FileExistsError as e:
                raise Conflict(f"{self._name} is in the store already") from e
            _sync_folder(self._target.parent)
        self.abort()

    def _link(self) -> None:
        try:
            os.link(self._coming, self._target)
        except FileNotFoundError:
            self._make_folder(self._target.parent)
            os.link(self._coming, self._target)

    def abort(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with suppress(OSError):
                os.unlink(self._coming)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Translate what the file system says."""
    try:
        yield
    except FileNotFoundError as e:
        raise NotFound(f"{name} is not in the store") from e
    except PermissionError as e:
        raise Denied(f"{name}: the store's directory refuses us: check its owner and mode") from e
    except OSError as e:
        if e.errno in _FULL:
            raise Exhausted(f"{name}: the store's disk is full: free some room") from e
        raise Unavailable(f"{name}: the store's disk failed: {e.strerror}") from e


def _after(parts: list[memoryview], done: int) -> list[memoryview]:
    """What of the parts is left when so many bytes of them are written."""
    for number, part in enumerate(parts):
        if done < len(part):
            return [part[done:], *parts[number + 1 :]]
        done -= len(part)
    return []
