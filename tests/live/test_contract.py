"""Each driver keeps the contract at a real site, where the environment names one: `-m live`."""

import os
from collections.abc import Iterator
from typing import ClassVar

import pytest

from controlplane.domain.site import ProviderKind
from drivers.contract import Driver
from drivers.registry import connect
from tests.contract.suite import Break, DriverContract, Stranger
from tests.live import guest
from tests.live.places import Place, place, variable

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
# Shorter ones stand as words in any text.
SECRET_LENGTH = 12


class LiveContract(DriverContract):
    """The suite with a real site in the simulator's place."""

    kind: ClassVar[ProviderKind]

    @pytest.fixture
    def place(self) -> Place:
        found = place(self.kind, os.environ)
        if found is None:
            pytest.skip(f"{variable(self.kind, 'endpoint')} names no site")
        self.deadline = found.deadline
        return found

    @pytest.fixture
    def driver(self, place: Place) -> Iterator[Driver]:
        driver = connect(place.access)
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, place: Place) -> Iterator[Driver]:
        driver = connect(place.access)
        yield driver
        driver.close()

    @pytest.fixture
    def network(self, place: Place, driver: Driver) -> str | None:
        networks = [n for n in driver.catalogue().networks if place.network in {"", n.name}]
        return networks[0].ref if networks else None

    @pytest.fixture
    def guest(self) -> bytes:
        return guest.quiet()

    @pytest.fixture
    def stranger(self) -> Stranger:
        pytest.skip("nothing is made at a real site beside its driver")

    @pytest.fixture
    def secrets(self, place: Place) -> tuple[str, ...]:
        long = tuple(s for s in place.access.secrets.values() if len(s) >= SECRET_LENGTH)
        if not long:
            pytest.skip("the secrets are so short that they may stand anywhere")
        return long

    @pytest.fixture
    def broken(self) -> Break:
        pytest.skip("a real site is not broken for a test")


class TestOpennebula(LiveContract):
    provider = kind = ProviderKind.OPENNEBULA


class TestOpenstack(LiveContract):
    provider = kind = ProviderKind.OPENSTACK


class TestOvhcloud(LiveContract):
    provider = kind = ProviderKind.OVHCLOUD


class TestProxmox(LiveContract):
    provider = kind = ProviderKind.PROXMOX


class TestXcpng(LiveContract):
    provider = kind = ProviderKind.XCPNG
