"""As much of qcow2 as an import needs: reading plain and compressed clusters, version 2 and 3."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

_MAGIC = b"QFI\xfb"
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1
_KNOWN_INCOMPATIBLE = 0b1001  # dirty, compression type


class NotQcow2(ValueError):
    """The file is no qcow2 image that can be read here; the text says why."""


class Qcow2:
    """An opened image: its virtual size and its allocated clusters."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        header = _exactly(file, 0, 72)
        if header[:4] != _MAGIC:
            raise NotQcow2("Image is not in qcow2 format")
        self.size: int
        (version, backing, _, self._bits, self.size, encrypted, self._l1_size, self._l1) = (
            struct.unpack(">IQIIQIIQ", header[4:48])
        )
        if version not in {2, 3} or not 9 <= self._bits <= 21:
            raise NotQcow2(f"Unsupported qcow2 version {version}")
        if backing:
            raise NotQcow2("Image has a backing file")
        if encrypted:
            raise NotQcow2("Image is encrypted")
        self._zstd = False
        if version == 3:
            incompatible, _, _, _, length = struct.unpack(">QQQII", _exactly(file, 72, 32))
            if incompatible & ~_KNOWN_INCOMPATIBLE:
                raise NotQcow2(f"Unsupported qcow2 features {incompatible:#x}")
            self._zstd = length > 104 and _exactly(file, 104, 1) == b"\1"

    def clusters(self) -> Iterator[tuple[int, bytes]]:
        """Every allocated cluster as (guest offset, bytes), ascending; the rest reads as zeros."""
        cluster, per_table = 1 << self._bits, 1 << (self._bits - 3)
        for first in range(self._l1_size):
            entry = self._entry(self._l1 + first * 8) & _OFFSET
            if not entry:
                continue
            table = struct.unpack(f">{per_table}Q", _exactly(self._file, entry, cluster))
            for second, pointer in enumerate(table):
                at = (first * per_table + second) << self._bits
                if (
                    not pointer
                    or at >= self.size
                    or (pointer & _ZERO and not pointer & _COMPRESSED)
                ):
                    continue
                data = self._cluster(pointer, cluster)
                yield at, data[: min(cluster, self.size - at)]

    def _cluster(self, pointer: int, cluster: int) -> bytes:
        if not pointer & _COMPRESSED:
            return _exactly(self._file, pointer & _OFFSET, cluster)
        shift = 62 - (self._bits - 8)
        offset = pointer & ((1 << shift) - 1)
        sectors = (pointer >> shift) & ((1 << (self._bits - 8)) - 1)
        self._file.seek(offset)
        packed = self._file.read((sectors + 1) * 512 - offset % 512)
        if self._zstd:
            return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        return zlib.decompressobj(-12).decompress(packed, cluster)

    def _entry(self, at: int) -> int:
        (entry,) = struct.unpack(">Q", _exactly(self._file, at, 8))
        return int(entry)


def virtual_size(path: Path) -> int | None:
    """The guest's disk size in a qcow2 file, None when the file is no qcow2."""
    with path.open("rb") as file:
        try:
            return Qcow2(file).size
        except NotQcow2:
            return None


def _exactly(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise NotQcow2("Image is truncated")
    return data
