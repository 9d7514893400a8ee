"""What glance looks for in the first sector of bytes that claim to be a raw disk."""

import struct

_ENTRY = struct.Struct("<B3sB3sII")
_FAT_MEDIA = 0xF8
_PROTECTIVE = 0xEE


def unsafe(sector: bytes) -> bool:
    """Whether the sector is signed like an MBR and yet says nothing that can be trusted."""
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa":
        return False
    if sector[0x10] == 2 and sector[0x15] == _FAT_MEDIA:  # a FAT file system without partitions
        return False
    kinds = []
    for at in range(446, 510, 16):
        boot, start, kind, _, lba, _ = _ENTRY.unpack_from(sector, at)
        if boot not in {0x00, 0x80}:
            return True
        if kind == _PROTECTIVE and (start != b"\0\2\0" or lba != 1):
            return True
        kinds.append(kind)
    used = [number for number, kind in enumerate(kinds) if kind]
    return not used or (_PROTECTIVE in kinds and used != [0])
