"""What this installation is: its incarnation and life, and how many moves had their turn."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import NotFound
from controlplane.store.rows import Base

_INCARNATION = "incarnation"
_TURN = "turn"
_LIFE = "life"
_LAG = "replica"
_RESTORING = "restoring"
_USAGE = "vault-usage"
_SAMPLED = "vault-sampled-{parts}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """Of the vault's replica `at` the end of a round.

    `points` are missing, the first of them since `oldest`; `troubles` objects could not be copied.
    """

    at: datetime
    points: int
    oldest: datetime | None
    troubles: int


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
        self._put(_TURN, str(reached))

    @property
    def life(self) -> int:
        """The number of the incarnation: 1, and one more with each restore."""
        row = self._session.get(_SettingRow, _LIFE)
        return 1 if row is None else int(row.value)

    def renew(self, incarnation: UUID, life: int) -> None:
        """A new life begins in rows of an earlier one."""
        self._put(_INCARNATION, str(incarnation))
        self._put(_LIFE, str(life))

    @property
    def restoring(self) -> str | None:
        """The id of the backup whose restore is not finished: nothing else may work with this."""
        row = self._session.get(_SettingRow, _RESTORING)
        return None if row is None else row.value

    def restore(self, backup: str) -> None:
        self._put(_RESTORING, backup)

    def restored(self) -> None:
        """The restore is finished; that it was before is fine."""
        row = self._session.get(_SettingRow, _RESTORING)
        if row is not None:
            self._session.delete(row)

    @property
    def vault_usage(self) -> dict[str, object] | None:
        """What the last check of the vault measured, as it was put; None before the first."""
        row = self._session.get(_SettingRow, _USAGE)
        return None if row is None else json.loads(row.value)

    @vault_usage.setter
    def vault_usage(self, measured: dict[str, object]) -> None:
        self._put(_USAGE, json.dumps(measured))

    def sampled(self, parts: int) -> int:
        """How many samples of one in `parts` were checked so far: the turn of the next."""
        row = self._session.get(_SettingRow, _SAMPLED.format(parts=parts))
        return 0 if row is None else int(row.value)

    def sample(self, parts: int, turn: int) -> None:
        """That turn was checked; again is fine."""
        self._put(_SAMPLED.format(parts=parts), str(max(self.sampled(parts), turn + 1)))

    @property
    def lag(self) -> Lag | None:
        """How far the vault's replica was behind when a round last ended; None without one."""
        row = self._session.get(_SettingRow, _LAG)
        if row is None:
            return None
        told = json.loads(row.value)
        return Lag(
            at=datetime.fromisoformat(told["at"]),
            points=told["points"],
            oldest=datetime.fromisoformat(told["oldest"]) if told["oldest"] else None,
            troubles=told["troubles"],
        )

    @lag.setter
    def lag(self, lag: Lag) -> None:
        told = {
            "at": lag.at.isoformat(),
            "points": lag.points,
            "oldest": lag.oldest.isoformat() if lag.oldest else None,
            "troubles": lag.troubles,
        }
        self._put(_LAG, json.dumps(told))

    def _put(self, name: str, value: str) -> None:
        self._session.merge(_SettingRow(name=name, value=value))
        self._session.flush()
