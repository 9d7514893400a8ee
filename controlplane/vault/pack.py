"""Packs: immutable files of sealed blobs with an encrypted table at the end.

header | blob 0 | blob 1 | ... | sealed table | footer. The header names domain, data key and pack
and is bound into every blob; the footer says where the table lies and is bound into the table.
"""

import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

from controlplane.domain.disk import MIB
from controlplane.domain.errors import Integrity, NotFound
from controlplane.domain.vault import (
    PackNew,
    Session,
)
from controlplane.vault.ports import (
    DomainKeys,
    Keys,
    ObjectStore,
    VaultRecords,
)
from controlplane.vault.sealing import ID, TAG, Blob, BlobCipher, Unsealable, compress

PACK_BYTES = 64 * MIB
PACK_AGE = timedelta(seconds=30)
PACK_BLOBS = 16384
_MAGIC = b"fedctl-pack-1\n"
_END = b"fedctl-end\n"
_ENTRY = struct.Struct(">32sBII")
_FOOTER = struct.Struct(">QI11s")
_HEADER_READ = 1024
_TOGETHER = MIB  # to be compressed in one call, and in the caches still when it is sealed
_TABLES_BLOBS = 1 << 18  # some 50 MB


def pack_name(pack: bytes) -> str:
    text = pack.hex()
    return f"packs/{text[:2]}/{text}"


def pack_of(name: str) -> bytes:
    """The pack that an object's name names; Integrity when it names none."""
    try:
        pack = bytes.fromhex(name.rpartition("/")[2])
    except ValueError:
        pack = b""
    if len(pack) != ID or pack_name(pack) != name:
        raise Integrity(f"{name} is not the name of a pack")
    return pack


def domain_of(data: bytes) -> str:
    """The dedup domain that a pack's first bytes tell; to be proven by opening it as that."""
    start = len(_MAGIC) + 2
    try:
        (length,) = struct.unpack_from(">H", data, len(_MAGIC))
        domain = data[start : start + length].decode()
    except (struct.error, UnicodeDecodeError) as e:
        raise Integrity("a pack does not begin as one does") from e
    if not data.startswith(_MAGIC) or not domain:
        raise Integrity("a pack does not begin as one does")
    return domain


def _header(domain: str, key_id: str, pack: bytes) -> bytes:
    d, k = domain.encode(), key_id.encode()
    return _MAGIC + struct.pack(">H", len(d)) + d + struct.pack(">B", len(k)) + k + pack


