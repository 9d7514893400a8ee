"""How often each site failed what was asked of it, by the error's code."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import FedctlError
from controlplane.domain.ids import SiteName
from controlplane.store.rows import Base


class _SiteErrorRow(Base):
    __tablename__ = "site_errors"

    site: Mapped[str] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    last_at: Mapped[datetime]


class SiteErrors:
    """Counted from the first day on; a site that is taken in again under its name goes on."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, site: SiteName, error: FedctlError, now: datetime) -> None:
        row = self._session.get(_SiteErrorRow, (site, error.code))
        if row is None:
            row = _SiteErrorRow(site=site, code=error.code, count=0, last_at=now)
            self._session.add(row)
        row.count += 1
        row.last_at = now
        self._session.flush()


def site_errors(session: Session) -> dict[tuple[str, str], int]:
    """By site and code."""
    rows = session.execute(select(_SiteErrorRow.site, _SiteErrorRow.code, _SiteErrorRow.count))
    return {(site, code): count for site, code, count in rows}
