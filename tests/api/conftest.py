"""One served API for the tests of a module; each test takes names of its own."""

from collections.abc import Iterator

import pytest

from tests.api.world import World, world


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("api")) as made:
        yield made
