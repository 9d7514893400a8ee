"""The journal that a simulated guest keeps on its disk.

Where it is: a primary MBR partition of type 0xDA whose first sector is a journal header. A disk is
a *journal disk* when its first 512 bytes end with 55 AA and one of the four entries at 446 has type
0xDA. An image builder writes that entry (start LBA at entry+8, sectors at entry+12, both little-
endian u32) and puts `format_journal(identity, size)` at start LBA * 512. Any size from 64 KiB up
will do; 4 MiB hold 8,184 records, about 27 minutes at five a second.

Layout, in sectors of 512 bytes from the partition's start, integers little-endian:

    0      header: 8s b"FEDCTLJ1", 16s disk identity, u64 slots, u32 CRC-32 of what stands before it
    1      boots:  8s b"FEDCTLB1", u64 number of boots, u32 CRC-32 of what stands before it
    2..7   zero
    8+n    record slots; record `sequence` (from 1) is in slot (sequence - 1) % slots:
           8s b"FEDCTLR1", 16s disk identity, u64 sequence, u64 boot, u64 time in ns,
           460 bytes that depend on the sequence, u32 CRC-32 of the 508 bytes before it

A record is one sector and is written whole, so it is either there or not. The ring keeps the newest
`slots` records.
"""

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SECTOR = 512
PARTITION_TYPE = 0xDA
SMALLEST = 64 * 1024
_FIRST_SLOT = 8
_HEADER = struct.Struct("<8s16sQ")
_BOOTS = struct.Struct("<8sQ")
_RECORD = struct.Struct("<8s16sQQQ")
_FILL = SECTOR - _RECORD.size - 4
_CHECK = struct.Struct("<I")

Read = Callable[[int, int], bytes]


class NoBootSector(Exception):
    """The disk holds something, but no MBR signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One write that the guest was told is durable once the flush after it returned."""

    sequence: int
    boot: int
    time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """A journal as it stands on a disk: whose, where, and every intact record, oldest first."""

    identity: bytes
    offset: int  # of the partition, in bytes
    slots: int
    boots: int
    records: tuple[Record, ...]
    damaged: tuple[int, ...] = ()  # slots that hold something that is no record of this disk

    @property
    def last(self) -> int:
        return self.records[-1].sequence if self.records else 0


def format_journal(identity: bytes, size: int) -> bytes:
    """The whole content of a fresh journal partition of `size` bytes."""
    if len(identity) != 16:
        raise ValueError(f"a disk identity has 16 bytes, not {len(identity)}")
    if size < SMALLEST or size % SECTOR:
        raise ValueError(f"a journal partition has {SMALLEST} bytes or more, in sectors: {size}")
    slots = size // SECTOR - _FIRST_SLOT
    header = _sealed(_HEADER.pack(b"FEDCTLJ1", identity, slots))
    return (header + boots_sector(0)).ljust(size, b"\0")


def boots_sector(boots: int) -> bytes:
    return _sealed(_BOOTS.pack(b"FEDCTLB1", boots))


def record_sector(identity: bytes, record: Record) -> bytes:
    head = _RECORD.pack(b"FEDCTLR1", identity, record.sequence, record.boot, record.time_ns)
    body = head + bytes((record.sequence + i) % 251 for i in range(_FILL))
    return body + _CHECK.pack(zlib.crc32(body))


def boots_offset(journal: Journal) -> int:
    return journal.offset + SECTOR


def record_offset(journal: Journal, sequence: int) -> int:
    return journal.offset + (_FIRST_SLOT + (sequence - 1) % journal.slots) * SECTOR


def read_journal(read: Read) -> Journal | None:
    """The journal of the disk behind `read(offset, length)`; None when the disk has none.

    Raises `NoBootSector` when the first sector holds something without an MBR signature, and
    `ValueError` when there is a journal partition with a broken header or boot counter.
    """
    sector = read(0, SECTOR)
    if sector[510:512] != b"\x55\xaa":
        if sector.strip(b"\0"):
            raise NoBootSector
        return None
    for entry in range(446, 510, 16):
        if sector[entry + 4] == PARTITION_TYPE:
            start, count = struct.unpack_from("<II", sector, entry + 8)
            return _read_at(read, start * SECTOR, count)
    return None


def lost_writes(journal: Journal, durable: Iterable[int]) -> tuple[int, ...]:
    """Sequence numbers that were durable, that the ring must still hold, and that are gone."""
    told = set(durable)
    floor = max(max(told, default=0), journal.last) - journal.slots
    present = {record.sequence for record in journal.records}
    return tuple(sorted(number for number in told - present if number > floor))


def _read_at(read: Read, offset: int, sectors: int) -> Journal:
    head = read(offset, SECTOR)
    magic, identity, slots = _HEADER.unpack_from(head)
    if magic != b"FEDCTLJ1" or not _intact(head, _HEADER.size) or slots > sectors - _FIRST_SLOT:
        raise ValueError(f"the journal header at byte {offset} is broken")
    counter = read(offset + SECTOR, SECTOR)
    magic, boots = _BOOTS.unpack_from(counter)
    if magic != b"FEDCTLB1" or not _intact(counter, _BOOTS.size):
        raise ValueError(f"the boot counter at byte {offset + SECTOR} is broken")
    records: list[Record] = []
    damaged: list[int] = []
    ring = read(offset + _FIRST_SLOT * SECTOR, slots * SECTOR)
    for slot in range(slots):
        raw = ring[slot * SECTOR : (slot + 1) * SECTOR]
        if not raw.strip(b"\0"):
            continue
        magic, whose, sequence, boot, time_ns = _RECORD.unpack_from(raw)
        if (
            magic == b"FEDCTLR1"
            and whose == identity
            and (sequence - 1) % slots == slot
            and _intact(raw, SECTOR - 4)
        ):
            records.append(Record(sequence=sequence, boot=boot, time_ns=time_ns))
        else:
            damaged.append(slot)
    return Journal(
        identity=identity,
        offset=offset,
        slots=slots,
        boots=boots,
        records=tuple(sorted(records, key=lambda record: record.sequence)),
        damaged=tuple(damaged),
    )


def _sealed(data: bytes) -> bytes:
    return (data + _CHECK.pack(zlib.crc32(data))).ljust(SECTOR, b"\0")


def _intact(sector: bytes, length: int) -> bool:
    (check,) = _CHECK.unpack_from(sector, length)
    return bool(check == zlib.crc32(sector[:length]))
