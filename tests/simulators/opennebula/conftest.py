"""A simulated OpenNebula site, and two clients that are none of ours: pyone and xmlrpc.client."""

import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path

import pyone
import pytest

from drivers.simulators.faults import STEADY
from drivers.simulators.opennebula import OpenNebulaSim
from tests.contract.images import Gateway, Published, pattern


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[OpenNebulaSim]:
    with OpenNebulaSim(tmp_path / "one", profile=STEADY, seed=1) as sim:
        yield sim


def session_of(sim: OpenNebulaSim) -> str:
    return f"{sim.credentials.user}:{sim.credentials.token}"


class Api:
    """pyone, unmodified."""

    def __init__(self, sim: OpenNebulaSim) -> None:
        self.sim = sim
        self.one = pyone.OneServer(sim.url, session=session_of(sim))

    def image(self, published: Published, **more: str) -> int:
        """The id of an image that is no longer LOCKED."""
        name = more.pop("NAME", f"i{time.monotonic_ns()}")
        wish = {"NAME": name, "PATH": published.source.url, "TYPE": "OS", **more}
        number = self.one.image.allocate({"TEMPLATE": wish}, 1)
        eventually(lambda: self.one.image.info(number).STATE != 4)
        return number

    def volume(self, size: int = 4, name: str = "") -> int:
        wish = {
            "NAME": name or f"v{time.monotonic_ns()}",
            "TYPE": "DATABLOCK",
            "SIZE": str(size),
            "PERSISTENT": "YES",
        }
        number = self.one.image.allocate({"TEMPLATE": wish}, 1)
        eventually(lambda: self.one.image.info(number).STATE == 1)
        return number

    def vm(self, *volumes: int, hold: bool = True, **more) -> int:
        wish = {"NAME": "vm", "CPU": "1", "MEMORY": "128", **more}
        if volumes:
            wish["DISK"] = [{"IMAGE_ID": str(number)} for number in volumes]
        return self.one.vm.allocate({"TEMPLATE": wish}, hold)

    def state(self, number: int) -> tuple[int, int]:
        vm = self.one.vm.info(number)
        return vm.STATE, vm.LCM_STATE

    def reaches(self, number: int, *state: int) -> None:
        eventually(lambda: self.state(number) == state)


def eventually(look, *, seconds: float = 10, pause: float = 0.003):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(pause)
    return found


@pytest.fixture
def api(sim: OpenNebulaSim) -> Api:
    return Api(sim)


@pytest.fixture
def raw(sim: OpenNebulaSim) -> Iterator[xmlrpc.client.ServerProxy]:
    """The arrays as they are on the wire."""
    with xmlrpc.client.ServerProxy(sim.url) as proxy:
        yield proxy.one


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture
def published(gateway: Gateway) -> Published:
    from controlplane.domain.disk import DiskFormat

    return gateway.publish(pattern(), DiskFormat.RAW)
