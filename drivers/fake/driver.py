"""A provider that lives in memory and keeps the contract, in both orders of creation."""

from dataclasses import replace

from controlplane.domain.disk import GIB, MIB, DiskFormat
from controlplane.domain.fence import FenceLevel
from controlplane.domain.instance import Firmware
from controlplane.domain.site import Changes, CreateOrder, Limits, SiteAccess
from drivers.contract import Driver
from drivers.fake.adoption import FakeAdoption
from drivers.fake.compute import FakeInstances
from drivers.fake.images import FakeImages
from drivers.fake.storage import FakeSnapshots, FakeTransfers, FakeVolumes

LIMITS = Limits(
    name_length=128,
    disk_step=MIB,
    disk_max=16 * 1024 * GIB,
    disks_max=8,
    nics_max=8,
    formats=frozenset({DiskFormat.RAW, DiskFormat.QCOW2, DiskFormat.QCOW2_ZSTD}),
    firmware=frozenset(Firmware),
    create_order=CreateOrder.DISKS_FIRST,
    settle_seconds=0.0,
    fence_level=FenceLevel.CANNOT_START,
    changes=Changes.TOLD,
)


class FakeInstanceFirstDriver(
    FakeInstances, FakeImages, FakeSnapshots, FakeTransfers, FakeAdoption
):
    """Makes volumes with the instance, and guards a create by an anchor."""

    limits = replace(LIMITS, create_order=CreateOrder.INSTANCE_FIRST)


class FakeDriver(
    FakeInstances, FakeVolumes, FakeImages, FakeSnapshots, FakeTransfers, FakeAdoption
):
    """Makes an instance around volumes that were made before."""

    limits = LIMITS


def open_fake(access: SiteAccess) -> Driver:
    """The driver that the site's option `order` names; disks first unless it says otherwise.

    With the option `changes` it tells that much of them.
    """
    first = access.options.get("order") == CreateOrder.INSTANCE_FIRST
    driver = FakeInstanceFirstDriver(access) if first else FakeDriver(access)
    if told := access.options.get("changes"):
        driver.limits = replace(driver.limits, changes=Changes(told))
    return driver
