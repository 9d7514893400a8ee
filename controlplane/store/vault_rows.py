"""The vault's rows, and its nouns from and to them."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from controlplane.domain.ids import InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    Damage,
    DiskCopied,
    Layout,
    LeafDone,
    PointRecord,
    Ref,
    Session,
)
from controlplane.store.rows import COUNTED, Base

WHOLE_PACK = -1


class SessionRow(Base):
    """An open session; its number tells which sessions are earlier."""

    __tablename__ = "vault_sessions"
    __table_args__ = (
        UniqueConstraint("point", "disk"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(COUNTED, primary_key=True, autoincrement=True)
    point: Mapped[UUID]
    disk: Mapped[int]
    domain: Mapped[str]
    attempt: Mapped[int]
    token: Mapped[str]
    size: Mapped[int]
    chunk: Mapped[int]
    copied: Mapped[dict[str, object] | None]


class LeafRow(Base):
    """A leaf that an open session has covered; without a pack it is all zero."""

    __tablename__ = "vault_leaves"

    session: Mapped[int] = mapped_column(
        ForeignKey("vault_sessions.number", ondelete="CASCADE"), primary_key=True
    )
    leaf: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    pack: Mapped[bytes | None]
    position: Mapped[int | None]
    blob: Mapped[bytes | None]
    digest: Mapped[bytes | None]
    chunks: Mapped[int]
    read: Mapped[int]
    fresh: Mapped[int]
    stored: Mapped[int]


class PackRow(Base):
    """`session` owns the pack; `waits_for` is the last session that was open when it was condemned.

    Condemned without a time, it waits for the next round of collection to date it.
    """

    __tablename__ = "vault_packs"
    __table_args__ = (Index(None, "domain", "state"), Index(None, "state", "condemned_at"))

    pack: Mapped[bytes] = mapped_column(primary_key=True)
    domain: Mapped[str]
    state: Mapped[str]
    session: Mapped[int | None] = mapped_column(ForeignKey("vault_sessions.number"), index=True)
    condemned_at: Mapped[datetime | None]
    waits_for: Mapped[int]


class DamageRow(Base):
    __tablename__ = "vault_damages"

    pack: Mapped[bytes] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    domain: Mapped[str] = mapped_column(index=True)


class PointRow(Base):
    """A point that was committed; forgotten ones keep their sequence used."""

    __tablename__ = "vault_points"
    __table_args__ = (UniqueConstraint("tenant", "instance", "sequence"),)

    point: Mapped[UUID] = mapped_column(primary_key=True)
    domain: Mapped[str]
    tenant: Mapped[str]
    instance: Mapped[UUID]
    sequence: Mapped[int]
    head: Mapped[bytes]
    root: Mapped[str]
    disks: Mapped[list[dict[str, object]]]
    committed_at: Mapped[datetime]
    forgotten: Mapped[bool]


class HoldRow(Base):
    """A retained point needs this pack."""

    __tablename__ = "vault_holds"

    point: Mapped[UUID] = mapped_column(primary_key=True)
    pack: Mapped[bytes] = mapped_column(primary_key=True, index=True)


class ClosedRow(Base):
    """The point was committed or abandoned: nobody writes to it again."""

    __tablename__ = "vault_closed"

    point: Mapped[UUID] = mapped_column(primary_key=True)


def leaf_values(session: int, leaf: LeafDone) -> dict[str, object]:
    """A `LeafRow` to be; many are written at once."""
    ref = leaf.ref
    return {
        "session": session,
        "leaf": leaf.index,
        "pack": None if ref is None else ref.pack,
        "position": None if ref is None else ref.position,
        "blob": None if ref is None else ref.id,
        "digest": None if ref is None else ref.digest,
        "chunks": leaf.chunks,
        "read": leaf.read,
        "fresh": leaf.fresh,
        "stored": leaf.stored,
    }


def to_leaf(row: LeafRow) -> LeafDone:
    ref: Ref | None = None
    match row.pack, row.position, row.blob, row.digest:
        case bytes(pack), int(position), bytes(blob), bytes(digest):
            ref = Ref(pack=pack, position=position, id=blob, digest=digest)
        case _:
            pass
    return LeafDone(
        index=row.leaf,
        ref=ref,
        chunks=row.chunks,
        read=row.read,
        fresh=row.fresh,
        stored=row.stored,
    )


def to_session(row: SessionRow, covered: Mapping[int, LeafDone]) -> Session:
    return Session(
        point=PointId(row.point),
        disk=row.disk,
        domain=row.domain,
        attempt=row.attempt,
        token=row.token,
        layout=Layout(size=row.size, chunk=row.chunk),
        covered=covered,
        copied=None if row.copied is None else _copied(row.copied),
    )


def to_point_row(record: PointRecord) -> PointRow:
    return PointRow(
        point=record.point,
        domain=record.domain,
        tenant=record.tenant,
        instance=record.instance,
        sequence=record.sequence,
        head=record.head,
        root=record.root,
        disks=[copied_json(disk) for disk in record.disks],
        committed_at=record.committed_at,
        forgotten=False,
    )


def to_point(row: PointRow) -> PointRecord:
    return PointRecord(
        point=PointId(row.point),
        domain=row.domain,
        tenant=TenantName(row.tenant),
        instance=InstanceId(row.instance),
        sequence=row.sequence,
        head=row.head,
        root=row.root,
        disks=tuple(_copied(disk) for disk in row.disks),
        committed_at=row.committed_at,
    )


def to_damage(row: DamageRow) -> Damage:
    return Damage(
        domain=row.domain,
        pack=row.pack,
        position=None if row.position == WHOLE_PACK else row.position,
    )


def copied_json(copied: DiskCopied) -> dict[str, object]:
    top = copied.top
    return {
        "disk": copied.disk,
        "size": copied.size,
        "chunk": copied.chunk,
        "digest": copied.digest,
        "top": None
        if top is None
        else [top.pack.hex(), top.position, top.id.hex(), top.digest.hex()],
        "chunks": copied.chunks,
        "bytes_read": copied.bytes_read,
        "bytes_new": copied.bytes_new,
        "bytes_stored": copied.bytes_stored,
    }


def _copied(kept: Mapping[str, object]) -> DiskCopied:
    fields: dict[str, object] = dict(kept)
    top: Ref | None = None
    match fields.pop("top"):
        case [str(pack), int(position), str(blob), str(digest)]:
            top = Ref(
                pack=bytes.fromhex(pack),
                position=position,
                id=bytes.fromhex(blob),
                digest=bytes.fromhex(digest),
            )
        case _:
            pass
    return DiskCopied(top=top, **fields)  # type: ignore[arg-type]  # as `copied_json` wrote them
