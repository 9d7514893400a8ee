"""A recovery point's disk into a local file: in parallel, with holes, in bounded memory."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from controlplane.domain.disk import MIB, ExtentKind
from controlplane.domain.errors import Invalid
from controlplane.vault.cores import CORES
from controlplane.vault.nouns import CopyProgress, CopyStopped
from controlplane.vault.reading import PointReader

_WORKERS = CORES
_BATCH = 2 * MIB
_POLL = 0.2


def restore(
    disk: PointReader,
    file: int,
    *,
    progress: Callable[[CopyProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Write the whole disk to the open file descriptor `file`, and sync it.

    The file must be empty: zeros become holes, and its length the disk's. A thread a core decrypts,
    unpacks, rehashes and writes, a few megabytes at a time. Integrity names what is damaged,
    CopyStopped when cancelled; both leave a part of the disk in the file. OSError as the file
    system gives it.
    """
    if os.fstat(file).st_size:
        raise Invalid("the file to restore into holds something: give an empty one")
    os.ftruncate(file, disk.size)
    _Restore(disk, file, progress, cancelled).run()
    os.fsync(file)


class _Restore:
    def __init__(
        self, disk: PointReader, file: int, progress: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._disk, self._file = disk, file
        self._progress, self._cancelled = progress, cancelled
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._batches = self._planned()
        self._read = self._done = 0

    def run(self) -> None:
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="restore") as pool:
            pending = {pool.submit(self._work) for _ in range(_WORKERS)}
            try:
                while pending:
                    done, pending = wait(pending, timeout=_POLL)
                    for future in done:
                        future.result()
                    if pending and self._cancelled():
                        raise CopyStopped
                    self._progress(self._seen(self._done))
            finally:
                self._stop.set()
        self._progress(self._seen(self._disk.size))

    def _seen(self, done: int) -> CopyProgress:
        return CopyProgress(total=self._disk.size, done=done, read=self._read, fresh=0, stored=0)

    def _planned(self) -> Iterator[list[int]]:
        """Chunks with data, in the disk's order, as many at a time as a batch holds."""
        chunk, most = self._disk.chunk, max(_BATCH // self._disk.chunk, 1)
        batch: list[int] = []
        for extent in self._disk.extents():
            if extent.kind is ExtentKind.ZERO:
                continue
            for number in range(
                extent.offset // chunk, -(-(extent.offset + extent.length) // chunk)
            ):
                batch.append(number)
                if len(batch) == most:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    batch = next(self._batches, None)
                if batch is None:
                    return
                self._write(batch)
        except BaseException:
            self._stop.set()
            raise

    def _write(self, batch: list[int]) -> None:
        chunk = self._disk.chunk
        plain = self._disk.chunks(batch)
        first = 0
        for at in range(1, len(batch) + 1):
            if at < len(batch) and batch[at] == batch[at - 1] + 1:
                continue
            _write_all(self._file, plain[first:at], batch[first] * chunk)
            first = at
        with self._lock:
            self._read += sum(map(len, plain))
            self._done = max(self._done, batch[-1] * chunk)


def _write_all(file: int, parts: list[bytes], offset: int) -> None:
    left = [memoryview(part) for part in parts]
    while left:
        done = os.pwritev(file, left, offset)
        offset += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if left:
            left[0] = left[0][done:]
