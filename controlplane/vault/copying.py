"""One attempt to copy one disk into packs, by a thread a core, each with packs of its own."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import TypeVar

from controlplane.domain.disk import BlockReader, is_forward, is_shared
from controlplane.domain.errors import Integrity
from controlplane.domain.vault import (
    FANOUT,
    DiskCopied,
    LeafDone,
    PackState,
    Session,
)
from controlplane.vault.beside import Beside
from controlplane.vault.cores import CORES
from controlplane.vault.digest import root_digest, zero_digest
from controlplane.vault.leaves import LeafWork, leaf_works
from controlplane.vault.manifest import Shape, levels
from controlplane.vault.nouns import (
    CopyProgress,
    CopyStopped,
)
from controlplane.vault.ports import (
    DomainKeys,
)
from controlplane.vault.sealing import Unsealable
from controlplane.vault.stride import PARTS, Stride
from controlplane.vault.worker import Base, Tools, Worker

_WORKERS = CORES
_POLL = 0.2
_HEED = 0.05
_LEAVES = 64


T = TypeVar("T")


def attended(
    work: Callable[[], T], *, total: int, progress: Callable[[CopyProgress], None],
    cancelled: Callable[[], bool],
) -> T:  # fmt: skip
    """What `work` gives, done in a thread while this one goes on telling that it lives."""
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
        future = pool.submit(work)
        while wait([future], timeout=_POLL).not_done:
            progress(CopyProgress(total=total, done=0, read=0, fresh=0, stored=0))
        if cancelled():
            raise CopyStopped
        return future.result()


def all_of(copied: DiskCopied) -> CopyProgress:
    return CopyProgress(
        total=copied.size,
        done=copied.size,
        read=copied.bytes_read,
        fresh=copied.bytes_new,
        stored=copied.bytes_stored,
    )


class Copy:
    """Runs until every leaf is covered; sealed work is on record whatever happens."""

    def __init__(
        self, *, reader: BlockReader, session: Session, keys: DomainKeys, tools: Tools,
        base: Base | None, progress: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool], beside: Beside | None = None,
    ) -> None:  # fmt: skip
        self.reader = reader
        self.session = session
        self.layout = session.layout
        self.keys = keys
        self.tools = tools
        self.base = base
        self._taking = threading.Lock()
        self.turn: AbstractContextManager[object] = (
            nullcontext() if is_shared(reader) else self._taking
        )
        self.stride = Stride()
        self.beside = beside
        self.stop = beside.stop if beside else threading.Event()
        self.covered = dict(session.covered)
        self._progress = progress
        self._cancelled = cancelled
        self._works: Iterator[LeafWork] = leaf_works(reader, self.layout)
        self._next = 0
        self._passed = 0
        self._states: dict[bytes, PackState] = {}
        # Two would take turns at places that lie a leaf apart.
        threads = 1 if is_forward(reader) else _WORKERS
        self._workers = [Worker(self) for _ in range(threads)]

    def run(self) -> DiskCopied:
        stopped, told = False, 0.0
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="copy") as pool:
            pending = {pool.submit(worker.run) for worker in self._workers}
            try:
                while pending:
                    done, pending = wait(pending, timeout=_HEED)
                    for future in done:
                        future.result()
                    if monotonic() - told >= _POLL or not pending:
                        self._progress(self._seen())
                        told = monotonic()
                    if self._cancelled():
                        stopped = True
                        self.stop.set()
            finally:
                self.stop.set()
        if stopped and any(not worker.complete for worker in self._workers):
            raise CopyStopped
        return self._finish()

    def next_leaves(self) -> list[LeafWork]:
        """Those that one stride of reading brings; none when all are taken."""
        leaves: list[LeafWork] = []
        with self._taking:
            parts, room = PARTS, self.stride.length
            for work in self._works:
                # Holes on the way, and leaves that an earlier attempt covered, are done.
                self._pass_over(work.index)
                self._next = work.index + 1
                if work.index in self.covered:
                    self._passed += self.layout.leaf_length(work.index)
                    continue
                leaves.append(work)
                wanted = [end - start for start, end in work.runs()]
                parts, room = parts - len(wanted), room - sum(wanted) * self.layout.chunk
                if parts <= 0 or room <= 0 or len(leaves) == _LEAVES:
                    break
            else:
                self._pass_over(self.layout.leaves)
                self._next = self.layout.leaves
        return leaves

    def _pass_over(self, end: int) -> None:
        """From the last leaf to this one all is zero by the extents."""
        self._passed += (end - self._next) * self.layout.leaf
        if self.beside is not None and end > self._next:
            self.beside.gap(self._next, end)

    def cover(self, leaves: Sequence[LeafDone]) -> None:
        self.covered.update({leaf.index: leaf for leaf in leaves})

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
        done = self._passed + sum(c.done for c in counts)
        return CopyProgress(
            total=self.layout.size,
            done=min(done, self.layout.size),
            read=sum(c.read for c in counts),
            fresh=sum(c.fresh for c in counts),
            stored=sum(c.stored for c in counts),
        )

    def _finish(self) -> DiskCopied:
        """Build the upper pages, in a pack of this thread's own."""
        trunk = Worker(self)
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
            trunk.finish()
        finally:
            trunk.close()
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
        self._progress(all_of(copied))
        return copied
