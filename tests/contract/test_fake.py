"""The fake keeps the contract, in both orders of creation, settled and slow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.fake.driver import FakeDriver, FakeInstanceFirstDriver
from drivers.fake.site import FakeSite, fake_site, forget_sites
from tests.contract.suite import NAMED, Break, DriverContract, Fault, Stranger
from tests.contract.suite_changes import Behind

TOKEN = "t0ken-of-the-fake-site"


class _Fakes(DriverContract):
    provider = "fake"
    settle: ClassVar[int] = 1

    @pytest.fixture
    def site(self) -> Iterator[FakeSite]:
        site = fake_site("fake://suite")
        site.token, site.settle = TOKEN, self.settle
        yield site
        forget_sites()

    @pytest.fixture
    def access(self, site: FakeSite) -> SiteAccess:
        return SiteAccess(
            site=SiteName("suite"),
            provider=ProviderKind.FAKE,
            endpoint=f"fake://{site.name}",
            secrets={"token": TOKEN},
        )

    @pytest.fixture
    def broken(self, site: FakeSite) -> Break:
        @contextmanager
        def breaking(fault: Fault) -> Iterator[None]:
            site.refusing = NAMED[fault](f"site {site.name} answered {fault}: look at it")
            site.refusing.__cause__ = ConnectionError(fault)
            yield
            site.refusing = None

        return breaking

    @pytest.fixture
    def behind(self) -> Behind:
        pytest.skip("the fake sends no bytes: it is this process that holds its disks")

    @pytest.fixture
    def stranger(self, site: FakeSite, guest: bytes) -> Stranger:
        ref = site.appear("legacy", guest)

        def state() -> object:
            it = site.strangers.get(ref) or site.instance_of(ref)
            disks = [(v.ref, v.epoch, v.attached_to, v.disk.digest()) for v in it.volumes]
            return it.spec, it.power, it.boots, it.epoch, tuple(it.nics), it.fenced, disks

        return Stranger(ref=ref, state=state)

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return (TOKEN,)


class TestFake(_Fakes):
    @pytest.fixture
    def driver(self, access: SiteAccess) -> Iterator[Driver]:
        driver = FakeDriver(access)
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, access: SiteAccess) -> Driver:
        return FakeDriver(access)


class TestFakeInstanceFirst(_Fakes):
    settle = 3

    @pytest.fixture
    def driver(self, access: SiteAccess) -> Iterator[Driver]:
        driver = FakeInstanceFirstDriver(access)
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, access: SiteAccess) -> Driver:
        return FakeInstanceFirstDriver(access)
