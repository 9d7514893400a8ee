"""The vault: disks go in chunk by chunk and come out of recovery points as they went in."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from controlplane.domain.disk import BlockReader, Mark
from controlplane.domain.errors import (
    Conflict,
    Denied,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
)
from controlplane.domain.ids import GroupId, InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    DiskCopied,
    Layout,
    PointRecord,
    Session,
)
from controlplane.vault.beside import Beside
from controlplane.vault.blobs import Blobs
from controlplane.vault.checking import Check, Checked, CheckOrder, CheckProgress
from controlplane.vault.committing import Committing
from controlplane.vault.copying import Copy, all_of, attended
from controlplane.vault.cores import CORES
from controlplane.vault.departed import Departed
from controlplane.vault.flaws import Named
from controlplane.vault.grouped import Groups
from controlplane.vault.heads import HEADS, decode_root, head_name, read_head, root_hash, root_name
from controlplane.vault.index import ChunkIndex
from controlplane.vault.manifest import KeptPages, Tree
from controlplane.vault.mending import Mending
from controlplane.vault.naming import Naming
from controlplane.vault.nouns import (
    Collected,
    CopyProgress,
    Into,
    Member,
    PointCommitted,
    Recalled,
    Replicated,
)
from controlplane.vault.pack import Packs, pack_name
from controlplane.vault.ports import (
    KeyDocuments,
    Keys,
    ObjectStore,
    Signer,
    VaultRecords,
)
from controlplane.vault.reading import PointReader
from controlplane.vault.recalling import Recalling
from controlplane.vault.replicating import Replicating
from controlplane.vault.sealing import open_object
from controlplane.vault.usable import Usable, recheck
from controlplane.vault.worker import Base, Tools

_DECODERS = CORES
_DOMAIN_MAX = 512
T = TypeVar("T")


class Vault:
    """One vault over one object store; any number of threads and processes may use their own.

    `index` is the folder of the local cache, of one process at a time; without it, or when another
    process has it, the cache goes with this one. `replica` is a second store that a copy is kept
    in, and that what the first one lost or damaged is read and mended from; `signers` sign what
    else lies there, by folder, and `wrapped` tells wrapped keys from what is none.
    """

    def __init__(
        self, *, records: VaultRecords, objects: ObjectStore, keys: Keys, signer: Signer,
        clock: Callable[[], datetime], index: Path | None = None,
        replica: ObjectStore | None = None, signers: Mapping[str, Signer] | None = None,
        wrapped: KeyDocuments | None = None,
    ) -> None:  # fmt: skip
        self._records = records
        self._objects = objects
        self._keys = keys
        self._signer = signer
        self._clock = clock
        self._packs = Packs(objects=objects, keys=keys)
        self._kept = KeptPages()
        self._signers = {HEADS: signer, **(signers or {})}
        self._replica = replica
        self._wrapped = wrapped
        self._departed = Departed(objects, signer)
        self._mending: Mending | None = None
        if replica is not None:
            self._mending = Mending(
                records=records, objects=objects, replica=replica, keys=keys, mended=self._mended
            )
        self._index = ChunkIndex(
            path=index, objects=objects, keys=keys, packs=self._packs, records=records,
            read=self._segment, departs=self._depart,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="vault")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown()
        self._index.close()

    def copy(
        self, reader: BlockReader, *, point: PointId, disk: int, domain: str, subject: str,
        attempt: int, progress: Callable[[CopyProgress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False, base: PointId | None = None,
        into: Into | None = None,
    ) -> DiskCopied:  # fmt: skip
        """Bring the reader's content in as disk number `disk` of `point`.

        Repeating it with the same point and disk continues after the last sealed pack, so the
        reader must show the same frozen content; a repeat of a finished copy reads nothing. A
        former attempt that still runs fails with `superseded` at its next pack. `unchanged`
        extents are relative to `base`. `progress` and `cancelled` are called on this thread,
        several times a second; when the latter answers true, CopyStopped is raised after what is
        whole was sealed. `subject` names instance and disk in messages.

        With `into`, a target's disk gets the same bytes while they are read, and holds all of them,
        durable, on return: what was in the vault already is brought from there. Invalid when it is
        shorter than the reader's.
        """
        if len(domain.encode()) > _DOMAIN_MAX:
            raise Invalid(f"{subject}: the dedup domain's name is longer than {_DOMAIN_MAX} bytes")
        former = self._base(base, disk, domain, subject) if base else None
        layout = Layout.of(reader.size)
        if former is not None:
            layout = Layout(size=reader.size, chunk=former.chunk)
        session = self._records.begin(
            point=point, disk=disk, domain=domain, attempt=attempt, layout=layout
        )
        blobs = self._blobs(domain)

        def prepare() -> tuple[Session, Usable]:
            self._index.refresh(domain)
            usable = Usable(records=self._records, domain=domain)
            if not session.covered and session.copied is None:
                return session, usable
            return recheck(session, records=self._records, blobs=blobs, usable=usable), usable

        session, usable = attended(
            prepare, total=reader.size, progress=progress, cancelled=cancelled
        )
        beside = Beside(into, session.layout) if into else None
        copied = session.copied
        if copied is None:
            copied = self._copied(reader, session, former, usable, beside, progress, cancelled)
        if beside is not None:
            told = all_of(copied)
            beside.complete(
                PointReader(copied=copied, blobs=blobs, subject=subject),
                progress=lambda done, total: progress(
                    replace(told, total=told.total + total, done=told.done + done)
                ),
                cancelled=cancelled,
            )  # fmt: skip
        return copied

    def _copied(  # noqa: PLR0917
        self, reader: BlockReader, session: Session, former: DiskCopied | None, usable: Usable,
        beside: Beside | None, progress: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
    ) -> DiskCopied:  # fmt: skip
        over = None
        if former is not None and former.chunk == session.layout.chunk:
            blobs = self._blobs(session.domain)
            tree = Tree(pages=blobs, layout=former.layout, top=former.top)
            over = Base(tree=tree, size=former.size, usable=usable)
        tools = Tools(
            records=self._records, objects=self._objects, packs=self._packs, index=self._index,
            clock=self._clock,
        )  # fmt: skip
        return Copy(
            reader=reader, session=session, keys=self._keys(session.domain), tools=tools, base=over,
            progress=progress, cancelled=cancelled, beside=beside,
        ).run()  # fmt: skip

    def commit(
        self, point: PointId, *, disks: tuple[int, ...], domain: str, tenant: TenantName,
        instance: InstanceId, mark: Mark | None, attempt: int,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> PointCommitted:  # fmt: skip
        """Read new packs back, then make the point of its copied disks under a signed head.

        Repeating it gives the same answer. Conflict with reason `superseded` for an old attempt;
        with `condemned` when something it refers to was collected meanwhile, and Integrity (which
        names disk and offset) when something new does not read back: after both, copying the
        disks again stores what is missing. `cancelled` may be asked on other threads.
        """
        return self._committing(cancelled).run(
            point, disks=disks, domain=domain, tenant=tenant, instance=instance, mark=mark,
            attempt=attempt,
        )  # fmt: skip

    def commit_group(
        self, group: GroupId, *, tenant: TenantName, members: Sequence[Member],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[PointCommitted, ...]:  # fmt: skip
        """`commit` for each member, all or none: one transaction, then each signed head.

        In the order of `members`, which are of different instances (Invalid else). Each head tells
        the group, how many members it has and when its snapshot was taken. Repeating it gives the
        same answer, and publishes heads that a crash left out. Fails as `commit` does; Conflict,
        too, when the group stood once and one of its points is no longer retained.
        """
        if not members or len({member.instance for member in members}) != len(members):
            raise Invalid(f"group {group}: it takes one or more instances, each of them once")
        return self._committing(cancelled).run_group(group, tenant=tenant, members=members)

    def open(self, point: PointId, disk: int) -> PointReader:
        """Read a disk of a retained point.

        Head, root and pages come from the store and are checked on the way.
        """
        record = self._point(point)
        for copied in self._read_root(record):
            if copied.disk == disk:
                subject = f"recovery point {point} of instance {record.instance}, disk {disk}"
                return PointReader(copied=copied, blobs=self._blobs(record.domain), subject=subject)
        raise NotFound(f"recovery point {point} has no disk {disk}")

    def points(self) -> tuple[PointRecord, ...]:
        """Every retained point."""
        return self._records.points()

    def stands(self, point: PointId) -> bool:
        """Whether the point is retained."""
        return self._records.point(point) is not None

    def committed(self) -> tuple[int, datetime | None]:
        """How many points are retained, and when the last of them was committed."""
        return self._records.committed()

    def forget(self, point: PointId) -> None:
        """The point is no longer retained; `collect` frees what nothing else needs."""
        self._hold_what_heals(point)
        self._records.forget(point)
        self._drop_roots(point)

    def abandon(self, point: PointId) -> None:
        """Give up copies that will never be committed; their attempts fail as superseded."""
        self._records.abandon(point)
        if self._records.point(point) is None:
            self._drop_roots(point)

    def collect(self, *, holding: timedelta) -> Collected:
        """Condemn what nothing needs, delete what was condemned long enough ago.

        That is `holding` ago, and no session of that time may still be open. What the store locked
        is tried again next time. Packs that are on no record are never touched.
        """
        now = self._clock()
        condemned = self._records.condemn(now)
        gone = self._records.deletable(now - holding)
        locked, refused = 0, ""
        for pack in gone:
            self._index.drop_pack(pack)
            self._packs.drop(pack)
            self._depart(pack_name(pack))
            try:
                self._objects.delete(pack_name(pack))
            except Denied as e:
                locked += 1
                refused = str(e)
            else:
                self._records.deleted(pack)
        if gone:
            with suppress(FedctlError):  # nobody waits for it, and the next round does it again
                self._index.tidy_all({record.domain for record in self._records.points()})
        return Collected(
            condemned=condemned,
            deleted=len(gone) - locked,
            locked=locked,
            why_locked=refused,
        )

    def unknown_packs(self) -> tuple[str, ...]:
        """Names of packs that are in the store and on no record. Lists the whole store."""
        known = {pack_name(pack) for pack in self._records.known_packs()}
        # An upload that finished after this set was read is on record by now, so look again.
        strange = [name for name in self._objects.names("packs") if name not in known]
        if strange:
            known = {pack_name(pack) for pack in self._records.known_packs()}
        return tuple(name for name in strange if name not in known)

    def sweep(self, *, older: timedelta) -> int:
        """Remove what uploads that never ended left in the store; how many those were."""
        return self._objects.sweep(self._clock() - older)

    def check(
        self, order: CheckOrder, *, name: Named,
        progress: Callable[[CheckProgress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Checked:  # fmt: skip
        """Whether the store holds what is on record, read as deep as `order` says.

        Deletes and repairs nothing but what any reader mends from a replica (heads, roots); what is
        damaged is on record afterwards and out of the index, and nothing is that reads back whole.
        `name` tells what people call an instance. Both callbacks are called on this thread,
        several times a second; CopyStopped when the latter answers true. What was read before
        need not be read again: the same order with the last progress's `after` repeats tables and
        manifests, and goes on with blobs. Unavailable when the store does not answer.
        """
        return Check(
            order, records=self._records, objects=self._objects, keys=self._keys,
            signer=self._signer, index=self._index, read_root=self._read_root, name=name,
            wrapped=self._wrapped, replica=self._replica,
        ).run(progress, cancelled)  # fmt: skip

    def replicate(
        self, stopped: Callable[[], bool] = lambda: False, *, again: int = 1
    ) -> Replicated | None:
        """Bring the replica up to the store; None without one.

        What is copied was checked before and is read back after. It goes on where an earlier round
        ended. What the store has lost and the replica has is put back; nothing is deleted at the
        replica but what was deleted on record. Unavailable, Denied and Exhausted end the round.
        `stopped` is asked between objects. So many packs of the replica's (`again`), and some of
        what is small, are drawn by lot, checked, and renewed from the store where they are damaged.
        """
        replicating = self._replicating(stopped, again)
        return None if replicating is None else replicating.run()

    def put_back_keys(self) -> tuple[str, ...]:
        """Wrapped keys that the store lost and the replica has; their names.

        For a database that was restored, before a key is used: of a domain of which neither
        database nor store shows one, new ones are made. Fails as `replicate` does.
        """
        replicating = self._replicating(lambda: False, 0)
        return () if replicating is None else replicating.put_back_keys()

    def read(self, name: str, check: Callable[[bytes], T], /) -> T:
        """What `check` makes of a small object of the store.

        Where it raises Integrity, or the object is not there, the replica's is read and put back.
        """
        if self._mending is not None:
            return self._mending.small(name, check)
        return check(self._objects.get(name))

    def survey(self) -> tuple[tuple[PointId, str], ...]:
        """Retained points that the store no longer shows as they were committed, and why.

        With each, the points that were committed in one group with it and are still there.
        """
        found: dict[PointId, str] = {}
        groups = Groups()
        for record in self._records.points():
            try:
                groups.see(read_head(record.head, self._signer, what=f"point {record.point}"))
                self._read_root(record)
            except Integrity as e:
                found[record.point] = str(e)
        return (*found.items(), *groups.beside(found))

    def recall(self, domain_of: Callable[[str], str | None]) -> Recalled:
        """Puts on record what the store shows and records of an earlier day do not.

        For a database that was restored, before anything else is done with it; again is fine.
        `domain_of` tells the dedup domain of a data key's id. Integrity when the store serves an
        older state than the records, or heads that do not follow each other.
        """
        return Recalling(
            records=self._records, objects=self._objects, keys=self._keys, signer=self._signer,
            clock=self._clock, blobs=self._blobs, domain_of=domain_of, read=self.read,
        ).run()  # fmt: skip

    def tidy_index(self, domain: str) -> None:
        """Remove what index segments say of deleted packs; `collect` does it where it deletes."""
        self._index.tidy(domain)

    def _replicating(self, stopped: Callable[[], bool], again: int) -> Replicating | None:
        if self._replica is None or self._mending is None:
            return None
        return Replicating(
            records=self._records, objects=self._objects, replica=self._replica, keys=self._keys,
            signers=self._signers, wrapped=self._wrapped, departed=self._departed,
            mending=self._mending, blobs=self._blobs, stopped=stopped, again=again,
        )  # fmt: skip

    def _hold_what_heals(self, point: PointId) -> None:
        """What other points lost may stand in packs of this one: they hold those from now on."""
        record = self._records.point(point)
        damages = self._records.damaged(record.domain) if record is not None else ()
        if record is None or not damages:
            return
        for other in self._records.holders({damage.pack for damage in damages}) - {point}:
            kept = self._records.point(other)
            if kept is not None and kept.domain == record.domain:
                naming = Naming(
                    damages=damages, blobs=self._blobs(record.domain), index=self._index,
                    domain=record.domain, stopped=lambda: False,
                )  # fmt: skip
                naming.run([kept])
                self._records.hold(other, naming.healing[other])

    def _base(self, base: PointId, disk: int, domain: str, subject: str) -> DiskCopied:
        record = self._point(base)
        if record.domain != domain:
            raise Conflict(
                f"{subject}: the earlier recovery point {base} lies in {record.domain}, not in"
                f" {domain}: take a full one"
            )
        for copied in self._read_root(record):
            if copied.disk == disk:
                return copied
        raise NotFound(f"{subject}: the earlier recovery point {base} has no disk {disk}")

    def _point(self, point: PointId) -> PointRecord:
        record = self._records.point(point)
        if record is None:
            raise NotFound(f"recovery point {point} is not in the vault, or no longer retained")
        return record

    def _read_root(self, record: PointRecord) -> tuple[DiskCopied, ...]:
        what = f"recovery point {record.point} of instance {record.instance}"
        head = read_head(record.head, self._signer, what=what)
        keys = self._keys(record.domain)
        name = root_name(record.point, head.root)

        def as_committed(stored: bytes) -> bytes:
            if stored != record.head:
                raise Integrity(
                    f"{what}: the store's signed head is not the one that was committed"
                )
            return stored

        def opened(sealed: bytes) -> bytes:
            body = open_object(keys, name, sealed)
            if head.root != record.root or root_hash(keys.id_key, body) != head.root:
                raise Integrity(f"{what}: its root is not the one that was signed")
            return body

        try:
            self.read(head_name(head), as_committed)
            body = self.read(name, opened)
        except NotFound as e:
            raise Integrity(f"{what}: the store has lost or hides it: {e}") from e
        point, domain, disks = decode_root(body)
        if (point, domain) != (record.point, record.domain):
            raise Integrity(f"{what}: its root belongs to recovery point {point} of {domain}")
        return disks

    def _segment(self, name: str, check: Callable[[bytes], T], /) -> T:
        """One that is gone was tidied away: it is not brought back."""
        self._objects.size(name)
        return self.read(name, check)

    def _mended(self, pack: bytes) -> None:
        self._packs.drop(pack)
        self._index.mended(pack)

    def _depart(self, name: str) -> None:
        """The replica is to follow, now or when it is back."""
        if self._replica is not None:
            self._departed.put(name, self._clock())

    def _drop_roots(self, point: PointId) -> None:
        self._depart(f"points/{point.hex}")
        for name in list(self._objects.names(f"points/{point.hex}")):
            with suppress(Denied):  # locked: on no record it means nothing
                self._objects.delete(name)

    def _committing(self, cancelled: Callable[[], bool]) -> Committing:
        return Committing(
            records=self._records, objects=self._objects, keys=self._keys, signer=self._signer,
            clock=self._clock, packs=self._packs, index=self._index, blobs=self._blobs,
            cancelled=cancelled,
        )  # fmt: skip

    def _blobs(self, domain: str) -> Blobs:
        return Blobs(
            domain=domain, packs=self._packs, index=self._index, pool=self._pool, kept=self._kept,
            mend=self._mending.pack if self._mending else lambda _domain, _pack: None,
        )  # fmt: skip
