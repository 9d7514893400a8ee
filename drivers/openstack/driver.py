"""OpenStack as a provider: every facet that a project may use without its operator's help."""

from controlplane.domain.disk import GIB, DiskFormat
from controlplane.domain.fence import FenceLevel
from controlplane.domain.instance import Firmware
from controlplane.domain.site import CreateOrder, Limits
from drivers.openstack.adoption import AdoptedServers
from drivers.openstack.exports import Exports
from drivers.openstack.fences import FencedServers
from drivers.openstack.images import Images
from drivers.openstack.networks import OwnNetworks
from drivers.readable import readable


@readable
class OpenStackDriver(AdoptedServers, FencedServers, Exports, Images, OwnNetworks):
    """One open connection to a project of an OpenStack site; the card names its settings."""

    limits = Limits(
        name_length=255,
        disk_step=GIB,
        disk_max=64 * 1024 * GIB,
        disks_max=20,
        nics_max=16,
        formats=frozenset({DiskFormat.RAW, DiskFormat.QCOW2}),
        firmware=frozenset({Firmware.BIOS, Firmware.UEFI}),
        create_order=CreateOrder.DISKS_FIRST,
        settle_seconds=10.0,
        fence_level=FenceLevel.CANNOT_START,
    )
