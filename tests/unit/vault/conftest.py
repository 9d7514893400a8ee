"""The world of each vault test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from controlplane.vault.s3 import S3Objects
from controlplane.vault.vault import Vault
from tests.unit.vault.faulty import Way
from tests.unit.vault.s3server import place, serving
from tests.unit.vault.support import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store")
    yield world
    world.close()


@pytest.fixture
def vault(world: World) -> Vault:
    return world.vault()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server."""
    with serving(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def bucket(server: str) -> str:
    name = f"vault-{uuid4().hex[:12]}"
    assert httpx.put(f"{server}/{name}").is_success
    return name


@pytest.fixture
def opened(bucket: str) -> Callable[..., S3Objects]:
    """Opens the bucket through an address; what else is given goes into the `S3Place`."""
    return lambda url, **other: S3Objects(place(url, bucket, **other))


@pytest.fixture
def way(server: str) -> Iterator[Way]:
    """The way to the server, on which a test lets things go wrong."""
    way = Way(server)
    way.open()
    yield way
    way.close()
