"""The store itself: one writer at a time, one sequence of events, failures in our words."""

import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from controlplane.domain.errors import (
    Conflict,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
)
from controlplane.domain.ids import OperationId, TenantName, WorkspaceName
from controlplane.domain.placement import Served
from controlplane.domain.resource import Kind, State
from controlplane.domain.selector import parse_selector
from controlplane.store.engine import Store
from tests.store.nouns import T0, at_once, fresh, in_time, key, operation, resource_id


def on_sqlite(url):
    return url.startswith("sqlite")


# --- events -------------------------------------------------------------------------------------


def test_every_change_has_the_next_number(store):
    with store.begin() as tx:
        start = tx.events.last()
        made, _ = tx.resources.put(key(), id=resource_id(), spec={}, now=T0)
        tx.resources.set_state(made.id, State.CREATING, now=T0)
        op = operation()
        tx.operations.add(op)
        tx.operations.update(op.id, phase="copy")
    with store.read() as tx:
        events = tx.events.after(start)
        assert tx.events.after(start, limit=2) == events[:2]
        assert tx.events.after(tx.events.last()) == []
    assert [e.seq for e in events] == [start + n for n in range(1, 5)]
    assert [(e.kind, e.id) for e in events] == [
        ("instance", str(made.id)), ("instance", str(made.id)),
        ("operation", str(op.id)), ("operation", str(op.id)),
    ]  # fmt: skip
    assert all(abs(e.at - datetime.now(UTC)) < timedelta(minutes=5) for e in events)


def test_what_was_rolled_back_leaves_no_gap(store):
    class Stop(Exception):
        pass

    def half():
        with store.begin() as tx:
            tx.resources.put(key(), id=resource_id(), spec={}, now=T0)
            raise Stop

    with store.read() as tx:
        start = tx.events.last()
    with pytest.raises(Stop):
        half()
    with store.begin() as tx:
        tx.resources.put(key(), id=resource_id(), spec={}, now=T0)
        assert [e.seq for e in tx.events.after(start)] == [start + 1]


def test_a_reader_who_goes_on_behind_its_cursor_misses_nothing_that_commits_meanwhile(store):
    each, writers = 8, 3
    with store.read() as tx:
        start = tx.events.last()

    def write():
        for _ in range(each):
            with store.begin() as tx:
                tx.resources.put(key(), id=resource_id(), spec={}, now=T0)

    def follow():
        seen, cursor, going = [], start, in_time()
        while len(seen) < each * writers and going():
            with store.read() as tx:
                events = tx.events.after(cursor, limit=5)
            seen += [e.seq for e in events]
            cursor = seen[-1] if seen else start
        return seen

    *_, seen = at_once(*[write] * writers, follow)
    assert seen == list(range(start + 1, start + each * writers + 1))


# --- transactions -------------------------------------------------------------------------------


def test_a_reader_sees_one_moment(store):
    where = key()
    with store.read() as before:
        assert before.resources.find(where) is None
        with store.begin() as tx:
            tx.resources.put(where, id=resource_id(), spec={}, now=T0)
        assert before.resources.find(where) is None
    with store.read() as after:
        assert after.resources.find(where) is not None


def test_reading_cannot_write(store):
    def write():
        with store.read() as tx:
            tx.outbox.add(OperationId(uuid4()), "start", T0)

    with pytest.raises(FedctlError):
        write()
    with store.begin() as tx:  # the connection is as good as before
        assert tx.outbox.pending() == []


@pytest.fixture
def hurried(url):
    """A second process's view of the same database, with little patience."""
    store = Store(url, patience=timedelta(seconds=0.2))
    yield store
    store.close()


def test_a_writer_who_waits_too_long_is_told_to_ask_again(store, hurried):
    begun, done = Event(), Event()

    def hold():
        with store.begin():
            begun.set()
            done.wait(30)

    holder = Thread(target=hold)
    holder.start()
    assert begun.wait(10)
    try:
        for _ in range(2):  # what gave up left nothing in the way of the next
            with pytest.raises(Unavailable), hurried.begin():
                pass
        with hurried.read() as tx:  # readers never wait
            assert tx.events.last() >= 0
    finally:
        done.set()
        holder.join()
    with hurried.begin() as tx:
        assert tx.events.last() >= 0


