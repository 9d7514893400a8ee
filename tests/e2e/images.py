"""Disk images for whole systems: a partition table, some data, a journal that the guest keeps."""

import random
import struct
from pathlib import Path

from drivers.disks.qcow2_image import Qcow2Image
from drivers.disks.raw import RawFile
from drivers.simulators.journal import PARTITION_TYPE, format_journal

MIB = 1024 * 1024
SECTOR = 512
_JOURNAL = 2 * MIB
_PART = 64 * MIB


def raw_image(path: Path, *, seed: int, size: int = 8 * MIB, data: int = 2 * MIB) -> Path:
    """A raw disk of its own identity, with `data` bytes that do not compress, partly scattered."""
    chance = random.Random(seed)
    table = _entry(0x83, MIB, data, active=True) + _entry(
        PARTITION_TYPE, size - _JOURNAL, _JOURNAL, active=False
    )
    with path.open("wb") as disk:
        disk.write(bytes(440) + struct.pack("<IH", seed % 2**32, 0) + table.ljust(64, b"\0"))
        disk.write(b"\x55\xaa")
        disk.seek(MIB)
        for at in range(0, data, _PART):
            disk.write(chance.randbytes(min(_PART, data - at)))
        disk.seek(size - _JOURNAL - 700)
        disk.write(chance.randbytes(700))
        disk.write(format_journal(chance.randbytes(16), _JOURNAL))
        disk.truncate(size)
    return path


def qcow2_image(path: Path, raw: Path) -> Path:
    """The same disk as qcow2."""
    image = Qcow2Image(RawFile(raw))
    try:
        with path.open("wb") as file:
            for offset in range(0, image.size, MIB):
                file.write(image.read(offset, min(MIB, image.size - offset)))
    finally:
        image.close()
    return path


def with_backing_file(path: Path) -> Path:
    """A qcow2 header that names another file to read from."""
    name = b"/etc/passwd"
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 200, len(name), 16, 64 * MIB, 0, 1, 65536 * 3,
        65536, 1, 0, 0,
    ) + struct.pack(">QQQII", 0, 0, 0, 4, 104)  # fmt: skip
    path.write_bytes(header.ljust(200, b"\0") + name.ljust(4 * 65536 - 200, b"\0"))
    return path


def _entry(kind: int, start: int, size: int, *, active: bool) -> bytes:
    return struct.pack(
        "<B3sB3sII",
        0x80 if active else 0,
        b"\xfe\xff\xff",
        kind,
        b"\xfe\xff\xff",
        start // SECTOR,
        size // SECTOR,
    )
