"""One attempt to copy one disk into packs, by two threads that each write packs of their own."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.disk import BlockReader
from controlplane.domain.errors import FedctlError, Integrity
from controlplane.vault.digest import content_digest, is_zero, root_digest, zero_digest
from controlplane.vault.index import ChunkIndex
from controlplane.vault.leaves import LeafWork, leaf_works
from controlplane.vault.manifest import Shape, Tree, encode, levels
from controlplane.vault.nouns import (
    FANOUT,
    CopyProgress,
    CopyStopped,
    DiskCopied,
    LeafDone,
    PackState,
    Ref,
    Session,
)
from controlplane.vault.pack import Packs, PackWriter
from controlplane.vault.ports import DomainKeys, ObjectStore, VaultRecords
from controlplane.vault.sealing import PAGE, Unsealable, blob_id

_WORKERS = 2
_POLL = 0.2
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
    """The earlier point that `unchanged` extents refer to, and what of it cannot be used."""

    tree: Tree
    size: int
    unusable: Callable[[Ref], bool]
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True, kw_only=True)
class _Count:
    done: int = 0
    read: int = 0
    fresh: int = 0
    stored: int = 0


class Copy:
    """Runs until every leaf is covered; sealed work is on record whatever happens."""

    def __init__(
        self, *, reader: BlockReader, session: Session, keys: DomainKeys, tools: Tools,
        base: Base | None, progress: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.reader = reader
        self.session = session
        self.layout = session.layout
        self.keys = keys
        self.tools = tools
        self.base = base
        self.reading = threading.Lock()
        self.stop = threading.Event()
        self.covered = dict(session.covered)
        self._progress = progress
        self._cancelled = cancelled
        self._works: Iterator[LeafWork] = leaf_works(reader, self.layout)
        self._states: dict[bytes, PackState] = {}
        self._workers = [_Worker(self) for _ in range(_WORKERS)]

    def run(self) -> DiskCopied:
        stopped = False
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="copy") as pool:
            pending = {pool.submit(worker.run) for worker in self._workers}
            try:
                while pending:
                    done, pending = wait(pending, timeout=_POLL)
                    for future in done:
                        future.result()
                    self._progress(self._seen())
                    if self._cancelled():
                        stopped = True
                        self.stop.set()
            finally:
                self.stop.set()
        if stopped and any(not worker.complete for worker in self._workers):
            raise CopyStopped
        return self._finish()

    def next_leaf(self) -> LeafWork | None:
        with self.reading:
            for work in self._works:
                if work.index not in self.covered:
                    return work
                self._workers[0].count.done += self.layout.leaf_length(work.index)
            return None

    def stored_elsewhere(self, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """Chunks that verified packs hold, each looked up in its pack's own table too."""
        found = self.tools.index.find(self.session.domain, ids)
        unknown = {pack for pack, _ in found.values()} - self._states.keys()
        if unknown:
            self._states |= self.tools.records.states(unknown)
        return {i: place for i, place in found.items() if self._usable(i, place)}

    def _usable(self, identity: bytes, place: tuple[bytes, int]) -> bool:
        pack, position = place
        if self._states.get(pack) is not PackState.VERIFIED:
            return False
        try:
            self.tools.packs.open(self.session.domain, pack).blob(position, identity)
        except (Unsealable, Integrity):
            return False
        return True

    def _seen(self) -> CopyProgress:
        counts = [worker.count for worker in self._workers]
        return CopyProgress(
            total=self.layout.size,
            done=sum(c.done for c in counts),
            read=sum(c.read for c in counts),
            fresh=sum(c.fresh for c in counts),
            stored=sum(c.stored for c in counts),
        )

    def _finish(self) -> DiskCopied:
        """Build the upper pages, in a pack of this thread's own."""
        trunk = _Worker(self)
        shape = Shape(layout=self.layout)
        refs = [
            done.ref if (done := self.covered.get(i)) else None for i in range(self.layout.leaves)
        ]
        try:
            for level in range(1, levels(self.layout)):
                pages = range(-(-len(refs) // FANOUT))
                refs = [
                    trunk.page(shape, level, i, refs[i * FANOUT : (i + 1) * FANOUT]) for i in pages
                ]
            trunk.seal()
        except BaseException:
            trunk.abort()
            raise
        top = refs[0] if refs else None
        tree = top.digest if top else zero_digest(self.layout.size)
        leaves = self.covered.values()
        copied = DiskCopied(
            disk=self.session.disk,
            size=self.layout.size,
            chunk=self.layout.chunk,
            digest=root_digest(tree, self.layout.size),
            top=top,
            chunks=sum(leaf.chunks for leaf in leaves),
            bytes_read=sum(leaf.read for leaf in leaves),
            bytes_new=sum(leaf.fresh for leaf in leaves),
            bytes_stored=sum(leaf.stored for leaf in leaves) + trunk.count.stored,
        )
        self.tools.records.finish(self.session, copied)
        self._progress(
            CopyProgress(
                total=copied.size,
                done=copied.size,
                read=copied.bytes_read,
                fresh=copied.bytes_new,
                stored=copied.bytes_stored,
            )
        )
        return copied


class _Worker:
    """One thread's part: leaf after leaf into its own pack after pack."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._layout = copy.layout
        self._shape = Shape(layout=copy.layout)
        self._pack: PackWriter | None = None
        self._unsealed: list[LeafDone] = []
        self._recent: dict[bytes, tuple[bytes, int]] = {}
        self.count = _Count()
        self.complete = False

    def run(self) -> None:
        try:
            self._leaves()
            self.seal()
        except FedctlError:
            self._copy.stop.set()
            self._rescue()
            raise
        except BaseException:
            self._copy.stop.set()
            self.abort()
            raise

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
            if known is not None and known.id == identity and not base.unusable(known):
                return known
        pack = self._writer()
        position, stored = pack.add(identity, PAGE, body)
        self.count.stored += stored
        return Ref(pack=pack.id, position=position, id=identity, digest=digest)

    def seal(self) -> None:
        """The pack is durable, then on record with the leaves that it completes."""
        pack, self._pack = self._pack, None
        if pack is None:
            if self._unsealed:
                # Leaves of nothing but earlier packs need no record: a successor finds them again.
                self._cover()
            return
        try:
            pack.finish()
            self._copy.tools.records.seal(self._copy.session, pack.id, self._unsealed)
        except BaseException:
            self._unsealed = []
            pack.abort()
            raise
        self._cover()

    def abort(self) -> None:
        if self._pack is not None:
            self._pack.abort()
            self._pack = None

    def _cover(self) -> None:
        self._copy.covered.update({leaf.index: leaf for leaf in self._unsealed})
        self._unsealed = []

    def _rescue(self) -> None:
        """After a failed read whole leaves are sealed still; the first failure is the news."""
        try:
            self.seal()
        except FedctlError:
            self.abort()

    def _leaves(self) -> None:
        while not self._copy.stop.is_set():
            work = self._copy.next_leaf()
            if work is None:
                self.complete = True
                return
            done = self._leaf(work)
            if done is None:
                return
            self._unsealed.append(done)
            self.count.done += self._layout.leaf_length(work.index)
            self._seal_when_full()

    def _leaf(self, work: LeafWork) -> LeafDone | None:
        """None when it was stopped on the way."""
        refs: list[Ref | None] = [None] * len(work.kinds)
        before = _Count(read=self.count.read, fresh=self.count.fresh, stored=self.count.stored)
        whole = self._take_over(work, refs)
        if whole is None:
            first = work.index * FANOUT
            for start, end in work.batches(self._layout):
                if self._copy.stop.is_set():
                    return None
                self._batch(first, start, end, refs)
                self._seal_when_full()
            whole = self.page(self._shape, 0, work.index, refs)
        return LeafDone(
            index=work.index,
            ref=whole,
            chunks=sum(ref is not None for ref in refs),
            read=self.count.read - before.read,
            fresh=self.count.fresh - before.fresh,
            stored=self.count.stored - before.stored,
        )

    def _take_over(self, work: LeafWork, refs: list[Ref | None]) -> Ref | None:
        """Fill in what the base has; the page itself when nothing of it changed."""
        same = work.same()
        if not same:
            return None
        base = self._copy.base
        if base is None:
            for i in same:
                work.reread(i)
            return None
        with base.lock:
            try:
                entries = base.tree.entries(0, work.index) if self._in_base(work.index) else ()
                page = base.tree.page_ref(0, work.index) if entries else None
            except Integrity:
                entries, page = (), None
        if entries is None:
            return None
        for i in same:
            ref = entries[i] if i < len(entries) else None
            if i >= len(entries) or (ref is not None and base.unusable(ref)):
                work.reread(i)
            else:
                refs[i] = ref
        whole = work.all_same and page is not None and not base.unusable(page)
        return page if whole else None

    def _in_base(self, leaf: int) -> bool:
        """Leaves that both disks have whole; the rest is read."""
        base = self._copy.base
        if base is None:
            return False
        end = leaf * self._layout.leaf + self._layout.leaf_length(leaf)
        return base.size == self._layout.size or (end % self._layout.leaf == 0 and end <= base.size)

    def _batch(self, leaf_first: int, start: int, end: int, refs: list[Ref | None]) -> None:
        layout = self._layout
        offset = (leaf_first + start) * layout.chunk
        length = min((end - start) * layout.chunk, layout.size - offset)
        with self._copy.reading:
            data = self._copy.reader.read(offset, length)
        if len(data) != length:
            raise Integrity(f"the source gave {len(data)} bytes at {offset} instead of {length}")
        self.count.read += length
        view = memoryview(data)
        wanted: dict[int, tuple[bytes, bytes, memoryview]] = {}
        for i in range(start, end):
            at = (i - start) * layout.chunk
            size = min(layout.chunk, length - at)
            if is_zero(data, at, size):
                continue
            digest = content_digest(view[at : at + size])
            identity = blob_id(self._copy.keys.id_key, 0, size, digest)
            wanted[i] = (identity, digest, view[at : at + size])
        if not wanted:
            return
        new = [identity for identity, _, _ in wanted.values() if identity not in self._recent]
        known = self._copy.stored_elsewhere(new) if new else {}
        for i, (identity, digest, chunk) in wanted.items():
            place = known.get(identity) or self._recent.get(identity)
            if place is None:
                place = self._store(identity, chunk)
            refs[i] = Ref(pack=place[0], position=place[1], id=identity, digest=digest)

    def _store(self, identity: bytes, chunk: memoryview) -> tuple[bytes, int]:
        pack = self._writer()
        position, stored = pack.add(identity, 0, bytes(chunk))
        self.count.fresh += len(chunk)
        self.count.stored += stored
        if len(self._recent) >= _RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[identity] = (pack.id, position)
        return pack.id, position

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
            self.seal()
