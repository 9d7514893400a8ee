"""VHD streams of a simulated pool: blocks of 2 MiB, whole disks and what changed since a base.

Layout as XAPI's stream has it: footer copy, header, an empty sector, the block table, then each
block that is there behind a sector of ones, and the footer.
"""

import os
import struct
import time
from collections.abc import Iterator
from typing import BinaryIO
from uuid import UUID

from drivers.simulators.sparse import data_ranges
from drivers.simulators.xcpng.pool import STEP, Failure, Pool

_SECTOR, _BITMAP = 512, 512
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
_HEADER = struct.Struct(">8sQQIIII16sII512s192s256x")
_EPOCH = 946_684_800  # of VHD times: 1 January 2000
_UNUSED = 0xFFFFFFFF
_FULL, _DIFFERENCE = 3, 4


def stream(pool: Pool, vdi: str, base: str | None) -> Iterator[bytes]:
    """The disk as a VHD; with a base only what was allocated on either branch since."""
    if base is not None and pool.row("VDI", base)["type"] == "cbt_metadata":
        raise Failure("VDI_INCOMPATIBLE_TYPE", base, "cbt_metadata")
    row = pool.row("VDI", vdi)
    size = row["virtual_size"]
    kind = _FULL if base is None else _DIFFERENCE
    footer = _footer(size, kind, row["uuid"])
    blocks = size // STEP
    with pool.file(vdi).open("rb") as file:
        there = _allocated(file)
        if base is not None:
            with pool.file(base).open("rb") as old:
                both = sorted(there | _allocated(old))
                there = {b for b in both if _block(old, b) != _block(file, b)}
        table_sectors = -(-blocks * 4 // _SECTOR)
        at = 4 + table_sectors
        table = [_UNUSED] * (table_sectors * _SECTOR // 4)
        for block in sorted(there):
            table[block] = at
            at += (_BITMAP + STEP) // _SECTOR
        parent = None if base is None else pool.row("VDI", base)["uuid"]
        yield footer + _header(blocks, parent) + bytes(_SECTOR)
        yield struct.pack(f">{len(table)}I", *table)
        for block in sorted(there):
            yield b"\xff" * _BITMAP
            yield _block(file, block)
        yield footer


def _allocated(file: BinaryIO) -> set[int]:
    return {
        block
        for begin, length in data_ranges(file.fileno())
        for block in range(begin // STEP, -(-(begin + length) // STEP))
    }


def _block(file: BinaryIO, block: int) -> bytes:
    return os.pread(file.fileno(), STEP, block * STEP).ljust(STEP, b"\0")


def _footer(size: int, kind: int, uuid: str) -> bytes:
    fields = [
        *(b"conectix", 2, 0x10000, _SECTOR, int(time.time()) - _EPOCH, b"caml", 1, b"\0\0\0\0"),
        *(size, size, 0, 0, 0, kind, 0, UUID(uuid).bytes, 0),
    ]
    fields[14] = _checksum(_FOOTER.pack(*fields))
    return _FOOTER.pack(*fields)


def _header(blocks: int, parent: str | None) -> bytes:
    known = bytes(16) if parent is None else UUID(parent).bytes
    name = "" if parent is None else f"{parent}.vhd"
    fields = [
        *(b"cxsparse", 0xFFFFFFFFFFFFFFFF, 4 * _SECTOR, 0x10000, blocks, STEP, 0, known, 0, 0),
        *(name.encode("utf-16-be"), b""),
    ]
    fields[6] = _checksum(_HEADER.pack(*fields))
    return _HEADER.pack(*fields)


def _checksum(data: bytes) -> int:
    return ~sum(data) & 0xFFFFFFFF


def blocks_of(body: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """What a VHD stream puts where; (offset, data)."""
    head = _exactly(body, _FOOTER.size)
    if not head.startswith(b"conectix"):
        raise Failure("VDI_IO_ERROR", "Device I/O errors: no VHD")
    header = _HEADER.unpack(_exactly(body, _HEADER.size))
    if header[0] != b"cxsparse" or header[5] != STEP:
        raise Failure("VDI_IO_ERROR", "Device I/O errors: another VHD than XAPI takes")
    at, place = _FOOTER.size + _HEADER.size, int(header[2])
    _exactly(body, place - at)
    length = -(-header[4] * 4 // _SECTOR) * _SECTOR
    table = struct.unpack(f">{length // 4}I", _exactly(body, length))
    at = place + length
    ordered = sorted((sector, n) for n, sector in enumerate(table) if sector != _UNUSED)
    for sector, block in ordered:
        _exactly(body, sector * _SECTOR - at)
        bitmap, data = _exactly(body, _BITMAP), _exactly(body, STEP)
        at = sector * _SECTOR + _BITMAP + STEP
        for index in range(STEP // _SECTOR):
            if bitmap[index // 8] & 0x80 >> index % 8:
                begin = index * _SECTOR
                yield block * STEP + begin, data[begin : begin + _SECTOR]
    _exactly(body, _FOOTER.size)


def _exactly(body: BinaryIO, length: int) -> bytes:
    data = body.read(length)
    if len(data) < length:
        raise EOFError(f"{len(data)} of {length} bytes came")
    return data
