"""Fetching blobs by reference: checked, several at a time, damage named and remembered."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from controlplane.domain.disk import MIB
from controlplane.domain.errors import Integrity
from controlplane.domain.vault import (
    Damage,
    Ref,
)
from controlplane.vault.index import ChunkIndex
from controlplane.vault.manifest import KeptPages
from controlplane.vault.pack import KEY_MISSING, Pack, Packs
from controlplane.vault.sealing import Blob, Unsealable

_RANGE = 8 * MIB


@dataclass(frozen=True, slots=True)
class _Fetch:
    """A blob with its place in a stored range."""

    number: int
    position: int
    blob: Blob


class Blobs:
    """Plain bytes of references within one domain; `kept` is shared with all others.

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

    def fetch(self, refs: Sequence[Ref]) -> list[bytes | Integrity]:
        """In order; a blob that does not check is an Integrity in its place."""
        out: list[bytes | Integrity | None] = [None] * len(refs)
        for pack, wanted in self._by_pack(refs, out).items():
            for run in _runs(wanted):
                self._run(pack, run, out)
        if any(isinstance(got, Integrity) for got in out):
            self._mended(refs, out)
        if any(isinstance(got, Integrity) for got in out):
            self._index.refresh(self._domain)
        return [
            self._elsewhere(ref, got) if isinstance(got, Integrity) else got or b""
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

    def _run(self, pack: Pack, run: list[_Fetch], out: list[bytes | Integrity | None]) -> None:
        start = run[0].blob.offset
        length = run[-1].blob.offset + run[-1].blob.stored - start
        try:
            data = self._packs.read(pack, start, length)
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
                return pack.cipher.open(fetch.position, fetch.blob, sealed, pack.id_key)
            except Unsealable:
                return None

        def open_some(some: list[_Fetch]) -> list[bytes | None]:
            return [open_one(fetch) for fetch in some]

        half = len(run) // 2
        other = self._pool.submit(open_some, run[:half]) if half else None
        rest = open_some(run[half:])
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

    def _mended(self, refs: Sequence[Ref], out: list[bytes | Integrity | None]) -> None:
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
                    out[number] = self._one(packs, ref.pack, ref.position, ref.id)

    def _one(self, packs: Packs, name: bytes, position: int, identity: bytes) -> bytes:
        pack = packs.open(self._domain, name)
        blob = pack.blob(position, identity)
        sealed = packs.read(pack, blob.offset, blob.stored)
        return pack.cipher.open(position, blob, sealed, pack.id_key)

    def _elsewhere(self, ref: Ref, failed: Integrity) -> bytes | Integrity:
        """A later pass may have stored the same chunk again."""
        found = self._index.find(self._domain, [ref.id]).get(ref.id)
        if found is None or found == (ref.pack, ref.position):
            return failed
        try:
            return self._one(self._packs, found[0], found[1], ref.id)
        except (Integrity, Unsealable):
            return failed


def _damage(ref: Ref) -> Integrity:
    return Integrity(f"blob {ref.position} of pack {ref.pack.hex()} is another than referred to")


def _runs(wanted: list[_Fetch]) -> list[list[_Fetch]]:
    """Neighbours in the pack are read together."""
    runs: list[list[_Fetch]] = []
    for fetch in sorted(wanted, key=lambda f: f.position):
        last = runs[-1][-1].blob if runs else None
        near = last is not None and fetch.blob.offset <= last.offset + last.stored
        if near and fetch.blob.offset - runs[-1][0].blob.offset < _RANGE:
            runs[-1].append(fetch)
        else:
            runs.append([fetch])
    return runs
