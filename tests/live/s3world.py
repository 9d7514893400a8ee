"""The world of tests at a real S3 server: each has a bucket, or a prefix, of its own."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from controlplane.vault.s3 import S3Objects
from tests.live.s3servers import Given, given
from tests.unit.vault.faulty import Way


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    with given(tmp_path_factory.mktemp("s3")) as served:
        yield served


@pytest.fixture
def site(served: Given) -> Given:
    return replace(served, prefix=f"live/{uuid4().hex}")


@pytest.fixture
def server(site: Given) -> str:
    return site.url


@pytest.fixture
def bucket(site: Given) -> str:
    return site.new_bucket()


@pytest.fixture
def opened(site: Given, bucket: str) -> Callable[..., S3Objects]:
    """Opens the bucket through an address; what else is given goes into the `S3Place`."""
    return lambda url, **other: S3Objects(site.place(bucket, url, **other))


@pytest.fixture
def way(site: Given) -> Iterator[Way]:
    """The way to the server, on which a test lets things go wrong."""
    if site.url.startswith("https"):
        pytest.skip("what goes wrong on the way is tried over plain HTTP")
    way = Way(site.url)
    way.open()
    yield way
    way.close()
