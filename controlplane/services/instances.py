"""Instances: provisioned, switched on and off, deleted; never moved by a PUT."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from controlplane.domain.errors import Conflict, Invalid, Unsupported
from controlplane.domain.ids import InstanceId
from controlplane.domain.instance import Manner, Power
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey, State
from controlplane.domain.site import Capability
from controlplane.services.record import free, note, start
from controlplane.services.references import resolve
from controlplane.services.sites import known_site
from controlplane.services.stored import Stored, in_living_workspace, living, referred
from controlplane.services.volumes import offered, user_of, volume_keys
from controlplane.services.wish import Caller, Granted, Wish
from controlplane.store.tx import Tx

_NO_NETWORK_KINDS = ("primaryNicRef", "additionalNicRefs", "securityGroupRef")
_FITTING = {"start": Power.OFF, "stop": Power.ON, "restart": Power.ON}
_ACTIONS = {
    "start": OperationKind.START,
    "stop": OperationKind.STOP,
    "restart": OperationKind.RESTART,
}


class Instances(Stored):
    kind = Kind.INSTANCE

    def put(self, caller: Caller, key: ResourceKey, wish: Wish) -> Granted:
        now = self.clock.now()
        with self.store.begin() as tx:
            in_living_workspace(tx, key)
            before = tx.resources.find(key)
            volumes = _admit(tx, key, wish.spec)
            if before is not None:
                _admit_change(before, wish.spec)
            granted = self.write(tx, key, wish, status={"powerState": Power.OFF.value}, now=now)
            resource = granted.resource
            attached = {"resource": facts(Kind.INSTANCE).resource(key.name)}
            for volume in volumes:
                tx.resources.patch_status(volume.id, {"attachedTo": attached}, now=now)
            placement = tx.placements.find(InstanceId(resource.id))
            homeless = placement is None or placement.copy is None
            again = resource.state is State.ERROR and homeless
            operation = None
            if granted.created or (again and tx.operations.open_for(resource.id) is None):
                operation = start(tx, caller, OperationKind.PROVISION, resource, now=now)
            note(tx, caller, "put", key, now)
            return replace(granted, resource=resource, operation=operation)

    def delete(self, caller: Caller, key: ResourceKey, expected: int | None) -> Operation | None:
        now = self.clock.now()
        with self.store.begin() as tx:
            instance = living(tx, key, expected)
            working = tx.operations.open_for(instance.id)
            if instance.state is State.DELETING and working is not None:
                return working
            free(tx, instance.id, what=f"instance {key}")
            resource = tx.resources.mark_deleting(instance.id, now)
            note(tx, caller, "delete", key, now)
            return start(tx, caller, OperationKind.DELETE_INSTANCE, resource, now=now)

    def act(
        self,
        caller: Caller,
        key: ResourceKey,
        action: str,
        expected: int | None,
        options: Mapping[str, str],
    ) -> Operation | None:
        manner = options.get("manner", Manner.GRACEFUL.value)
        if manner not in set(Manner):
            raise Invalid(f"manner is {manner[:40]!r}: choose graceful or hard")
        now = self.clock.now()
        with self.store.begin() as tx:
            in_living_workspace(tx, key)
            instance = living(tx, key, expected)
            free(tx, instance.id, what=f"instance {key}")
            if instance.state is not State.ACTIVE:
                raise Conflict(
                    f"instance {key} is {instance.state}, and only an active one can {action}:"
                    " look at its conditions (fedctl instance show)"
                )
            power = instance.status.get("powerState", Power.OFF.value)
            if power != _FITTING[action]:
                raise Conflict(f"instance {key} is {power} already: it cannot {action}")
            note(tx, caller, action, key, now)
            order = {} if action == "start" else {"manner": manner}
            return start(tx, caller, _ACTIONS[action], instance, now=now, order=order)


def instance_sku(key: ResourceKey, spec: Json) -> Resource:
    named = resolve(spec["skuRef"], field="spec.skuRef", kind=Kind.INSTANCE_SKU, home=key)
    return offered(named, home=key, field="spec.skuRef")


def _admit(tx: Tx, key: ResourceKey, spec: Json) -> list[Resource]:
    """The block storages that the instance will use, when everything it names can be had."""
    for field in _NO_NETWORK_KINDS:
        if spec.get(field):
            raise Unsupported(
                f"spec.{field}: networks are named by the extension fedctl:network here: use that"
            )
    instance_sku(key, spec)
    keys = volume_keys(key, spec)
    if len(set(keys)) != len(keys):
        raise Invalid("spec: one block storage is named twice: name each once")
    volumes = [referred(tx, volume, field="spec.bootVolume or dataVolumes") for volume in keys]
    for volume in volumes:
        user = user_of(tx, volume)
        if user is not None and user.key != key:
            raise Conflict(
                f"block storage {volume.key} is used by instance {user.key}: choose another"
            )
    site = known_site(tx, cast("str", spec["zone"]), field="spec.zone")
    able = cast("list[str]", site.status.get("capabilities", []))
    if able and Capability.INSTANCES.value not in able:
        raise Unsupported(f"spec.zone: site {site.key.name} cannot hold instances: choose another")
    return volumes


def _admit_change(before: Resource, spec: Json) -> None:
    """What a site was asked to make stays as it is."""
    key = before.key
    if spec["zone"] != before.spec["zone"]:
        raise Invalid(
            f"spec.zone is {before.spec['zone']} and only a move changes it:"
            f" fedctl move {key} --to {spec['zone']}"
        )
    if instance_sku(key, spec).key.name != instance_sku(key, before.spec).key.name:
        raise Invalid("spec.skuRef cannot be changed: a move can (fedctl move --sku)")
    if volume_keys(key, spec) != volume_keys(key, before.spec):
        raise Unsupported(
            "spec.bootVolume and spec.dataVolumes cannot be changed while the instance exists:"
            " delete it and create it anew"
        )
    for field in ("sshKeys", "userData", "antiAffinityGroup"):
        if (spec.get(field) or None) != (before.spec.get(field) or None):
            raise Unsupported(
                f"spec.{field} is used when an instance is made and cannot be changed later:"
                " delete it and create it anew"
            )