def test_threads_of_one_process_wait_for_each_other_no_longer_than_they_must(hurried):
    begun, done = Event(), Event()

    def hold():
        with hurried.begin():
            begun.set()
            done.wait(30)

    holder = Thread(target=hold)
    holder.start()
    assert begun.wait(10)
    try:
        with pytest.raises(Unavailable), hurried.begin():
            pass
    finally:
        done.set()
        holder.join()


def test_what_was_committed_is_there_after_closing(url):
    where = key()
    for _ in range(2):
        store = Store(url)
        with store.begin() as tx:
            _, created = tx.resources.put(where, id=resource_id(), spec={"a": 1}, now=T0)
        store.close()
    assert not created


# --- failures -----------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unavailable():
    store = Store("postgresql+psycopg://fedctl@127.0.0.1:1/fedctl")
    with pytest.raises(Unavailable, match="does not answer"), store.read() as tx:
        tx.events.last()
    with pytest.raises(Unavailable), store.begin():
        pass
    store.close()


def test_a_connection_that_is_cut_is_unavailable_and_the_next_one_serves(postgres):
    store = Store(postgres.create("cut", "template"))

    def cut():
        with store.begin() as tx:
            tx.outbox._session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(Unavailable):
        cut()
    with store.begin() as tx:
        assert tx.events.last() >= 0
    store.close()


def test_a_full_disk_is_exhausted(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/fedctl.db")
    store.migrate()

    def bounded(connection, _):
        connection.execute("PRAGMA max_page_count = 1").close()  # no page more than there are

    event.listen(store._writer, "connect", bounded)
    store._writer.dispose()

    def fill():
        with store.begin() as tx:
            tx.resources.put(key(), id=resource_id(), spec={"x": "y" * 10**6}, now=T0)

    with pytest.raises(Exhausted, match="full"):
        fill()
    store.close()


def test_a_file_that_is_no_database_is_damaged(tmp_path):
    path = tmp_path / "fedctl.db"
    path.write_bytes(b"not a database at all" * 100)
    store = Store(f"sqlite:///{path}")
    with pytest.raises(Integrity, match="damaged"):
        store.migrate()
    store.close()


def test_a_record_that_is_there_already_is_a_conflict(store):
    made = resource_id()

    def make():
        with store.begin() as tx:
            tx.resources.put(key(), id=made, spec={}, now=T0)

    make()
    with pytest.raises(Conflict, match="contradicts"):
        make()


def test_other_databases_and_databases_without_a_file_are_refused():
    for url in ("mysql://x/y", "postgresql://x/y", "sqlite://", "sqlite:///:memory:"):
        with pytest.raises(Invalid):
            Store(url)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Invalid, match="nowhere"):
        Store(f"sqlite:///{tmp_path}/nowhere/fedctl.db")


def test_an_empty_database_asks_to_be_migrated(empty_url):
    store = Store(empty_url)
    with pytest.raises(Unavailable), store.read() as tx:
        _ = tx.settings.incarnation
    store.close()


# --- the SQLite file ----------------------------------------------------------------------------


