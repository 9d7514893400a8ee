"""One thread of a copy: it reads leaves, stores what is new, and seals packs of its own."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Protocol

from controlplane.domain.disk import BlockReader, read_each
from controlplane.domain.errors import FedctlError, Integrity
from controlplane.domain.vault import (
    Layout,
    LeafDone,
    Ref,
    Session,
)
from controlplane.vault.beside import Beside
from controlplane.vault.digest import content_digest, is_zero
from controlplane.vault.index import ChunkIndex
from controlplane.vault.leaves import LeafWork
from controlplane.vault.manifest import Shape, Tree, encode
from controlplane.vault.pack import Packs, PackWriter
from controlplane.vault.ports import (
    DomainKeys,
    ObjectStore,
    VaultRecords,
)
from controlplane.vault.sealing import PAGE, blob_id
from controlplane.vault.stride import Stride
from controlplane.vault.usable import Usable

_RECENT = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every copy needs of the vault."""

    records: VaultRecords
    objects: ObjectStore
    packs: Packs
    index: ChunkIndex
    clock: Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The earlier point that `unchanged` extents refer to, and what of it can be used."""

    tree: Tree
    size: int
    usable: Usable
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True, kw_only=True)
class Count:
    done: int = 0
    read: int = 0
    fresh: int = 0
    stored: int = 0


class _Leaf:
    """A leaf in the making; `whole` is its page where all of it is as in the base, of `chunks`."""

    def __init__(self, work: LeafWork) -> None:
        self.work = work
        self.refs: list[Ref | None] = [None] * len(work.kinds)
        self.whole: Ref | None = None
        self.chunks = 0
        self.count = Count()


_Cut = tuple[_Leaf, int, memoryview]
"""A chunk of a leaf: its number there, and its bytes."""


class Run(Protocol):
    """The copy that a worker belongs to."""

    reader: BlockReader
    session: Session
    layout: Layout
    keys: DomainKeys
    tools: Tools
    base: Base | None
    turn: AbstractContextManager[object]
    stride: Stride
    stop: threading.Event
    beside: Beside | None

    def next_leaves(self) -> list[LeafWork]: ...

    def cover(self, leaves: Sequence[LeafDone]) -> None: ...

    def stored_elsewhere(self, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, int]]: ...


class Worker:
    """One thread's part: leaf after leaf into its own pack after pack.

    A full pack is made durable by a helper while the next one is written, one at a time and in
    order, so that a leaf is never on record before all packs it refers to.
    """

    def __init__(self, copy: Run) -> None:
        self._copy = copy
        self._layout = copy.layout
        self._shape = Shape(layout=copy.layout)
        self._pack: PackWriter | None = None
        self._unsealed: list[LeafDone] = []
        self._recent: dict[bytes, tuple[bytes, int]] = {}
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: Future[None] | None = None
        self.count = Count()
        self.complete = False

    def run(self) -> None:
        try:
            self._leaves()
            self.finish()
        except FedctlError:
            self._copy.stop.set()
            self._rescue()
            raise
        except BaseException:
            self._copy.stop.set()
            self._abort()
            raise
        finally:
            self._sealer.shutdown()

    def page(self, shape: Shape, level: int, index: int, refs: Sequence[Ref | None]) -> Ref | None:
        """Store the page, or refer to the base's same page; None when all of it is zero."""
        if not any(refs):
            return None
        body = encode(level, index, refs)
        identity = blob_id(self._copy.keys.id_key, PAGE, len(body), content_digest(body))
        digest = shape.digest(level, index, refs)
        base = self._copy.base
        if base is not None and self._layout.size == base.size:
            with base.lock:
                known = base.tree.page_ref(level, index)
            if known is not None and known.id == identity and base.usable(known):
                return known
        pack = self._writer()
        position, stored = pack.add(PAGE, [(identity, body)])
        self.count.stored += sum(stored)
        made = Ref(pack.id, position, identity, digest)
        if base is not None:
            base.tree.made(made, level, index, refs)
        return made

    def finish(self) -> None:
        """Everything of this thread is durable and on record when this returns."""
        self._seal()
        self._settle()

    def close(self) -> None:
        """Nothing unfinished stays; for the thread that uses only `page` and `finish`."""
        self._abort()
        self._sealer.shutdown()

    def _seal(self) -> None:
        self._settle()
        pack, self._pack = self._pack, None
        leaves, self._unsealed = self._unsealed, []
        if pack is not None:
            self._sealing = self._sealer.submit(self._put_on_record, pack, leaves)
        else:
            # Leaves of nothing but earlier packs need no record: a successor finds them again.
            self._copy.cover(leaves)

    def _settle(self) -> None:
        """Wait for the pack before; its failure is ours."""
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def _put_on_record(self, pack: PackWriter, leaves: list[LeafDone]) -> None:
        try:
            pack.finish()
            self._copy.tools.records.seal(self._copy.session, pack.id, leaves)
        except BaseException:
            pack.abort()
            raise
        self._copy.cover(leaves)

    def _abort(self) -> None:
        if self._pack is not None:
            self._pack.abort()
            self._pack = None

    def _rescue(self) -> None:
        """After a failed read whole leaves are sealed still; the first failure is the news."""
        if self._sealing is not None and self._sealing.exception() is not None:
            self._abort()
            return
        with suppress(FedctlError):
            self.finish()
        self._abort()

    def _leaves(self) -> None:
        beside = self._copy.beside
        while not self._copy.stop.is_set():
            works = self._copy.next_leaves()
            if beside is not None:
                beside.fill_gaps()
            if not works:
                self.complete = True
                return
            leaves = {work.index: _Leaf(work) for work in works}
            for leaf in leaves.values():
                if not self._take_over_whole(leaf):
                    self._take_over(leaf.work, leaf.refs)
            if not self._read(leaves):
                return
            for leaf in leaves.values():
                if beside is not None:
                    beside.leaf(leaf.work)
                self._unsealed.append(self._done(leaf))
                self.count.done += self._layout.leaf_length(leaf.work.index)
            self._seal_when_full()

    def _read(self, leaves: dict[int, "_Leaf"]) -> bool:
        """All that the leaves want, read together; False when it was stopped on the way."""
        layout = self._layout
        runs = (
            (at + start * layout.chunk, min(at + end * layout.chunk, layout.size))
            for index, leaf in leaves.items()
            if leaf.whole is None
            for at in [index * layout.leaf]
            for start, end in leaf.work.runs()
        )
        for parts in self._copy.stride.groups(runs):
            if not self._batch(parts, leaves):
                return False
            self._seal_when_full()
        return True

    def _done(self, leaf: "_Leaf") -> LeafDone:
        index, before = leaf.work.index, self.count.stored
        ref = leaf.whole or self.page(self._shape, 0, index, leaf.refs)
        return LeafDone(
            index=index,
            ref=ref,
            chunks=leaf.chunks if leaf.whole else sum(ref is not None for ref in leaf.refs),
            read=leaf.count.read,
            fresh=leaf.count.fresh,
            stored=leaf.count.stored + self.count.stored - before,
        )

    def _take_over_whole(self, leaf: _Leaf) -> bool:
        """Whether nothing of it changed and the base's page can be referred to as it is."""
        base, index = self._copy.base, leaf.work.index
        if base is None or not leaf.work.all_same or not self._in_base(index):
            return False
        with base.lock:
            try:
                page = base.tree.page_ref(0, index)
                told = base.tree.outline(page) if page is not None else None
            except Integrity:
                return False
        if page is None or told is None:
            return False
        if base.usable(page) and base.usable.whole(told.packs):
            leaf.whole, leaf.chunks = page, told.entries
            return True
        return False

    def _take_over(self, work: LeafWork, refs: list[Ref | None]) -> None:
        """Fill in what the base has; what of it cannot be used is read again."""
        same = work.same()
        if not same:
            return
        base = self._copy.base
        if base is None:
            for i in same:
                work.reread(i)
            return
        with base.lock:
            try:
                entries = base.tree.entries(0, work.index) if self._in_base(work.index) else ()
            except Integrity:
                entries = ()
        if entries is None:
            return
        for i in same:
            ref = entries[i] if i < len(entries) else None
            if i >= len(entries) or (ref is not None and not base.usable(ref)):
                work.reread(i)
            else:
                refs[i] = ref

    def _in_base(self, leaf: int) -> bool:
        """Leaves that both disks have whole; the rest is read."""
        base = self._copy.base
        if base is None:
            return False
        end = leaf * self._layout.leaf + self._layout.leaf_length(leaf)
        return base.size == self._layout.size or (end % self._layout.leaf == 0 and end <= base.size)

    def _batch(self, parts: list[tuple[int, int]], leaves: dict[int, "_Leaf"]) -> bool:
        """False when the copy was stopped before its turn to read came."""
        with self._copy.turn:
            if self._copy.stop.is_set():
                return False
            with self._copy.stride.taken(sum(length for _, length in parts)):
                read = read_each(self._copy.reader, parts)
        cuts: list[_Cut] = []
        for (offset, length), data in zip(parts, read, strict=True):
            if len(data) != length:
                raise Integrity(
                    f"the source gave {len(data)} bytes at {offset} instead of {length}"
                )
            cuts += self._cut(leaves[offset // self._layout.leaf], offset, data)
        if cuts:
            self._place(cuts)
        if self._copy.beside is not None:
            for (offset, _), data in zip(parts, read, strict=True):
                refs = leaves[offset // self._layout.leaf].refs
                first, end = self._numbers(offset, data)
                self._copy.beside.chunks(offset, data, [ref is None for ref in refs[first:end]])
        return True

    def _numbers(self, offset: int, data: bytes) -> tuple[int, int]:
        """(first, end) of the chunks of a leaf that were read together."""
        first = offset % self._layout.leaf // self._layout.chunk
        return first, first - (-len(data) // self._layout.chunk)

    def _cut(self, leaf: _Leaf, offset: int, data: bytes) -> Iterator[_Cut]:
        """What of it is not all zero."""
        length, chunk, view = len(data), self._layout.chunk, memoryview(data)
        self.count.read += length
        leaf.count.read += length
        first, _ = self._numbers(offset, data)
        for number, at in enumerate(range(0, length, chunk), first):
            size = min(chunk, length - at)
            if not is_zero(data, at, size):
                yield leaf, number, view[at : at + size]

    def _place(self, cuts: Sequence[_Cut]) -> None:
        """Each step for all before the next: from one to another a core forgets the code."""
        id_key = self._copy.keys.id_key
        digests = [content_digest(chunk) for _, _, chunk in cuts]
        ids = [
            blob_id(id_key, 0, len(cut[2]), digest)
            for cut, digest in zip(cuts, digests, strict=True)
        ]
        wanted = dict(zip(ids, cuts, strict=True))
        places = {i: place for i in wanted if (place := self._recent.get(i))}
        if len(places) < len(wanted):
            places |= self._copy.stored_elsewhere([i for i in wanted if i not in places])
        new = {i: cut for i, cut in wanted.items() if i not in places}
        if new:
            places |= self._store(new)
        for (leaf, number, _), identity, digest in zip(cuts, ids, digests, strict=True):
            pack, position = places[identity]
            leaf.refs[number] = Ref(pack, position, identity, digest)

    def _store(self, new: Mapping[bytes, _Cut]) -> dict[bytes, tuple[bytes, int]]:
        pack = self._writer()
        first, lengths = pack.add(0, [(i, chunk) for i, (_, _, chunk) in new.items()])
        for (leaf, _, chunk), stored in zip(new.values(), lengths, strict=True):
            leaf.count.fresh += len(chunk)
            leaf.count.stored += stored
            self.count.fresh += len(chunk)
            self.count.stored += stored
        places = {identity: (pack.id, position) for position, identity in enumerate(new, first)}
        self._recent |= places
        for oldest in [*islice(self._recent, max(len(self._recent) - _RECENT, 0))]:
            del self._recent[oldest]
        return places

    def _writer(self) -> PackWriter:
        if self._pack is None:
            tools = self._copy.tools
            self._pack = PackWriter(
                session=self._copy.session,
                keys=self._copy.keys,
                records=tools.records,
                objects=tools.objects,
                now=tools.clock(),
            )
        return self._pack

    def _seal_when_full(self) -> None:
        if self._pack is not None and self._pack.full(self._copy.tools.clock()):
            self._seal()
