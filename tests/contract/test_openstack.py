"""OpenStack keeps the contract, against its simulator over real sockets."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import pytest

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.openstack.driver import OpenStackDriver
from drivers.simulators.faults import STEADY, Garbage, Hang, Status, too_many
from drivers.simulators.openstack import Knobs, OpenStackSim
from tests.contract.images import pattern
from tests.contract.suite import Break, DriverContract, Fault, Stranger
from tests.simulators.openstack.behind import appear

FAULTS = {
    Fault.UNAUTHORISED: Status(code=401),
    Fault.FORBIDDEN: Status(code=403),
    Fault.ABSENT: Status(code=404),
    Fault.IN_THE_WAY: Status(code=409),
    Fault.TOO_MANY: too_many(3),
    Fault.FAILING: Status(code=500),
    Fault.GARBAGE: Garbage(),
    Fault.SILENT: Hang(),
}
TIMEOUT = 1.0


def bootable() -> bytes:
    """The suite's own disk with a sound partition table: its guest boots, and writes nothing."""
    data = bytearray(pattern())
    entry = struct.pack("<B3sB3sII", 0x80, bytes(3), 0x83, bytes(3), 2048, 2048)
    data[446:510] = entry.ljust(64, b"\0")
    return bytes(data)


class TestOpenStack(DriverContract):
    provider = "openstack"

    @pytest.fixture
    def site(self, tmp_path) -> Iterator[OpenStackSim]:
        knobs = Knobs(allow_loopback_pull=True)
        with OpenStackSim(tmp_path / "cloud", name="suite", profile=STEADY, knobs=knobs) as site:
            yield site
            assert site.world.troubles == []

    @pytest.fixture
    def access(self, site: OpenStackSim) -> SiteAccess:
        known = site.credentials
        return SiteAccess(
            site=SiteName("suite"),
            provider=ProviderKind.OPENSTACK,
            endpoint=site.url,
            secrets={
                "application_credential_id": known.application_credential_id,
                "application_credential_secret": known.application_credential_secret,
            },
            timeout=TIMEOUT,
        )

    @pytest.fixture
    def driver(self, access: SiteAccess) -> Iterator[Driver]:
        driver = OpenStackDriver(access)
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, access: SiteAccess) -> Iterator[Driver]:
        driver = OpenStackDriver(replace(access))
        yield driver
        driver.close()

    @pytest.fixture
    def guest(self) -> bytes:
        return bootable()

    @pytest.fixture
    def broken(self, site: OpenStackSim) -> Break:
        @contextmanager
        def breaking(fault: Fault) -> Iterator[None]:
            site.faults.fail(FAULTS[fault], times=1_000_000)
            yield
            site.faults.clear()

        return breaking

    @pytest.fixture
    def stranger(self, site: OpenStackSim, guest: bytes) -> Stranger:
        ref = appear(site, "legacy-1", guest)

        def state() -> object:
            server = site.world.get("server", ref) or {}
            volumes = [site.world.get("volume", held["volume_id"]) for held in server["volumes"]]
            ports = [site.world.get("port", port) for port in server["ports"]]
            changing = {"updated", "updated_at", "revision_number"}
            return [
                {key: value for key, value in deepcopy(record).items() if key not in changing}
                for record in (server, *volumes, *ports)
                if record is not None
            ]

        return Stranger(ref=ref, state=state)

    @pytest.fixture
    def secrets(self, site: OpenStackSim) -> tuple[str, ...]:
        return (site.credentials.application_credential_secret,)
