"""The migrations make the tables that the repositories use."""

from datetime import timedelta

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from controlplane.domain.errors import Conflict, Unavailable
from controlplane.store import migrations
from controlplane.store.engine import NEWEST, Store
from controlplane.store.schema import METADATA
from tests.store.nouns import at_once


def _plain(index):
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return {**index, "dialect_options": options}


def _shape(connection):
    """Everything that can be read of the tables, without the order it comes in."""
    look = inspect(connection)
    return {
        table: {
            "columns": {c["name"]: (str(c["type"]), getattr(c["type"], "collation", None), c["nullable"]) for c in look.get_columns(table)},
            "key": look.get_pk_constraint(table),
            "indexes": sorted(str(sorted(_plain(index).items())) for index in look.get_indexes(table)),
            "foreign": look.get_foreign_keys(table),
        }
        for table in METADATA.tables
    }  # fmt: skip


def test_the_migrations_and_the_rows_say_the_same(empty_url):
    store = Store(empty_url)
    store.migrate()
    store.close()
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        migrated = _shape(connection)
        assert migrated.keys() == set(inspect(connection).get_table_names()) - {"alembic_version"}
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
        assert _shape(connection) == migrated
    engine.dispose()


def test_migrating_again_changes_nothing(empty_url):
    store = Store(empty_url)
    store.migrate()
    with store.read() as tx:
        first = tx.settings.incarnation
    store.migrate()
    with store.read() as tx:
        assert tx.settings.incarnation == first
    store.close()


def test_two_processes_may_migrate_at_once(empty_url):
    stores = [Store(empty_url) for _ in range(3)]
    assert at_once(*(store.migrate for store in stores)) == [None, None, None]
    incarnations = set()
    for store in stores:
        with store.read() as tx:
            incarnations.add(tx.settings.incarnation)
        store.close()
    assert len(incarnations) == 1


def test_the_history_is_one_line_that_can_be_walked_back(empty_url):
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        config = migrations.config_for(connection)
        assert len(ScriptDirectory.from_config(config).get_heads()) == 1
        migrations.upgrade(connection)
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    engine.dispose()


def test_a_process_waits_for_the_schema_of_its_version(empty_url):
    store = Store(empty_url)
    with pytest.raises(Unavailable, match="schema none"):
        store.await_schema(timedelta(seconds=0.1))
    assert at_once(store.migrate, lambda: store.await_schema(timedelta(seconds=20))) == [None, None]
    with store._writer.begin() as connection:
        assert ScriptDirectory.from_config(migrations.config_for(connection)).get_heads() == [
            NEWEST
        ]
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match="install the version"):
        store.await_schema(timedelta(seconds=0.1))
    store.close()
