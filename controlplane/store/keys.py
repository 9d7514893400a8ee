"""Wrapped keys: openable by their parents only, never changed, never deleted."""

from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import UniqueConstraint, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.keys.port import KeyId, KeyName, Purpose, WrappedKey
from controlplane.store.rows import Base

Versions: TypeAlias = tuple[WrappedKey, ...]


class _KeyRow(Base):
    __tablename__ = "wrapped_keys"
    __table_args__ = (UniqueConstraint("purpose", "owner", "version"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    owner: Mapped[str]
    version: Mapped[int]
    wrapped: Mapped[bytes]
    wrapped_by: Mapped[str]
    created_at: Mapped[datetime]


class Keys:
    """`WrappedKeys` inside a transaction; `ports.StoredKeys` makes each call durable."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: KeyId) -> WrappedKey | None:
        row = self._session.get(_KeyRow, key)
        return None if row is None else _to_noun(row)

    def put_if_absent(self, row: WrappedKey) -> WrappedKey:
        """Keeps `row` unless (purpose, owner, version) is taken; what stands then."""
        name = row.name
        standing = self._session.scalars(
            select(_KeyRow).where(
                _KeyRow.purpose == name.purpose.value,
                _KeyRow.owner == name.owner,
                _KeyRow.version == name.version,
            )
        ).one_or_none()
        if standing is not None:
            return _to_noun(standing)
        self._session.add(
            _KeyRow(
                id=name.id,
                purpose=name.purpose.value,
                owner=name.owner,
                version=name.version,
                wrapped=row.wrapped,
                wrapped_by=row.wrapped_by,
                created_at=row.created_at,
            )
        )
        self._session.flush()
        return row

    def list(self, purpose: Purpose, owner: str) -> Versions:
        """All versions, oldest first."""
        rows = self._session.scalars(
            select(_KeyRow)
            .where(_KeyRow.purpose == purpose.value, _KeyRow.owner == owner)
            .order_by(_KeyRow.version)
        )
        return tuple(_to_noun(row) for row in rows)

    def every(self) -> Versions:
        return tuple(_to_noun(row) for row in self._session.scalars(select(_KeyRow)))


def _to_noun(row: _KeyRow) -> WrappedKey:
    return WrappedKey(
        name=KeyName(
            id=KeyId(row.id), purpose=Purpose(row.purpose), owner=row.owner, version=row.version
        ),
        wrapped=row.wrapped,
        wrapped_by=row.wrapped_by,
        created_at=row.created_at,
    )
