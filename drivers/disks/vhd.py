"""Reading VHD files (fixed, dynamic, differencing) as a stream gives them, from first byte to last.

By Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0 of October 2006.
Everything in it is taken for hostile: what is not a VHD that can be read forward is refused by
name, and no field makes us hold more than the block table and one block, or wait for more bytes
than such a file can have.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby, pairwise
from uuid import UUID

from controlplane.domain.disk import GIB, KIB, MIB, SECTOR, Extent, ExtentKind
from controlplane.domain.errors import Invalid, Unavailable

COOKIE, SPARSE = b"conectix", b"cxsparse"
FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
"""Cookie, features, version, next structure, time, creator and its version, its system, original
and current size, geometry, kind, checksum, identity, saved state."""
HEADER = struct.Struct(">8sQQIIII16sII512s192s256x")
"""Cookie, next structure, block table, version, entries, block, checksum, parent's identity, its
time, reserved, its name, where it may lie."""
VERSION = 0x0001_0000
NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
UNUSED = 0xFFFF_FFFF
SIZE_MAX = 2040 * GIB
FOOTER_SUM, HEADER_SUM = 64, 36
_BLOCKS = [4 * KIB << n for n in range(13)]
_ENTRIES_MAX = 1 << 20
_HEAD_MAX = 16 * MIB
_TAIL_MAX = 16 * MIB
_PIECE = MIB
_SUM = struct.Struct(">I")
Block = list[tuple[Extent, bytes]]
"""The parts of a block in the disk's order; bytes for those that are data."""


class VhdKind(IntEnum):
    """As the footer has it. A differencing file holds what differs from its parent's."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What of a footer a reader needs; `size` of the disk and `next`, an offset, in bytes."""

    kind: VhdKind
    size: int
    next: int
    identity: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What of a dynamic header a reader needs; the table's offset and `block` in bytes."""

    table: int
    entries: int
    block: int
    parent: UUID


