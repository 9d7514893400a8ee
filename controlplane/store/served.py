"""Images that the gateway serves, under tokens of which only the hash is kept."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import Conflict
from controlplane.domain.ids import OperationId
from controlplane.domain.placement import Served
from controlplane.store.rows import Base


class _ServedRow(Base):
    __tablename__ = "served"

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    operation: Mapped[UUID] = mapped_column(index=True)
    point: Mapped[str]
    disk: Mapped[int]
    format: Mapped[str]
    length: Mapped[int]
    size: Mapped[int]
    sha256: Mapped[str]
    sha512: Mapped[str]
    domain: Mapped[str]
    revoked: Mapped[bool]
    expires_at: Mapped[datetime | None]
    clients: Mapped[str] = mapped_column(server_default="")


class ServedImages:
    """Who may fetch what while an operation runs."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, served: Served) -> None:
        """Served from now on; the very same again is fine."""
        present = self.by_token(served.token_sha256)
        if present is None:
            self._session.add(_to_row(served))
            self._session.flush()
        elif present != served:
            raise Conflict("an image is served under this token already: draw another token")

    def by_token(self, token_sha256: str) -> Served | None:
        """What the token stands for, revoked or not."""
        row = self._session.get(_ServedRow, token_sha256)
        return None if row is None else _to_noun(row)

    def revoke(self, operation: OperationId) -> None:
        """Nothing is served for the operation any more."""
        self._session.execute(
            update(_ServedRow).where(_ServedRow.operation == operation).values(revoked=True)
        )


def _to_row(served: Served) -> _ServedRow:
    return _ServedRow(
        token_sha256=served.token_sha256,
        operation=served.operation,
        point=served.point,
        disk=served.disk,
        format=served.format,
        length=served.length,
        size=served.size,
        sha256=served.sha256,
        sha512=served.sha512,
        domain=served.domain,
        revoked=served.revoked,
        expires_at=served.expires_at,
        clients=" ".join(served.clients),
    )


def _to_noun(row: _ServedRow) -> Served:
    return Served(
        token_sha256=row.token_sha256,
        operation=OperationId(row.operation),
        point=row.point,
        disk=row.disk,
        format=row.format,
        length=row.length,
        size=row.size,
        sha256=row.sha256,
        sha512=row.sha512,
        domain=row.domain,
        revoked=row.revoked,
        expires_at=row.expires_at,
        clients=tuple(row.clients.split()),
    )
