"""The loopback server that hands image files to sites that pull."""

from collections.abc import Iterator

import pytest

from tests.contract.images import Gateway


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()
