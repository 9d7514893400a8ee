"""Bringing records that are older than the store up to what it shows: after a restore, once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.errors import Integrity, NotFound
from controlplane.domain.ids import InstanceId, TenantName
from controlplane.domain.vault import DiskCopied, PointRecord
from controlplane.vault.blobs import Blobs
from controlplane.vault.grouped import Groups
from controlplane.vault.heads import Head, decode_root, head_hash, read_head, root_hash, root_name
from controlplane.vault.manifest import Tree
from controlplane.vault.nouns import Recalled
from controlplane.vault.pack import pack_name
from controlplane.vault.ports import Keys, ObjectStore, Signer, VaultRecords
from controlplane.vault.sealing import open_object
from controlplane.vault.whole import ReadWhole

_HEADS = "heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalling:
    """`domain_of` tells the dedup domain of a data key's id, None for a key that is not known."""

    records: VaultRecords
    objects: ObjectStore
    keys: Keys
    signer: Signer
    clock: Callable[[], datetime]
    blobs: Callable[[str], Blobs]
    domain_of: Callable[[str], str | None]
    read: ReadWhole

    def run(self) -> Recalled:
        """What the store shows is on record when this returns; nothing is deleted there."""
        here = frozenset(self.objects.names("packs"))
        adopted, unreadable = 0, list[str]()
        groups = Groups()
        for record in self.records.points():
            groups.see(self._head(f"recovery point {record.point}", record.head))
        for document in self._newer():
            groups.see(self._head("a newer head in the store", document))
            trouble = self._adopt(document, here)
            adopted += trouble is None
            unreadable += [trouble] if trouble else []
        gone = [r.point for r in self.records.points() if not self._has_root(r)]
        for point in gone:
            self.records.forget(point)
        for point in self.records.open_points():
            self.records.abandon(point)
        lost = [p for p in self.records.known_packs() if pack_name(p) not in here]
        for pack in lost:
            self.records.deleted(pack)
        return Recalled(
            points=adopted,
            forgotten=len(gone),
            packs_gone=len(lost),
            unreadable=tuple(unreadable),
            broken_groups=tuple(f"group {id_}: {why}" for id_, why in groups.broken().items()),
        )

    def _newer(self) -> list[bytes]:
        """Heads behind the last one on record of each instance, oldest first."""
        chains: dict[str, list[str]] = {}
        for name in self.objects.names(_HEADS):
            chains.setdefault(name.rpartition("/")[0], []).append(name)
        if not chains and self.records.points():
            raise Integrity(
                "the store shows no recovery point at all, and some are on record: it is empty, or"
                " another one; give the one that belongs to this control plane"
            )
        return [document for names in chains.values() for document in self._behind(sorted(names))]

    def _behind(self, names: list[str]) -> list[bytes]:
        """Those of one instance; Integrity when they do not follow each other."""
        last = self._head(names[-1], self._document(names[-1]))
        known = self.records.last(last.tenant, last.instance)
        # The last on record may have been committed a moment before its head was put there.
        ahead = known.sequence - last.sequence if known is not None else 0
        if known is not None and (ahead > 1 or (ahead == 1 and self._lacks(known))):
            raise Integrity(
                f"the store shows recovery point {last.sequence} of instance {last.instance} as its"
                f" last, point {known.sequence} is on record: it serves an older state; find the"
                " present one before anything is restored into it"
            )
        newer = [name for name in names if known is None or _sequence(name) > known.sequence]
        before = head_hash(known.head) if known is not None else ""
        documents: list[bytes] = []
        for name in newer:
            document = self._document(name)
            if self._head(name, document).previous != before:
                raise Integrity(
                    f"{name} in the store does not follow the recovery point before it: the store"
                    " hides one, or two control planes wrote to it"
                )
            before = head_hash(document)
            documents.append(document)
        return documents

    def _document(self, name: str) -> bytes:
        def signed(document: bytes) -> bytes:
            self._head(name, document)
            return document

        return self.read(name, signed)

    def _head(self, name: str, document: bytes) -> Head:
        return read_head(document, self.signer, what=name)

    def _adopt(self, document: bytes, here: frozenset[str]) -> str | None:
        """On record, retained where all of it is there; else why it cannot be used."""
        head = self._head("a newer head in the store", document)
        domain = next(filter(None, map(self.domain_of, head.key_ids)), None)
        disks: tuple[DiskCopied, ...] = ()
        packs: frozenset[bytes] = frozenset()
        trouble: str | None = None
        what = f"recovery point {head.point} of instance {head.instance}"
        if domain is None:
            trouble = f"{what}: its key is not known"
        elif self._stands(head):
            try:
                disks = self._disks(head, domain)
                packs = self._packs(disks, domain)
                missing = [p for p in packs if pack_name(p) not in here]
                trouble = f"{what}: {len(missing)} of its packs are gone" if missing else None
            except Integrity as e:
                trouble = f"{what}: {e}"
        record = PointRecord(
            point=head.point,
            domain=domain or "",
            tenant=TenantName(head.tenant),
            instance=InstanceId(head.instance),
            sequence=head.sequence,
            head=document,
            root=head.root,
            disks=disks,
            committed_at=head.at or self.clock(),
        )
        kept = bool(disks) and trouble is None
        self.records.adopt(record, packs=packs if kept else (), retained=kept)
        return trouble

    def _disks(self, head: Head, domain: str) -> tuple[DiskCopied, ...]:
        keys = self.keys(domain)
        name = root_name(head.point, head.root)

        def opened(sealed: bytes) -> bytes:
            body = open_object(keys, name, sealed)
            if root_hash(keys.id_key, body) != head.root:
                raise Integrity("its root is not the one that was signed")
            return body

        return decode_root(self.read(name, opened))[2]

    def _packs(self, disks: tuple[DiskCopied, ...], domain: str) -> frozenset[bytes]:
        pages = self.blobs(domain)
        trees = [Tree(pages=pages, layout=disk.layout, top=disk.top) for disk in disks]
        return frozenset[bytes]().union(*(tree.packs() for tree in trees))

    def _stands(self, head: Head) -> bool:
        return self._there(root_name(head.point, head.root))

    def _has_root(self, record: PointRecord) -> bool:
        return self._there(root_name(record.point, record.root))

    def _lacks(self, record: PointRecord) -> bool:
        """A root is there before its point is on record, and until it is forgotten."""
        return self.records.point(record.point) is not None and not self._has_root(record)

    def _there(self, name: str) -> bool:
        try:
            return self.objects.size(name) > 0
        except NotFound:
            return False


def _sequence(name: str) -> int:
    return int(name.rpartition("/")[2])
