"""Disks over NBD: a block reader and a block writer over one connection each."""

from collections.abc import Iterator, Sequence

from controlplane.domain.disk import Extent
from drivers.disks.nbd import NbdConnection

_STATUS_SPAN = 1 << 30


class NbdReader:
    """A disk's frozen content behind an NBD export."""

    def __init__(self, connection: NbdConnection) -> None:
        self._connection = connection

    @property
    def size(self) -> int:
        return self._connection.size

    def extents(self) -> Iterator[Extent]:
        """Data and zeros as the server tells; all data where it cannot tell."""
        pending: Extent | None = None
        for extent in self._told():
            if pending is None:
                pending = extent
            elif pending.kind is extent.kind:
                pending = Extent(
                    offset=pending.offset, length=pending.length + extent.length, kind=pending.kind
                )
            else:
                yield pending
                pending = extent
        if pending is not None:
            yield pending

    def read(self, offset: int, length: int) -> bytes:
        return self._connection.read_each([(offset, length)])[0]

    def read_each(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        return self._connection.read_each(parts)

    def close(self) -> None:
        self._connection.close()

    def _told(self) -> Iterator[Extent]:
        at = 0
        while at < self.size:
            span = min(_STATUS_SPAN, self.size - at)
            for length, kind in self._connection.block_status(at, span):
                yield Extent(offset=at, length=length, kind=kind)
                at += length


class NbdWriter:
    """Random writing of a disk behind an NBD export."""

    def __init__(self, connection: NbdConnection) -> None:
        self._connection = connection

    @property
    def size(self) -> int:
        return self._connection.size

    def write(self, offset: int, data: bytes) -> None:
        self._connection.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self._connection.write_zeroes(offset, length)

    def finish(self) -> None:
        self._connection.flush()

    def close(self) -> None:
        self._connection.close()
