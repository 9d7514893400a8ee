"""The Proxmox VE driver keeps the contract, against the simulated site."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.proxmox.driver import ProxmoxDriver
from drivers.simulators.faults import STEADY, Garbage, Hang, Status
from drivers.simulators.faults import Fault as Wire
from drivers.simulators.proxmox import ProxmoxSim, config
from drivers.simulators.witness import Witness
from tests.contract.behind import BehindProxmox
from tests.contract.suite import Break, DriverContract, Fault, Stranger
from tests.simulators.proxmox.behind import appear
from tests.simulators.proxmox.schema import Call, faults_in, schema, watch

CALLS: list[Call] = []
WIRE: dict[Fault, Wire] = {
    Fault.GARBAGE: Garbage(),
    Fault.SILENT: Hang(),
    **{
        fault: Status(code=int(fault))
        for fault in Fault
        if fault not in {Fault.GARBAGE, Fault.SILENT}
    },
}


def access_to(sim: ProxmoxSim, **changes) -> SiteAccess:
    host, port = sim.ssh_address
    known = sim.credentials
    access = SiteAccess(
        site=SiteName("par-pve"),
        provider=ProviderKind.PROXMOX,
        endpoint=sim.url,
        secrets={
            "token_id": known.token_id,
            "token_secret": known.token_secret,
            "ssh_key": known.ssh_private_key,
        },
        options={"ssh_host": host, "ssh_port": str(port)},
        pins={"tls": known.fingerprint, "ssh": known.ssh_host_key},
        timeout=5.0,
    )
    return replace(access, **changes)


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxmoxSim]:
    folder = tmp_path_factory.mktemp("pve")
    witness = Witness(folder / "witness.db")
    with ProxmoxSim(folder / "site", profile=STEADY, witness=witness, seed=1) as sim:
        watch(sim, CALLS)
        yield sim
    assert witness.twins() == ()
    witness.close()


class TestProxmox(DriverContract):
    provider = "proxmox"

    @pytest.fixture
    def driver(self, sim: ProxmoxSim) -> Iterator[Driver]:
        driver = ProxmoxDriver(access_to(sim))
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, sim: ProxmoxSim) -> Iterator[Driver]:
        driver = ProxmoxDriver(access_to(sim))
        yield driver
        driver.close()

    @pytest.fixture
    def broken(self, sim: ProxmoxSim, driver: ProxmoxDriver) -> Break:
        @contextmanager
        def breaking(fault: Fault) -> Iterator[None]:
            # A site that never answers is waited for as long as the access says: here, shortly.
            session = driver._api._session
            patience, session.auth.timeout = session.auth.timeout, 0.3
            sim.faults.fail(WIRE[fault], times=1000)
            try:
                yield
            finally:
                sim.faults.clear()
                session.auth.timeout = patience

        return breaking

    @pytest.fixture
    def behind(self, sim: ProxmoxSim) -> BehindProxmox:
        return BehindProxmox(sim)

    @pytest.fixture
    def stranger(self, sim: ProxmoxSim, guest: bytes) -> Iterator[Stranger]:
        vmid = appear(sim, "legacy-1", guest)
        node = sim.node

        def state() -> object:
            vm = node.vms[vmid]
            return dict(vm.config), dict(vm.pending), vm.running, vm.started

        yield Stranger(ref=str(vmid), state=state)
        if (vm := node.vms.get(vmid)) is not None:
            node.power_off(vm)
            config.free_all(node, vm)
            del node.vms[vmid]

    @pytest.fixture
    def secrets(self, sim: ProxmoxSim) -> tuple[str, ...]:
        return sim.credentials.token_secret, sim.credentials.ssh_private_key


def test_every_call_of_the_driver_is_in_the_providers_schema(sim: ProxmoxSim):
    """Stands last: what the tests before it asked, and what the simulator answered, is judged."""
    assert faults_in(schema(), CALLS) == []
