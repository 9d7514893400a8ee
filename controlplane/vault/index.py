"""Where verified chunks lie: sorted segments in the store, and a local cache of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock

from controlplane.domain.errors import Denied, Exhausted, Integrity, NotFound, Unavailable
from controlplane.domain.vault import Damage
from controlplane.vault.cache import Cache, Entries, Folder, Found
from controlplane.vault.pack import Packs
from controlplane.vault.ports import (
    Keys,
    ObjectStore,
    VaultRecords,
)
from controlplane.vault.published import SEGMENT_ENTRIES, Published
from controlplane.vault.sealing import PAGE
from controlplane.vault.whole import ReadWhole

_WORTH = 16  # a table takes about as long to read as a sixteenth of a segment


class ChunkIndex:
    """Ids of chunks in verified packs. Losing the cache loses nothing: it is read in again.

    What it finds is a hint: whoever uses a place looks into the pack's own table first.
    """

    def __init__(
        self, *, path: Path | None, objects: ObjectStore, keys: Keys, packs: Packs,
        records: VaultRecords, read: ReadWhole | None = None,
        departs: Callable[[str], None] = lambda _name: None,
    ) -> None:  # fmt: skip
        self._packs = packs
        self._records = records
        self._changing = RLock()
        self._folder = Folder(path)
        self._published = Published(objects, keys, read, departs)
        self._caches: dict[str, Cache] = {}
        self._wrong: dict[str, set[Found]] = {}

    def close(self) -> None:
        with self._changing:
            for cache in self._caches.values():
                cache.close()
            self._caches.clear()
            self._folder.close()

    def refresh(self, domain: str) -> None:
        """Know every verified pack of the domain and no other: segments first, tables else."""
        with self._changing:
            wanted = set(self._records.verified_packs(domain))
            damaged = self._records.damaged(domain)
            wanted -= {damage.pack for damage in damaged if damage.position is None}
            self._wrong[domain] = {(d.pack, d.position) for d in damaged if d.position is not None}
            cache = self._cache(domain)
            known = cache.packs()
            cache.drop(known - wanted)
            missing = wanted - known
            if missing:
                missing -= self._from_segments(domain, missing)
            for packs in self._from_tables(domain, missing):
                cache.add(packs)

    def publish(self, domain: str, packs: Collection[bytes]) -> None:
        """Know packs that were just verified, and let others know by sorted segments.

        A store that has no room or does not answer just then costs those others some time.
        """
        with self._changing:
            cache = self._cache(domain)
            known = cache.packs()
            for some in self._from_tables(domain, sorted(packs)):
                cache.add({pack: found for pack, found in some.items() if pack not in known})
                with suppress(Exhausted, Unavailable):
                    self._published.write(domain, some)
            with suppress(Denied, Exhausted, Unavailable):
                self._published.merge_where_many(domain, self._on_record)

    def find(self, domain: str, ids: Sequence[bytes]) -> dict[bytes, Found]:
        cache, wrong = self._caches.get(domain), self._wrong.get(domain, set())
        if cache is None:
            return {}
        try:
            places = [(identity, cache.find(identity, wrong)) for identity in ids]
        except OSError:  # the cache's disk fails: what is not found is stored once more
            return {}
        return {identity: place for identity, place in places if place is not None}

    def damaged(self, damage: Damage) -> None:
        """Durably out of the index at once, so that the next pass stores it again."""
        if self._records.states([damage.pack]):  # a reader may come upon one that was collected
            self._records.damage(damage)
        if damage.position is None:
            self.drop_pack(damage.pack)
        else:
            with self._changing:
                self._wrong.setdefault(damage.domain, set()).add((damage.pack, damage.position))

    def mended(self, pack: bytes) -> None:
        """The pack is whole again: it serves dedup after the next `refresh`."""
        self._records.mended(pack)
        self.drop_pack(pack)

    def drop_pack(self, pack: bytes) -> None:
        with self._changing:
            for cache in self._caches.values():
                cache.drop({pack})

    def tidy(self, domain: str) -> None:
        """Remove from the store what speaks of packs that are gone."""
        with self._changing:
            self._published.tidy(domain, self._on_record)

    def tidy_all(self, domains: Iterable[str]) -> None:
        """The same for all; other domains than these have nothing that is needed."""
        every = set(domains)
        for domain in every:
            self.tidy(domain)
        with self._changing:
            self._published.drop_other_domains(every)

    def _on_record(self, packs: Collection[bytes]) -> Collection[bytes]:
        return self._records.states(packs).keys()

    def _cache(self, domain: str) -> Cache:
        cache = self._caches.get(domain)
        if cache is None:
            cache = self._caches[domain] = Cache(self._folder.path, domain)
        return cache

    def _from_segments(self, domain: str, missing: set[bytes]) -> set[bytes]:
        """What became known of them; a segment that is damaged costs a look into the tables."""
        loaded: set[bytes] = set()
        for name, head in self._published.heads(domain).items():
            useful = (missing - loaded).intersection(head.packs)
            if useful and len(useful) * _WORTH >= len(head.packs):
                with suppress(Integrity, NotFound):
                    found = self._published.read(domain, name, head)
                    self._cache(domain).add({pack: found[pack] for pack in useful})
                    loaded |= useful
        return loaded

    def _from_tables(self, domain: str, packs: Iterable[bytes]) -> Iterator[dict[bytes, Entries]]:
        """As many together as a segment should have."""
        found: dict[bytes, Entries] = {}
        room = SEGMENT_ENTRIES
        for pack in packs:
            with suppress(Integrity):  # met again, and named, by whoever needs that pack
                blobs = self._packs.open(domain, pack).blobs
                found[pack] = [(b.id, at) for at, b in enumerate(blobs) if not b.codec & PAGE]
                room -= len(blobs)
            if room <= 0:
                yield found
                found, room = {}, SEGMENT_ENTRIES
        if found:
            yield found
