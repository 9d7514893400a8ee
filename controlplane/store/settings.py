"""What this installation is: its incarnation."""

from uuid import UUID, uuid4

from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import NotFound
from controlplane.store.rows import Base

_INCARNATION = "incarnation"


class _SettingRow(Base):
    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Settings:
    """Facts of the installation, one a row."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def incarnation(self) -> UUID:
        """The present life of the control plane; event cursors carry it."""
        row = self._session.get(_SettingRow, _INCARNATION)
        if row is None:
            raise NotFound("this database has no incarnation yet: migrate it first")
        return UUID(row.value)

    def begin_incarnation(self) -> None:
        """Draws the incarnation, unless there is one."""
        if self._session.get(_SettingRow, _INCARNATION) is None:
            self._session.add(_SettingRow(name=_INCARNATION, value=str(uuid4())))
