"""Whether the vault holds what its records say: heads, manifests, packs, as many blobs as asked.

Damage goes on record and out of the index, so that the next pass stores it again, and is named by
instance, disk and offset. Nothing is deleted; a replica mends heads and roots, as for any reader.
"""

import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from operator import attrgetter

from controlplane.domain.errors import Integrity, NotFound
from controlplane.domain.finding import Finding
from controlplane.domain.ids import InstanceId, TenantName
from controlplane.domain.vault import (
    FANOUT,
    Damage,
    Depth,
    DiskCopied,
    Layout,
    PackState,
    PointRecord,
    Ref,
)
from controlplane.vault.blobs import Blobs
from controlplane.vault.census import Census, Measured, Usage, Workload, added
from controlplane.vault.cores import CORES
from controlplane.vault.flaws import Flaws, Named
from controlplane.vault.forecast import CountedObjects, Forecast
from controlplane.vault.index import ChunkIndex
from controlplane.vault.manifest import Entries, KeptPages, Shape, decode, levels
from controlplane.vault.naming import Naming, page_key
from controlplane.vault.nouns import CopyStopped
from controlplane.vault.pack import KEY_MISSING, Pack, Packs, pack_name
from controlplane.vault.papers import Papers
from controlplane.vault.ports import KeyDocuments, Keys, ObjectStore, Signer, VaultRecords
from controlplane.vault.sealing import Unsealable

