"""A VHD file that is made while it is read, dynamic or differencing.

Its length and every byte follow from the disk's extents, so it can be sent with its length told
beforehand, and any range of it can be served at any time. The order is XAPI's: footer, dynamic
header, block table, blocks in the disk's order each behind its sector bitmap, footer.
"""

import struct
from array import array
from bisect import bisect_left, bisect_right
from uuid import UUID

from controlplane.domain.disk import MIB, SECTOR, BlockReader, ExtentKind
from controlplane.domain.errors import Invalid
from drivers.disks.raw import checked_range
from drivers.disks.vhd import (
    COOKIE,
    FOOTER,
    FOOTER_SUM,
    HEADER,
    HEADER_SUM,
    NOWHERE,
    SIZE_MAX,
    SPARSE,
    UNUSED,
    VERSION,
    VhdKind,
    bitmap_length,
    checksum,
    geometry,
)

BLOCK = 2 * MIB
_BITMAP = bitmap_length(BLOCK)
_SECTORS = BLOCK // SECTOR
_TABLE = 2048
_RESERVED = 2
# Readers that take the length from the geometry make an exception for this creator.
_CREATOR, _CREATOR_VERSION, _SYSTEM = b"win ", 0x000A_0000, b"Wi2k"
_NAME = 512


class VhdImage:
    """The file's bytes over a disk; it owns the reader.

    With a `parent` the file holds what of the disk is not unchanged, zeros included, and builds on
    the file of that identity, called `parent_name` there; without one nothing may be unchanged.
    Invalid when the disk is longer than a VHD can be.
    """

    def __init__(
        self,
        reader: BlockReader,
        *,
        identity: UUID,
        parent: UUID | None = None,
        parent_name: str = "",
    ) -> None:
        if reader.size > SIZE_MAX:
            raise Invalid(f"a disk of {reader.size} bytes is too long for a VHD: {SIZE_MAX} fit")
        if len(parent_name.encode("utf-16-be")) > _NAME:
            raise Invalid(f"the parent's name {parent_name[:40]!r} is too long for a VHD")
        self._reader = reader
        self._identity, self._parent, self._name = identity, parent, parent_name
        # Runs of sectors that the file has, and the blocks that these lie in.
        self._first, self._end = array("Q"), array("Q")
        self._blocks = array("I")
        self._map()
        self._count = -(-self.disk_size // BLOCK)
        self._data = _TABLE + -(-4 * self._count // SECTOR) * SECTOR
        self._footer = self._footer_bytes()
        self._header = self._header_bytes()

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self._data + len(self._blocks) * (_BITMAP + BLOCK) + FOOTER.size

    @property
    def disk_size(self) -> int:
        """The disk's length in bytes as the image states it: whole sectors."""
        return -(-self._reader.size // SECTOR) * SECTOR

    def read(self, offset: int, length: int) -> bytes:
        checked_range(offset, length, self.size, what="the VHD")
        parts: list[bytes] = []
        end = offset + length
        while offset < end:
            part = self._part(offset, end - offset)
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._reader.close()

    # -- inside --------------------------------------------------------------------------------

    def _map(self) -> None:
        for extent in self._reader.extents():
            if extent.kind is ExtentKind.UNCHANGED and self._parent is None:
                raise Invalid("what is unchanged needs a parent: name it, or give the whole disk")
            left_out = ExtentKind.ZERO if self._parent is None else ExtentKind.UNCHANGED
            if extent.kind is left_out:
                continue
            # A sector that two kinds share is in the file.
            first = extent.offset // SECTOR
            end = -(-(extent.offset + extent.length) // SECTOR)
            if self._end and first <= self._end[-1]:
                self._end[-1] = max(end, self._end[-1])
            else:
                self._first.append(first)
                self._end.append(end)
            block = first // _SECTORS
            if self._blocks and block <= self._blocks[-1]:
                block = self._blocks[-1] + 1
            self._blocks.extend(range(block, (end - 1) // _SECTORS + 1))

    def _part(self, offset: int, length: int) -> bytes:
        """Some of the file's bytes from there on, at least one."""
        if offset < _TABLE:
            head = (self._footer + self._header).ljust(_TABLE, b"\0")
            return head[offset : offset + length]
        if offset < self._data:
            return self._entries(offset - _TABLE, min(length, self._data - offset))
        which, within = divmod(offset - self._data, _BITMAP + BLOCK)
        if which >= len(self._blocks):
            return self._footer[within : within + length]
        number = self._blocks[which]
        if within < _BITMAP:
            return self._bitmap(number)[within : within + length]
        within -= _BITMAP
        return self._content(number * BLOCK + within, min(length, BLOCK - within))

    def _entries(self, at: int, length: int) -> bytes:
        """Some of the block table's bytes, `at` within it."""
        first, end = at // 4, -(-(at + length) // 4)
        entries = [UNUSED] * (end - first)
        which = bisect_left(self._blocks, first)
        while which < len(self._blocks) and self._blocks[which] < end:
            place = self._data + which * (_BITMAP + BLOCK)
            entries[self._blocks[which] - first] = place // SECTOR
            which += 1
        packed = struct.pack(f">{len(entries)}I", *entries)
        return packed[at - 4 * first :][:length]

    def _bitmap(self, number: int) -> bytes:
        if self._parent is None:
            return b"\xff" * _BITMAP
        bits = 0
        for first, end in self._runs(number * _SECTORS, (number + 1) * _SECTORS):
            at = first % _SECTORS
            bits |= ((1 << end - first) - 1) << _SECTORS - at - (end - first)
        return bits.to_bytes(_BITMAP, "big")

    def _runs(self, first: int, end: int) -> "list[tuple[int, int]]":
        """What the file has of these sectors."""
        found = []
        run = max(bisect_right(self._first, first) - 1, 0)
        while run < len(self._first) and self._first[run] < end:
            one, two = max(self._first[run], first), min(self._end[run], end)
            if one < two:
                found.append((one, two))
            run += 1
        return found

    def _content(self, offset: int, length: int) -> bytes:
        """The disk's bytes within a block: zeros where the file has none, and after its end."""
        first, end = offset // SECTOR, -(-(offset + length) // SECTOR)
        runs = self._runs(first, end) if self._parent is not None else [(first, end)]
        parts, at = [], offset
        for one, two in runs:
            begin = max(one * SECTOR, offset)
            wanted = min(two * SECTOR, offset + length) - begin
            there = max(min(wanted, self._reader.size - begin), 0)
            data = self._reader.read(begin, there) if there else b""
            parts += [bytes(begin - at), data, bytes(wanted - there)]
            at = begin + wanted
        parts.append(bytes(offset + length - at))
        return b"".join(parts)

    def _footer_bytes(self) -> bytes:
        kind = VhdKind.DYNAMIC if self._parent is None else VhdKind.DIFFERENCING
        size = self.disk_size
        fields = [
            *(COOKIE, _RESERVED, VERSION, FOOTER.size, 0, _CREATOR, _CREATOR_VERSION, _SYSTEM),
            *(size, size, *geometry(size), kind, 0, self._identity.bytes, 0),
        ]
        return _summed(FOOTER.pack(*fields), FOOTER_SUM)

    def _header_bytes(self) -> bytes:
        parent = bytes(16) if self._parent is None else self._parent.bytes
        fields = [
            *(SPARSE, NOWHERE, _TABLE, VERSION, self._count, BLOCK, 0, parent, 0, 0),
            *(self._name.encode("utf-16-be"), b""),
        ]
        return _summed(HEADER.pack(*fields), HEADER_SUM)


def _summed(data: bytes, at: int) -> bytes:
    return data[:at] + struct.pack(">I", checksum(data, at)) + data[at + 4 :]
