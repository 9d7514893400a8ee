"""Tenants, their users, and the users' tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.identity import TokenRecord, User
from controlplane.domain.ids import TenantName, UserName
from controlplane.store.rows import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    name: TenantName
    created_at: datetime


TenantList: TypeAlias = tuple[Tenant, ...]
UserList: TypeAlias = tuple[User, ...]
TokenList: TypeAlias = tuple[TokenRecord, ...]


class _TenantRow(Base):
    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]


class _UserRow(Base):
    __tablename__ = "users"

    name: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), index=True)
    password: Mapped[str]
    disabled: Mapped[bool]
    created_at: Mapped[datetime]


class _TokenRow(Base):
    __tablename__ = "tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.name"), index=True)
    tenant: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    note: Mapped[str]


class Tenants:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, name: TenantName, now: datetime) -> Tenant:
        """A new tenant; Conflict when the name is taken."""
        if self._session.get(_TenantRow, name) is not None:
            raise Conflict(f"there is a tenant {name!r} already: choose another name")
        self._session.add(_TenantRow(name=name, created_at=now))
        self._session.flush()
        return Tenant(name=name, created_at=now)

    def find(self, name: TenantName) -> Tenant | None:
        row = self._session.get(_TenantRow, name)
        return None if row is None else Tenant(name=name, created_at=row.created_at)

    def get(self, name: TenantName) -> Tenant:
        found = self.find(name)
        if found is None:
            raise NotFound(f"there is no tenant {name!r}: check the name")
        return found

    def list(self) -> TenantList:
        """All, in the order of names."""
        rows = self._session.scalars(select(_TenantRow).order_by(_TenantRow.name))
        return tuple(Tenant(name=TenantName(row.name), created_at=row.created_at) for row in rows)


class Users:
    def __init__(self, session: Session, tenants: Tenants, clock: Callable[[], datetime]) -> None:
        self._session = session
        self._tenants = tenants
        self._clock = clock

    def add(self, user: User) -> User:
        """A new user of a tenant that exists; names are unique over all tenants."""
        self._tenants.get(user.tenant)
        if self._session.get(_UserRow, user.name) is not None:
            raise Conflict(f"there is a user {user.name!r} already: choose another name")
        row = _UserRow(
            name=user.name,
            tenant=user.tenant,
            password=user.password,
            disabled=user.disabled,
            created_at=user.created_at or self._clock(),
        )
        self._session.add(row)
        self._session.flush()
        return _user(row)

    def find(self, name: UserName) -> User | None:
        row = self._session.get(_UserRow, name)
        return None if row is None else _user(row)

    def get(self, name: UserName) -> User:
        return _user(self._row(name))

    def list(self, tenant: TenantName | None = None) -> UserList:
        """In the order of names; None: of all tenants."""
        query = select(_UserRow).order_by(_UserRow.name)
        if tenant is not None:
            query = query.where(_UserRow.tenant == tenant)
        return tuple(_user(row) for row in self._session.scalars(query))

    def set_password(self, name: UserName, password: str) -> User:
        """`password` is the hash."""
        row = self._row(name)
        row.password = password
        return _user(row)

    def disable(self, name: UserName) -> User:
        row = self._row(name)
        row.disabled = True
        return _user(row)

    def enable(self, name: UserName) -> User:
        row = self._row(name)
        row.disabled = False
        return _user(row)

    def _row(self, name: UserName) -> _UserRow:
        row = self._session.get(_UserRow, name)
        if row is None:
            raise NotFound(f"there is no user {name!r}: check the name")
        return row


class Tokens:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, record: TokenRecord) -> None:
        if self.by_hash(record.digest) is not None:
            raise Conflict("this token is known already: draw another one")
        self._session.add(
            _TokenRow(
                id=record.id,
                user=record.user,
                tenant=record.tenant,
                digest=record.digest,
                created_at=record.created_at,
                expires_at=record.expires_at,
                revoked_at=record.revoked_at,
                note=record.note,
            )
        )
        self._session.flush()

    def by_hash(self, digest: str) -> TokenRecord | None:
        """The token with this digest, revoked or expired or not."""
        row = self._session.scalars(
            select(_TokenRow).where(_TokenRow.digest == digest)
        ).one_or_none()
        return None if row is None else _token(row)

    def revoke(self, token: UUID, now: datetime) -> TokenRecord:
        """Worthless from now on; revoked again it keeps its first time."""
        row = self._session.get(_TokenRow, token)
        if row is None:
            raise NotFound(f"there is no token with the id {token}")
        row.revoked_at = row.revoked_at or now
        return _token(row)

    def revoke_all(self, now: datetime) -> int:
        """None is worth anything any more; how many were until now."""
        rows = self._session.scalars(select(_TokenRow).where(_TokenRow.revoked_at.is_(None))).all()
        for row in rows:
            row.revoked_at = now
        self._session.flush()
        return len(rows)

    def list(self, user: UserName) -> TokenList:
        """Those of the user, newest first."""
        rows = self._session.scalars(
            select(_TokenRow)
            .where(_TokenRow.user == user)
            .order_by(_TokenRow.created_at.desc(), _TokenRow.id)
        )
        return tuple(_token(row) for row in rows)


class Identity:
    """Who is known here."""

    def __init__(self, session: Session, clock: Callable[[], datetime]) -> None:
        self.tenants = Tenants(session)
        self.users = Users(session, self.tenants, clock)
        self.tokens = Tokens(session)


def _user(row: _UserRow) -> User:
    return User(
        name=UserName(row.name),
        tenant=TenantName(row.tenant),
        password=row.password,
        disabled=row.disabled,
        created_at=row.created_at,
    )


def _token(row: _TokenRow) -> TokenRecord:
    return TokenRecord(
        id=row.id,
        user=UserName(row.user),
        tenant=TenantName(row.tenant),
        digest=row.digest,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        note=row.note,
    )