_POLL = 0.2
_PACK_OF = attrgetter("pack")
_READERS = CORES
_TABLES_BLOBS = 1 << 16  # some 13 MB
_PACKS = 16
_PAGES = 32
_IN_STORE = (PackState.SEALED, PackState.VERIFIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOrder:
    """What to read. A sample of `share` takes one of 1/share parts of each pack.

    Which one `turn` says: as many turns in a row as there are parts read every blob once. `after`
    is a former check's place: blobs of packs up to there are not read again.
    """

    depth: Depth
    share: float = 0.01
    turn: int = 0
    after: str = ""

    @property
    def parts(self) -> int:
        return max(math.ceil(1 / self.share), 1) if self.depth is Depth.SAMPLE else 1

    def blobs(self, pack: Pack) -> range:
        """The neighbouring blobs of the pack that are to be read."""
        count = len(pack.blobs)
        if self.depth is Depth.STRUCTURE:
            return range(0)
        mine = (self.turn + int.from_bytes(pack.id[:8], "big")) % self.parts
        return range(mine * count // self.parts, (mine + 1) * count // self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckProgress:
    """`done` bytes were read, of about `total`; `blobs` bytes of them are blobs that were checked.

    `after` as in CheckOrder. The last one is `ended`.
    """

    done: int
    total: int
    blobs: int
    after: str
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How it is. `damaged`: something cannot be read back that a point or a copy relies on."""

    findings: tuple[Finding, ...]
    damaged: bool
    packs: int
    blobs: int
    read: int
    measured: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """A pack that was looked at; `opened` is None where that failed."""

    pack: bytes
    opened: Pack | None
    blobs: int = 0
    bad: tuple[int, ...] = ()
    why: Integrity | None = None
    whole: bool = False
    """Of one on record as damaged: all of it was read, and is what it was."""


@dataclass(slots=True)
class _Count:
    read: int = 0
    packs: int = 0
    blobs: int = 0
    after: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def passed(self, stored: int) -> None:
        with self.lock:
            self.read += stored


class Check:
    """One check of everything. In memory are the census of one domain and few tables and pages."""

    def __init__(
        self, order: CheckOrder, *, records: VaultRecords, objects: ObjectStore, keys: Keys,
        signer: Signer, index: ChunkIndex,
        read_root: Callable[[PointRecord], tuple[DiskCopied, ...]], name: Named,
        wrapped: KeyDocuments | None = None, replica: ObjectStore | None = None,
    ) -> None:  # fmt: skip
        self._order = order
        self._records = records
        share = 0 if order.depth is Depth.STRUCTURE else 1 / order.parts
        self._forecast = Forecast(share=share)
        objects = self._objects = CountedObjects(objects, self._forecast.got)
        self._index = index
        self._read_root = read_root
        # Tables and pages are read anew, whatever this process remembers of them.
        self._packs = Packs(objects=objects, keys=keys, blobs=_TABLES_BLOBS)
        self._flaws = Flaws(name)
        self._papers = Papers(
            records=records, objects=objects, keys=keys, signer=signer, flaws=self._flaws,
            wrapped=wrapped, replica=replica, stopped=self._stopped,
        )  # fmt: skip
        self._count = _Count(after=order.after)
        self._told: set[Damage] = set()
        self._lost: set[bytes] = set()
        self._stop = threading.Event()

    def run(
        self, progress: Callable[[CheckProgress], None], cancelled: Callable[[], bool]
    ) -> Checked:
        """Both are called on this thread, several times a second. CopyStopped when cancelled.

        A store that does not answer is Unavailable, and no damage.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="check") as pool:
            future = pool.submit(self._check)
            try:
                while wait([future], timeout=_POLL).not_done:
                    progress(self._seen())
                    if cancelled():
                        self._stop.set()
            finally:
                self._stop.set()
            checked = future.result()
        seen = self._seen()
        progress(replace(seen, total=seen.done, ended=True))
        return checked

    def _check(self) -> Checked:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="vault-check") as pool:
            points = self._records.points()
            domains = self._records.domains()
            self._forecast.expect_points(points)
            self._expect(domains, pool)
            self._papers.heads(points, self._read_root)
            workloads: dict[Workload, Usage] = {}
            wholes: dict[str, Usage] = {}
            states: dict[PackState, int] = dict.fromkeys(_IN_STORE, 0)
            sizes: dict[PackState, int] = dict.fromkeys(_IN_STORE, 0)
            waste = damaged = 0
            for domain in domains:
                mine = [record for record in points if record.domain == domain]
                blobs = self._blobs(domain, pool)
                census = Census()
                by_instance = _by_instance(mine)
                self._forecast.walking()
                for (_, instance), records in by_instance.items():
                    self._walk(domain, instance, records, blobs, census)
                self._forecast.looking()
                flawed: list[_Looked] = []
                for state, looked in self._looked_at(domain, pool):
                    states[state] += 1
                    if looked.why is not None or looked.bad:
                        flawed.append(replace(looked, opened=None))
                    if looked.opened is not None:
                        sizes[state] += looked.opened.size
                        waste += census.count(looked.opened)
                here = {
                    Workload(tenant=tenant, domain=domain, instance=instance): census.usage(
                        instance, records
                    )
                    for (tenant, instance), records in by_instance.items()
                }
                workloads |= here
                wholes[domain] = census.whole(here.values())
                self._forecast.rest()
                needed = self._name(domain, blobs)
                damaged += len(needed)
                self._tell(flawed, {pack for pack, _ in needed})
                self._papers.segments(domain)
            self._papers.keys_wrapped()
            self._papers.strange()
        tenants = sorted({workload.tenant for workload in workloads})
        return Checked(
            findings=self._flaws.findings(),
            damaged=self._flaws.damaged,
            packs=self._count.packs,
            blobs=self._count.blobs,
            read=self._count.read,
            measured=Measured(
                total=added(wholes.values()),
                tenants={t: added(_of_tenant(t, workloads, wholes)) for t in tenants},
                workloads=workloads,
                packs=states,
                pack_bytes=sizes,
                waste=waste,
                damaged=damaged,
            ),
        )

    def _expect(self, domains: tuple[str, ...], pool: Executor) -> None:
        """All packs in the store, by their sizes; what is missing is met again."""

        def size(pack: bytes) -> int:
            try:
                return 0 if self._stopped() else self._objects.size(pack_name(pack))
            except NotFound:
                return 0

        for domain in domains:
            for some in self._pages_of_packs(domain):
                here = [pack for pack, state in some if state in _IN_STORE]
                for pack, length in zip(here, pool.map(size, here), strict=True):
                    self._forecast.expect_pack(length, blobs=self._reads(domain, pack))

    def _pages_of_packs(self, domain: str) -> Iterator[tuple[tuple[bytes, PackState], ...]]:
        after = b""
        while some := self._records.packs_of(domain, after=after, limit=_PACKS):
            self._heed()
            yield some
            after = some[-1][0]

    # Manifests

    def _walk(
        self, domain: str, instance: InstanceId, records: list[PointRecord], blobs: Blobs,
        census: Census,
    ) -> None:  # fmt: skip
        """Every page of the workload's manifests once, each reference against its pack's table."""
        seen: set[bytes] = set()
        for record in records:
            for copied in record.disks:
                if copied.top is not None:
                    self._tree(domain, instance, copied.layout, copied.top, seen, blobs, census)
            self._forecast.walked(record)

    def _tree(  # noqa: PLR0917  # one domain's walk
        self, domain: str, instance: InstanceId, layout: Layout, top: Ref, seen: set[bytes],
        blobs: Blobs, census: Census,
    ) -> None:  # fmt: skip
        shape = Shape(layout=layout)
        below: list[tuple[int, int, Ref]] = []

        def meet(level: int, index: int, ref: Ref) -> None:
            if (key := page_key(ref)) in seen:
                return
            opened = self._opened(domain, ref.pack)
            if opened is not None and self._holds(domain, opened, ref):
                seen.add(key)
                census.refer(instance, ref)
                below.append((level, index, ref))

        meet(levels(layout) - 1, 0, top)
        while below:
            self._heed()
            some, below[-_PAGES:] = below[-_PAGES:], []
            pages = blobs.fetch([ref for _, _, ref in some])
            chunks: list[Ref] = []
            for (level, index, ref), page in zip(some, pages, strict=True):
                entries = self._entries(domain, shape, level, index, ref, page)
                for number, entry in enumerate(entries):
                    if entry is None:
                        continue
                    if level:
                        meet(level - 1, index * FANOUT + number, entry)
                    else:
                        chunks.append(entry)
            self._refer(domain, instance, chunks, census)

    def _refer(self, domain: str, instance: InstanceId, chunks: list[Ref], census: Census) -> None:
        """One table after the other: the pages of an old chain name many packs each."""
        for pack, refs in groupby(sorted(chunks, key=_PACK_OF), key=_PACK_OF):
            opened = self._opened(domain, pack)
            for ref in refs:
                if opened is not None and self._holds(domain, opened, ref):
                    census.refer(instance, ref)

    def _entries(  # noqa: PLR0917  # a page and its place
        self, domain: str, shape: Shape, level: int, index: int, ref: Ref, page: bytes | Integrity
    ) -> Entries:
        if isinstance(page, Integrity):
            return ()  # on record as damaged by who fetched it
        try:
            return decode(page, level, index, shape.entries(level, index))
        except Integrity:
            self._damage(Damage(domain=domain, pack=ref.pack, position=ref.position))
            return ()

    def _opened(self, domain: str, pack: bytes) -> Pack | None:
        """The pack with its table; None, and damage, where it does not open."""
        if pack in self._lost:
            return None
        try:
            return self._packs.open(domain, pack)
        except Integrity as e:
            if e.reason == KEY_MISSING:
                self._flaws.key_missing(domain, str(e))
            else:
                self._damage(Damage(domain=domain, pack=pack))
            return None

    def _holds(self, domain: str, pack: Pack, ref: Ref) -> bool:
        """Whether the pack's table has this blob at its place; damage otherwise."""
        try:
            pack.blob(ref.position, ref.id)
        except Unsealable:
            self._damage(Damage(domain=domain, pack=ref.pack, position=ref.position))
            return False
        return True

    # Packs

    def _looked_at(self, domain: str, pool: Executor) -> Iterator[tuple[PackState, _Looked]]:
        """Every pack in the store, after its damage was noted, in the order of their ids."""
        doubtful: dict[bytes, set[int]] = {}
        for damage in self._records.damaged(domain):
            places = doubtful.setdefault(damage.pack, set())
            if damage.position is not None:
                places.add(damage.position)
        for some in self._pages_of_packs(domain):
            here = [(pack, state) for pack, state in some if state in _IN_STORE]
            looks = pool.map(partial(self._look, domain, doubtful), [pack for pack, _ in here])
            for (pack, state), looked in zip(here, looks, strict=True):
                self._heed()
                if not self._noted(domain, looked):
                    continue
                self._packs.drop(pack)
                self._count.packs += 1
                self._count.blobs += looked.blobs
                self._count.after = max(self._count.after, _place(domain, pack))
                yield state, looked

    def _look(self, domain: str, doubtful: Mapping[bytes, set[int]], pack: bytes) -> _Looked:
        try:
            if self._stopped():
                raise CopyStopped
            self._packs.drop(pack)
            opened = self._packs.open(domain, pack)
            reads = self._reads(domain, pack)
            which = self._order.blobs(opened) if reads else range(0)
            bad = self._bad(opened, which)
            self._forecast.looked(opened, which, blobs=reads)
            whole = pack in doubtful and not bad and self._whole(opened, doubtful[pack])
        except Integrity as e:
            return _Looked(pack=pack, opened=None, why=e)
        return _Looked(pack=pack, opened=opened, blobs=len(which), bad=tuple(bad), whole=whole)

    def _reads(self, domain: str, pack: bytes) -> bool:
        """Whether blobs of it are to be read."""
        return _place(domain, pack) > self._order.after

    def _bad(self, opened: Pack, which: range) -> list[int]:
        return self._packs.check_blobs(opened, which, self._stopped, self._count.passed)

    def _whole(self, opened: Pack, doubtful: Collection[int]) -> bool:
        """All of it, if the blobs do that are on record as damaged."""
        count = len(opened.blobs)
        parts = (*(range(at, at + 1) for at in doubtful), range(count))
        return all(part.stop <= count and not self._bad(opened, part) for part in parts)

    def _noted(self, domain: str, looked: _Looked) -> bool:
        """Whether the pack is still one to speak of, its damage on record."""
        if looked.why is not None:
            if looked.why.reason == KEY_MISSING:
                self._flaws.key_missing(domain, str(looked.why))
            elif not self._damage(Damage(domain=domain, pack=looked.pack)):
                return False
        for position in looked.bad:
            self._damage(Damage(domain=domain, pack=looked.pack, position=position))
        if looked.whole and all(damage.pack != looked.pack for damage in self._told):
            self._index.mended(looked.pack)
        return True

    def _tell(self, flawed: Iterable[_Looked], needed: Collection[bytes]) -> None:
        for looked in flawed:
            mine = looked.pack in needed
            if looked.bad:
                self._flaws.blobs(looked.pack, looked.bad, needed=mine)
            elif looked.why is not None and looked.why.reason != KEY_MISSING:
                missing = isinstance(looked.why.__cause__, NotFound)
                self._flaws.pack(looked.pack, missing=missing, needed=mine)

    def _damage(self, damage: Damage) -> bool:
        """On record, and out of the index; unless the pack was given up in the meantime."""
        if damage in self._told:
            return True
        if not self._in_use(damage.pack):
            return False
        self._index.damaged(damage)
        self._told.add(damage)
        if damage.position is None:
            self._lost.add(damage.pack)
        return True

    def _in_use(self, pack: bytes) -> bool:
        return self._records.states([pack]).get(pack) in _IN_STORE

    def _name(self, domain: str, blobs: Blobs) -> Collection[tuple[bytes, int | None]]:
        """Which places of which disks are damaged; the damages that keep one from being restored.

        What was stored again since is held for the points that are read from there.
        """
        states: dict[bytes, bool] = {}
        damages: list[Damage] = []
        for damage in self._records.damaged(domain):
            if damage.pack not in states:
                states[damage.pack] = self._in_use(damage.pack)
            if states[damage.pack]:
                damages.append(damage)
        if not damages:
            return ()
        naming = Naming(
            damages=damages, blobs=blobs, index=self._index, domain=domain, stopped=self._stopped
        )
        for affected in naming.run(r for r in self._records.points() if r.domain == domain):
            self._flaws.affected(affected)
        for point, packs in naming.healing.items():
            if packs:
                self._records.hold(point, packs)
        return naming.needed

    def _blobs(self, domain: str, pool: Executor) -> Blobs:
        return Blobs(
            domain=domain, packs=self._packs, index=self._index, pool=pool, kept=KeptPages()
        )

    def _seen(self) -> CheckProgress:
        count = self._count
        done, total = self._forecast.seen()
        return CheckProgress(done=done, total=total, blobs=count.read, after=count.after)

    def _stopped(self) -> bool:
        return self._stop.is_set()

    def _heed(self) -> None:
        if self._stopped():
            raise CopyStopped


def _place(domain: str, pack: bytes) -> str:
    return f"{domain} {pack.hex()}"


def _by_instance(
    points: list[PointRecord],
) -> dict[tuple[TenantName, InstanceId], list[PointRecord]]:
    found: dict[tuple[TenantName, InstanceId], list[PointRecord]] = {}
    for record in points:
        found.setdefault((record.tenant, record.instance), []).append(record)
    return found


def _of_tenant(
    tenant: TenantName, workloads: dict[Workload, Usage], wholes: dict[str, Usage]
) -> list[Usage]:
    """Of each domain of the tenant."""
    domains = dict.fromkeys(w.domain for w in workloads if w.tenant == tenant)
    return [wholes[domain] for domain in domains]
