"""What really ran where, written down outside every site: lost writes and two writers show.

The record is one SQLite file in WAL mode: simulators of several processes append to it and tests
read it while they run. A *run* is one power-on of one disk identity at one site, from its start to
its end; it is cut into *spans*, each either connected (at least one nic has its link) or isolated.
A disk without an identity of its own is recorded under `site/native`, so that two power-ons of
unrelated blank disks are never taken for twins.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
create table if not exists runs (
    run integer primary key, identity text not null, site text not null, native text not null,
    boots integer not null, since real not null, until real);
create index if not exists runs_of on runs (identity);
create table if not exists spans (
    span integer primary key, run integer not null references runs, connected integer not null,
    since real not null, until real);
create index if not exists spans_of on spans (run);
create table if not exists durable (
    identity text not null, sequence integer not null, boot integer not null,
    run integer not null references runs, at real not null);
create index if not exists durable_of on durable (identity, sequence);
create index if not exists durable_in on durable (run);
"""

_OVERLAPS = """
select a.identity, a.run, b.run,
       min(coalesce(x.until, :now), coalesce(y.until, :now)) - max(x.since, y.since)
from runs a join runs b on a.identity = b.identity and a.run < b.run
join spans x on x.run = a.run join spans y on y.run = b.run
where x.since < coalesce(y.until, :now) and y.since < coalesce(x.until, :now)
"""


_CLOSE_SPANS = """
update spans set until = max(since, coalesce(
    (select max(at) from durable where durable.run = spans.run), since))
where until is null and run in (select run from runs where site = ? and until is null)
"""

_CLOSE_RUNS = """
update runs set until = max(since, coalesce(
    (select max(at) from durable where durable.run = runs.run), since))
where site = ? and until is null
"""

_RUNS = """
select run, identity, site, native, boots, since, until,
       (select connected from spans where spans.run = runs.run order by span desc limit 1)
from runs where :identity is null or identity = :identity order by run
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One power-on of one disk, and whether it is connected now (or was, at its end)."""

    run: int
    identity: str
    site: str
    native: str
    boots: int
    since: float
    until: float | None
    connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two runs of one disk identity that were up at the same time."""

    identity: str
    first: Run
    second: Run
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Durable:
    """One journal record that a guest was told is safe."""

    sequence: int
    boot: int
    site: str
    native: str
    at: float


class Witness:
    """An append-only record of guests; safe between threads and between processes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute(
            "pragma synchronous = off"
        )  # outlives our processes, need not outlive the host
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # -- what simulators tell ------------------------------------------------------------------

    def site_started(self, site: str) -> None:
        """Close the runs that an earlier process of this site left open: they ended with it."""
        with self._writing() as db:
            db.execute(_CLOSE_SPANS, (site,))
            db.execute(_CLOSE_RUNS, (site,))

    def guest_started(
        self, *, identity: str, site: str, native: str, boots: int, connected: bool
    ) -> int:
        """Begin a run and give its number."""
        now = time.time()
        with self._writing() as db:
            run = db.execute(
                "insert into runs (identity, site, native, boots, since) values (?, ?, ?, ?, ?)",
                (identity, site, native, boots, now),
            ).lastrowid
            assert run is not None  # noqa: S101  # an insert has a row id
            _open_span(db, run, connected=connected, now=now)
        return run

    def nics_changed(self, run: int, *, connected: bool) -> None:
        now = time.time()
        with self._writing() as db:
            db.execute("update spans set until = ? where run = ? and until is null", (now, run))
            _open_span(db, run, connected=connected, now=now)

    def wrote_durable(self, run: int, *, sequence: int, boot: int) -> None:
        with self._writing() as db:
            db.execute(
                "insert into durable select identity, ?, ?, run, ? from runs where run = ?",
                (sequence, boot, time.time(), run),
            )

    def guest_stopped(self, run: int) -> None:
        now = time.time()
        with self._writing() as db:
            db.execute("update spans set until = ? where run = ? and until is null", (now, run))
            db.execute("update runs set until = ? where run = ? and until is null", (now, run))

    # -- what tests ask ------------------------------------------------------------------------

    def overlaps(self) -> tuple[Overlap, ...]:
        """Pairs of connected runs of one identity at once: two writers that the world could see."""
        return self._pairs(_OVERLAPS + "and x.connected and y.connected")

    def twins(self) -> tuple[Overlap, ...]:
        """Pairs of runs of one identity at once, isolated ones too."""
        return self._pairs(_OVERLAPS)

    def running(self, identity: str) -> tuple[Run, ...]:
        return tuple(run for run in self.history(identity) if run.until is None)

    def history(self, identity: str) -> tuple[Run, ...]:
        """Every run of a disk identity, oldest first."""
        return self._runs(identity)

    def identities(self) -> tuple[str, ...]:
        with self._lock:
            rows = self._db.execute("select distinct identity from runs order by 1").fetchall()
        return tuple(identity for (identity,) in rows)

    def durable(self, identity: str) -> tuple[Durable, ...]:
        """Every journal record that a guest on this disk was told is safe, in the order told."""
        with self._lock:
            rows = self._db.execute(
                "select d.sequence, d.boot, r.site, r.native, d.at from durable d join runs r"
                " on r.run = d.run where d.identity = ? order by d.at, d.sequence",
                (identity,),
            ).fetchall()
        return tuple(
            Durable(sequence=sequence, boot=boot, site=site, native=native, at=at)
            for sequence, boot, site, native, at in rows
        )

    def highest(self, identity: str) -> int:
        """The highest sequence number told to be durable; 0 when there was none."""
        return max((record.sequence for record in self.durable(identity)), default=0)

    # -- inside --------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _pairs(self, query: str) -> tuple[Overlap, ...]:
        with self._lock:
            rows = self._db.execute(query, {"now": time.time()}).fetchall()
        runs = {run.run: run for run in self._runs(None)}
        return tuple(
            Overlap(identity=identity, first=runs[first], second=runs[second], seconds=seconds)
            for identity, first, second, seconds in rows
        )

    def _runs(self, identity: str | None) -> tuple[Run, ...]:
        with self._lock:
            rows = self._db.execute(_RUNS, {"identity": identity}).fetchall()
        return tuple(
            Run(
                run=run,
                identity=identity,
                site=site,
                native=native,
                boots=boots,
                since=since,
                until=until,
                connected=bool(connected),
            )
            for run, identity, site, native, boots, since, until, connected in rows
        )


def _open_span(db: sqlite3.Connection, run: int, *, connected: bool, now: float) -> None:
    db.execute(
        "insert into spans (run, connected, since) values (?, ?, ?)", (run, int(connected), now)
    )
