"""A guest that any BIOS boots: a boot sector that tells on the serial console how often it booted.

It needs nothing of the machine that it is made on. It counts in a sector of its own disk, so that a
moved disk shows that it boots and that it is the one that was left; the power button turns it off.
"""

import re
import struct
from random import Random

from drivers.simulators.journal import PARTITION_TYPE, format_journal

MIB, SECTOR = 1 << 20, 512
SIZE = 8 * MIB
UP, DOWN = "FEDGUEST up", "FEDGUEST down"
_COUNTER = 64  # the sector that holds the number of boots, before the first partition
_JOURNAL, _JOURNAL_AT = MIB, 4 * MIB
_DATA_AT, _DATA = MIB, 2 * MIB
_SECTOR_NUMBER_AT = 278  # where the code keeps the counter's sector; 0: it writes nothing
# What guest.S assembles to; a test does it again where there is an assembler.
CODE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfbfc88160d7dbafb03b003eeba0206b80001ef66833e167d00741ab442e854006681"
    "3e008046454442754166ff060480b443e83f00bec87ce865006631c066833e167d00740466a10480e83500bedb7c"
    "e84d00f4ba0006eda9000174f6bee67ce83d00ba0406b80020efebe7bef67ce82e00ebdfbe0e7d8a160d7d30c0cd"
    "1372ebc366bb0a00000031c96631d266f7f352416685c075f3580430e80e00e2f8c3ac84c07405e80300ebf6c352"
    "50bafd03eca82074fb58baf803ee5ac3464544475545535420757020626f6f74733d00206469736b3d6f6b0d0a00"
    "464544475545535420646f776e0d0a004645444755455354206469736b3d62726f6b656e0d0a0000100001000080"
    "00000000000000000000"
)


def quiet() -> bytes:
    """A disk of a guest that boots, tells so, and writes nothing."""
    return _disk(counter=0, seed=1, journal=False)


def counting(seed: int, *, journal: bool = True) -> bytes:
    """A disk of a guest that counts its boots; with a journal that simulated guests keep."""
    return _disk(counter=_COUNTER, seed=seed, journal=journal)


def counted(disk: bytes) -> int:
    """How often a guest of `counting` booted, read from its disk."""
    magic, boots = struct.unpack_from("<4sI", disk, _COUNTER * SECTOR)
    if magic != b"FEDB":
        raise ValueError("the disk holds no counter")
    return int(boots)


def told(console: str) -> int | None:
    """How often the guest booted, as the last boot on its console tells; None before it told."""
    found = re.findall(r"FEDGUEST up .*?boots=(\d+)", console)
    return int(found[-1]) if found else None


def with_journal(disk: bytes, seed: int) -> bytes:
    """`disk` and, behind all it holds, a journal that simulated guests keep."""
    last = 446 + 3 * 16
    if disk[510:512] != b"\x55\xaa" or any(disk[last : last + 16]):
        raise ValueError("the disk has no room in its partition table")
    made = bytearray(disk.ljust(-(-len(disk) // MIB) * MIB, b"\0"))
    made[last : last + 16] = _entry(PARTITION_TYPE, len(made), _JOURNAL, active=False)
    return bytes(made) + format_journal(Random(seed).randbytes(16), _JOURNAL).ljust(_JOURNAL, b"\0")


def _disk(*, counter: int, seed: int, journal: bool) -> bytes:
    noise = Random(seed).randbytes
    made = bytearray(SIZE)
    made[: len(CODE)] = CODE
    struct.pack_into("<I", made, _SECTOR_NUMBER_AT, counter)
    made[440:446] = struct.pack("<IH", seed % 2**32, 0)
    table = _entry(0x83, _DATA_AT, _DATA, active=True)
    if journal:
        table += _entry(PARTITION_TYPE, _JOURNAL_AT, _JOURNAL, active=False)
        at = _JOURNAL_AT
        data = format_journal(noise(16), _JOURNAL)
        made[at : at + len(data)] = data
    made[446:510] = table.ljust(64, b"\0")
    made[510:512] = b"\x55\xaa"
    if counter:
        struct.pack_into("<4sI", made, counter * SECTOR, b"FEDB", 0)
    made[_DATA_AT : _DATA_AT + _DATA // 2] = noise(_DATA // 2)
    made[SIZE - SECTOR :] = noise(SECTOR)
    return bytes(made)


def _entry(kind: int, start: int, size: int, *, active: bool) -> bytes:
    flag = 0x80 if active else 0
    end = b"\xfe\xff\xff"
    return struct.pack("<B3sB3sII", flag, end, kind, end, start // SECTOR, size // SECTOR)
