"""Every row as plain JSON, in one consistent view, and back into a database that holds nothing."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Integer, LargeBinary, Table, Uuid, delete, func, insert, select, text
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from controlplane.domain.errors import Integrity
from controlplane.store.rows import Base, UtcTime

_BATCH = 500
_OF_A_NEW_ONE = frozenset({"settings", "sequencer"})

Rows = Sequence[Mapping[str, object]]


def dump(session: Session) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Some rows of a table at a time, every table at least once, referred-to tables first."""
    for table in Base.metadata.sorted_tables:
        found = session.execute(select(table).execution_options(yield_per=_BATCH)).mappings()
        some: list[dict[str, object]] = []
        empty = True
        for row in found:
            some.append({name: _plain(value) for name, value in row.items()})
            if len(some) == _BATCH:
                yield table.name, some
                some, empty = [], False
        if some or empty:
            yield table.name, some


def is_empty(session: Session) -> bool:
    """There is no row but those that a new database has."""
    return not any(
        session.execute(select(table).limit(1)).first()
        for table in Base.metadata.sorted_tables
        if table.name not in _OF_A_NEW_ONE
    )


def clear(session: Session) -> None:
    """No row is left in any table."""
    for table in reversed(Base.metadata.sorted_tables):
        session.execute(delete(table))


def load(session: Session, name: str, rows: Rows) -> None:
    """Rows of one table as `dump` gave them. Integrity when this schema has no such table."""
    table = Base.metadata.tables.get(name)
    if table is None:
        raise Integrity(f"the backup holds a table {name!r} that this schema does not have")
    back = {column.name: _reader(column.type) for column in table.columns}
    try:
        values = [
            {key: None if value is None else back[key](value) for key, value in row.items()}
            for row in rows
        ]
    except (KeyError, ValueError, TypeError) as e:
        raise Integrity(f"the backup's rows of table {name!r} do not fit this schema") from e
    if values:
        session.execute(insert(table), values)


def count_on(session: Session) -> None:
    """Numbers that the database draws itself go on behind the rows that were loaded."""
    if session.connection().dialect.name != "postgresql":
        return  # SQLite looks at its rows
    for table in Base.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None or not isinstance(column.type, Integer):
            continue
        session.execute(
            text("SELECT setval(pg_get_serial_sequence(:table, :column), :last, :used)"),
            _place(session, table, column.name),
        )


def _place(session: Session, table: Table, column: str) -> dict[str, object]:
    last = session.execute(select(func.max(table.c[column]))).scalar()
    return {"table": table.name, "column": column, "last": last or 1, "used": last is not None}


def _plain(value: object) -> object:
    match value:
        case bytes():
            return b64encode(value).decode()
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            return value


def _reader(kind: TypeEngine[Any]) -> Callable[[Any], object]:
    if isinstance(kind, UtcTime):
        return datetime.fromisoformat
    if isinstance(kind, Uuid):
        return UUID
    if isinstance(kind, LargeBinary):
        return _bytes
    return lambda value: value


def _bytes(text: str) -> bytes:
    return b64decode(text, validate=True)
