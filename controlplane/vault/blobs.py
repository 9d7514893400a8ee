"""Fetching blobs by reference: checked, several at a time, damage named and remembered."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from controlplane.domain.disk import KIB, MIB
from controlplane.domain.errors import Integrity
from controlplane.domain.vault import (
    Damage,
    Ref,
)
from controlplane.vault.index import ChunkIndex
from controlplane.vault.manifest import KeptPages
from controlplane.vault.pack import KEY_MISSING, Pack, Packs
from controlplane.vault.sealing import CODEC, TAG, ZSTD, Blob, Unsealable

_RANGE = 8 * MIB
_GAP = 256 * KIB


@dataclass(frozen=True, slots=True)
class _Fetch:
    """A blob with its place in a stored range."""

    number: int
    position: int
    blob: Blob


_Open = Callable[[Pack, int, Blob, bytes | memoryview], bytes]
"""Bytes of a blob of a pack, by position, from its sealed ones; Unsealable."""


class Blobs:
    """Blobs of references within one domain; `kept` is shared with all others.

    `mend` gives a sound copy of a pack of the domain, from elsewhere, or None.
    """

    def __init__(
        self, *, domain: str, packs: Packs, index: ChunkIndex, pool: Executor, kept: KeptPages,
        mend: Callable[[str, bytes], Packs | None] = lambda _domain, _pack: None,
    ) -> None:  # fmt: skip
        self._domain = domain
        self._packs = packs
        self._index = index
        self._pool = pool
        self.kept = kept
        self._mend = mend

    def page(self, ref: Ref) -> bytes:
        got = self.fetch([ref])[0]
        if isinstance(got, Integrity):
            raise got
        return got

    def fetch(self, refs: Sequence[Ref], *, alone: bool = False) -> list[bytes | Integrity]:
        """Plain bytes, in order; a blob that does not check is an Integrity in its place.

        `alone`: all of it on the caller's thread, because others like it are at work.
        """
        return self._fetch(refs, _plain, gap=0, alone=alone)

    def frames(self, refs: Sequence[Ref]) -> list[int]:
        """The length of each one's zstd frame, 0 where it is stored plain; Integrity."""
        return [
            blob.stored - TAG if blob.codec & CODEC == ZSTD else 0
            for blob in (self._described(ref) for ref in refs)
        ]

    def stored(self, refs: Sequence[Ref]) -> list[bytes | Integrity]:
        """As `fetch`, but frames stay frames: decrypted under their id, not decompressed.

        Of a damaged one another copy is taken only if its frame is equally long.
        """
        return self._fetch(refs, _body, gap=_GAP, alone=True)

    def elsewhere(self, ref: Ref) -> bytes | None:
        """Another pack that has the same blob, read there and found good; None without one."""
        found = self._elsewhere(ref, _plain)
        return None if found is None else found[0]

    def _described(self, ref: Ref) -> Blob:
        failed: Integrity | None = None
        for pack, position in self._places(ref):
            try:
                return self._packs.open(self._domain, pack).blob(position, ref.id)
            except Integrity as e:
                failed = failed or e
            except Unsealable:
                failed = failed or _damage(ref)
        mended = self._mend(self._domain, ref.pack)
        if mended is not None:
            with suppress(Integrity, Unsealable):
                return mended.open(self._domain, ref.pack).blob(ref.position, ref.id)
        raise failed or _damage(ref)

    def _places(self, ref: Ref) -> Iterator[tuple[bytes, int]]:
        yield ref.pack, ref.position
        self._index.refresh(self._domain)
        found = self._index.find(self._domain, [ref.id]).get(ref.id)
        if found is not None:
            yield found

    def _fetch(
        self, refs: Sequence[Ref], how: _Open, *, gap: int, alone: bool
    ) -> list[bytes | Integrity]:
        out: list[bytes | Integrity | None] = [None] * len(refs)
        for pack, wanted in self._by_pack(refs, out).items():
            for run in _runs(wanted, gap):
                self._run(pack, run, out, how, alone=alone)
        if any(isinstance(got, Integrity) for got in out):
            self._mended(refs, out, how)
        if any(isinstance(got, Integrity) for got in out):
            self._index.refresh(self._domain)
        return [
            self._other(ref, got, how) if isinstance(got, Integrity) else got or b""
            for ref, got in zip(refs, out, strict=True)
        ]

    def _by_pack(
        self, refs: Sequence[Ref], out: list[bytes | Integrity | None]
    ) -> dict[Pack, list[_Fetch]]:
        wanted: dict[Pack, list[_Fetch]] = {}
        for number, ref in enumerate(refs):
            try:
                pack = self._packs.open(self._domain, ref.pack)
                blob = pack.blob(ref.position, ref.id)
            except Integrity as e:
                if e.reason != KEY_MISSING:
                    self._index.damaged(Damage(domain=self._domain, pack=ref.pack))
                out[number] = e
            except Unsealable:
                out[number] = _damage(ref)
            else:
                wanted.setdefault(pack, []).append(_Fetch(number, ref.position, blob))
        return wanted

    def _run(
        self, pack: Pack, run: list[_Fetch], out: list[bytes | Integrity | None], how: _Open,
        *, alone: bool,
    ) -> None:  # fmt: skip
        start = run[0].blob.offset
        length = run[-1].blob.offset + run[-1].blob.stored - start
        try:
            data = memoryview(self._packs.read(pack, start, length))
        except Integrity as e:  # it went after its table was read
            self._packs.drop(pack.id)
            self._index.damaged(Damage(domain=self._domain, pack=pack.id))
            for fetch in run:
                out[fetch.number] = e
            return

        def open_one(fetch: _Fetch) -> bytes | None:
            at = fetch.blob.offset - start
            sealed = data[at : at + fetch.blob.stored]
            try:
                return how(pack, fetch.position, fetch.blob, sealed)
            except Unsealable:
                return None

        def open_some(some: list[_Fetch]) -> list[bytes | None]:
            return [open_one(fetch) for fetch in some]

        half = len(run) // 2
        other = self._pool.submit(open_some, run[:half]) if half and not alone else None
        rest = open_some(run[half:] if other else run)
        opened = [*other.result(), *rest] if other else rest
        for fetch, plain in zip(run, opened, strict=True):
            out[fetch.number] = plain
            if plain is None:
                self._index.damaged(
                    Damage(domain=self._domain, pack=pack.id, position=fetch.position)
                )
                out[fetch.number] = Integrity(
                    f"blob {fetch.position} of pack {pack.id.hex()} is damaged"
                )

    def _mended(self, refs: Sequence[Ref], out: list[bytes | Integrity | None], how: _Open) -> None:
        """Fill in what a second store has whole; a key's id may be what was spoilt."""
        found: dict[bytes, Packs | None] = {}
        for number, (ref, got) in enumerate(zip(refs, out, strict=True)):
            if not isinstance(got, Integrity):
                continue
            if ref.pack not in found:
                self._packs.drop(ref.pack)
                found[ref.pack] = self._mend(self._domain, ref.pack)
            packs = found[ref.pack]
            if packs is not None:
                with suppress(Integrity, Unsealable):
                    out[number] = self._one(packs, ref.pack, ref.position, ref.id, how)

    def _one(self, packs: Packs, name: bytes, position: int, identity: bytes, how: _Open) -> bytes:
        pack = packs.open(self._domain, name)
        blob = pack.blob(position, identity)
        sealed = packs.read(pack, blob.offset, blob.stored)
        plain = pack.cipher.open(position, blob, sealed, pack.id_key)
        return plain if how is _plain else how(pack, position, blob, sealed)

    def _other(self, ref: Ref, failed: Integrity, how: _Open) -> bytes | Integrity:
        found = self._elsewhere(ref, how)
        return failed if found is None else found[1]

    def _elsewhere(self, ref: Ref, how: _Open) -> tuple[bytes, bytes] | None:
        """A pack, and the blob from it, where a later pass stored the same chunk again.

        A place that does not hold it either leaves the index, so that the next pass stores it.
        """
        while found := self._index.find(self._domain, [ref.id]).get(ref.id):
            pack, position = found
            if found == (ref.pack, ref.position):
                return None
            try:
                return pack, self._one(self._packs, pack, position, ref.id, how)
            except Integrity as e:
                if e.reason == KEY_MISSING:
                    return None
                self._packs.drop(pack)
                self._index.damaged(Damage(domain=self._domain, pack=pack))
            except Unsealable:
                self._index.damaged(Damage(domain=self._domain, pack=pack, position=position))
        return None


def _damage(ref: Ref) -> Integrity:
    return Integrity(f"blob {ref.position} of pack {ref.pack.hex()} is another than referred to")


def _plain(pack: Pack, position: int, blob: Blob, sealed: bytes | memoryview) -> bytes:
    return pack.cipher.open(position, blob, sealed, pack.id_key)


def _body(pack: Pack, position: int, blob: Blob, sealed: bytes | memoryview) -> bytes:
    return pack.cipher.body(position, blob, sealed)


def _runs(wanted: list[_Fetch], gap: int) -> list[list[_Fetch]]:
    """What lies in the pack with no more than `gap` bytes between is read together."""
    runs: list[list[_Fetch]] = []
    for fetch in sorted(wanted, key=lambda f: f.position):
        last = runs[-1][-1].blob if runs else None
        near = last is not None and fetch.blob.offset <= last.offset + last.stored + gap
        if near and fetch.blob.offset - runs[-1][0].blob.offset < _RANGE:
            runs[-1].append(fetch)
        else:
            runs.append([fetch])
    return runs
