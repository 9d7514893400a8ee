"""The OpenNebula driver keeps the contract, against the simulated site, with both ways of disks."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace

import pytest

from controlplane.domain.instance import Power
from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.opennebula.driver import OpenNebulaDriver
from drivers.simulators.faults import STEADY, Garbage, Hang, Status
from drivers.simulators.faults import Fault as Wire
from drivers.simulators.opennebula import OpenNebulaSim
from drivers.simulators.witness import Witness
from tests.contract.behind import BehindOpenNebula
from tests.contract.images import Gateway
from tests.contract.suite import Break, DriverContract, Fault, Stranger
from tests.contract.suite_storage import SnapshotsContract
from tests.contract.suite_transfer import DiskExportContract
from tests.contract.world import World
from tests.simulators.opennebula.behind import appear, images_of, vanish

WIRE: dict[Fault, Wire] = {
    Fault.GARBAGE: Garbage(),
    Fault.SILENT: Hang(),
    **{
        fault: Status(code=int(fault))
        for fault in Fault
        if fault not in {Fault.GARBAGE, Fault.SILENT}
    },
}


def access_to(sim: OpenNebulaSim, **changes) -> SiteAccess:
    host, port = sim.ssh_address
    known = sim.credentials
    access = SiteAccess(
        site=SiteName("bru-one"),
        provider=ProviderKind.OPENNEBULA,
        endpoint=sim.url,
        secrets={
            "username": known.user,
            "token": known.token,
            "ssh_key": known.ssh_private_key,
        },
        options={"ssh_host": host, "ssh_port": str(port)},
        pins={"ssh": known.ssh_host_key},
        timeout=5.0,
    )
    return replace(access, **changes)


class TestOpenNebula(DriverContract):
    provider = "opennebula"
    tm = "local"

    @pytest.fixture(scope="class")
    @classmethod
    def sim(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenNebulaSim]:
        folder = tmp_path_factory.mktemp("one")
        witness = Witness(folder / "witness.db")
        place = folder / "site"
        with OpenNebulaSim(place, profile=STEADY, witness=witness, seed=1, tm=cls.tm) as sim:
            yield sim
        assert witness.twins() == ()
        witness.close()

    @pytest.fixture
    def driver(self, sim: OpenNebulaSim) -> Iterator[Driver]:
        driver = OpenNebulaDriver(access_to(sim))
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, sim: OpenNebulaSim) -> Iterator[Driver]:
        driver = OpenNebulaDriver(access_to(sim))
        yield driver
        driver.close()

    @pytest.fixture
    def broken(self, sim: OpenNebulaSim, driver: OpenNebulaDriver) -> Break:
        @contextmanager
        def breaking(fault: Fault) -> Iterator[None]:
            # A site that never answers is waited for as long as the access says: here, shortly.
            patience, driver._api.timeout = driver._api.timeout, 0.3
            sim.faults.fail(WIRE[fault], method="POST", times=1_000_000)
            try:
                yield
            finally:
                sim.faults.clear()
                driver._api.timeout = patience

        return breaking

    @pytest.fixture
    def behind(self, sim: OpenNebulaSim) -> BehindOpenNebula:
        return BehindOpenNebula(sim)

    @pytest.fixture
    def stranger(self, sim: OpenNebulaSim, guest: bytes) -> Iterator[Stranger]:
        number = appear(sim, "legacy-1", guest)
        vm, held = sim.oned.vms[number], [sim.oned.images[n] for n in images_of(sim, number)]

        def state() -> object:
            return deepcopy([asdict(each) for each in (vm, *held)])

        yield Stranger(ref=str(number), state=state)
        vanish(sim, number)

    @pytest.fixture
    def secrets(self, sim: OpenNebulaSim) -> tuple[str, ...]:
        return sim.credentials.token, sim.credentials.ssh_private_key


class TestOpenNebulaOnSharedStorage(TestOpenNebula):
    """Persistent disks are links into the image datastore."""

    tm = "shared"


class _Started(World):
    """Instances here ran once before a test has them."""

    def instance(self, spec=None, epoch=1):
        owner = super().instance(spec, epoch)
        self.power(owner, Power.ON)
        self.power(owner, Power.OFF)
        return owner


class TestOpenNebulaThatRan(TestOpenNebula):
    """What is exempt of VMs that never ran holds of those that did; so does all else of snapshots
    and exports."""

    @pytest.fixture
    def world(
        self, driver: Driver, gateway: Gateway, guest: bytes, network: str | None
    ) -> Iterator[World]:
        world = _Started(driver, gateway, guest=guest, network=network, deadline=self.deadline)
        yield world
        world.clean()

    @pytest.fixture(autouse=True)
    def exemptions(self, request: pytest.FixtureRequest) -> None:
        test = request.node.originalname
        if not any(test in vars(facet) for facet in (SnapshotsContract, DiskExportContract)):
            pytest.skip("tried with VMs that never ran")
