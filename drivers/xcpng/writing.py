"""Writing to a disk in XAPI's own framing, by who holds the disk's writing key.

A batch of changes is one PUT: frames of (offset, length, data), whole 4 KiB blocks, an end. Each
has a task, made before the key is looked at: who takes the key over cancels the tasks that are
under way, and XAPI takes nothing in under a task that was cancelled.
"""

import struct
from collections.abc import Callable, Iterable, Iterator

from controlplane.domain.disk import BlockReader, BlockWriter
from controlplane.domain.errors import Busy, Conflict, FedctlError, Invalid, Unavailable
from drivers.xcpng import mapping
from drivers.xcpng.client import Record, XapiClient, code_of

_FRAME = struct.Struct("<QI")
_END = _FRAME.pack(0, 0)
_BLOCK = 4096
_BATCH = 16 << 20
_PIECE = 1 << 20
_SPARSE = 1 << 16
_ZEROS = bytes(_PIECE)


def label(vdi: str) -> str:
    """What the tasks of a disk's writers are called."""
    return f"fedctl write {vdi}"


class XcpWriter(BlockWriter):
    """Batches of changes; `read` opens a reader of the disk for the edges of odd ones."""

    def __init__(
        self,
        api: XapiClient,
        vdi: Record,
        key: str,
        open_reader: Callable[[], BlockReader],
        site: str,
    ) -> None:
        self._api, self._vdi, self._key, self._open_reader = api, vdi, key, open_reader
        self._site, self._size = site, vdi.number("virtual_size")
        self._waiting: list[tuple[int, int, bytes | None]] = []  # offset, length; None: zeros
        self._held = 0
        self._closed = False

    @property
    def size(self) -> int:
        return self._size

    def write(self, offset: int, data: bytes) -> None:
        self._inside(offset, len(data))
        self._wait_for(offset, len(data), data)

    def zero(self, offset: int, length: int) -> None:
        """XAPI has no shorter word for them: they go over as bytes, in batches as all do."""
        self._inside(offset, length)
        for at in range(offset, offset + length, _BATCH):
            self._wait_for(at, min(_BATCH, offset + length - at), None)

    def finish(self) -> None:
        self._flush()

    def close(self) -> None:
        """What was not finished is not written."""
        self._waiting, self._closed = [], True

    # -- batches -------------------------------------------------------------------------------

    def _inside(self, offset: int, length: int) -> None:
        if self._closed or offset < 0 or offset + length > self._size:
            raise Invalid(
                f"disk {self._vdi.uuid} has {self._size} bytes; {length} bytes at {offset} cannot"
                " be written"
            )

    def _wait_for(self, offset: int, length: int, data: bytes | None) -> None:
        if not length:
            return
        first, last = offset // _BLOCK, (offset + length - 1) // _BLOCK
        if any(first <= (o + n - 1) // _BLOCK and o // _BLOCK <= last for o, n, _ in self._waiting):
            self._flush()  # batches hold each block once
        self._waiting.append((offset, length, data))
        self._held += length
        if self._held >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            self._still_ours()
            return
        ranges = sorted(self._waiting, key=lambda each: each[0])
        odd = any(offset % _BLOCK or length % _BLOCK for offset, length, _ in ranges)
        reader = self._open_reader() if odd else None
        try:
            whole = [self._aligned(reader, *each) for each in ranges]
        finally:
            if reader is not None:
                reader.close()
        self._put(whole)
        self._waiting, self._held = [], 0

    def _aligned(
        self, reader: BlockReader | None, offset: int, length: int, data: bytes | None
    ) -> tuple[int, int, bytes | None]:
        """The change widened to whole blocks by what the disk has around it."""
        before, after = offset % _BLOCK, -(offset + length) % _BLOCK
        if not before and not after:
            return offset, length, data
        if reader is None:
            raise AssertionError("an odd change has a reader")
        start, end = offset - before, offset + length + after
        if data is None:
            data = bytes(length)
        head = reader.read(start, before) if before else b""
        tail = reader.read(offset + length, after) if after else b""
        return start, end - start, head + data + tail

    def _put(self, ranges: list[tuple[int, int, bytes | None]]) -> None:
        with self._api.task(label(self._vdi.uuid)) as task:
            self._still_ours()
            try:
                _send(self._api, self._vdi.uuid, ranges, task)
            except FedctlError as e:
                self._still_ours()
                if code_of(e) != "VDI_IN_USE":
                    raise
                raise Busy(f"disk {self._vdi.uuid} at {self._site} is in use: ask again") from e

    def _still_ours(self) -> None:
        config = self._api.record("VDI", self._vdi.ref).map("other_config")
        if config.get(mapping.WRITER) != self._key:
            raise Conflict(
                f"disk {self._vdi.uuid} at {self._site} has another writer now, or none: open its"
                " import again"
            )


def fill(api: XapiClient, vdi: str, parts: Iterable[bytes], what: str) -> None:
    """The bytes of a disk in their order, to one that is new: its zeros are there already."""
    waiting: list[tuple[int, int, bytes | None]] = []
    for offset, piece in _pieces(parts):
        if piece != _ZEROS[: len(piece)]:
            waiting.append((offset, _SPARSE, piece.ljust(_SPARSE, b"\0")))
        if len(waiting) * _SPARSE >= _BATCH:
            _fill(api, vdi, waiting, what)
            waiting = []
    if waiting:
        _fill(api, vdi, waiting, what)


def _fill(
    api: XapiClient, vdi: str, ranges: list[tuple[int, int, bytes | None]], what: str
) -> None:
    with api.task(what) as task:
        _send(api, vdi, ranges, task)


def _pieces(parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The same bytes in pieces of one length, each with its offset; the last may be shorter."""
    held, at = bytearray(), 0
    for part in parts:
        held += part
        whole = len(held) - len(held) % _SPARSE
        for start in range(0, whole, _SPARSE):
            yield at + start, bytes(held[start : start + _SPARSE])
        del held[:whole]
        at += whole
    if held:
        yield at, bytes(held)


def _send(
    api: XapiClient, vdi: str, ranges: list[tuple[int, int, bytes | None]], task: str
) -> None:
    length = sum(n + _FRAME.size * -(-n // _PIECE) for _, n, _ in ranges) + _FRAME.size
    try:
        api.put(vdi, _framed(ranges), length, task=task, chunked="true")
    except Unavailable:
        # A refusal ends the connection while we send; the task tells why.
        if api.record("task", task).text("status") == "pending":
            raise
    api.awaited(task, "import_raw_vdi")


def _framed(ranges: list[tuple[int, int, bytes | None]]) -> Iterator[bytes]:
    for offset, length, data in ranges:
        for at in range(0, length, _PIECE):
            size = min(_PIECE, length - at)
            yield _FRAME.pack(offset + at, size)
            yield _ZEROS[:size] if data is None else data[at : at + size]
    yield _END
