"""How an instance will be made at a site from what was wished."""

from dataclasses import dataclass

from controlplane.domain.disk import DiskBus, DiskFormat
from controlplane.domain.errors import Exhausted, FedctlError, Invalid, Unsupported
from controlplane.domain.finding import Finding, blocking
from controlplane.domain.ids import InstanceId, PointId
from controlplane.domain.instance import Firmware, Size
from controlplane.domain.plan import (
    Delivery,
    DiskPlan,
    NicPlan,
    ProvisionPlan,
    TargetPlan,
)
from controlplane.domain.site import Capability, SiteFacts
from controlplane.planning import sizing
from controlplane.planning.findings import blocker


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskWish:
    """A disk to begin with: `size` bytes, filled from an image's point or empty."""

    size: int
    image_size: int = 0
    point: PointId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionWish:
    instance: InstanceId
    name: str
    size: Size
    disks: tuple[DiskWish, ...]
    network: str = ""
    mac: str | None = None
    address: str | None = None
    firmware: Firmware = Firmware.BIOS
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""


def delivery(site: SiteFacts) -> Delivery | None:
    """By which way an image's bytes come in: pulled where the site can, else pushed."""
    if Capability.IMAGE_PULL in site.capabilities:
        return Delivery.PULL
    if Capability.IMAGE_PUSH in site.capabilities:
        return Delivery.PUSH
    return None


def image_format(site: SiteFacts) -> DiskFormat:
    """qcow2 where the site takes it, because zeros then cost nothing on the way.

    With the vault's own frames as clusters where the site says that it reads them: half the bytes,
    and nothing is unpacked on our side.
    """
    liked = (DiskFormat.QCOW2_ZSTD, DiskFormat.QCOW2)
    return next((each for each in liked if each in site.limits.formats), DiskFormat.RAW)


def check_firmware(site: SiteFacts, firmware: Firmware) -> list[Finding]:
    if firmware in site.limits.firmware:
        return []
    return [
        blocker(
            "TGT04",
            site.site,
            f"{site.site} does not offer {firmware} firmware",
            "choose another site",
        )
    ]


def check_way_in(site: SiteFacts) -> list[Finding]:
    if delivery(site) is not None and Capability.INSTANCES in site.capabilities:
        return []
    return [
        blocker(
            "TGT12",
            site.site,
            f"{site.site} offers no way to bring an image in",
            "verify the site (fedctl site verify) or choose another",
        )
    ]


def choose_size(site: SiteFacts, need: Size) -> tuple[Size, str | None, list[Finding]]:
    """The size and sku at the site, with TGT03 where none is large enough."""
    if not site.catalogue.skus:
        return need, None, []
    sku = sizing.smallest_sku(site, need)
    if sku is None:
        return (
            need,
            None,
            [
                blocker(
                    "TGT03",
                    site.site,
                    f"no sku of {site.site} has {need.cpus} vCPU and {sizing.gib(need.memory)}",
                    "choose a smaller size or another site",
                )
            ],
        )
    return sku.size, sku.name, []


def provision(site: SiteFacts, wish: ProvisionWish) -> ProvisionPlan:
    """The plan for `wish` at `site`; blockers are findings of the plan, never exceptions."""
    size, sku, findings = choose_size(site, wish.size)
    way = delivery(site) or Delivery.PUSH
    disks = tuple(
        DiskPlan(
            index=index,
            size=max(disk.size, disk.image_size),
            target_size=sizing.rounded(max(disk.size, disk.image_size), site.limits),
            bus=DiskBus.VIRTIO,
            format=image_format(site),
            delivery=way,
            point=disk.point,
        )
        for index, disk in enumerate(wish.disks)
    )
    network, how = sizing.network_for(site, wish.network, {})
    if network is None and not wish.network and site.catalogue.networks:
        network, how = site.catalogue.networks[0], "first network"
    if network is None and wish.network:
        names = ", ".join(n.name for n in site.catalogue.networks) or "none"
        findings.append(
            blocker(
                "MAP01",
                wish.network,
                f"{site.site} has no network {wish.network!r}; it has: {names}",
                "name one of these in the extension fedctl:network",
            )
        )
    nics = (
        (
            NicPlan(
                network=network.ref,
                network_name=network.name,
                mac=wish.mac,
                address=wish.address,
                source_network=how,
            ),
        )
        if network is not None
        else ()
    )
    targets = tuple(disk.target_size for disk in disks)
    findings += check_way_in(site)
    findings += check_firmware(site, wish.firmware)
    findings += sizing.check_disks(site.limits, targets, site.site)
    findings += sizing.check_name(site.limits, wish.name, site.site)
    findings += sizing.check_room(site.quota, size, targets, site.site)
    return ProvisionPlan(
        instance=wish.instance,
        target=TargetPlan(
            site=site.site,
            name=wish.name,
            size=size,
            sku=sku,
            firmware=wish.firmware,
            create_order=site.limits.create_order,
            disks=disks,
            nics=nics,
            ssh_keys=wish.ssh_keys,
            user_data=wish.user_data,
        ),
        findings=tuple(findings),
    )


_ERROR_OF: dict[str, type[FedctlError]] = {
    "TGT01": Exhausted,
    "TGT03": Unsupported,
    "TGT04": Unsupported,
    "TGT12": Unsupported,
    "MAP01": Invalid,
    "MAP03": Invalid,
}


def refuse(plan: ProvisionPlan) -> None:
    """Raise the error that the first blocker stands for; nothing when there is none."""
    blockers = blocking(plan.findings)
    if blockers:
        first = blockers[0]
        kind = _ERROR_OF.get(first.id, Unsupported)
        raise kind(
            f"{plan.target.name} cannot be made at {plan.target.site}: {first.evidence};"
            f" {first.remedy}",
            reason=first.id,
        )
