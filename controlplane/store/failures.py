"""What a database's failure means in our words."""

from collections.abc import Generator
from contextlib import contextmanager
from sqlite3 import SQLITE_CORRUPT, SQLITE_FULL, SQLITE_NOTADB

from sqlalchemy import exc

from controlplane.domain.errors import (
    Conflict,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    Unavailable,
)

_PRIMARY = 0xFF  # the low byte of SQLite's extended codes
_DISK_FULL = "53100"
_DAMAGED = ("XX001", "XX002")


@contextmanager
def translated() -> Generator[None]:
    """Lets our own errors pass and raises ours from SQLAlchemy's."""
    try:
        yield
    except exc.SQLAlchemyError as e:
        raise _named(e) from e
    except UnicodeEncodeError as e:
        raise Invalid("a text holds half a character: correct it", detail=e.reason) from e


def _named(error: exc.SQLAlchemyError) -> FedctlError:
    cause = error.orig if isinstance(error, exc.StatementError) else None
    if isinstance(cause, FedctlError):
        return cause
    detail = str(cause or error)
    sqlite_code = getattr(cause, "sqlite_errorcode", 0) & _PRIMARY
    state = getattr(cause, "sqlstate", None) or ""
    if sqlite_code == SQLITE_FULL or state == _DISK_FULL:
        return Exhausted("the database's disk is full: make room for it", detail=detail)
    if sqlite_code in {SQLITE_CORRUPT, SQLITE_NOTADB} or state in _DAMAGED:
        return Integrity("the database is damaged: stop and restore a backup", detail=detail)
    if isinstance(error, exc.IntegrityError):
        return Conflict(
            "the database has a record that contradicts this: look at it", detail=detail
        )
    if isinstance(error, exc.DataError) or (
        isinstance(error, exc.StatementError) and not isinstance(error, exc.DBAPIError)
    ):
        return Invalid("a value cannot be kept in the database: correct it", detail=detail)
    return Unavailable("the database does not answer: ask again", detail=detail)
