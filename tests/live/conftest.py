"""What tests at real sites share: the address that sites fetch images from."""

import os
from collections.abc import Iterator

import pytest

from tests.contract.images import Gateway
from tests.live.places import gateway_address


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway(gateway_address(os.environ))
    yield gateway
    gateway.close()
