"""Block storages: wishes that become real when an instance uses them."""

from dataclasses import replace
from typing import cast

from controlplane.domain.errors import Conflict, Invalid
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.services.record import note
from controlplane.services.references import SHARED_TENANTS, must_be_local, resolve
from controlplane.services.skus import sku
from controlplane.services.stored import Stored, in_living_workspace, living, referred, settled
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.tx import Tx

_MIB_IN_GIB = 1024


class BlockStorages(Stored):
    """Where a volume lies is decided by the instance that uses it."""

    kind = Kind.BLOCK_STORAGE

    def shown(self, tx: Tx, resource: Resource) -> Resource:
        user = user_of(tx, resource)
        status = {k: v for k, v in resource.status.items() if k != "attachedTo"}
        if user is not None:
            status["attachedTo"] = {"resource": facts(Kind.INSTANCE).resource(user.key.name)}
        return replace(resource, status=status)

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        now = self.clock.now()
        with self.store.begin() as tx:
            in_living_workspace(tx, key)
            before = tx.resources.find(key)
            _admit(tx, key, wish.spec)
            if before is not None:
                _admit_change(tx, before, wish.spec)
            status = {"sizeGB": wish.spec["sizeGB"]}
            granted = self.write(tx, key, wish, status=status, now=now)
            resource = granted.resource
            if granted.created or (before is not None and before.spec != resource.spec):
                tx.resources.patch_status(resource.id, status, now=now)
                resource = settled(tx, resource, now=now, created=granted.created)
            note(tx, caller, "put", key, now)
            return replace(granted, resource=self.shown(tx, resource))

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            volume = living(tx, key, expected)
            user = user_of(tx, volume)
            if user is not None:
                raise Conflict(
                    f"block storage {key} is used by instance {user.key}: delete that first"
                )
            if volume.state is not State.DELETING:
                tx.resources.mark_deleting(volume.id, now)
            tx.resources.remove(volume.id, now)
            note(tx, caller, "delete", key, now)
        return None


def user_of(tx: Tx, volume: Resource) -> Resource | None:
    """The instance that names `volume`, as long as it is there."""
    noted = cast("Json | None", volume.status.get("attachedTo"))
    if noted is None:
        return None
    key = resolve(noted, field="attachedTo", kind=Kind.INSTANCE, home=volume.key)
    found = tx.resources.find(key)
    return found if found is not None and volume.key in volume_keys(found.key, found.spec) else None


def volume_keys(instance: ResourceKey, spec: Json) -> tuple[ResourceKey, ...]:
    """The block storages that an instance's spec names, the boot volume first."""
    boot = cast("Json", spec["bootVolume"])
    more = cast("list[Json]", spec.get("dataVolumes", []))
    named = [("bootVolume", boot), *((f"dataVolumes[{i}]", v) for i, v in enumerate(more))]
    return tuple(
        must_be_local(
            resolve(
                volume["deviceRef"],
                field=f"spec.{where}.deviceRef",
                kind=Kind.BLOCK_STORAGE,
                home=instance,
            ),
            field=f"spec.{where}.deviceRef",
            home=instance,
        )
        for where, volume in named
    )


def storage_sku(key: ResourceKey, spec: Json) -> Resource:
    named = resolve(spec["skuRef"], field="spec.skuRef", kind=Kind.STORAGE_SKU, home=key)
    return offered(named, home=key, field="spec.skuRef")


def offered(named: ResourceKey, *, home: ResourceKey, field: str) -> Resource:
    """The sku that a reference means, in the tenant's own name space or a shared one."""
    if named.tenant != home.tenant and named.tenant not in SHARED_TENANTS:
        raise Invalid(f"{field}: skus of tenant {named.tenant!r} are not yours: leave tenant out")
    return sku(named)


def source_image(key: ResourceKey, spec: Json) -> ResourceKey | None:
    """The image that a block storage is filled from, if any."""
    if "sourceImageRef" not in spec:
        return None
    named = resolve(spec["sourceImageRef"], field="spec.sourceImageRef", kind=Kind.IMAGE, home=key)
    if named.tenant != key.tenant:
        raise Invalid(
            f"spec.sourceImageRef: image {named.name!r} belongs to another tenant: upload it to"
            f" {key.tenant} first"
        )
    return named


def _admit(tx: Tx, key: ResourceKey, spec: Json) -> None:
    size = cast("int", spec["sizeGB"])
    smallest = cast("int", storage_sku(key, spec).spec["minVolumeSize"])
    if size < smallest:
        raise Invalid(f"spec.sizeGB: this sku begins at {smallest} GB: ask for that or more")
    image_key = source_image(key, spec)
    if image_key is None:
        return
    image = referred(tx, image_key, field="spec.sourceImageRef")
    needed = cast("int", image.status.get("sizeMB", 0))
    if needed > size * _MIB_IN_GIB:
        raise Invalid(
            f"spec.sizeGB: image {image_key} unfolds to {needed} MiB, which {size} GB cannot hold:"
            f" ask for {-(-needed // _MIB_IN_GIB)} GB or more"
        )


def _admit_change(tx: Tx, before: Resource, spec: Json) -> None:
    """A volume may grow until it is in use; its sku and source stay."""
    key = before.key
    if storage_sku(key, spec).key.name != storage_sku(key, before.spec).key.name:
        raise Invalid("spec.skuRef cannot be changed: delete the block storage and create it anew")
    if source_image(key, spec) != source_image(key, before.spec):
        raise Invalid(
            "spec.sourceImageRef cannot be changed: delete the block storage and create it anew"
        )
    old, new = cast("int", before.spec["sizeGB"]), cast("int", spec["sizeGB"])
    if new < old:
        raise Invalid(f"spec.sizeGB is {old} and cannot become smaller: ask for {old} or more")
    user = user_of(tx, before)
    if new > old and user is not None:
        raise Conflict(
            f"block storage {key} is in use by instance {user.key}, and no site can grow a volume"
            " in use: make another volume"
        )
