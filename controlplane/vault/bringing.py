"""What a recovery point holds, brought into a target's disk."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from controlplane.domain.disk import BlockWriter, Extent, ExtentKind, read_each
from controlplane.vault.nouns import CopyStopped
from controlplane.vault.reading import PointReader
from controlplane.vault.stride import Stride

Parts = list[tuple[int, int]]


def bring(
    disk: PointReader,
    extents: Sequence[Extent],
    writer: BlockWriter,
    *,
    progress: Callable[[int, int], None],
    cancelled: Callable[[], bool],
) -> None:
    """These extents of the disk into the writer, durable on return; CopyStopped when cancelled.

    `progress` is told how many bytes of how many of data are written.
    """
    total = sum(e.length for e in extents if e.kind is ExtentKind.DATA)
    done, stride = 0, Stride()
    groups = read_ahead(disk, stride.groups(runs(extents, ExtentKind.DATA)))
    with closing(groups):
        for group, reading in groups:
            _heed(cancelled)
            read = reading.result()
            length = sum(map(len, read))
            with stride.taken(length):
                for (offset, _), data in zip(group, read, strict=True):
                    writer.write(offset, data)
            done += length
            progress(done, total)
    for start, end in runs(extents, ExtentKind.ZERO):
        _heed(cancelled)
        writer.zero(start, end - start)
    writer.finish()


def read_ahead(
    disk: PointReader, groups: Iterable[Parts]
) -> Generator[tuple[Parts, Future[list[bytes]]], None, None]:
    """Each group with what the vault has there, which is read while the site is written or read."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        before: tuple[Parts, Future[list[bytes]]] | None = None
        for group in groups:
            here = group, pool.submit(read_each, disk, group)
            if before is not None:
                yield before
            before = here
        if before is not None:
            yield before


def runs(extents: Iterable[Extent], kind: ExtentKind | None = None) -> Iterator[tuple[int, int]]:
    """(first, end) of the extents, of one kind or of any."""
    return ((e.offset, e.offset + e.length) for e in extents if kind in {None, e.kind})


def _heed(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise CopyStopped
