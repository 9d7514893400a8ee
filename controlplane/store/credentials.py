"""Credentials of sites, sealed before they come here."""

from uuid import UUID

from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import NotFound
from controlplane.domain.ids import ResourceId
from controlplane.store.rows import Base


class _CredentialRow(Base):
    __tablename__ = "credentials"

    site: Mapped[UUID] = mapped_column(primary_key=True)
    sealed: Mapped[bytes]


class Credentials:
    """One sealed bundle a site."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, site: ResourceId, sealed: bytes) -> None:
        row = self._session.get(_CredentialRow, site)
        if row is None:
            self._session.add(_CredentialRow(site=site, sealed=sealed))
        else:
            row.sealed = sealed

    def get(self, site: ResourceId) -> bytes:
        row = self._session.get(_CredentialRow, site)
        if row is None:
            raise NotFound(f"site {site} has no credentials: give them with the site")
        return row.sealed

    def delete(self, site: ResourceId) -> None:
        """Deleted already is fine."""
        row = self._session.get(_CredentialRow, site)
        if row is not None:
            self._session.delete(row)
            self._session.flush()