def test_the_file_is_its_owners_alone_and_survives_a_power_cut(tmp_path):
    path = tmp_path / "fedctl.db"
    store = Store(f"sqlite:///{path}")
    store.migrate()
    with store.begin() as tx:
        session = tx.outbox._session
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        files = list(tmp_path.iterdir())
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    store.close()
    with sqlite3.connect(Path(make_url(f"sqlite:///{path}").database)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    plain.close()


# --- listing ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ten_thousand(store):
    """A workspace with ten thousand instances, beside others and beside another tenant's."""
    tenant = TenantName(fresh("big"))
    rows = [
        {"id": resource_id(), "w": "shop" if n % 11 else "other", "n": f"web-{n:05d}", "t": whose}
        for whose in (tenant, TenantName(fresh("also")))
        for n in range(11_000)
    ]
    with store.begin() as tx:
        first, _ = tx.resources.put(
            key("seed", tenant=fresh("t")), id=resource_id(), spec={"zone": "par-os"}, now=T0
        )
        session = tx.outbox._session
        columns = [column["name"] for column in _columns(session)]
        given = {"id": ":id", "workspace": ":w", "name": ":n", "tenant": ":t"}
        values = ", ".join(given.get(name, f'"{name}"') for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        sqlite = session.get_bind().dialect.name == "sqlite"
        session.execute(
            text(f"INSERT INTO resources ({names}) SELECT {values} FROM resources WHERE id = :of"),
            [{**row, "id": _raw(row["id"], sqlite), "of": _raw(first.id, sqlite)} for row in rows],
        )
        session.execute(
            text(
                "INSERT INTO resource_labels (resource, key, value, number)"
                " SELECT id, 'tier', substr(name, 9, 1), NULL FROM resources WHERE tenant = :t"
            ),
            {"t": tenant},
        )
        session.execute(text("ANALYZE"))
    return tenant


def _columns(session):
    from sqlalchemy import inspect

    return inspect(session.connection()).get_columns("resources")


def _raw(value, sqlite):
    return value.hex if sqlite else value


def _plan(session, statement, parameters):
    if session.get_bind().dialect.name == "sqlite":
        rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "\n".join(row[3] for row in rows)
    rows = session.connection().exec_driver_sql(f"EXPLAIN (ANALYZE) {statement}", parameters)
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize(
    ("where", "selector"),
    [({"workspace": "shop"}, ""), ({"workspace": "shop"}, "tier=3"), ({}, "")],
)
def test_a_page_of_ten_thousand_instances_is_read_along_an_index(
    store, ten_thousand, where, selector
):
    # The rows for all cases are written once, which takes a second or two.
    caught = []

    def catch(connection, cursor, statement, parameters, context, many):
        caught.append((statement, parameters))

    scope = {"tenant": ten_thousand} if where else {}
    with store.read() as tx:
        session = tx.outbox._session
        event.listen(session.connection(), "before_cursor_execute", catch)
        page = tx.resources.list(
            Kind.INSTANCE,
            **scope,
            **{name: WorkspaceName(value) for name, value in where.items()},
            labels=parse_selector(selector),
            limit=50,
            after="web-05000",
        )
        event.remove(session.connection(), "before_cursor_execute", catch)
        ((statement, parameters),) = caught  # one question, no matter how many answers
        plan = _plan(session, statement, parameters)
    assert len(page) == 50
    assert [r.key.name for r in page] == sorted(r.key.name for r in page)
    assert "ix_resources" in plan or "uq_resources" in plan, plan
    assert "Sort" not in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    if where and not selector and not on_sqlite(str(store._writer.url)):
        scan = next(line for line in plan.splitlines() if "Index Scan" in line)
        assert "rows=50" in scan, plan  # read as many as were shown
        assert "Rows Removed" not in plan, plan


# --- small repositories -------------------------------------------------------------------------


def test_credentials_are_replaced_and_deleted(store):
    site = resource_id()
    with store.begin() as tx:
        tx.credentials.put(site, b"\0sealed")
        tx.credentials.put(site, b"\1sealed")
        assert tx.credentials.get(site) == b"\1sealed"
        tx.credentials.delete(site)
        tx.credentials.delete(site)
        with pytest.raises(NotFound):
            tx.credentials.get(site)


def test_a_served_image_is_known_by_its_token_until_it_is_revoked(store):
    served = Served(
        token_sha256=fresh("ab"), operation=OperationId(uuid4()), point="p", disk=0, format="raw",
        length=2**40, size=2**40, sha256="s", sha512="t", domain="acme/shop",
        expires_at=datetime(2026, 12, 1, tzinfo=UTC), clients=("192.0.2.0/24", "2001:db8::7/128"),
    )  # fmt: skip
    with store.begin() as tx:
        tx.served.add(served)
        tx.served.add(served)
        other = Served(**{name: getattr(served, name) for name in served.__slots__} | {"disk": 1})
        with pytest.raises(Conflict):
            tx.served.add(other)
        assert tx.served.by_token(served.token_sha256) == served
        assert tx.served.by_token("unknown") is None
        tx.served.revoke(served.operation)
    with store.read() as tx:
        assert tx.served.by_token(served.token_sha256).revoked
