"""Reading an exported image in parts, with the proof that all of it is what the site hashed.

The site tells one digest of the whole file, and we read it in the order of the disk. So every block
that is read is remembered by a short digest; the whole file passes once, in order, through the
site's hash, most of it while it is read anyway; and a block that was read ahead of its turn must be
the same when its turn comes.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator

from controlplane.domain.disk import MIB, Extent, ExtentKind
from controlplane.domain.errors import Integrity, Unavailable
from drivers.disks.qcow2 import Qcow2Reader

Fetch = Callable[[int, int], bytes]

BLOCK = MIB
AHEAD = 8  # blocks fetched at once while reading goes forward
KEPT = 16  # blocks in memory


class ImageBytes:
    """The bytes of an image at a site, by ranges; `digest` is the site's own of all of them."""

    def __init__(self, fetch: Fetch, *, size: int, algorithm: str, digest: str, what: str) -> None:
        self.size = size
        self._fetch = fetch
        self._what = what
        self._digest = digest
        self._hash = hashlib.new(algorithm)
        self._next = 0  # the block whose turn it is
        self._seen: dict[int, bytes] = {}
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._open = True
        self.proven = False

    def read(self, offset: int, length: int) -> bytes:
        if not self._open:
            raise Unavailable(f"{self._what} was released or closed: prepare and open it again")
        first, last = offset // BLOCK, (offset + max(length, 1) - 1) // BLOCK
        parts = [self._block(number, last) for number in range(first, last + 1)]
        start = offset - first * BLOCK
        return b"".join(parts)[start : start + length]

    def close(self) -> None:
        self._open = False
        self._kept.clear()

    def prove(self) -> None:
        """Let the rest of the file pass through the hash; Integrity when it is not the site's."""
        while self._next * BLOCK < self.size:
            if not self._open:
                raise Unavailable(f"{self._what} was released or closed: prepare and open it again")
            self._block(self._next, self._next)
        if not self.proven:
            raise self._damaged()

    def _block(self, number: int, wanted: int) -> bytes:
        kept = self._kept.get(number)
        if kept is None:
            # Going forward, fetch more at once; a look here or there costs one block only.
            ahead = max(wanted, number + AHEAD - 1) if number == self._next else wanted
            self._bring(number, min(ahead, number + AHEAD - 1))
            kept = self._kept[number]
        self._kept.move_to_end(number)
        return kept

    def _bring(self, first: int, last: int) -> None:
        start = first * BLOCK
        data = self._fetch(start, min((last + 1) * BLOCK, self.size) - start)
        for at in range(0, len(data), BLOCK):
            self._take(first + at // BLOCK, data[at : at + BLOCK])
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _take(self, number: int, block: bytes) -> None:
        short = hashlib.blake2b(block, digest_size=16).digest()
        if self._seen.setdefault(number, short) != short:
            raise self._damaged()
        self._kept[number] = block
        if number == self._next:
            self._hash.update(block)
            self._next += 1
            if self._next * BLOCK >= self.size:
                self.proven = self._hash.hexdigest() == self._digest

    def _damaged(self) -> Integrity:
        return Integrity(
            f"{self._what}: the bytes that came are not those that the site hashed: stop, and look"
            " at the site's image store and at the network between"
        )


class ProvenReader:
    """A disk inside an image; the read that reaches its last data fails unless all is proven."""

    def __init__(self, source: ImageBytes, *, what: str) -> None:
        self._source = source
        self._disk = Qcow2Reader(source, what=what)
        self._data_end: int | None = None  # known once the extents were walked
        self._read_end = 0

    @property
    def size(self) -> int:
        return self._disk.size

    def extents(self) -> Iterator[Extent]:
        end = 0
        for extent in self._disk.extents():
            if extent.kind is ExtentKind.DATA:
                end = extent.offset + extent.length
            yield extent
        self._data_end = end
        if self._read_end >= end:
            self._source.prove()

    def read(self, offset: int, length: int) -> bytes:
        data = self._disk.read(offset, length)
        self._read_end = max(self._read_end, offset + length)
        if self._data_end is not None and self._read_end >= self._data_end:
            self._source.prove()
        return data

    def close(self) -> None:
        self._disk.close()
