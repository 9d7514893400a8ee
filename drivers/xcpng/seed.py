"""A cloud-init drive: a FAT12 disk labelled CIDATA with the two files that NoCloud reads. Pure.

Boot sector, two tables, a root folder, then clusters of one sector each (FAT: General Overview of
On-Disk Format, Microsoft, 1.03). File names have a long entry, as theirs do not fit 8.3.
"""

import json
import struct

from controlplane.domain.disk import MIB
from controlplane.domain.errors import Invalid
from controlplane.domain.instance import InstanceSpec

SIZE = 2 * MIB
_SECTOR, _SECTORS = 512, SIZE // 512
_TABLES, _TABLE_SECTORS, _ROOT_ENTRIES = 2, 12, 512
_ROOT = 1 + _TABLES * _TABLE_SECTORS
_DATA = _ROOT + _ROOT_ENTRIES * 32 // _SECTOR
_LAST = 0xFFF
_LABEL, _ARCHIVE, _LONG = 0x08, 0x20, 0x0F
_NAME = b"CIDATA     "


def wished(spec: InstanceSpec) -> bool:
    """Whether the guest is to be told anything at its first boot."""
    return bool(spec.ssh_keys or spec.user_data)


def drive(identity: str, spec: InstanceSpec) -> bytes:
    """The whole disk; Invalid when the user data does not fit."""
    meta = {"instance-id": identity, "local-hostname": spec.name}
    if spec.ssh_keys:
        meta["public-keys"] = list(spec.ssh_keys)  # type: ignore[assignment]  # JSON of its kinds
    user = spec.user_data or "#cloud-config\n{}\n"
    return fat({"meta-data": json.dumps(meta).encode(), "user-data": user.encode()})


def fat(files: dict[str, bytes]) -> bytes:
    """A disk of `SIZE` bytes with files whose names have at most 13 characters."""
    table, root, data = [0xFF8, _LAST], [_entry(_NAME, _LABEL, 0, 0)], b""
    for number, (name, content) in enumerate(files.items(), start=1):
        first, count = len(table), -(-len(content) // _SECTOR)
        table += [first + n + 1 for n in range(count - 1)] + [_LAST] * (count > 0)
        short = f"{name[:6].upper()}~{number}".ljust(11).encode("ascii")
        root += [_long(name, short), _entry(short, _ARCHIVE, first * (count > 0), len(content))]
        data += content.ljust(count * _SECTOR, b"\0")
    if _DATA * _SECTOR + len(data) > SIZE:
        raise Invalid(f"user data and keys do not fit into {SIZE} bytes: shorten them")
    packed = _packed(table).ljust(_TABLE_SECTORS * _SECTOR, b"\0")
    folder = b"".join(root).ljust(_ROOT_ENTRIES * 32, b"\0")
    return (_boot() + packed * _TABLES + folder + data).ljust(SIZE, b"\0")


def _boot() -> bytes:
    head = struct.pack(
        "<3s8sHBHBHHBHHHII",
        *(b"\xeb\x3c\x90", b"MSDOS5.0", _SECTOR, 1, 1, _TABLES, _ROOT_ENTRIES, _SECTORS, 0xF8),
        *(_TABLE_SECTORS, 32, 64, 0, 0),
    )
    head += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x0FEDC71D, _NAME, b"FAT12   ")
    return head.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def _entry(short: bytes, attributes: int, cluster: int, size: int) -> bytes:
    date = (2026 - 1980) << 9 | 1 << 5 | 1
    return struct.pack(
        "<11sBBBHHHHHHHI", short, attributes, 0, 0, 0, date, date, 0, 0, date, cluster, size
    )


def _long(name: str, short: bytes) -> bytes:
    """The long entry of a name, which stands before the short one."""
    check = 0
    for byte in short:
        check = ((check & 1) << 7 | check >> 1) + byte & 0xFF
    text = (name + "\0")[:13].encode("utf-16-le").ljust(26, b"\xff")
    head = struct.pack("<B10sBBB", 0x41, text[:10], _LONG, 0, check)
    return head + text[10:22] + struct.pack("<H", 0) + text[22:26]


def _packed(table: list[int]) -> bytes:
    """Twelve bits an entry, two entries in three bytes."""
    pairs = zip(table[::2], [*table[1::2], 0], strict=False)
    return b"".join((low | high << 12).to_bytes(3, "little") for low, high in pairs)