class PackWriter:
    """One new pack, written by the thread that opened it and never continued by another."""

    def __init__(
        self, *, session: Session, keys: DomainKeys, records: VaultRecords, objects: ObjectStore,
        now: datetime,
    ) -> None:  # fmt: skip
        self.id = os.urandom(ID)
        self.opened = now
        header = _header(session.domain, keys.data_key_id, self.id)
        self._cipher = BlobCipher(keys.data_key, self.id, header)
        self._table: list[bytes] = []
        self._length = len(header)
        records.open_pack(PackNew(pack=self.id, domain=session.domain, session=session))
        self._upload = objects.upload(pack_name(self.id))
        self._write(header)

    @property
    def blobs(self) -> int:
        return len(self._table)

    def full(self, now: datetime) -> bool:
        return (
            self._length >= PACK_BYTES
            or len(self._table) >= PACK_BLOBS
            or (bool(self._table) and now - self.opened >= PACK_AGE)
        )

    def add(
        self, kind: int, blobs: Sequence[tuple[bytes, bytes | memoryview]]
    ) -> tuple[int, list[int]]:
        """Append (id, content) of each: the first one's position, and the bytes each takes."""
        first, lengths = len(self._table), list[int]()
        some = max(_TOGETHER // len(blobs[0][1]), 1)
        for at in range(0, len(blobs), some):
            lengths += self._add(kind, blobs[at : at + some])
        return first, lengths

    def _add(self, kind: int, blobs: Sequence[tuple[bytes, bytes | memoryview]]) -> list[int]:
        packed = compress([data for _, data in blobs])
        about = [
            (identity, codec | kind, len(data), len(body) + TAG)
            for (identity, data), (codec, body) in zip(blobs, packed, strict=True)
        ]
        self._write(*self._cipher.seal(len(self._table), about, [body for _, body in packed]))
        self._table += [_ENTRY.pack(*told) for told in about]
        lengths = [stored for *_, stored in about]
        self._length += sum(lengths)
        return lengths

    def finish(self) -> None:
        """Durable in the store when this returns."""
        table = b"".join(self._table)
        footer = _FOOTER.pack(self._length, len(table) + TAG, _END)
        self._write(self._cipher.seal_table(table, footer), footer)
        self._upload.finish()

    def abort(self) -> None:
        self._upload.abort()

    def _write(self, *parts: bytes) -> None:
        try:
            self._upload.write(*parts)
        except BaseException:
            # What arrived is unknown, so this pack must never be finished.
            self._upload.abort()
            raise


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """An opened pack: its table, and the means to open blobs. `size` is the object's, in bytes."""

    id: bytes
    size: int
    blobs: tuple[Blob, ...]
    cipher: BlobCipher
    id_key: bytes

    def blob(self, position: int, identity: bytes) -> Blob:
        if position >= len(self.blobs) or self.blobs[position].id != identity:
            raise Unsealable
        return self.blobs[position]


KEY_MISSING = "key-missing"
"""The reason that is no damage, as far as we can tell: the keyring lacks a key of the pack."""


class Packs:
    """Reading packs, with the tables of recently used ones kept, of so many `blobs` at most."""

    def __init__(self, *, objects: ObjectStore, keys: Keys, blobs: int = _TABLES_BLOBS) -> None:
        self._objects = objects
        self._keys = keys
        self._most = blobs
        self._held = 0
        self._lock = Lock()
        self._opened: OrderedDict[bytes, Pack] = OrderedDict()

    def open(self, domain: str, pack: bytes) -> Pack:
        """Integrity when the pack is missing or its table does not check."""
        with self._lock:
            if known := self._opened.get(pack):
                self._opened.move_to_end(pack)
                return known
        try:
            opened = self._load(domain, pack)
        except NotFound as e:
            raise Integrity(f"pack {pack.hex()} of {domain} is missing from the store") from e
        except (Unsealable, struct.error) as e:
            raise Integrity(f"pack {pack.hex()} of {domain} is damaged in its table") from e
        with self._lock:
            former = self._opened.pop(pack, None)
            self._opened[pack] = opened
            self._held += len(opened.blobs) - (len(former.blobs) if former else 0)
            while self._held > self._most and len(self._opened) > 1:
                self._held -= len(self._opened.popitem(last=False)[1].blobs)
        return opened

    def drop(self, pack: bytes) -> None:
        with self._lock:
            dropped = self._opened.pop(pack, None)
            self._held -= len(dropped.blobs) if dropped else 0

    def stands(self, pack: bytes) -> bool:
        """Whether it is in the store, and as long as when its table was read, if that is kept."""
        try:
            size = self._objects.size(pack_name(pack))
        except NotFound:
            return False
        with self._lock:
            known = self._opened.get(pack)
        return size == known.size if known else size > 0

    def read(self, pack: Pack, offset: int, length: int) -> bytes:
        """Stored bytes; shorter than asked when the object was cut off; Integrity when gone."""
        try:
            return self._objects.get(pack_name(pack.id), offset, length)
        except NotFound as e:
            raise Integrity(f"pack {pack.id.hex()} is missing from the store") from e

    def check(self, domain: str, pack: bytes, stopped: Callable[[], bool]) -> list[int]:
        """Read the pack back, decrypt and rehash every blob; the positions that failed."""
        self.drop(pack)
        opened = self.open(domain, pack)
        return self.check_blobs(opened, range(len(opened.blobs)), stopped)

    def check_blobs(
        self, opened: Pack, which: range, stopped: Callable[[], bool],
        passed: Callable[[int], None] = lambda _: None,
    ) -> list[int]:  # fmt: skip
        """Read these neighbouring blobs, decrypt and rehash them; the positions that failed.

        `passed` is told of stored bytes as they were read. Integrity when the pack is missing.
        """
        bad: list[int] = []
        first, stop = which.start, which.stop
        while first < stop and not stopped():
            start = opened.blobs[first].offset
            last = first
            while last < stop and opened.blobs[last].offset < start + 4 * MIB:
                last += 1
            end = opened.blobs[last - 1].offset + opened.blobs[last - 1].stored
            data = self.read(opened, start, end - start)
            for position in range(first, last):
                blob = opened.blobs[position]
                sealed = data[blob.offset - start : blob.offset - start + blob.stored]
                try:
                    opened.cipher.open(position, blob, sealed, opened.id_key)
                except Unsealable:
                    bad.append(position)
            passed(len(data))
            first = last
        return bad

    def _load(self, domain: str, pack: bytes) -> Pack:
        name = pack_name(pack)
        keys = self._keys(domain)
        size = self._objects.size(name)
        head = self._objects.get(name, 0, _HEADER_READ)
        at = len(_MAGIC) + 2
        (length,) = struct.unpack(">H", head[len(_MAGIC) : at])
        at += length
        key_id = head[at + 1 : at + 1 + head[at]].decode(errors="replace") if at < len(head) else ""
        header = _header(domain, key_id, pack)
        if not head.startswith(header):
            raise Unsealable
        data_key = keys.data_key_named(key_id)
        if data_key is None:
            raise Integrity(
                f"pack {pack.hex()} of {domain} wants data key {key_id!r}, which the keyring does"
                " not have: bring the key back",
                reason=KEY_MISSING,
            )
        cipher = BlobCipher(data_key, pack, header)
        footer = self._objects.get(name, max(size - _FOOTER.size, 0), _FOOTER.size)
        start, sealed_length, _ = _FOOTER.unpack(footer)
        if start + sealed_length + _FOOTER.size != size or sealed_length > size:
            raise Unsealable
        table = cipher.open_table(self._objects.get(name, start, sealed_length), footer)
        blobs: list[Blob] = []
        offset = len(header)
        for identity, codec, plain, stored in _ENTRY.iter_unpack(table):
            blobs.append(Blob(id=identity, codec=codec, plain=plain, offset=offset, stored=stored))
            offset += stored
        if offset != start:
            raise Unsealable
        return Pack(id=pack, size=size, blobs=tuple(blobs), cipher=cipher, id_key=keys.id_key)
