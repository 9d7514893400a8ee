"""Raw disks over a simulated host's HTTP: the task tells how it went, not the status."""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from drivers.simulators.faults import Direction
from drivers.simulators.xcpng.pool import Failure, Pool

_PART = 1 << 20
_FRAME = struct.Struct("<QI")


def found(pool: Pool, ident: str) -> str:
    """A VDI by its uuid or its reference."""
    return ident if ident in pool.tables["VDI"] else pool.by_uuid("VDI", ident)


def taken_in(pool: Pool, vdi: str, task: str, parts: Iterable[tuple[int, bytes]]) -> None:
    """Write the parts of a body to a disk; the task ends as it went."""
    try:
        _alive(pool, task)
        with pool.holding(vdi, "write"), pool.file(vdi).open("r+b") as file:
            size = pool.row("VDI", vdi)["virtual_size"]
            for offset, data in parts:
                _alive(pool, task)
                _fits(pool, offset + len(data), size)
                file.seek(offset)
                file.write(pool.faults.passed(Direction.IN, offset, data))
                if wait := pool.faults.transfer_seconds(len(data)):
                    pool.pause(wait)
        pool.finish(task)
    except Failure as e:
        pool.finish(task, error=e.description)
    except (OSError, EOFError) as e:
        pool.finish(task, error=["VDI_IO_ERROR", f"Device I/O errors: {type(e).__name__}"])
        raise


def _alive(pool: Pool, task: str) -> None:
    if pool.cancelled(task):
        raise Failure("TASK_CANCELLED", task)


def _fits(pool: Pool, end: int, size: int) -> None:
    if end > size:
        raise Failure("VDI_IO_ERROR", "Device I/O errors: beyond the end of the disk")
    if pool.faults.disk_full:
        raise Failure("VDI_IO_ERROR", "Device I/O errors: no space left on device")


def plain(body: BinaryIO, length: int) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < length:
        data = _exactly(body, min(_PART, length - at))
        yield at, data
        at += len(data)


def frames(body: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while True:
        offset, length = _FRAME.unpack(_exactly(body, _FRAME.size))
        if (offset, length) == (0, 0):
            return
        at = 0
        while at < length:
            data = _exactly(body, min(_PART, length - at))
            yield offset + at, data
            at += len(data)


def _exactly(body: BinaryIO, length: int) -> bytes:
    data = body.read(length)
    if len(data) < length:
        raise EOFError(f"{len(data)} of {length} bytes came")
    return data


def raw(pool: Pool, vdi: str) -> Iterator[bytes]:
    """All bytes of a disk."""
    with pool.file(vdi).open("rb") as file:
        while data := file.read(_PART):
            yield data


def sent_out(
    pool: Pool,
    vdi: str,
    task: str,
    parts: Iterable[bytes],
    send: Callable[[bytes], object],
    *,
    until: int | None,
) -> None:
    """What is read of a disk; a failure (`until`: injected after so many) ends it short."""
    try:
        _alive(pool, task)
        if pool.row("VDI", vdi)["type"] == "cbt_metadata":
            raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, "cbt_metadata")  # noqa: TRY301  # its end
        with pool.holding(vdi, "read"):
            at = 0
            for data in parts:
                _alive(pool, task)
                if until is not None and at >= until:
                    raise Failure("VDI_IO_ERROR", "Device I/O errors: injected")  # noqa: TRY301
                send(pool.faults.passed(Direction.OUT, at, data))
                at += len(data)
                if wait := pool.faults.transfer_seconds(len(data)):
                    pool.pause(wait)
        pool.finish(task)
    except Failure as e:
        pool.finish(task, error=e.description)
        raise
    except OSError:
        if not pool.cancelled(task):
            pool.finish(task, error=["VDI_IO_ERROR", "Device I/O errors: the client hung up"])
        raise
