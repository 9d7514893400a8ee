"""What an instance keeps of its size, disks and nics where it comes to."""

from collections.abc import Iterable

from controlplane.domain.disk import DiskBus
from controlplane.domain.finding import Finding
from controlplane.domain.ids import SiteName
from controlplane.domain.instance import DiskSeen, Size
from controlplane.domain.network import NetworkSeen, NicSeen, Span
from controlplane.domain.plan import DiskPlan, NicPlan
from controlplane.domain.site import Limits, SiteFacts
from controlplane.planning.findings import blocker, told, warning
from controlplane.planning.sizing import gib, smallest_sku

# A guest finds its disks again where they keep their kind of name (sda, vda).
_NEAREST = {
    DiskBus.VIRTIO: (DiskBus.SCSI, DiskBus.SATA, DiskBus.IDE),
    DiskBus.SCSI: (DiskBus.SATA, DiskBus.VIRTIO, DiskBus.IDE),
    DiskBus.SATA: (DiskBus.SCSI, DiskBus.IDE, DiskBus.VIRTIO),
    DiskBus.IDE: (DiskBus.SATA, DiskBus.SCSI, DiskBus.VIRTIO),
}


def needed(seen: Size, wished: Size | None, source: SiteFacts) -> Size:
    """What it must have there: what it has, or what was wished where the source had only more.

    `wished` is the size that it was made for; None where nobody said it.
    """
    given = smallest_sku(source, wished) if wished else None
    return wished if wished and given and given.size == seen else seen


def bus_on(bus: DiskBus, limits: Limits) -> DiskBus:
    """The bus that a disk gets: its own, or the one most like it."""
    return next((b for b in (bus, *_NEAREST[bus]) if b in limits.buses), bus)


def unlike(
    was: Iterable[DiskSeen], disks: Iterable[DiskPlan], target: SiteFacts, sku: str | None
) -> list[Finding]:
    """What is told of disks that will not be as they were."""
    room = next((s.disk for s in target.catalogue.skus if s.name == sku), None)
    found = []
    for before, disk in zip(was, disks, strict=True):
        what = f"disk {disk.index}"
        if disk.bus is not before.bus:
            text = f"the bus {before.bus} becomes {disk.bus}, as {target.site} has no {before.bus}"
            found.append(told("MAP04", what, text))
        if room is not None and room < disk.size:
            found.append(
                blocker(
                    "TGT04",
                    what,
                    f"{what} has {gib(disk.size)}; {sku} at {target.site} comes with a disk of"
                    f" {gib(room)}",
                    "choose a site that takes larger disks",
                )
            )
        elif room is not None and room > disk.size:
            text = (
                f"{what} becomes the disk of {gib(room)} that comes with {sku}: a later move"
                " takes all of it along"
            )
            found.append(told("MAP05", what, text))
    return found


def nic_on(
    index: int, nic: NicSeen, network: NetworkSeen, site: SiteName, *, came_from: str
) -> tuple[NicPlan, list[Finding]]:
    """The nic as it will be there: MAC and address where the network can have them."""
    mac = _kept(nic.mac, network.macs)
    address = _kept(nic.address, network.addresses)
    planned = NicPlan(
        network=network.ref,
        network_name=network.name,
        mac=mac,
        address=address,
        source_network=came_from,
    )
    where = f"{network.name} at {site}"
    found = []
    if nic.mac and mac is None:
        found.append(
            warning(
                "MAP02",
                f"nic {index}",
                f"{where} cannot have the MAC {nic.mac}: the nic gets another one there",
                "see that nothing in the guest, and no licence, is bound to the MAC",
            )
        )
    if nic.address and address is None:
        found.append(
            warning(
                "TGT07",
                f"nic {index}",
                f"{where} cannot have the address {nic.address}: the nic gets another one there",
                "have a range with it added to the network, or see that the guest asks for its"
                " address (DHCP) and that names lead to the new one",
            )
        )
    return planned, found


def _kept(value: str | None, spans: tuple[Span, ...] | None) -> str | None:
    if not value or spans is None:
        return value or None
    return value if any(span.holds(value) for span in spans) else None
