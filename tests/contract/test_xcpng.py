"""The XCP-ng driver keeps the contract, against the simulated pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import pytest

from controlplane.domain.disk import MIB
from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.simulators.faults import STEADY, Garbage, Hang, Status
from drivers.simulators.faults import Fault as Wire
from drivers.simulators.witness import Witness
from drivers.simulators.xcpng import XcpngSim
from drivers.xcpng.driver import XcpngDriver
from tests.contract.behind import BehindStreams, BehindXcpng
from tests.contract.images import pattern
from tests.contract.suite import Break, DriverContract, Fault, Ground, Stranger
from tests.contract.suite_changes import ChangesContract
from tests.contract.suite_storage import SnapshotsContract
from tests.contract.suite_transfer import DiskExportContract, DiskImportContract
from tests.simulators.xcpng.behind import appear, vanish

WIRE: dict[Fault, Wire] = {
    Fault.GARBAGE: Garbage(),
    Fault.SILENT: Hang(),
    **{
        fault: Status(code=int(fault))
        for fault in Fault
        if fault not in {Fault.GARBAGE, Fault.SILENT}
    },
}


def access_to(sim: XcpngSim, **changes) -> SiteAccess:
    known = sim.credentials
    access = SiteAccess(
        site=SiteName("mil-xcp"),
        provider=ProviderKind.XCPNG,
        endpoint=sim.url,
        secrets={"username": known.username, "password": known.password},
        pins={"tls": known.fingerprint},
        timeout=5.0,
    )
    return replace(access, **changes)


class OnPool(Ground):
    provider = "xcpng"
    purpose = "nbd"

    @pytest.fixture(scope="class")
    @classmethod
    def sim(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[XcpngSim]:
        folder = tmp_path_factory.mktemp("xcp")
        witness = Witness(folder / "witness.db")
        place = folder / "site"
        with XcpngSim(place, profile=STEADY, witness=witness, seed=1, purpose=cls.purpose) as sim:
            yield sim
        assert witness.twins() == ()
        witness.close()

    @pytest.fixture
    def driver(self, sim: XcpngSim) -> Iterator[Driver]:
        driver = XcpngDriver(access_to(sim))
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, sim: XcpngSim) -> Iterator[Driver]:
        driver = XcpngDriver(access_to(sim))
        yield driver
        driver.close()

    @pytest.fixture
    def broken(self, sim: XcpngSim, driver: XcpngDriver) -> Break:
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
    def behind(self, sim: XcpngSim) -> BehindXcpng:
        return BehindXcpng(sim)

    @pytest.fixture
    def stranger(self, sim: XcpngSim, guest: bytes) -> Iterator[Stranger]:
        vm = appear(sim, "legacy-1", guest)
        pool = sim.pool

        def state() -> object:
            with pool.lock:
                rows = [pool.row("VM", vm)]
                for vbd in pool.where("VBD", VM=vm):
                    rows += [pool.row("VBD", vbd), pool.row("VDI", pool.row("VBD", vbd)["VDI"])]
                rows += [pool.row("VIF", vif) for vif in pool.where("VIF", VM=vm)]
                # What the guest tells of itself comes when it likes.
                return [
                    {k: v for k, v in deepcopy(r).items() if k != "guest_metrics"} for r in rows
                ]

        yield Stranger(ref=pool.row("VM", vm)["uuid"], state=state)
        vanish(sim, vm)

    @pytest.fixture
    def secrets(self, sim: XcpngSim, driver: XcpngDriver) -> tuple[str, ...]:
        return sim.credentials.password, driver._api.session


class TestXcpng(OnPool, DriverContract):
    """All of it, with disks read over NBD."""


class TestXcpngWithoutNbd(OnPool, SnapshotsContract, DiskExportContract, DiskImportContract):
    """What reads disks, in a pool that has no network for NBD."""

    purpose = ""


class TestXcpngChangesWithoutNbd(OnPool, ChangesContract):
    purpose = ""

    @pytest.fixture
    def guest(self) -> bytes:
        """With room for what is dirtied: more than forty blocks of a VHD."""
        return pattern(42 * 2 * MIB)

    @pytest.fixture
    def behind(self, sim: XcpngSim) -> BehindStreams:
        return BehindStreams(sim)
