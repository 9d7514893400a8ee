"""The database: how it is opened, and its two kinds of transaction.

One transaction writes at a time, on SQLite by `BEGIN IMMEDIATE`, on PostgreSQL by an advisory lock.
Every write takes the next number of one sequence anyway, so writers would meet there; taking turns
from the start means that no repository can deadlock with another or read what is about to change.
Write transactions are short and hold no call to the outside.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock
from time import monotonic

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from controlplane.domain.errors import Conflict, Invalid, Unavailable
from controlplane.store.failures import translated
from controlplane.store.tx import Tx

_WRITERS_TURN = 0x6665646374  # "fedct", the advisory lock that writers take
_PATIENCE = timedelta(seconds=15)
_LOOK_AGAIN = 0.05
NEWEST = "0008"
"""The revision that this version of fedctl reads and writes."""


def _now() -> datetime:
    return datetime.now(UTC)


class Store:
    """All that fedctl keeps, behind `begin` and `read`.

    `clock` dates events; every other time is given by the caller. `patience` is how long a
    transaction waits for its turn before it raises Unavailable.
    """

    def __init__(
        self,
        engine_url: str,
        *,
        clock: Callable[[], datetime] = _now,
        patience: timedelta = _PATIENCE,
    ) -> None:
        url = make_url(engine_url)
        self._clock = clock
        self._patience = patience
        self._turn = Lock()
        self._sqlite = url.get_backend_name() == "sqlite"
        if self._sqlite:
            self._writer = _sqlite(url, "BEGIN IMMEDIATE", patience)
            self._reader = _sqlite(url, "BEGIN", patience, "PRAGMA query_only = ON")
        elif url.drivername == "postgresql+psycopg":
            self._writer = _postgresql(url, patience)
            self._reader = self._writer.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        else:
            raise Invalid(
                f"a database of kind {url.drivername!r} is not supported:"
                " use sqlite:///file or postgresql+psycopg://"
            )

    @contextmanager
    def begin(self) -> Generator[Tx]:
        """A write transaction; what the block did is committed at its end, or not at all."""
        with (
            translated(),
            self._my_turn(),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            _take_turn(session.connection())
            yield Tx(session, self._clock)

    @contextmanager
    def read(self) -> Generator[Tx]:
        """One consistent view that changes nothing."""
        with translated(), Session(self._reader, autoflush=False) as session, session.begin():
            yield Tx(session, self._clock)

    def migrate(self) -> None:
        """Brings the schema to the newest revision; the first time also names the incarnation."""
        # Alembic takes a third of a second to import, which only this needs.
        from controlplane.store import migrations  # noqa: PLC0415

        with translated(), self._my_turn(), self._writer.begin() as connection:
            _take_turn(connection)
            migrations.upgrade(connection)
        with self.begin() as tx:
            tx.settings.begin_incarnation()
            tx.events.begin()

    def await_schema(self, patience: timedelta = timedelta(seconds=60)) -> None:
        """Return once the schema is of this version: processes may start in any order.

        Unavailable when nobody has brought it there in time, Conflict when it is newer.
        """
        until = monotonic() + patience.total_seconds()
        while (found := self._revision()) != NEWEST:
            if found > NEWEST:
                raise Conflict(
                    f"the database has schema {found}, this fedctl knows {NEWEST}: install the"
                    " version that the other processes run"
                )
            if monotonic() > until:
                raise Unavailable(
                    f"the database has schema {found or 'none'}, {NEWEST} is needed: run"
                    " python -m api.http.bootstrap, then start this again"
                )
            Event().wait(_LOOK_AGAIN)

        with self.read() as tx:
            unfinished = tx.settings.restoring
        if unfinished:
            raise Conflict(
                "a restore into this database was not finished: run the same fedctl backup restore"
                " again, then start this"
            )

    def _revision(self) -> str:
        with suppress(SQLAlchemyError), self._reader.connect() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())
        return ""

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        """Threads of one process queue here: SQLite's own waiting polls, and may starve one."""
        if not self._sqlite:
            yield
            return
        if not self._turn.acquire(timeout=self._patience.total_seconds()):
            raise Unavailable("the database is busy with another change: ask again")
        try:
            yield
        finally:
            self._turn.release()


def _take_turn(connection: Connection) -> None:
    """Opens the transaction now, so that all it reads is true until it commits."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _WRITERS_TURN})


def _sqlite(url: URL, begin: str, patience: timedelta, *pragmas: str) -> Engine:
    if not url.database or url.database == ":memory:":
        raise Invalid("an SQLite database needs a file: use sqlite:///file")
    path = Path(url.database)
    if not path.exists():
        _make(path)
    engine = create_engine(url, connect_args={"timeout": patience.total_seconds()})

    def opened(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins nothing of its own accord
        # FULL: in WAL mode NORMAL may forget the last commits when power fails, and a forgotten
        # switch or epoch whose effects stand at a provider would make two homes.
        for pragma in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA foreign_keys = ON",
            *pragmas,
        ):
            connection.cursor().execute(pragma)

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", opened)
    event.listen(engine, "begin", begun)
    return engine


def _make(path: Path) -> None:
    """An empty database in WAL mode, there at once or not at all.

    Only its owner can read it. Switching to WAL later, under the eyes of a second process, fails
    at once where everything else waits.
    """
    try:
        with TemporaryDirectory(dir=path.parent, prefix=".fedctl-") as folder:
            made = Path(folder) / path.name
            made.touch(mode=0o600)
            with closing(sqlite3.connect(made)) as connection:
                connection.execute("PRAGMA journal_mode = WAL").close()
            with suppress(FileExistsError):  # another process was faster
                path.hardlink_to(made)
    except OSError as e:
        raise Invalid(
            f"the database {path} cannot be made ({e.strerror}): check its folder and its rights"
        ) from e


def _postgresql(url: URL, patience: timedelta) -> Engine:
    waits = int(patience.total_seconds() * 1000)
    settings = {
        "timezone": "UTC",
        "lock_timeout": waits,
        "statement_timeout": 4 * waits,
        "idle_in_transaction_session_timeout": 4 * waits,  # a frozen writer gives up its turn
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args={"options": options, "connect_timeout": 10},
    )
