"""Whatever an answer holds, a driver says one of our errors, and the same call again makes it good.

Each call of a walk through the contract is first made with one of the provider's answers changed,
some times, and then as it should be: what the changed ones may have done is then found and used, and
at the end nothing is left at the site. FEDCTL_FUZZ is how many seeds are tried (1).
"""

import os
import random
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from controlplane.domain.disk import KIB, DiskSource
from controlplane.domain.errors import Busy, FedctlError, Unavailable
from controlplane.domain.instance import Power
from controlplane.domain.network import NicSpec
from controlplane.domain.site import Capability
from drivers import wire
from drivers.contract import FACETS, Driver, capabilities
from drivers.xcpng.client import XapiClient
from tests.contract.images import Gateway
from tests.contract.mutations import GARBAGE, Mutation, amiss
from tests.contract.sites import SITES, Site
from tests.contract.world import World

SEEDS = range(int(os.environ.get("FEDCTL_FUZZ", "1")))
TRIES = 3


class Meddler:
    """Changes one answer of the next call, or takes it away when it has been given."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.wrong: list[str] = []
        self.tried = 0
        self._left = -1
        self._how: Mutation | None = None
        self.fired = False

    def arm(self) -> None:
        self._left, self.fired = self.chance.choice([0, 0, 0, 1, 1, 2, 3, 5]), False
        self._how = self.chance.choice([amiss, amiss, amiss, *GARBAGE, None])

    def disarm(self) -> None:
        self._left = -1

    def met(self, body: bytes) -> bytes:
        """The answer as it arrives; ConnectionError when it was lost."""
        if self._left < 0:
            return body
        self._left -= 1
        if self._left >= 0:
            return body
        self.fired = True
        if self._how is None:
            raise ConnectionResetError("the answer was lost")
        return self._how(self.chance, body)

    def attempt(self, name: str, call: Any) -> None:
        """Make a call with one answer changed; what may not come of it is written down."""
        self.arm()
        try:
            answer = call()
            if hasattr(answer, "close"):
                answer.close()
        except FedctlError as e:
            self._judge(name, e)
        except Exception as e:  # noqa: BLE001  # any other is what must not be
            frame = traceback.extract_tb(e.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            self.wrong.append(f"{name}: {self._about}: {type(e).__name__}: {e!s:.80} at {place}")
        finally:
            self.tried += self.fired
            self.disarm()

    def _judge(self, name: str, error: FedctlError) -> None:
        if not str(error).strip():
            self.wrong.append(f"{name}: {self._about}: no message")
        if self.fired and self._how is not amiss and not isinstance(error, Unavailable | Busy):
            self.wrong.append(f"{name}: {self._about}: {type(error).__name__}: {error}")

    @property
    def _about(self) -> str:
        return getattr(self._how, "__name__", "lost")


def meddled(cls: type[Driver], meddler: Meddler) -> type[Driver]:
    """The driver, whose every call of the contract is made with changed answers before."""
    facets = [Driver, *(FACETS[each] for each in capabilities(cls))]
    names = {name for facet in facets for name in facet.__abstractmethods__} - {"close"}

    def tried(name: str) -> Any:
        def method(self: Any, *given: Any, **named: Any) -> Any:
            given = tuple(list(each) if isinstance(each, Iterator) else each for each in given)

            def call() -> Any:
                answer = getattr(cls, name)(self, *given, **named)
                return iter(list(answer)) if isinstance(answer, Iterator) else answer

            for _ in range(TRIES):
                meddler.attempt(name, call)
            return call()

        return method

    return type(f"Meddled{cls.__name__}", (cls,), {name: tried(name) for name in names})


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with SITES[request.param](tmp_path) as site:
        yield site


@pytest.fixture
def meddler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Meddler:
    meddler = Meddler(request.param)
    plain, sent = wire._Adapter.send, XapiClient._sent

    def send(self: Any, *given: Any, **named: Any) -> requests.Response:
        answer = plain(self, *given, **named)
        if named.get("stream"):
            return answer
        try:
            answer._content = meddler.met(answer.content)
        except ConnectionResetError as e:
            raise requests.ConnectionError(e) from e
        return answer

    monkeypatch.setattr(wire._Adapter, "send", send)
    monkeypatch.setattr(XapiClient, "_sent", lambda self, body: meddler.met(sent(self, body)))
    return meddler


@pytest.mark.timeout(600)
@pytest.mark.parametrize("meddler", SEEDS, indirect=True)
def test_wrong_answers_are_named_and_leave_nothing(site: Site, meddler: Meddler, gateway: Gateway):
    driver: Any = meddled(site.driver, meddler)(replace(site.access, timeout=10.0))
    networks = site.driver(site.access)
    network = next((n.ref for n in networks.catalogue().networks), None)
    networks.close()
    world = World(driver, gateway, guest=site.guest, network=network, deadline=30)
    try:
        walk(world, driver)
    finally:
        world.clean()
        driver.close()
    assert meddler.tried > 40
    assert sorted(set(meddler.wrong)) == []


def walk(world: World, driver: Any) -> None:
    """Through most of what the contract has, as a move does it."""
    able = capabilities(driver)
    driver.check()
    nics = () if world.network is None else (NicSpec(network=world.network),)
    owner = world.instance(world.spec(image=world.image(), nics=nics))
    for each in ("isolate_nics", "connect_nics"):
        world.do(lambda each=each: getattr(driver, each)(owner))
    source = world.first_disk(owner)
    export = world.prepare(DiskSource(volume=source.volume, instance=source.instance))
    reader = world.do(lambda: driver.open_export(export))
    reader.read(0, 64 * KIB)
    reader.close()
    world.release(export)
    if Capability.DISK_IMPORT in able:
        writer = world.do(lambda: driver.open_import(owner, source.volume))
        writer.write(0, bytes(4096))
        writer.finish()
        writer.close()
        world.do(lambda: driver.close_import(owner, source.volume))
    world.do(lambda: driver.fence(owner))
    driver.verify_fence(owner)
    world.do(lambda: driver.unfence(owner))
    world.power(owner, Power.ON)
    if Capability.QUOTA in able:
        driver.quota()
    if Capability.CONSOLE_LOG in able:
        driver.console_log(owner)
    list(driver.owned())
