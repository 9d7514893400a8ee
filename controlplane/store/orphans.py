"""The last report of each site's sweep: what lies there unaccounted for."""

from collections.abc import Collection
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, SiteName
from controlplane.domain.orphan import Orphan
from controlplane.domain.owner import OwnerTag
from controlplane.store.rows import Base

Report: TypeAlias = list[Orphan]


class _OrphanRow(Base):
    __tablename__ = "orphans"

    site: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    ref: Mapped[str] = mapped_column(primary_key=True)
    artefact: Mapped[UUID]
    instance: Mapped[UUID]
    operation: Mapped[UUID]
    epoch: Mapped[int]
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]


class Orphans:
    """One report a site; each sweep replaces it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def replace(self, site: SiteName, found: Collection[Found], now: datetime) -> None:
        """These and no others; what carries the same tag as before was first seen then."""
        before = {_key(each.found): each for each in self.list(site)}
        self._session.execute(delete(_OrphanRow).where(_OrphanRow.site == site))
        for each in found:
            known = before.get(_key(each))
            first = now if known is None else known.first_seen
            self._session.add(_to_row(site, each, first, now))
        self._session.flush()

    def list(self, site: SiteName | None = None) -> Report:
        query = select(_OrphanRow).order_by(_OrphanRow.site, _OrphanRow.kind, _OrphanRow.ref)
        if site is not None:
            query = query.where(_OrphanRow.site == site)
        return [_to_noun(row) for row in self._session.scalars(query)]

    def find(self, site: SiteName, artefact: ArtefactId) -> Orphan | None:
        """What the report of the site has of it; Conflict when several objects carry the tag."""
        found = [each for each in self.list(site) if each.found.owner.artefact == artefact]
        if len(found) > 1:
            raise Conflict(
                f"{len(found)} objects at {site} carry the tag of {artefact}"
                f" ({', '.join(str(each) for each in found)}): look at the site which is which"
            )
        return found[0] if found else None

    def get(self, site: SiteName, artefact: ArtefactId) -> Orphan:
        """As `find`; NotFound where the report has nothing of it."""
        found = self.find(site, artefact)
        if found is None:
            raise NotFound(
                f"the last sweep of {site} reported no orphan {artefact}: sweep again"
                f" (fedctl sweep {site}) and look (fedctl orphans list {site})"
            )
        return found

    def forget(self, orphan: Orphan) -> None:
        """It is no orphan any more; forgotten already is fine."""
        self._session.execute(
            delete(_OrphanRow).where(
                _OrphanRow.site == orphan.site,
                _OrphanRow.kind == orphan.found.kind.value,
                _OrphanRow.ref == orphan.found.ref,
            )
        )


def _key(found: Found) -> tuple[str, str, UUID]:
    return found.kind.value, found.ref, found.owner.artefact


def _to_row(site: SiteName, found: Found, first: datetime, last: datetime) -> _OrphanRow:
    owner = found.owner
    return _OrphanRow(
        site=site,
        kind=found.kind.value,
        ref=found.ref,
        artefact=owner.artefact,
        instance=owner.instance,
        operation=owner.operation,
        epoch=owner.epoch,
        first_seen=first,
        last_seen=last,
    )


def _to_noun(row: _OrphanRow) -> Orphan:
    owner = OwnerTag(
        artefact=ArtefactId(row.artefact),
        instance=InstanceId(row.instance),
        operation=OperationId(row.operation),
        epoch=row.epoch,
    )
    return Orphan(
        site=SiteName(row.site),
        found=Found(owner=owner, kind=ArtefactKind(row.kind), ref=row.ref),
        first_seen=row.first_seen,
        last_seen=row.last_seen,
    )
