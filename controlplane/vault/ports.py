"""What the vault asks of others: records, objects, keys, a signature."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainKeys:
    """The keys of one dedup domain, 32 bytes each. `retired` data keys open older packs."""

    id_key: bytes = field(repr=False)
    data_key: bytes = field(repr=False)
    data_key_id: str
    retired: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def data_key_named(self, key_id: str) -> bytes | None:
        return self.data_key if key_id == self.data_key_id else self.retired.get(key_id)


Keys = Callable[[str], DomainKeys]
"""Of a dedup domain; Integrity with reason `key-missing` where they do not open."""


class KeyDocuments(Protocol):
    """The wrapped keys that lie under `keys/` in the store."""

    def names(self) -> Collection[str]:
        """Of the objects of all keys on record."""
        ...

    def check(self, name: str, document: bytes) -> None:
        """Integrity unless it is the key on record or, where none is, opens as the name says.

        What it is wrapped with must be known; Unavailable when it cannot be opened just now.
        """
        ...


class Signer(Protocol):
    """Signs heads; a signature of any key it ever used can be checked."""

    @property
    def key_id(self) -> str: ...

    def sign(self, data: bytes) -> bytes: ...

    def verify(self, data: bytes, signature: bytes, key_id: str) -> bool: ...


class Upload(Protocol):
    """One object on its way into the store; invisible until `finish`."""

    def write(self, *parts: bytes) -> None:
        """One after the other, after what was written before."""

    def finish(self) -> None:
        """Durable and visible when this returns. Conflict when the name is taken."""

    def abort(self) -> None:
        """Nothing of it stays; `write` and `finish` raise Conflict then. Fine after `finish`."""


class ObjectStore(Protocol):
    """Immutable objects under names such as `packs/ab/abcd`; used by many threads at a time.

    A full store raises Exhausted, one that does not answer Unavailable, one that refuses our key
    Denied, and Integrity is what it says of bytes that did not arrive as they were sent.
    """

    def upload(self, name: str) -> Upload: ...

    def put(self, name: str, data: bytes) -> None:
        """All at once; Conflict when the name is taken (and nothing is changed)."""

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes there are of that range, fewer at the end of the object; NotFound."""

    def size(self, name: str) -> int: ...

    def names(self, folder: str) -> Iterator[str]:
        """Every name that begins with `folder` and a slash."""
        ...

    def delete(self, name: str) -> None:
        """Gone afterwards; one that is not there is fine. Denied when the store locked it."""

    def sweep(self, before: datetime) -> int:
        """Remove uploads that never ended and are older than that; how many."""
        ...


class VaultRecords(Protocol):
    """Pack states, writer sessions and points in the main database.

    Each method is one transaction. Where "earlier" matters it is the order of those transactions,
    never a clock. A pack belongs to the session that opened it until the point is committed or
    abandoned. Methods that take a session raise Conflict with reason `superseded` when its token
    is not the newest of its (point, disk) or the session is closed.
    """

    def begin(
        self, *, point: PointId, disk: int, domain: str, attempt: int, layout: Layout
    ) -> Session:
        """Open the session of (point, disk), or take it over under a new token.

        `superseded` when a higher attempt took it already, or the point is committed or abandoned.
        On take-over packs that the former left open become condemned, and the stored layout and
        coverage are given back; Conflict when size or domain differ from the stored ones.
        """
        ...

    def open_pack(self, new: PackNew) -> None:
        """Record the pack as open, before any byte of it is in the store."""

    def seal(self, session: Session, pack: bytes, leaves: Sequence[LeafDone]) -> None:
        """The pack is complete in the store, and these leaves are covered from now on."""

    def uncover(self, session: Session, leaves: Collection[int]) -> None:
        """These leaves must be copied again."""

    def finish(self, session: Session, copied: DiskCopied) -> None:
        """The whole disk is covered."""

    def sessions(self, point: PointId) -> tuple[Session, ...]:
        """Open sessions of the point with their `copied`; coverage may be left empty."""
        ...

    def session_packs(self, point: PointId) -> Mapping[bytes, PackState]:
        """Packs that belong to the open sessions of the point."""
        ...

    def states(self, packs: Collection[bytes]) -> Mapping[bytes, PackState]:
        """States of those that are known; an unknown one is missing from the answer."""
        ...

    def verified(self, pack: bytes) -> None:
        """Sealed to verified; verified already is fine; Conflict otherwise."""

    def verified_packs(self, domain: str) -> frozenset[bytes]:
        """Everything dedup may use."""
        ...

    def damage(self, damage: Damage) -> None:
        """Remember; known already is fine."""

    def damaged(self, domain: str) -> frozenset[Damage]: ...

    def mended(self, pack: bytes) -> None:
        """The pack is whole again: forget its damages; none is fine."""

    def last(self, tenant: TenantName, instance: InstanceId) -> PointRecord | None:
        """The instance's point with the highest sequence ever committed, forgotten or not."""
        ...

    def commit(self, record: PointRecord, *, packs: Collection[bytes], attempt: int) -> None:
        """Make the point and close its sessions.

        Conflict with reason `superseded` when a session of the point has a higher attempt; with
        `condemned` unless each of `packs` is verified; with `raced` unless `record.sequence` is
        the successor of the highest. The point holds `packs` until it is forgotten.
        """

    def commit_group(self, group: Sequence[Commitment]) -> None:
        """`commit` for each, all or none; Conflict as there.

        Members are of different instances: a second one of the same is `raced`.
        """

    def point(self, point: PointId) -> PointRecord | None:
        """The retained point; None when never committed or forgotten."""
        ...

    def points(self) -> tuple[PointRecord, ...]:
        """Every retained point."""
        ...

    def committed(self) -> tuple[int, datetime | None]:
        """How many points are retained, and when the last of them was committed."""
        ...

    def holders(self, packs: Collection[bytes]) -> frozenset[PointId]:
        """Retained points that hold any of these packs."""
        ...

    def hold(self, point: PointId, packs: Collection[bytes]) -> None:
        """The point holds these packs as well; held already is fine.

        Nothing when it is not retained. A pack that is condemned or unknown is left out.
        """

    def forget(self, point: PointId) -> None:
        """Its packs are no longer held by it; idempotent. Its sequence stays used."""

    def abandon(self, point: PointId) -> None:
        """Close its sessions without a point, so that their packs may be collected."""

    def condemn(self, at: datetime) -> int:
        """Condemn each pack that no retained point holds and no open session owns; how many.

        A damaged pack is treated no differently.
        """
        ...

    def deletable(self, condemned_before: datetime) -> tuple[bytes, ...]:
        """Condemned at or before that time, and every session open by then is closed."""
        ...

    def deleted(self, pack: bytes) -> None:
        """Its object is gone: forget it and its damages; idempotent."""

    def known_packs(self) -> frozenset[bytes]:
        """Every pack on record, in any state."""
        ...

    def domains(self) -> tuple[str, ...]:
        """Every dedup domain with a pack or a retained point on record, in order."""
        ...

    def packs_of(
        self, domain: str, *, after: bytes, limit: int
    ) -> tuple[tuple[bytes, PackState], ...]:
        """At most `limit` packs of the domain, by their ids, behind the id `after`."""
        ...

    def adopt(self, record: PointRecord, *, packs: Collection[bytes], retained: bool) -> None:
        """Put a point on record that the store shows and these records do not know.

        Its sessions close. Retained, it holds `packs`, which count as verified; else only its
        sequence stays used. Adopted already is fine; Conflict when its sequence is another's.
        """

    def open_points(self) -> tuple[PointId, ...]:
        """Every point with an open session."""
        ...
