"""A simulated OVHcloud account, and its own SDK, unmodified."""

import time
from collections.abc import Iterator
from pathlib import Path

import ovh
import ovh.client
import pytest

from controlplane.domain.disk import DiskFormat
from drivers.simulators.faults import STEADY
from drivers.simulators.ovhcloud import OvhSim
from tests.contract.images import Gateway, Published, pattern


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[OvhSim]:
    with OvhSim(tmp_path / "ovh", profile=STEADY, seed=1, servers=2) as sim:
        yield sim


def eventually(look, *, seconds: float = 10, pause: float = 0.003):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(pause)
    return found


@pytest.fixture
def api(sim: OvhSim, monkeypatch: pytest.MonkeyPatch) -> ovh.Client:
    """The SDK as its documentation has it."""
    monkeypatch.setitem(ovh.client.ENDPOINTS, "sim", sim.url)
    known = sim.credentials
    return ovh.Client(
        endpoint="sim",
        application_key=known.application_key,
        application_secret=known.application_secret,
        consumer_key=known.consumer_key,
        timeout=10,
    )


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture
def published(gateway: Gateway) -> Published:
    return gateway.publish(pattern(), DiskFormat.RAW)


def ended(api: ovh.Client, path: str, number: int) -> dict | None:
    """How a task ended: as it is told, or None once it was purged."""

    def look():
        try:
            told = api.get(f"{path}/task/{number}")
        except ovh.exceptions.ResourceNotFoundError:
            return (None,)
        return (told,) if told["status"] not in {"init", "todo", "doing"} else None

    return eventually(look)[0]
