"""Making a recovery point: prove what is new, then one transaction, then the signed head."""

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.disk import Mark
from controlplane.domain.errors import Conflict, FedctlError, Integrity, NotFound
from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    Damage,
    DiskCopied,
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
_LISTED = 1000  # about as many as one answer of a listing names


@dataclass(frozen=True, slots=True, kw_only=True)
class Committing:
    records: VaultRecords
    objects: ObjectStore
    keys: Keys
    signer: Signer
    clock: Callable[[], datetime]
    packs: Packs
    index: ChunkIndex
    blobs: Blobs
    cancelled: Callable[[], bool]

    def run(
        self, point: PointId, *, disks: tuple[int, ...], domain: str, tenant: TenantName,
        instance: InstanceId, mark: Mark | None, attempt: int,
    ) -> PointCommitted:  # fmt: skip
        kept = self.records.point(point)
        if kept is not None:
            return self._publish(kept)
        copied = self._copied(point, disks)
        needed = self._needed(copied, point)
        fresh = self._verify(point, domain, copied, needed)
        self._look_for(needed.difference(fresh), point, domain, copied)
        body = encode_root(point, domain, copied)
        keys = self.keys(domain)
        root = root_hash(keys.id_key, body)
        self._put_root(domain, root_name(point, root), body)
        last = self.records.last(tenant, instance)
        if last is not None:
            self._publish_left_out(last)
        now = self.clock()
        head = Head(
            tenant=tenant,
            instance=instance,
            point=point,
            sequence=(last.sequence if last else 0) + 1,
            previous=head_hash(last.head) if last else "",
            key_ids=(keys.data_key_id,),
            mark=mark_text(mark),
            root=root,
            at=now,
        )
        record = PointRecord(
            point=point,
            domain=domain,
            tenant=tenant,
            instance=instance,
            sequence=head.sequence,
            head=sign_head(head, self.signer),
            root=root,
            disks=copied,
            committed_at=now,
        )
        self.records.commit(record, packs=needed, attempt=attempt)
        committed = self._publish(record)
        self.index.publish(domain, fresh)
        return committed

    def _copied(self, point: PointId, disks: tuple[int, ...]) -> tuple[DiskCopied, ...]:
        done = {s.disk: s.copied for s in self.records.sessions(point)}
        found = tuple(copied for disk in disks if (copied := done.get(disk)) is not None)
        if len(found) != len(disks) or len(done) != len(disks):
            raise Conflict(
                f"recovery point {point} cannot be made of disks {list(disks)}: copies of"
                f" {sorted(done)} were begun and {[c.disk for c in found]} are complete"
            )
        return found

    def _needed(self, disks: Iterable[DiskCopied], point: PointId) -> frozenset[bytes]:
        needed: set[bytes] = set()
        for copied in disks:
            try:
                needed |= self._tree(copied).packs()
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
            places = self._remember(damages, disks)
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
            gone = [pack for pack in packs if not self.packs.stands(pack)]
        if gone:
            places = self._remember({Damage(domain=domain, pack=pack) for pack in gone}, disks)
            raise Integrity(
                f"recovery point {point}: {places} refers to {len(gone)} packs that the store has"
                " lost or cut; copy the disk again, and look where they went: earlier points"
                " need them too"
            )

    def _remember(self, damages: set[Damage], disks: tuple[DiskCopied, ...]) -> str:
        """Out of the index at once; the first damaged place of each disk."""
        for damage in damages:
            self.packs.drop(damage.pack)
            self.index.damaged(damage)
        return self._places(disks, damages)

    def _places(self, disks: tuple[DiskCopied, ...], damages: set[Damage]) -> str:
        bad = {(d.pack, d.position) for d in damages}
        places: list[str] = []
        for copied in disks:
            tree, layout = self._tree(copied), copied.layout
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

    def _tree(self, copied: DiskCopied) -> Tree:
        return Tree(pages=self.blobs, layout=copied.layout, top=copied.top)
