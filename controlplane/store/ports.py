"""The store as other packages ask for it: each call a transaction of its own."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    Commitment,
    Damage,
    DiskCopied,
    Layout,
    LeafDone,
    PackNew,
    PackState,
    PointRecord,
    Session,
)
from controlplane.keys.port import KeyId, Purpose, WrappedKey
from controlplane.store.engine import Store

Versions: TypeAlias = tuple[WrappedKey, ...]


class StoredKeys:
    """The keyring's `WrappedKeys`; what `put_if_absent` returns is durable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, key: KeyId) -> WrappedKey | None:
        with self._store.read() as tx:
            return tx.keys.get(key)

    def put_if_absent(self, row: WrappedKey) -> WrappedKey:
        with self._store.begin() as tx:
            return tx.keys.put_if_absent(row)

    def list(self, purpose: Purpose, owner: str) -> Versions:
        with self._store.read() as tx:
            return tx.keys.list(purpose, owner)

    def every(self) -> Versions:
        with self._store.read() as tx:
            return tx.keys.every()


class StoredVault:
    """The vault's `VaultRecords`; each method is told there."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(
        self, *, point: PointId, disk: int, domain: str, attempt: int, layout: Layout
    ) -> Session:
        with self._store.begin() as tx:
            return tx.vault.begin(
                point=point, disk=disk, domain=domain, attempt=attempt, layout=layout
            )

    def open_pack(self, new: PackNew) -> None:
        with self._store.begin() as tx:
            tx.vault.open_pack(new)

    def seal(self, session: Session, pack: bytes, leaves: Sequence[LeafDone]) -> None:
        with self._store.begin() as tx:
            tx.vault.seal(session, pack, leaves)

    def uncover(self, session: Session, leaves: Collection[int]) -> None:
        with self._store.begin() as tx:
            tx.vault.uncover(session, leaves)

    def finish(self, session: Session, copied: DiskCopied) -> None:
        with self._store.begin() as tx:
            tx.vault.finish(session, copied)

    def sessions(self, point: PointId) -> tuple[Session, ...]:
        with self._store.read() as tx:
            return tx.vault.sessions(point)

    def session_packs(self, point: PointId) -> Mapping[bytes, PackState]:
        with self._store.read() as tx:
            return tx.vault.session_packs(point)

    def states(self, packs: Collection[bytes]) -> Mapping[bytes, PackState]:
        with self._store.read() as tx:
            return tx.vault.states(packs)

    def verified(self, pack: bytes) -> None:
        with self._store.begin() as tx:
            tx.vault.verified(pack)

    def verified_packs(self, domain: str) -> frozenset[bytes]:
        with self._store.read() as tx:
            return tx.vault.verified_packs(domain)

    def damage(self, damage: Damage) -> None:
        with self._store.begin() as tx:
            tx.vault.damage(damage)

    def damaged(self, domain: str) -> frozenset[Damage]:
        with self._store.read() as tx:
            return tx.vault.damaged(domain)

    def mended(self, pack: bytes) -> None:
        with self._store.begin() as tx:
            tx.vault.mended(pack)

    def last(self, tenant: TenantName, instance: InstanceId) -> PointRecord | None:
        with self._store.read() as tx:
            return tx.vault.last(tenant, instance)

    def commit(self, record: PointRecord, *, packs: Collection[bytes], attempt: int) -> None:
        with self._store.begin() as tx:
            tx.vault.commit(record, packs=packs, attempt=attempt)

    def commit_group(self, group: Sequence[Commitment]) -> None:
        with self._store.begin() as tx:
            tx.vault.commit_group(group)

    def point(self, point: PointId) -> PointRecord | None:
        with self._store.read() as tx:
            return tx.vault.point(point)

    def points(self) -> tuple[PointRecord, ...]:
        with self._store.read() as tx:
            return tx.vault.points()

    def committed(self) -> tuple[int, datetime | None]:
        with self._store.read() as tx:
            return tx.vault.committed()

    def holders(self, packs: Collection[bytes]) -> frozenset[PointId]:
        with self._store.read() as tx:
            return tx.vault.holders(packs)

    def hold(self, point: PointId, packs: Collection[bytes]) -> None:
        with self._store.begin() as tx:
            tx.vault.hold(point, packs)

    def forget(self, point: PointId) -> None:
        with self._store.begin() as tx:
            tx.vault.forget(point)

    def abandon(self, point: PointId) -> None:
        with self._store.begin() as tx:
            tx.vault.abandon(point)

    def condemn(self, at: datetime) -> int:
        with self._store.begin() as tx:
            return tx.vault.condemn(at)

    def deletable(self, condemned_before: datetime) -> tuple[bytes, ...]:
        with self._store.read() as tx:
            return tx.vault.deletable(condemned_before)

    def deleted(self, pack: bytes) -> None:
        with self._store.begin() as tx:
            tx.vault.deleted(pack)

    def known_packs(self) -> frozenset[bytes]:
        with self._store.read() as tx:
            return tx.vault.known_packs()

    def domains(self) -> tuple[str, ...]:
        with self._store.read() as tx:
            return tx.vault.domains()

    def packs_of(
        self, domain: str, *, after: bytes, limit: int
    ) -> tuple[tuple[bytes, PackState], ...]:
        with self._store.read() as tx:
            return tx.vault.packs_of(domain, after=after, limit=limit)

    def adopt(self, record: PointRecord, *, packs: Collection[bytes], retained: bool) -> None:
        with self._store.begin() as tx:
            tx.vault.adopt(record, packs=packs, retained=retained)

    def open_points(self) -> tuple[PointId, ...]:
        with self._store.read() as tx:
            return tx.vault.open_points()
