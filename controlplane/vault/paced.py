"""An object store behind a line that is not to be filled: so many bytes a second each way."""

from collections.abc import Callable, Iterator
from datetime import datetime
from threading import Event, Lock
from time import monotonic

from controlplane.domain.pace import Bucket
from controlplane.vault.ports import ObjectStore, Upload


class _Line:
    """What all threads of a process share in one direction."""

    def __init__(
        self, rate: float, clock: Callable[[], float], wait: Callable[[float], object]
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._wait = wait
        self._lock = Lock()
        self._bucket = Bucket()

    def passed(self, length: int) -> None:
        with self._lock:
            owed = self._bucket.take(length, self._rate, self._clock())
        if owed > 0:
            self._wait(owed)


class PacedObjects:
    """`rate` in bytes a second, for this process; `wait` is called with seconds."""

    def __init__(
        self, objects: ObjectStore, rate: float, *, clock: Callable[[], float] = monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:  # fmt: skip
        self._objects = objects
        wait = wait or Event().wait
        self._up = _Line(rate, clock, wait)
        self._down = _Line(rate, clock, wait)

    def upload(self, name: str) -> Upload:
        return _PacedUpload(self._objects.upload(name), self._up)

    def put(self, name: str, data: bytes) -> None:
        self._objects.put(name, data)
        self._up.passed(len(data))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = self._objects.get(name, offset, length)
        self._down.passed(len(data))
        return data

    def size(self, name: str) -> int:
        return self._objects.size(name)

    def names(self, folder: str) -> Iterator[str]:
        return self._objects.names(folder)

    def delete(self, name: str) -> None:
        self._objects.delete(name)

    def sweep(self, before: datetime) -> int:
        return self._objects.sweep(before)


class _PacedUpload:
    def __init__(self, upload: Upload, line: _Line) -> None:
        self._upload = upload
        self._line = line

    def write(self, *parts: bytes) -> None:
        self._upload.write(*parts)
        self._line.passed(sum(map(len, parts)))

    def finish(self) -> None:
        self._upload.finish()

    def abort(self) -> None:
        self._upload.abort()
