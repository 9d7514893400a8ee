"""Index segments in the store: what lies in some packs, sorted, for caches that lack it."""

import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from blake3 import blake3

from controlplane.domain.errors import Denied, FedctlError, Integrity, NotFound
from controlplane.vault.ports import DomainKeys, Keys, ObjectStore
from controlplane.vault.sealing import ID, open_object, seal_object
from controlplane.vault.whole import ReadWhole, reading

SEGMENT_ENTRIES = 1 << 18
"""How many a segment should have at most: it is read and written in memory."""

_MANY = 8
_SMALL = SEGMENT_ENTRIES // 4
_FOLDER = "index"
_ENTRY = struct.Struct(f">{ID}sII")
_LENGTH = struct.Struct(">I")
_COUNT = struct.Struct(">Q")
_HEAD_READ = 65536

Entries = Sequence[tuple[bytes, int]]
"""(id, position) of the chunks of one pack."""

Alive = Callable[[Collection[bytes]], Collection[bytes]]
"""Which of some packs are on record still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a segment speaks of; `start` is where its entries begin in the object."""

    packs: tuple[bytes, ...]
    entries: int
    start: int


class Published:
    """Segments are immutable and say the same of a pack, so that any of them may be lost or double.

    Used by one thread at a time. `departs` is told of each that is deleted next.
    """

    def __init__(
        self, objects: ObjectStore, keys: Keys, read: ReadWhole | None = None,
        departs: Callable[[str], None] = lambda _name: None,
    ) -> None:  # fmt: skip
        self._objects = objects
        self._departs = departs
        self._locked = False
        self._keys = keys
        self._whole = read or reading(objects)
        self._heads: dict[str, Head] = {}

    def heads(self, domain: str) -> dict[str, Head]:
        """All by name, each fetched once; one that cannot be read speaks of no packs."""
        names = set(self._objects.names(segment_prefix(domain)))
        for name in [n for n in self._heads if n.startswith(f"{segment_prefix(domain)}/")]:
            if name not in names:
                del self._heads[name]
        for name in names - self._heads.keys():
            with suppress(NotFound):
                try:
                    self._heads[name] = self._head(domain, name)
                except Integrity:
                    self._heads[name] = Head(packs=(), entries=0, start=0)
        return {name: self._heads[name] for name in names if name in self._heads}

    def names(self, domain: str) -> Iterator[str]:
        return self._objects.names(segment_prefix(domain))

    def look(self, domain: str, name: str) -> None:
        """Read it anew and whole. Integrity, NotFound."""
        self.read(domain, name, self._head(domain, name))

    def read(self, domain: str, name: str, head: Head) -> dict[bytes, list[tuple[bytes, int]]]:
        """Entries by pack, sorted by id. Integrity, NotFound."""
        keys = self._keys(domain)
        try:
            body = open_object(keys, name, self._objects.get(name, head.start))
        except Integrity:
            body = self._whole(name, lambda data: checked_segment(keys, name, data)[1])
        found: list[list[tuple[bytes, int]]] = [[] for _ in head.packs]
        for identity, number, position in _ENTRY.iter_unpack(body):
            found[number].append((identity, position))
        return dict(zip(head.packs, found, strict=True))

    def write(self, domain: str, packs: Mapping[bytes, Entries]) -> None:
        entries = sorted(
            (identity, number, position)
            for number, found in enumerate(packs.values())
            for identity, position in found
        )
        name = f"{segment_prefix(domain)}/{os.urandom(16).hex()}"
        keys = self._keys(domain)
        told = _COUNT.pack(len(entries)) + b"".join(packs)
        head = seal_object(keys, _head_name(name), told)
        body = b"".join([_ENTRY.pack(*entry) for entry in entries])
        start = _LENGTH.size + len(head)
        self._objects.put(name, _LENGTH.pack(len(head)) + head + seal_object(keys, name, body))
        self._heads[name] = Head(packs=tuple(packs), entries=len(entries), start=start)

    def merge_where_many(self, domain: str, alive: Alive) -> None:
        """Put a few in the place of many small ones; never again where those cannot be deleted."""
        if self._locked:
            return
        small = {n: h for n, h in self.heads(domain).items() if h.entries < _SMALL}
        if len(small) >= _MANY:
            self._replace(domain, small, alive)

    def tidy(self, domain: str, alive: Alive) -> None:
        """Remove what speaks of packs that are gone, and write anew what mostly does."""
        heads = self.heads(domain)
        here = alive({pack for head in heads.values() for pack in head.packs})
        left = {name: sum(p in here for p in head.packs) for name, head in heads.items()}
        for name, count in left.items():
            if count == 0:
                self._delete(name)
        stale = {n: heads[n] for n, count in left.items() if 0 < 2 * count < len(heads[n].packs)}
        if stale:
            self._replace(domain, stale, alive)

    def drop_other_domains(self, domains: Collection[str]) -> None:
        """Remove the segments of every domain but these."""
        known = {segment_prefix(domain) for domain in domains}
        for name in list(self._objects.names(_FOLDER)):
            if name.rpartition("/")[0] not in known:
                with suppress(FedctlError):
                    self._delete(name)

    def _replace(
        self, domain: str, old: Mapping[str, Head],
        alive: Alive,
    ) -> None:  # fmt: skip
        """Old ones go when what replaces them is there; whoever reads them then looks elsewhere."""
        names: list[str] = []
        packs: dict[bytes, Entries] = {}
        room = SEGMENT_ENTRIES
        for name, head in sorted(old.items(), key=lambda item: item[1].entries):
            if names and head.entries > room:
                self._put_in_place(domain, names, packs, alive)
                names, packs, room = [], {}, SEGMENT_ENTRIES
            with suppress(Integrity, NotFound):
                packs |= self.read(domain, name, head)
            names.append(name)
            room -= head.entries
        self._put_in_place(domain, names, packs, alive)

    def _put_in_place(
        self, domain: str, names: Sequence[str], packs: Mapping[bytes, Entries],
        alive: Alive,
    ) -> None:  # fmt: skip
        here = alive(packs)
        kept = {pack: found for pack, found in packs.items() if pack in here}
        if kept:
            self.write(domain, kept)
        for name in names:
            self._delete(name)

    def _delete(self, name: str) -> None:
        self._departs(name)
        try:
            self._objects.delete(name)
        except Denied:
            self._locked = True
            raise

    def _head(self, domain: str, name: str) -> Head:
        keys = self._keys(domain)
        try:
            return _head(keys, name, self._objects.get)
        except Integrity:
            return self._whole(name, lambda data: checked_segment(keys, name, data)[0])


def segment_prefix(domain: str) -> str:
    return f"{_FOLDER}/{blake3(domain.encode()).hexdigest()[:32]}"


def _head_name(name: str) -> str:
    return f"{name} packs"


def checked_segment(keys: DomainKeys, name: str, data: bytes) -> tuple[Head, bytes]:
    """What a whole segment speaks of, and its entries; Integrity."""
    head = _head(keys, name, lambda _, start, length: data[start : start + length])
    return head, open_object(keys, name, data[head.start :])


def _head(keys: DomainKeys, name: str, get: Callable[[str, int, int], bytes]) -> Head:
    start = get(name, 0, _HEAD_READ)
    if len(start) < _LENGTH.size:
        raise Integrity(f"stored object {name} is damaged: it is too short")
    end = _LENGTH.size + _LENGTH.unpack_from(start)[0]
    if end > len(start):
        start += get(name, len(start), end - len(start))
    told = open_object(keys, _head_name(name), start[_LENGTH.size : end])
    (entries,) = _COUNT.unpack_from(told)
    packs = tuple(told[i : i + ID] for i in range(_COUNT.size, len(told), ID))
    return Head(packs=packs, entries=entries, start=end)
