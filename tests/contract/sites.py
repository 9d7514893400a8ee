"""A simulated site of each provider, and where its wires end: for suites over all drivers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.opennebula.driver import OpenNebulaDriver
from drivers.openstack.driver import OpenStackDriver
from drivers.ovhcloud.driver import OvhcloudDriver
from drivers.proxmox.driver import ProxmoxDriver
from drivers.simulators.faults import STEADY
from drivers.simulators.opennebula import OpenNebulaSim
from drivers.simulators.openstack import Knobs, OpenStackSim
from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.proxmox import ProxmoxSim
from drivers.simulators.xcpng import XcpngSim
from drivers.xcpng.driver import XcpngDriver
from tests.contract.test_opennebula import access_to as to_opennebula
from tests.contract.test_openstack import bootable
from tests.contract.test_ovhcloud import access_to as to_ovhcloud
from tests.contract.test_proxmox import access_to as to_proxmox
from tests.contract.test_xcpng import access_to as to_xcpng


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running simulator; `wires` are the ports of its API first, then of ssh or NBD."""

    sim: Any
    driver: type[Driver]
    access: SiteAccess
    wires: tuple[int, ...]
    guest: bytes

    def through(self, ports: dict[int, int]) -> SiteAccess:
        """The same access by other ports, wherever the access itself names one."""

        def moved(text: str) -> str:
            for old, new in ports.items():
                text = text.replace(f":{old}", f":{new}")
            return text

        options = {key: moved(text) for key, text in self.access.options.items()}
        if "ssh_port" in options:
            options["ssh_port"] = str(ports[int(options["ssh_port"])])
        return replace(self.access, endpoint=moved(self.access.endpoint), options=options)


@contextmanager
def _proxmox(folder: Path) -> Iterator[Site]:
    with ProxmoxSim(folder / "pve", profile=STEADY, seed=1) as sim:
        access = to_proxmox(sim)
        wires = (_port(access.endpoint), sim.ssh_address[1])
        yield Site(sim=sim, driver=ProxmoxDriver, access=access, wires=wires, guest=bootable())


@contextmanager
def _openstack(folder: Path) -> Iterator[Site]:
    knobs = Knobs(allow_loopback_pull=True)
    with OpenStackSim(folder / "cloud", name="suite", profile=STEADY, knobs=knobs) as sim:
        known = sim.credentials
        access = SiteAccess(
            site=SiteName("suite"),
            provider=ProviderKind.OPENSTACK,
            endpoint=sim.url,
            secrets={
                "application_credential_id": known.application_credential_id,
                "application_credential_secret": known.application_credential_secret,
            },
            timeout=5.0,
        )
        wires = (_port(sim.url),)
        yield Site(sim=sim, driver=OpenStackDriver, access=access, wires=wires, guest=bootable())


@contextmanager
def _opennebula(folder: Path) -> Iterator[Site]:
    with OpenNebulaSim(folder / "one", profile=STEADY, seed=1) as sim:
        access = to_opennebula(sim)
        wires = (_port(access.endpoint), sim.ssh_address[1])
        yield Site(sim=sim, driver=OpenNebulaDriver, access=access, wires=wires, guest=bootable())


@contextmanager
def _xcpng(folder: Path) -> Iterator[Site]:
    with XcpngSim(folder / "xcp", profile=STEADY, seed=1) as sim:
        access = to_xcpng(sim)
        wires = (_port(access.endpoint), sim.nbd_port)
        yield Site(sim=sim, driver=XcpngDriver, access=access, wires=wires, guest=bootable())


@contextmanager
def _ovhcloud(folder: Path) -> Iterator[Site]:
    with OvhSim(folder / "ovh", profile=STEADY, seed=1) as sim:
        access = to_ovhcloud(sim)
        shells = (int(each.rpartition(":")[2]) for each in sim.ssh_at.split(","))
        wires = (_port(access.endpoint), *shells)
        yield Site(sim=sim, driver=OvhcloudDriver, access=access, wires=wires, guest=bootable())


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


SITES: dict[ProviderKind, Callable[[Path], Any]] = {
    ProviderKind.OPENNEBULA: _opennebula,
    ProviderKind.OPENSTACK: _openstack,
    ProviderKind.OVHCLOUD: _ovhcloud,
    ProviderKind.PROXMOX: _proxmox,
    ProviderKind.XCPNG: _xcpng,
}
