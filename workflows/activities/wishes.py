"""What was asked for, as rows say it, in the words of planning."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

from controlplane.domain.disk import GIB, MIB
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.ids import InstanceId, PointId
from controlplane.domain.instance import Firmware, Size
from controlplane.domain.operation import Operation
from controlplane.domain.plan import AcceptanceCheck, CheckKind, Cutover, Method
from controlplane.domain.resource import Kind, Resource, ResourceKey, State
from controlplane.planning.facts import MoveWish, Waiver
from controlplane.planning.provision import DiskWish, ProvisionWish
from controlplane.services.references import resolve
from controlplane.services.skus import sku
from controlplane.services.volumes import volume_keys
from controlplane.store.tx import Tx

_BEST = "auto"


def firmware(instance: Resource) -> Firmware:
    return Firmware(str(instance.extensions.get("fedctl:firmware", Firmware.BIOS.value)))


def provision_wish(tx: Tx, instance: Resource) -> ProvisionWish:
    spec = instance.spec
    home = instance.key
    extensions = instance.extensions
    return ProvisionWish(
        instance=InstanceId(instance.id),
        name=home.name,
        size=wished_size(instance),
        disks=tuple(_disk_wish(tx, key) for key in volume_keys(home, spec)),
        network=extensions.get("fedctl:network", ""),
        mac=extensions.get("fedctl:mac"),
        address=extensions.get("fedctl:address"),
        firmware=firmware(instance),
        ssh_keys=tuple(cast("list[str]", spec.get("sshKeys") or [])),
        user_data=str(spec.get("userData") or ""),
    )


def wished_size(instance: Resource) -> Size:
    """What its sku says."""
    home = instance.key
    named = resolve(instance.spec["skuRef"], field="spec.skuRef", kind=Kind.INSTANCE_SKU, home=home)
    size = sku(named).spec
    return Size(cpus=int(cast("int", size["vCPU"])), memory=int(cast("int", size["ram"])) * GIB)


def _disk_wish(tx: Tx, key: ResourceKey) -> DiskWish:
    volume = tx.resources.get(key)
    size = int(cast("int", volume.spec["sizeGB"])) * GIB
    reference = volume.spec.get("sourceImageRef")
    if not reference:
        return DiskWish(size=size)
    found = resolve(reference, field="spec.sourceImageRef", kind=Kind.IMAGE, home=key)
    image = tx.resources.find(found)
    if image is None:
        raise NotFound(f"image {found.name} is gone: name another image")
    if image.state is not State.ACTIVE:
        raise Conflict(f"image {found.name} is {image.state}: wait until it is active")
    return DiskWish(
        size=size,
        image_size=int(cast("int", image.status.get("sizeMB", 0))) * MIB,
        point=PointId(image.id),
    )


def move_wish(op: Operation) -> MoveWish:
    order = op.order
    checks = cast("list[dict[str, object]]", order.get("checks") or [])
    rules = cast("list[dict[str, str]]", order.get("networkMap") or [])
    waivers = cast("list[dict[str, str]]", order.get("waivers") or [])
    wish = MoveWish(
        sku=cast("str | None", order.get("sku")),
        networks=tuple((rule["from"], rule["to"]) for rule in rules if rule.get("to")),
        readdressed=frozenset(rule["from"] for rule in rules if rule.get("address") == "new"),
        waivers=tuple(Waiver(**waiver) for waiver in waivers),
        checks=tuple(
            AcceptanceCheck(
                kind=CheckKind(str(check["kind"])),
                pattern=str(check.get("pattern") or ""),
                within=timedelta(seconds=float(cast("float", check.get("within") or 120))),
            )
            for check in checks
        ),
    )
    if order.get("method"):
        named = str(order["method"])
        wish = replace(wish, method=None if named == _BEST else Method(named))
    if order.get("cutover"):
        wish = replace(wish, cutover=_cutover(cast("dict[str, object]", order["cutover"])))
    if order.get("deadlineSeconds"):
        wish = replace(wish, deadline=_seconds(order["deadlineSeconds"]))
    if order.get("retainSeconds"):
        wish = replace(wish, retain=_seconds(order["retainSeconds"]))
    if order.get("maxDowntimeSeconds"):
        wish = replace(wish, max_downtime=_seconds(order["maxDowntimeSeconds"]))
    return wish


def _cutover(wish: dict[str, object]) -> Cutover:
    def moment(name: str) -> datetime | None:
        text = wish.get(name)
        return None if text is None else datetime.fromisoformat(str(text))

    return Cutover(
        manual=wish.get("mode") == "manual",
        not_before=moment("notBefore"),
        not_after=moment("notAfter"),
    )


def _seconds(value: object) -> timedelta:
    return timedelta(seconds=float(cast("float", value)))
