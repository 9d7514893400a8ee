"""What this installation is: its incarnation, and which turn of moves it has reached."""

from uuid import UUID, uuid4

from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import NotFound
from controlplane.store.rows import Base

_INCARNATION = "incarnation"
_TURN = "turn"


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

    @property
    def turn(self) -> int:
        """The highest turn of a move that ever began; 0 before the first."""
        row = self._session.get(_SettingRow, _TURN)
        return 0 if row is None else int(row.value)

    @turn.setter
    def turn(self, reached: int) -> None:
        self._session.merge(_SettingRow(name=_TURN, value=str(reached)))