def checksum(data: bytes, at: int) -> int:
    """The sum over a structure that has its own checksum at `at`."""
    return ~(sum(data) - sum(data[at : at + _SUM.size])) & 0xFFFF_FFFF


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors a track for a disk of `size` bytes, as the specification has it.

    Their product is at most the size and often less: a disk's length is its current size, which is
    what XenServer goes by, too.
    """
    sectors = min(size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    tracks = sectors // 17
    heads = max(-(-tracks // 1024), 4)
    if tracks < heads * 1024 and heads <= 16:  # noqa: PLR2004  # the specification's own numbers
        return tracks // heads, heads, 17
    tracks = sectors // 31
    if tracks < 16 * 1024:
        return tracks // 16, 16, 31
    return sectors // 63 // 16, 16, 63


def read_footer(data: bytes, *, what: str) -> Footer:
    """The footer in 512 bytes, or Invalid that names what of it cannot be used."""
    if len(data) < FOOTER.size or not data.startswith(COOKIE):
        raise Invalid(f"{what} is not a VHD")
    (_, _, version, following, _, _, _, _, _, size, _, _, _, number, told, identity, _) = (
        FOOTER.unpack(data)
    )
    if told != checksum(data, FOOTER_SUM):
        raise Invalid(f"{what} has a footer whose checksum is wrong")
    if version >> 16 != VERSION >> 16:
        raise Invalid(f"{what} is a VHD of version {version:#x}; only 1.x can be read")
    if number not in set(VhdKind):
        raise Invalid(f"{what} is a VHD of kind {number}; fixed, dynamic, differencing can be read")
    if size > SIZE_MAX or size % SECTOR:
        raise Invalid(f"{what} claims {size} bytes; whole sectors up to {SIZE_MAX} are possible")
    return Footer(kind=VhdKind(number), size=size, next=following, identity=UUID(bytes=identity))


def read_header(data: bytes, footer: Footer, *, what: str) -> Header:
    """The dynamic header in 1024 bytes, or Invalid that names what of it cannot be used."""
    if not data.startswith(SPARSE):
        raise Invalid(f"{what} has no dynamic header where its footer says")
    (_, _, table, version, entries, block, told, parent, _, _, _, _) = HEADER.unpack(data)
    if told != checksum(data, HEADER_SUM):
        raise Invalid(f"{what} has a dynamic header whose checksum is wrong")
    if version >> 16 != VERSION >> 16:
        raise Invalid(f"{what} has a dynamic header of version {version:#x}; only 1.x can be read")
    if block not in _BLOCKS:
        raise Invalid(f"{what} has blocks of {block} bytes; 4 KiB to 16 MiB are possible")
    needed = -(-footer.size // block)
    if not needed <= entries <= _ENTRIES_MAX:
        raise Invalid(
            f"{what} has a table of {entries} blocks; it needs {needed}, at most {_ENTRIES_MAX} can"
            " be read"
        )
    if not footer.next + HEADER.size <= table <= _HEAD_MAX:
        raise Invalid(f"{what} has its block table at {table}, which cannot be read forward")
    return Header(table=table, entries=entries, block=block, parent=UUID(bytes=parent))


class VhdStream:
    """One pass over a VHD. It owns `parts`; `what` names it in messages.

    A stream begins with a copy of its footer; a fixed VHD has none, so that `length`, the file's in
    bytes, must be told to read one. A stream that ends early, or whose end is not the end of this
    VHD, is Unavailable; what cannot be read at all is Invalid. The last bytes of the disk are given
    out only once the end was seen and is right.
    """

    def __init__(self, parts: Iterable[bytes], *, what: str, length: int | None = None) -> None:
        self._what = what
        self._feed = _Feed(parts, what)
        self._header: Header | None = None
        self._table, self._order = array("I"), array("Q")
        try:
            self._head = self._feed.take(FOOTER.size)
            if self._head.startswith(COOKIE):
                self._footer = read_footer(self._head, what=what)
                self._begin(length)
            else:
                self._footer = self._fixed(length)
        except BaseException:
            self.close()
            raise

    @property
    def kind(self) -> VhdKind:
        return self._footer.kind

    @property
    def size(self) -> int:
        """The disk's length in bytes."""
        return self._footer.size

    @property
    def identity(self) -> UUID:
        return self._footer.identity

    @property
    def parent(self) -> UUID | None:
        """The identity of the file that a differencing one builds on."""
        differs = self.kind is VhdKind.DIFFERENCING
        return self._header.parent if self._header is not None and differs else None

    @property
    def block(self) -> int:
        """What comes at once, in bytes: a block, or of a fixed VHD a piece."""
        return _PIECE if self._header is None else self._header.block

    def extents(self) -> Iterator[Extent]:
        """What the block table says, before any block came: the whole disk in its order.

        What a file has no block for is zero, or of a differencing one unchanged: as its parent has
        it. Of a block that is there `blocks` may tell more.
        """
        at = 0
        for there, run in groupby(range(-(-self.size // self.block)), self.has):
            end = min(at + sum(self.block for _ in run), self.size)
            kind = ExtentKind.DATA if there else self._absent
            yield Extent(offset=at, length=end - at, kind=kind)
            at = end

    def has(self, number: int) -> bool:
        """Whether that block is in the stream."""
        return self._header is None or self._table[number] != UNUSED

    @property
    def layout(self) -> "tuple[int, int, array[int]]":
        """Length, block and block table: where what is in the stream belongs."""
        return self.size, self.block, self._table

    def blocks(self) -> Iterator[Block]:
        """Every block of the stream in the stream's order, once: its parts, of one kind each.

        Bytes come with data only. What a block's bitmap leaves out is zero, or unchanged.
        """
        if self._header is None:
            yield from self._plain()
            return
        last = len(self._order) - 1
        for turn, key in enumerate(self._order):
            self._feed.skip((key >> 32) * SECTOR - self._feed.at)
            bitmap = self._feed.take(bitmap_length(self.block))
            data = self._feed.take(self.block)
            if turn == last:
                self._end()
            yield list(self._parts(key & UNUSED, bitmap, data))

    def close(self) -> None:
        self._feed.close()

    # -- inside --------------------------------------------------------------------------------

    @property
    def _absent(self) -> ExtentKind:
        differs = self.kind is VhdKind.DIFFERENCING
        return ExtentKind.UNCHANGED if differs else ExtentKind.ZERO

    def _begin(self, length: int | None) -> None:
        """Header and table of a dynamic or differencing VHD, whose footer's copy was read."""
        footer = self._footer
        if footer.kind is VhdKind.FIXED:
            if footer.size or length not in {None, FOOTER.size}:
                raise Invalid(f"{self._what} begins with the footer of a fixed VHD: it is no VHD")
            self._feed.expect_end()
            return
        if not FOOTER.size <= footer.next <= _HEAD_MAX:
            raise Invalid(f"{self._what} has its dynamic header at {footer.next}, which cannot be")
        self._feed.skip(footer.next - self._feed.at)
        header = read_header(self._feed.take(HEADER.size), footer, what=self._what)
        self._header = header
        self._feed.skip(header.table - self._feed.at)
        table = array("I", self._feed.take(4 * -(-footer.size // header.block)))
        if sys.byteorder == "little":
            table.byteswap()
        self._table = table
        self._feed.skip(header.table + 4 * header.entries - self._feed.at)
        self._order = self._ordered()
        if not self._order:
            self._end()

    def _ordered(self) -> "array[int]":
        """The blocks as they come: sector and number of each, in one word.

        Each must come after the table, and after all of the one before.
        """
        there = (place << 32 | n for n, place in enumerate(self._table) if place != UNUSED)
        order = array("Q", there)
        if any(one > two for one, two in pairwise(order)):
            order = array("Q", sorted(order))
        free = self._feed.at
        for key in order:
            at = (key >> 32) * SECTOR
            if at < free:
                raise Invalid(
                    f"{self._what} has the block of disk offset {(key & UNUSED) * self.block} at"
                    f" {at}, within what comes before it"
                )
            free = at + bitmap_length(self.block) + self.block
        return order

    def _parts(self, number: int, bitmap: bytes, data: bytes) -> Iterator[tuple[Extent, bytes]]:
        begin = number * self.block
        length = min(self.block, self.size - begin)
        sectors = range(length // SECTOR)
        if bitmap.startswith(b"\xff" * -(-len(sectors) // 8)):
            yield Extent(offset=begin, length=length, kind=ExtentKind.DATA), data[:length]
            return
        at = 0
        for there, run in groupby(sectors, lambda n: bool(bitmap[n // 8] & 0x80 >> n % 8)):
            end = at + sum(SECTOR for _ in run)
            kind = ExtentKind.DATA if there else self._absent
            extent = Extent(offset=begin + at, length=end - at, kind=kind)
            yield extent, data[at:end] if there else b""
            at = end

    def _end(self) -> None:
        """The stream ends with the footer that it began with."""
        if self._feed.last(FOOTER.size, _TAIL_MAX) != self._head:
            raise Unavailable(f"{self._what} does not end with its footer: read it again")

    def _fixed(self, length: int | None) -> Footer:
        """What can be known of a fixed VHD before its footer came."""
        if length is None or length % SECTOR:
            raise Invalid(f"{self._what} does not begin as a VHD that can be read forward")
        size = length - FOOTER.size
        if not SECTOR <= size <= SIZE_MAX:
            raise Invalid(f"{self._what} has {length} bytes, which a fixed VHD cannot have")
        return Footer(kind=VhdKind.FIXED, size=size, next=NOWHERE, identity=UUID(int=0))

    def _plain(self) -> Iterator[Block]:
        at, held = 0, self._head
        while at < self.size:
            length = min(_PIECE, self.size - at)
            data = held + self._feed.take(length - len(held))
            if at + length == self.size:
                self._footer = self._last()
            yield [(Extent(offset=at, length=length, kind=ExtentKind.DATA), data)]
            at, held = at + length, b""

    def _last(self) -> Footer:
        told = read_footer(self._feed.take(FOOTER.size), what=self._what)
        if (told.kind, told.size) != (self.kind, self.size):
            raise Invalid(
                f"{self._what} says at its end that it is another VHD: of {told.size} bytes"
            )
        self._feed.expect_end()
        return told


class _Feed:
    """So many bytes of a stream as are asked for, in order; `at` tells how many that were."""

    def __init__(self, parts: Iterable[bytes], what: str) -> None:
        self._source = parts
        self._parts = iter(parts)
        self._what = what
        self._held = memoryview(b"")
        self.at = 0

    def take(self, length: int) -> bytes:
        """Exactly so many bytes, or Unavailable."""
        out = bytearray()
        while len(out) < length:
            part = self._some(length - len(out))
            if not part:
                raise Unavailable(f"{self._what} was cut off at byte {self.at}: read it again")
            out += part
        return bytes(out)

    def skip(self, length: int) -> None:
        while length:
            part = self._some(length)
            if not part:
                raise Unavailable(f"{self._what} was cut off at byte {self.at}: read it again")
            length -= len(part)

    def last(self, length: int, most: int) -> bytes:
        """The last so many bytes of what is left, which is at most `most`."""
        kept, begin = b"", self.at
        while part := self._some(most):
            kept = (kept + part[-length:])[-length:]
            if self.at - begin > most:
                raise Invalid(f"{self._what} goes on for more than {most} bytes after its end")
        return kept

    def expect_end(self) -> None:
        if self._some(1):
            raise Invalid(f"{self._what} goes on after its end")

    def close(self) -> None:
        self._held = memoryview(b"")
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def _some(self, most: int) -> bytes:
        """At least one byte and at most `most`; none at the end."""
        while not self._held:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._held = memoryview(part)
        part, self._held = bytes(self._held[:most]), self._held[most:]
        self.at += len(part)
        return part


def bitmap_length(block: int) -> int:
    """Bytes of the sector bitmap before each block: a bit a sector, in whole sectors."""
    return -(-block // SECTOR // 8 // SECTOR) * SECTOR
