"""The ground of the suite: fixtures with defaults, and who is exempt from what."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

import pytest

from controlplane.domain.errors import Conflict, Denied, FedctlError, NotFound, Unavailable
from controlplane.domain.site import Capability
from drivers.contract import Driver, capabilities
from tests.contract.cards import card
from tests.contract.images import Gateway, pattern
from tests.contract.world import World


class Fault(StrEnum):
    """How a provider can be broken: every answer is this status, no JSON/XML, or never comes."""

    UNAUTHORISED = "401"
    FORBIDDEN = "403"
    ABSENT = "404"
    IN_THE_WAY = "409"
    TOO_MANY = "429"
    FAILING = "500"
    GARBAGE = "garbage"
    SILENT = "nothing"


NAMED: dict[Fault, type[FedctlError]] = {
    Fault.UNAUTHORISED: Denied,
    Fault.FORBIDDEN: Denied,
    Fault.ABSENT: NotFound,
    Fault.IN_THE_WAY: Conflict,
    Fault.TOO_MANY: Unavailable,
    Fault.FAILING: Unavailable,
    Fault.GARBAGE: Unavailable,
    Fault.SILENT: Unavailable,
}


class Break(Protocol):
    """Within the block every answer of the provider is `fault`; after it all is well again."""

    def __call__(self, fault: Fault) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A running machine that nobody made through a driver.

    `state` is what its provider knows of it, looked up beside the driver: all that must stay as it
    is, tags and notes included.
    """

    ref: str
    state: Callable[[], object]


class Ground:
    """Subclasses give `provider` (the folder in drivers/) and a `driver` fixture.

    The other fixtures have defaults that a provider may override; `gateway` serves image files to
    sites that pull.
    """

    provider: ClassVar[str]
    deadline: ClassVar[float] = 20.0
    facet: ClassVar[Capability | None] = None

    @pytest.fixture
    def driver(self) -> Iterator[Driver]:
        pytest.fail("give a `driver` fixture: an open driver, closed after the test")

    @pytest.fixture
    def guest(self) -> bytes:
        """Raw bytes of a small disk.

        Override it where console, agent or a graceful stop need a guest that boots.
        """
        return pattern()

    @pytest.fixture
    def network(self, driver: Driver) -> str | None:
        """The ref of a network that nics may be on."""
        networks = driver.catalogue().networks
        return networks[0].ref if networks else None

    @pytest.fixture
    def second(self) -> Driver:
        """Another open connection to the same site."""
        pytest.skip("no `second` fixture is given: another connection is not tried")

    @pytest.fixture
    def stranger(self) -> Stranger:
        pytest.fail("give a `stranger` fixture: a running machine with a disk of `guest` and a nic")

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        """Texts that must never show."""
        return ()

    @pytest.fixture
    def broken(self) -> Break:
        pytest.fail("give a `broken` fixture, or exempt the rule in the card")

    @pytest.fixture
    def world(
        self,
        exemptions: None,
        driver: Driver,
        gateway: Gateway,
        guest: bytes,
        network: str | None,
    ) -> Iterator[World]:
        """Makes, waits, and at the end takes away and sees that nothing is left."""
        world = World(driver, gateway, guest=guest, network=network, deadline=self.deadline)
        yield world
        world.clean()

    @pytest.fixture(autouse=True)
    def exemptions(self, request: pytest.FixtureRequest, driver: Driver) -> None:
        test = request.node.originalname
        if reason := card(self.provider).rules.get(test.removeprefix("test_")):
            pytest.skip(f"exempt: {reason}")
        for owner in type(self).__mro__:
            if test in vars(owner):
                facet = vars(owner).get("facet")
                if facet is not None and facet not in capabilities(driver):
                    pytest.skip(f"{type(driver).__name__} does not declare {facet}")
                return
