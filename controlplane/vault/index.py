"""Where verified chunks lie: sorted segments in the store, a local SQLite file as their cache."""

import os
import sqlite3
import struct
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

from blake3 import blake3

from controlplane.domain.errors import Integrity, NotFound
from controlplane.domain.vault import (
    Damage,
)
from controlplane.vault.pack import Packs
from controlplane.vault.ports import (
    Keys,
    ObjectStore,
    VaultRecords,
)
from controlplane.vault.sealing import PAGE, open_object, seal_object
from controlplane.vault.whole import ReadWhole, reading

_ENTRY = struct.Struct(">32sII")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS packs (number INTEGER PRIMARY KEY, domain TEXT, pack BLOB UNIQUE);
CREATE TABLE IF NOT EXISTS chunks (
  id BLOB, pack INTEGER, position INTEGER, PRIMARY KEY (id, pack)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunks_of_pack ON chunks (pack);
"""

Found = tuple[bytes, int]


def segment_prefix(domain: str) -> str:
    return f"index/{blake3(domain.encode()).hexdigest()[:32]}"


class ChunkIndex:
    """Ids of chunks in verified packs. Losing the cache loses nothing: it is read in again."""

    def __init__(
        self, *, path: Path | None, objects: ObjectStore, keys: Keys, packs: Packs,
        records: VaultRecords, read: ReadWhole | None = None,
    ) -> None:  # fmt: skip
        self._objects = objects
        self._read = read or reading(objects)
        self._keys = keys
        self._packs = packs
        self._records = records
        self._lock = Lock()
        try:
            self._db = _opened(path)
        except sqlite3.DatabaseError:
            if path is None:
                raise
            for spoilt in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                spoilt.unlink(missing_ok=True)
            self._db = _opened(path)

    def close(self) -> None:
        self._db.close()

    def refresh(self, domain: str) -> None:
        """Know every verified pack of the domain and no other: segments first, tables else."""
        wanted = self._records.verified_packs(domain)
        with self._lock:
            rows = self._db.execute("SELECT pack FROM packs WHERE domain = ?", (domain,))
            known = {bytes(row[0]) for row in rows}
        for pack in known - wanted:
            self.drop_pack(pack)
        missing = wanted - known
        if missing:
            missing -= self._load_segments(domain, missing)
        for pack in missing:
            with suppress(Integrity):  # met again, and named, by whoever needs that pack
                self._insert(domain, pack, self._entries(domain, pack))
        for damage in self._records.damaged(domain):
            self._forget(damage)

    def publish(self, domain: str, packs: Collection[bytes]) -> None:
        """One sorted segment for packs that were just verified."""
        entries: list[tuple[bytes, int, int]] = []
        order = sorted(packs)
        for number, pack in enumerate(order):
            found = self._entries(domain, pack)
            self._insert(domain, pack, found)
            entries += [(identity, number, position) for identity, position in found]
        if not entries:
            return
        entries.sort()
        body = struct.pack(">I", len(order)) + b"".join(order)
        body += b"".join(_ENTRY.pack(*entry) for entry in entries)
        name = f"{segment_prefix(domain)}/{os.urandom(16).hex()}"
        self._objects.put(name, seal_object(self._keys(domain), name, body))

    def find(self, domain: str, ids: Sequence[bytes]) -> dict[bytes, Found]:
        marks = ",".join("?" * len(ids))
        query = (
            "SELECT c.id, p.pack, c.position FROM chunks c JOIN packs p ON p.number = c.pack"  # noqa: S608  # only question marks are put in
            f" WHERE p.domain = ? AND c.id IN ({marks})"
        )
        with self._lock:
            rows = self._db.execute(query, (domain, *ids)).fetchall()
        return {bytes(identity): (bytes(pack), position) for identity, pack, position in rows}

    def damaged(self, damage: Damage) -> None:
        """Durably out of the index at once, so that the next pass stores it again."""
        self._records.damage(damage)
        self._forget(damage)

    def mended(self, pack: bytes) -> None:
        """The pack is whole again: it serves dedup after the next `refresh`."""
        self._records.mended(pack)
        self.drop_pack(pack)

    def drop_pack(self, pack: bytes) -> None:
        with self._lock:
            self._db.execute(
                "DELETE FROM chunks WHERE pack = (SELECT number FROM packs WHERE pack = ?)", (pack,)
            )
            self._db.execute("DELETE FROM packs WHERE pack = ?", (pack,))

    def drop_dead_segments(self, domain: str, alive: Callable[[bytes], bool]) -> None:
        """Remove segments none of whose packs is on record any more."""
        for name in list(self._objects.names(segment_prefix(domain))):
            with suppress(Integrity, NotFound):
                packs, _ = self._segment(domain, name)
                if not any(alive(pack) for pack in packs):
                    self._objects.delete(name)

    def _forget(self, damage: Damage) -> None:
        if damage.position is None:
            with self._lock:
                self._db.execute(
                    "DELETE FROM chunks WHERE pack = (SELECT number FROM packs WHERE pack = ?)",
                    (damage.pack,),
                )
            return
        with self._lock:
            self._db.execute(
                "DELETE FROM chunks WHERE position = ?"
                " AND pack = (SELECT number FROM packs WHERE pack = ?)",
                (damage.position, damage.pack),
            )

    def _entries(self, domain: str, pack: bytes) -> list[tuple[bytes, int]]:
        blobs = self._packs.open(domain, pack).blobs
        return [(b.id, position) for position, b in enumerate(blobs) if not b.codec & PAGE]

    def _insert(self, domain: str, pack: bytes, entries: Sequence[tuple[bytes, int]]) -> None:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "INSERT OR IGNORE INTO packs (domain, pack) VALUES (?, ?)", (domain, pack)
                )
                (number,) = self._db.execute(
                    "SELECT number FROM packs WHERE pack = ?", (pack,)
                ).fetchone()
                self._db.executemany(
                    "INSERT OR IGNORE INTO chunks (id, pack, position) VALUES (?, ?, ?)",
                    [(identity, number, position) for identity, position in entries],
                )
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _load_segments(self, domain: str, wanted: Collection[bytes]) -> set[bytes]:
        loaded: set[bytes] = set()
        for name in self._objects.names(segment_prefix(domain)):
            # A damaged segment costs a look into the packs' own tables, nothing else.
            with suppress(Integrity, NotFound):
                packs, entries = self._segment(domain, name)
                for number, pack in enumerate(packs):
                    if pack in wanted and pack not in loaded:
                        mine = [(i, p) for i, n, p in entries if n == number]
                        self._insert(domain, pack, mine)
                        loaded.add(pack)
        return loaded

    def _segment(self, domain: str, name: str) -> tuple[list[bytes], list[tuple[bytes, int, int]]]:
        keys = self._keys(domain)
        body = self._read(name, lambda sealed: open_object(keys, name, sealed))
        (count,) = struct.unpack_from(">I", body)
        packs = [body[4 + 32 * i : 36 + 32 * i] for i in range(count)]
        return packs, list(_ENTRY.iter_unpack(body[4 + 32 * count :]))


def _opened(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(
        str(path) if path else ":memory:", check_same_thread=False, isolation_level=None
    )
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
