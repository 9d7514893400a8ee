"""The calls below /nodes/{node}/qemu/{vmid}/snapshot."""

import time
from typing import Any

from drivers.simulators.proxmox import config
from drivers.simulators.proxmox.node import Snapshot, Vm
from drivers.simulators.proxmox.params import Fails, Refused
from drivers.simulators.proxmox.routes import Ask, route
from drivers.simulators.proxmox.tasks import Worker
from drivers.simulators.proxmox.work import spawn, unlocked

_V = "/nodes/{node}/qemu/{vmid}"


def list_snapshots(ask: Ask) -> list[dict[str, Any]]:
    ask.need("VM.Audit")
    with ask.node.lock:
        vm = ask.node.vm(ask.vmid)
        taken = [
            {"name": name, "description": kept.description, "snaptime": kept.snaptime}
            | ({"parent": kept.parent} if kept.parent else {})
            for name, kept in vm.snapshots.items()
        ]
        parent = {"parent": vm.parent} if vm.parent else {}
        running = {"running": int(vm.running), "digest": vm.digest}
        return [*taken, {"name": "current", "description": "You are here!", **parent, **running}]


def snapshot(ask: Ask) -> str:
    ask.need("VM.Snapshot")
    given = ask.take("snapname", optional="description vmstate")
    name = given["snapname"]
    ask.node.vm(ask.vmid)

    def work(worker: Worker, vm: Vm) -> None:
        unlocked(vm)
        if name in vm.snapshots:
            raise Fails(f"snapshot name '{name}' already used")
        volumes = ask.node.volumes_of(vm)
        for volume in volumes:
            if not ask.node.storages.can_snapshot(volume):
                raise Fails("snapshot feature is not available")
        ask.node.pause(vm)
        try:
            for volume in volumes:
                ask.node.storages.snapshot(volume, name)
                worker.log(f"snapshotting {volume.volid}")
        finally:
            ask.node.unpause(vm)
        vm.snapshots[name] = Snapshot(
            config=dict(vm.config),
            description=given.get("description", ""),
            snaptime=int(time.time()),
            parent=vm.parent,
        )
        vm.parent = name

    return spawn(ask, "qmsnapshot", work)


def get_snapshot_config(ask: Ask) -> dict[str, Any]:
    ask.need("VM.Audit")
    kept = kept_as(ask.node.vm(ask.vmid), ask.at["name"])
    return {**config.masked(kept.config), "description": kept.description}


def put_snapshot_config(ask: Ask) -> None:
    ask.need("VM.Snapshot")
    given = ask.take(optional="description")
    with ask.node.locked(ask.vmid):
        vm = ask.node.vm(ask.vmid)
        unlocked(vm)
        if "description" in given:
            kept_as(vm, ask.at["name"]).description = given["description"]
    ask.node.changed(ask.vmid)


def drop_snapshot(ask: Ask) -> str:
    ask.need("VM.Snapshot")
    ask.take(optional="force")
    kept_as(ask.node.vm(ask.vmid), ask.at["name"])

    def work(_: Worker, vm: Vm) -> None:
        unlocked(vm)
        name = ask.at["name"]
        gone = kept_as(vm, name)
        for volume in ask.node.volumes_of(vm):
            ask.node.storages.drop_snapshot(volume, name)
        del vm.snapshots[name]
        for kept in vm.snapshots.values():
            kept.parent = gone.parent if kept.parent == name else kept.parent
        vm.parent = gone.parent if vm.parent == name else vm.parent

    return spawn(ask, "qmdelsnapshot", work)


def rollback(ask: Ask) -> str:
    ask.need("VM.Snapshot.Rollback")
    kept_as(ask.node.vm(ask.vmid), ask.at["name"])

    def work(_: Worker, vm: Vm) -> None:
        unlocked(vm)
        kept = kept_as(vm, ask.at["name"])
        if vm.running:
            ask.node.power_off(vm)
        for volume in ask.node.volumes_of(vm):
            ask.node.storages.rollback(volume, ask.at["name"])
        vm.config, vm.parent = dict(kept.config), ask.at["name"]

    return spawn(ask, "qmrollback", work)


def kept_as(vm: Vm, name: str) -> Snapshot:
    if name not in vm.snapshots:
        raise Refused(500, f"snapshot '{name}' does not exist")
    return vm.snapshots[name]


ROUTES = (
    route("GET", _V + "/snapshot", list_snapshots),
    route("POST", _V + "/snapshot", snapshot),
    route("DELETE", _V + "/snapshot/{name}", drop_snapshot),
    route("GET", _V + "/snapshot/{name}/config", get_snapshot_config),
    route("PUT", _V + "/snapshot/{name}/config", put_snapshot_config),
    route("POST", _V + "/snapshot/{name}/rollback", rollback),
)
