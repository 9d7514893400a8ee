"""OpenStack keeps the contract, against its simulator over real sockets."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.openstack.driver import OpenStackDriver
from drivers.simulators.faults import STEADY, Garbage, Hang, Status, too_many
from drivers.simulators.openstack import Knobs, OpenStackSim
from tests.contract.images import pattern
from tests.contract.suite import Break, DriverContract, Fault

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
    def secrets(self, site: OpenStackSim) -> tuple[str, ...]:
        return (site.credentials.application_credential_secret,)


@pytest.mark.live
@pytest.mark.timeout(900)
class TestOpenStackLive(DriverContract):
    """The same suite on a real cloud: OPENSTACK_LAB names its Keystone, OPENSTACK_LAB_DEMO an
    account as user:password:project, OPENSTACK_LAB_GUEST a raw disk whose guest prints on the
    console and writes nothing (optional)."""

    provider = "openstack"
    deadline = 240.0

    @pytest.fixture
    def driver(self) -> Iterator[Driver]:
        if "OPENSTACK_LAB" not in os.environ:
            pytest.skip("OPENSTACK_LAB names no cloud")
        account = os.environ.get("OPENSTACK_LAB_DEMO", "demo:demo:demo").split(":")
        access = SiteAccess(
            site=SiteName("lab"),
            provider=ProviderKind.OPENSTACK,
            endpoint=os.environ["OPENSTACK_LAB"],
            secrets={"username": account[0], "password": account[1]},
            options={"project": account[2]},
            timeout=60.0,
        )
        driver = OpenStackDriver(access)
        yield driver
        driver.close()

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        password = os.environ.get("OPENSTACK_LAB_DEMO", "demo:demo:demo").split(":")[1]
        if len(password) < 12:
            pytest.skip("the account's password is a word that may stand anywhere")
        return (password,)

    @pytest.fixture
    def guest(self) -> bytes:
        path = os.environ.get("OPENSTACK_LAB_GUEST")
        return Path(path).read_bytes() if path else bootable()

    @pytest.fixture
    def broken(self) -> Break:
        pytest.skip("a real cloud is not broken for a test")
