"""Making recovery points: prove what is new, then one transaction, then the signed heads."""

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.disk import Mark
from controlplane.domain.errors import Conflict, FedctlError, Integrity, NotFound
from controlplane.domain.ids import GroupId, InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    RACED,
    Commitment,
    Damage,
    DiskCopied,
    InGroup,
    PackState,
    PointRecord,
)
from controlplane.vault.blobs import Blobs
from controlplane.vault.heads import (
    Head,
    encode_root,
    head_hash,
    head_name,
    mark_text,
    read_head,
    root_hash,
    root_name,
    sign_head,
)
from controlplane.vault.index import ChunkIndex
from controlplane.vault.manifest import Tree
from controlplane.vault.nouns import (
    CopyStopped,
    Member,
    PointCommitted,
)
from controlplane.vault.pack import Packs, pack_name
from controlplane.vault.ports import (
    Keys,
    ObjectStore,
    Signer,
    VaultRecords,
)
from controlplane.vault.sealing import open_object, seal_object

_CHECKERS = 2
_LOOKERS = 16  # each waits for one answer of the store
_RACES = 5
_LISTED = 1000  # about as many as one answer of a listing names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proven:
    point: PointId
    domain: str
    disks: tuple[DiskCopied, ...]
    root: str
    needed: frozenset[bytes]
    fresh: list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committing:
    records: VaultRecords
    objects: ObjectStore
    keys: Keys
    signer: Signer
    clock: Callable[[], datetime]
    packs: Packs
    index: ChunkIndex
    blobs: Callable[[str], Blobs]
    cancelled: Callable[[], bool]

    def run(
        self, point: PointId, *, disks: tuple[int, ...], domain: str, tenant: TenantName,
        instance: InstanceId, mark: Mark | None, attempt: int,
    ) -> PointCommitted:  # fmt: skip
        kept = self.records.point(point)
        if kept is not None:
            return self._publish(kept)
        proven = self._prove(point, disks, domain)
        one = self._headed(
            proven, tenant=tenant, instance=instance, mark=mark, attempt=attempt, group=None
        )
        self.records.commit(one.record, packs=one.packs, attempt=one.attempt)
        committed = self._publish(one.record)
        self.index.publish(domain, proven.fresh)
        return committed

    def run_group(
        self, group: GroupId, *, tenant: TenantName, members: Sequence[Member]
    ) -> tuple[PointCommitted, ...]:
        kept = [self.records.point(member.point) for member in members]
        standing = [record for record in kept if record is not None]
        if len(standing) == len(members):
            return tuple(map(self._publish, standing))
        if standing:
            gone = [str(m.point) for m, record in zip(members, kept, strict=True) if record is None]
            raise Conflict(
                f"group {group} was committed whole, and recovery points {', '.join(gone)} of it"
                " are no longer retained: take a new group"
            )
        proven = [self._prove(m.point, m.disks, m.domain) for m in members]
        committed = self._commit(group, tenant, members, proven)
        for each in proven:
            self.index.publish(each.domain, each.fresh)
        return committed

    def _commit(
        self, group: GroupId, tenant: TenantName, members: Sequence[Member],
        proven: Sequence["_Proven"], races: int = _RACES,
    ) -> tuple[PointCommitted, ...]:  # fmt: skip
        """Another point of a member may take its number meanwhile: then with the next one."""
        whole = [
            self._headed(
                each, tenant=tenant, instance=m.instance, mark=m.mark, attempt=m.attempt,
                group=InGroup(group=group, members=len(members), taken=m.taken),
            )
            for m, each in zip(members, proven, strict=True)
        ]  # fmt: skip
        try:
            self.records.commit_group(whole)
        except Conflict as e:
            if e.reason != RACED or not races:
                raise
            return self._commit(group, tenant, members, proven, races - 1)
        return tuple(self._publish(one.record) for one in whole)

    def _prove(self, point: PointId, disks: tuple[int, ...], domain: str) -> "_Proven":
        """Everything that the point needs reads back, and its root is in the store."""
        copied = self._copied(point, disks)
        needed = self._needed(copied, point, domain)
        fresh = self._verify(point, domain, copied, needed)
        self._look_for(needed.difference(fresh), point, domain, copied)
        body = encode_root(point, domain, copied)
        root = root_hash(self.keys(domain).id_key, body)
        self._put_root(domain, root_name(point, root), body)
        return _Proven(
            point=point, domain=domain, disks=copied, root=root, needed=needed, fresh=fresh
        )

    def _headed(
        self, proven: "_Proven", *, tenant: TenantName, instance: InstanceId, mark: Mark | None,
        attempt: int, group: InGroup | None,
    ) -> Commitment:  # fmt: skip
        last = self.records.last(tenant, instance)
        if last is not None:
            self._publish_left_out(last)
        now = self.clock()
        head = Head(
            tenant=tenant,
            instance=instance,
            point=proven.point,
            sequence=(last.sequence if last else 0) + 1,
            previous=head_hash(last.head) if last else "",
            key_ids=(self.keys(proven.domain).data_key_id,),
            mark=mark_text(mark),
            root=proven.root,
            at=now,
            group=group,
        )
        record = PointRecord(
            point=proven.point,
            domain=proven.domain,
            tenant=tenant,
            instance=instance,
            sequence=head.sequence,
            head=sign_head(head, self.signer),
            root=proven.root,
            disks=proven.disks,
            committed_at=now,
        )
        return Commitment(record=record, packs=proven.needed, attempt=attempt)

    def _copied(self, point: PointId, disks: tuple[int, ...]) -> tuple[DiskCopied, ...]:
        done = {s.disk: s.copied for s in self.records.sessions(point)}
        found = tuple(copied for disk in disks if (copied := done.get(disk)) is not None)
        if len(found) != len(disks) or len(done) != len(disks):
            raise Conflict(
                f"recovery point {point} cannot be made of disks {list(disks)}: copies of"
                f" {sorted(done)} were begun and {[c.disk for c in found]} are complete"
            )
        return found

    def _needed(self, disks: Iterable[DiskCopied], point: PointId, domain: str) -> frozenset[bytes]:
        needed: set[bytes] = set()
        for copied in disks:
            try:
                needed |= self._tree(copied, domain).packs()
            except Integrity as e:
                raise Integrity(
                    f"recovery point {point}, disk {copied.disk}: its manifest does not read back:"
                    f" {e}; copy the disk again"
                ) from e
        return frozenset(needed)

    def _verify(
        self, point: PointId, domain: str, disks: tuple[DiskCopied, ...], needed: frozenset[bytes]
    ) -> list[bytes]:
        """Read back, decrypt and rehash every needed pack of ours that was not yet."""
        mine = self.records.session_packs(point)
        todo = [pack for pack in mine if pack in needed and mine[pack] is PackState.SEALED]

        def check(pack: bytes) -> list[int] | Integrity:
            if self.cancelled():
                return []
            try:
                bad = self.packs.check(domain, pack, self.cancelled)
            except Integrity as e:
                return e
            if not bad and not self.cancelled():
                self.records.verified(pack)
            return bad

        with ThreadPoolExecutor(_CHECKERS, thread_name_prefix="verify") as pool:
            answers = list(pool.map(check, todo))
        damages: set[Damage] = set()
        for pack, bad in zip(todo, answers, strict=True):
            if isinstance(bad, Integrity):
                damages.add(Damage(domain=domain, pack=pack))
            else:
                damages |= {Damage(domain=domain, pack=pack, position=p) for p in bad}
        if damages:
            places = self._remember(damages, disks, domain)
            raise Integrity(
                f"recovery point {point}: {places} did not read back from the vault as written;"
                " copy the disk again, and look at the store's hardware"
            )
        if self.cancelled():
            raise CopyStopped
        return [pack for pack in mine if pack in needed]

    def _look_for(
        self, packs: Collection[bytes], point: PointId, domain: str, disks: tuple[DiskCopied, ...]
    ) -> None:
        """A pack that was lost or cut since it was verified is not taken for stored."""
        if len(packs) > _LISTED:
            here = frozenset(self.objects.names("packs"))
            gone = [pack for pack in packs if pack_name(pack) not in here]
        else:
            with ThreadPoolExecutor(_LOOKERS, thread_name_prefix="look") as pool:
                there = zip(packs, pool.map(self.packs.stands, packs), strict=True)
                gone = [pack for pack, stands in there if not stands]
        if gone:
            lost = {Damage(domain=domain, pack=pack) for pack in gone}
            places = self._remember(lost, disks, domain)
            raise Integrity(
                f"recovery point {point}: {places} refers to {len(gone)} packs that the store has"
                " lost or cut; copy the disk again, and look where they went: earlier points"
                " need them too"
            )

    def _remember(self, damages: set[Damage], disks: tuple[DiskCopied, ...], domain: str) -> str:
        """Out of the index at once; the first damaged place of each disk."""
        for damage in damages:
            self.packs.drop(damage.pack)
            self.index.damaged(damage)
        return self._places(disks, domain, damages)

    def _places(self, disks: tuple[DiskCopied, ...], domain: str, damages: set[Damage]) -> str:
        bad = {(d.pack, d.position) for d in damages}
        places: list[str] = []
        for copied in disks:
            tree, layout = self._tree(copied, domain), copied.layout
            for number in range(layout.chunks):
                try:
                    ref = tree.chunk(number)
                except FedctlError:
                    ref = None
                    hit = True
                else:
                    hit = ref is not None and bool(
                        {(ref.pack, ref.position), (ref.pack, None)} & bad
                    )
                if hit:
                    places.append(f"disk {copied.disk} from offset {number * layout.chunk}")
                    break
        return ", ".join(places) or "the manifest"

    def _put_root(self, domain: str, name: str, body: bytes) -> None:
        """The name tells the content, so one that is there already only has to be whole."""
        keys = self.keys(domain)
        try:
            self.objects.put(name, seal_object(keys, name, body))
        except Conflict:
            try:
                if open_object(keys, name, self.objects.get(name)) == body:
                    return
            except Integrity:
                pass  # written over below
            self.objects.delete(name)
            self.objects.put(name, seal_object(keys, name, body))

    def _publish(self, record: PointRecord) -> PointCommitted:
        """The head stands in the store under its number; a number is never given twice."""
        what = f"recovery point {record.point} of instance {record.instance}"
        name = head_name(read_head(record.head, self.signer, what=what))
        try:
            self.objects.put(name, record.head)
        except Conflict as e:
            if self.objects.get(name) != record.head:
                raise Integrity(f"{what}: the store has another head under {name}") from e
        return PointCommitted(
            point=record.point,
            sequence=record.sequence,
            root=record.root,
            head=record.head,
            disks=record.disks,
        )

    def _publish_left_out(self, last: PointRecord) -> None:
        """A crash came between its transaction and its head: a gap would look like a hidden one."""
        head = read_head(last.head, self.signer, what=f"recovery point {last.point}")
        try:
            self.objects.size(head_name(head))
        except NotFound:
            self._publish(last)

    def _tree(self, copied: DiskCopied, domain: str) -> Tree:
        return Tree(pages=self.blobs(domain), layout=copied.layout, top=copied.top)
