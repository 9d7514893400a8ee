"""The OVHcloud driver keeps the contract, against the simulated pool, with either kind of keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.ovhcloud.driver import OvhcloudDriver
from drivers.simulators.faults import STEADY, Garbage, Hang, Status
from drivers.simulators.faults import Fault as Wire
from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.witness import Witness
from tests.contract.suite import Break, DriverContract, Fault

WIRE: dict[Fault, Wire] = {
    Fault.GARBAGE: Garbage(),
    Fault.SILENT: Hang(),
    **{
        fault: Status(code=int(fault))
        for fault in Fault
        if fault not in {Fault.GARBAGE, Fault.SILENT}
    },
}
API = "GET|POST|PUT|DELETE"


def access_to(sim: OvhSim, **changes) -> SiteAccess:
    known = sim.credentials
    access = SiteAccess(
        site=SiteName("rbx-metal"),
        provider=ProviderKind.OVHCLOUD,
        endpoint=sim.url,
        secrets={
            "application_key": known.application_key,
            "application_secret": known.application_secret,
            "consumer_key": known.consumer_key,
            "ssh_key": known.ssh_private_key,
        },
        options={"ssh_at": sim.ssh_at},
        timeout=5.0,
    )
    return replace(access, **changes)


def by_token(sim: OvhSim) -> SiteAccess:
    known = sim.credentials
    return access_to(
        sim,
        secrets={
            "client_id": known.client_id,
            "client_secret": known.client_secret,
            "ssh_key": known.ssh_private_key,
        },
        options={"ssh_at": sim.ssh_at, "token_url": sim.token_url},
    )


class TestOvhcloud(DriverContract):
    provider = "ovhcloud"

    @pytest.fixture(scope="class")
    @classmethod
    def sim(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvhSim]:
        folder = tmp_path_factory.mktemp("ovh")
        witness = Witness(folder / "witness.db")
        with OvhSim(folder / "site", profile=STEADY, witness=witness, seed=1) as sim:
            yield sim
        assert witness.twins() == ()
        witness.close()

    @pytest.fixture
    def access(self, sim: OvhSim) -> SiteAccess:
        return access_to(sim)

    @pytest.fixture
    def driver(self, access: SiteAccess) -> Iterator[Driver]:
        driver = OvhcloudDriver(access)
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, access: SiteAccess) -> Iterator[Driver]:
        driver = OvhcloudDriver(access)
        yield driver
        driver.close()

    @pytest.fixture
    def broken(self, sim: OvhSim, driver: OvhcloudDriver) -> Break:
        @contextmanager
        def breaking(fault: Fault) -> Iterator[None]:
            # A site that never answers is waited for as long as the access says: here, shortly.
            patience, driver._api.timeout = driver._api.timeout, 0.3
            sim.faults.fail(WIRE[fault], method=API, times=1_000_000)
            try:
                yield
            finally:
                sim.faults.clear()
                driver._api.timeout = patience

        return breaking

    @pytest.fixture
    def secrets(self, access: SiteAccess) -> tuple[str, ...]:
        return tuple(
            value
            for key, value in access.secrets.items()
            if key not in {"application_key", "client_id"}
        )


class TestOvhcloudByToken(TestOvhcloud):
    """A service account by OAuth2: what differs is the door alone."""

    @pytest.fixture
    def access(self, sim: OvhSim) -> SiteAccess:
        return by_token(sim)

    @pytest.fixture(autouse=True)
    def exemptions(self, request: pytest.FixtureRequest) -> None:
        wanted = ("check", "secret", "broken", "create_twice", "comes_out_as_it_went_in")
        if not any(word in request.node.originalname for word in wanted):
            pytest.skip("the same behind another door")
        none = ("unattached", "snapshot", "one_volume", "one_network")
        if any(word in request.node.originalname for word in none):
            pytest.skip("the provider has none")
