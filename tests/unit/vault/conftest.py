"""The world of each vault test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.vault.vault import Vault
from tests.unit.vault.support import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store")
    yield world
    world.close()


@pytest.fixture
def vault(world: World) -> Vault:
    return world.vault()
