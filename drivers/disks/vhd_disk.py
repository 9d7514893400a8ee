"""A disk that comes as VHD streams, read by offsets: cheap as long as these go up."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controlplane.domain.disk import MIB, BlockReader, Extent, ExtentKind
from controlplane.domain.errors import Conflict, Invalid, Unavailable, Unsupported
from drivers.disks.raw import checked_range
from drivers.disks.vhd import Block, VhdKind, VhdStream

_KEPT = 16 * MIB


class VhdDisk(BlockReader):
    """What `open_stream` gives is read once, forward; what was passed by needs a new stream.

    `open_whole` opens a reader of the whole disk, for what a differencing stream calls unchanged;
    it is asked only when somebody reads that. `still` is called before bytes are given that came
    earlier, and before a new stream: it raises when nothing may be read any more. A stream that is
    no VHD as it should be is Unavailable: another one may be.
    """

    forward = True

    def __init__(
        self,
        open_stream: Callable[[], VhdStream],
        *,
        what: str,
        open_whole: Callable[[], BlockReader] | None = None,
        still: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_stream, self._open_whole, self._still = open_stream, open_whole, still
        self._what = what
        self._whole: BlockReader | None = None
        self._kept: OrderedDict[int, Block] = OrderedDict()
        self._closed = False
        self._begin(self._opened())

    @property
    def size(self) -> int:
        return self._stream.size

    def extents(self) -> Iterator[Extent]:
        """By the block table: a block that is there is data as a whole."""
        return self._stream.extents()

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self.size, what=self._what)
        if self._closed:
            raise Unavailable(f"{self._what} is closed: open it again")
        parts: list[bytes] = []
        end = offset + length
        while offset < end:
            number = offset // self._stream.block
            here = min(end, (number + 1) * self._stream.block)
            parts.append(self._within(number, offset, here))
            offset = here
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._closed = True
        self._kept.clear()
        self._stream.close()
        if self._whole is not None:
            self._whole.close()

    # -- inside --------------------------------------------------------------------------------

    def _opened(self) -> VhdStream:
        with self._readable():
            return self._open_stream()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Invalid as e:
            raise Unavailable(f"{self._what} cannot be read: {e}") from e

    def _begin(self, stream: VhdStream) -> None:
        self._stream, self._blocks = stream, stream.blocks()
        self._passed = bytearray(-(-stream.size // stream.block))

    def _within(self, number: int, offset: int, end: int) -> bytes:
        """Bytes of one block, from `offset` to `end` of the disk."""
        if not self._stream.has(number):
            self._still()
            return self._absent(offset, end)
        block = self._kept.get(number)
        if block is None:
            block = self._brought(number)
        else:
            self._still()
        parts = []
        for extent, data in block:
            one, two = max(extent.offset, offset), min(extent.offset + extent.length, end)
            if one < two and extent.kind is ExtentKind.DATA:
                parts.append(data[one - extent.offset : two - extent.offset])
            elif one < two:
                parts.append(self._absent(one, two))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _absent(self, offset: int, end: int) -> bytes:
        """What the stream leaves out."""
        if self._stream.kind is not VhdKind.DIFFERENCING:
            return bytes(end - offset)
        if self._whole is None:
            if self._open_whole is None:
                raise Unsupported(
                    f"{self._what} has only what changed, not {end - offset} bytes at {offset}"
                )
            self._whole = self._open_whole()
        return self._whole.read(offset, end - offset)

    def _brought(self, number: int) -> Block:
        """That block from the stream, or from a new one if it went by."""
        if self._passed[number]:
            self._again()
        try:
            with self._readable():
                for block in self._blocks:
                    at = block[0][0].offset // self._stream.block
                    self._passed[at] = 1
                    self._keep(at, block)
                    if at == number:
                        return block
        except BaseException:
            # Whoever asks again gets a new stream.
            self._passed = bytearray(b"\1") * len(self._passed)
            raise
        raise Unavailable(f"{self._what} ended before byte {number * self._stream.block} came")

    def _again(self) -> None:
        self._still()
        self._stream.close()
        stream = self._opened()
        if stream.layout != self._stream.layout:
            stream.close()
            raise Conflict(f"{self._what} changed while it was read: begin anew", reason="changed")
        self._begin(stream)

    def _keep(self, number: int, block: Block) -> None:
        self._kept[number] = block
        while len(self._kept) * self._stream.block > _KEPT and len(self._kept) > 1:
            self._kept.popitem(last=False)
