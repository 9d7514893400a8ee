"""The calls below /nodes/{node}/qemu: VMs from their creation to their end."""

import time
from typing import Any

from drivers.simulators.proxmox import config
from drivers.simulators.proxmox.config import Job
from drivers.simulators.proxmox.node import Node, Vm
from drivers.simulators.proxmox.params import (
    DRIVE,
    Fails,
    Refused,
    checked,
    format_property,
    invalid,
    parse_property,
    size_bytes,
    size_text,
)
from drivers.simulators.proxmox.routes import Ask, route
from drivers.simulators.proxmox.snapshots import kept_as
from drivers.simulators.proxmox.tasks import Worker
from drivers.simulators.proxmox.work import same_digest, spawn, unlocked

_Q = "/nodes/{node}/qemu"
_V = _Q + "/{vmid}"
_POWER = {"start": "qmstart", "stop": "qmstop", "shutdown": "qmshutdown"}


# -- looking -----------------------------------------------------------------------------------


def list_vms(ask: Ask) -> list[dict[str, Any]]:
    ask.take(optional="full")
    with ask.node.lock:
        return [
            ask.node.summary(vm)
            for vm in ask.node.vms.values()
            if ask.may(f"/vms/{vm.vmid}", "VM.Audit")
        ]


def get_config(ask: Ask) -> dict[str, Any]:
    ask.need("VM.Audit")
    given = ask.take(optional="current snapshot")
    with ask.node.lock:
        vm = ask.node.vm(ask.vmid)
        if name := given.get("snapshot"):
            snapshot = kept_as(vm, name)
            return {
                **config.masked(snapshot.config),
                "snaptime": snapshot.snaptime,
                "digest": vm.digest,
            }
        shown = dict(vm.config)
        if given.get("current") != "1":
            shown |= {key: value for key, value in vm.pending.items() if value is not None}
        parent = {"parent": vm.parent} if vm.parent else {}
        return {**config.masked(shown), **parent, "digest": vm.digest}


def get_pending(ask: Ask) -> list[dict[str, Any]]:
    ask.need("VM.Audit")
    with ask.node.lock:
        vm = ask.node.vm(ask.vmid)
        shown = config.masked(vm.config)
        out: list[dict[str, Any]] = [
            {"key": key, "value": value}
            | ({"pending": vm.pending[key]} if vm.pending.get(key) is not None else {})
            | ({"delete": 1} if key in vm.pending and vm.pending[key] is None else {})
            for key, value in sorted(shown.items())
        ]
        fresh = [key for key in vm.pending if key not in vm.config]
        return out + [{"key": key, "pending": vm.pending[key]} for key in fresh]


def get_status(ask: Ask) -> dict[str, Any]:
    ask.need("VM.Audit")
    with ask.node.lock:
        vm = ask.node.vm(ask.vmid)
        status = "paused" if vm.suspended else "running" if vm.running else "stopped"
        agent = parse_property(vm.config.get("agent", "0"), default="enabled")
        sid = f"vm:{vm.vmid}"
        ha = {"managed": 1, "state": ask.node.ha[sid]} if sid in ask.node.ha else {"managed": 0}
        out = ask.node.summary(vm) | {"qmpstatus": status, "ha": ha}
        return out | ({"agent": 1} if agent.get("enabled") == "1" else {})


# -- making and changing -----------------------------------------------------------------------


def create(ask: Ask) -> str:
    node, given = ask.node, checked(ask.given, required=("vmid",))
    vmid = int(given.pop("vmid"))
    start = given.pop("start", "0") == "1"
    ask.need("VM.Allocate", path=f"/vms/{vmid}")
    config.allowed(node, ask.caller, vmid, given)
    with node.lock:
        if vmid in node.vms:
            raise Refused(
                500,
                f"unable to create VM {vmid}: VM {vmid} already exists on node '{node.name}'",
            )
        vm = Vm(vmid=vmid, config={"lock": "create"})
        node.vms[vmid] = vm
        node.save()

    def work(worker: Worker) -> None:
        made = Vm(vmid=vmid, config={})
        try:
            with node.locked(vmid):
                config.apply(node, made, given, job=Job(caller=ask.caller, worker=worker))
                made.config["meta"] = f"creation-qemu=10.0.2,ctime={int(time.time())}"
        except BaseException:
            with node.lock:
                del node.vms[vmid]
            config.free_all(node, made)
            node.changed(vmid)
            raise
        with node.lock:
            vm.config = made.config
            if start:
                node.power_on(vm)
        node.changed(vmid)

    return node.tasks.spawn("qmcreate", str(vmid), ask.caller.name, work)


def update_now(ask: Ask) -> None:
    _updated(ask, None)


def update_as_task(ask: Ask) -> str:
    _checked_update(ask)
    return spawn(ask, "qmconfig", lambda worker, _: _updated(ask, worker), flock=False)


def _checked_update(ask: Ask) -> tuple[dict[str, str], str, str | None]:
    given = checked(ask.given)
    skiplock = given.pop("skiplock", "0") == "1"
    given.pop("background_delay", None)
    delete, digest = given.pop("delete", ""), given.pop("digest", None)
    if skiplock and ask.caller.name != "root@pam":
        raise invalid(skiplock="Only root may use this option.")
    with ask.node.lock:
        vm = ask.node.vm(ask.vmid)
    config.allowed(ask.node, ask.caller, ask.vmid, given)
    for key in delete.replace(";", ",").split(","):
        if key:
            ask.need(config.right_for(key))
    same_digest(vm, digest)
    if not skiplock:
        unlocked(vm)
    return given, delete, digest


def _updated(ask: Ask, worker: Worker | None) -> None:
    with ask.node.locked(ask.vmid):
        given, delete, _ = _checked_update(ask)
        vm = ask.node.vm(ask.vmid)
        try:
            config.remove(ask.node, vm, delete)
            config.apply(ask.node, vm, given, job=Job(caller=ask.caller, worker=worker))
        except Fails as error:
            raise Refused(500, str(error)) from error
        finally:
            ask.node.changed(vm.vmid)


def unlink(ask: Ask) -> None:
    ask.need("VM.Config.Disk")
    given = ask.take("idlist", optional="force")
    with ask.node.locked(ask.vmid):
        vm = ask.node.vm(ask.vmid)
        unlocked(vm)
        config.remove(ask.node, vm, given["idlist"])
        if given.get("force") == "1":
            gone = [key for key in vm.config if key.startswith("unused")]
            config.remove(ask.node, vm, ",".join(gone))
    ask.node.changed(ask.vmid)


def resize(ask: Ask) -> str:
    ask.need("VM.Config.Disk")
    given = ask.take("disk", "size", optional="digest skiplock")
    vm = ask.node.vm(ask.vmid)
    slot, wish = given["disk"], given["size"]
    if slot not in vm.config or not DRIVE.fullmatch(slot):
        raise Refused(500, f"disk '{slot}' does not exist")
    same_digest(vm, given.get("digest"))

    def work(worker: Worker, vm: Vm) -> None:
        unlocked(vm)
        drive = parse_property(vm.config[slot], default="file")
        volume = ask.node.storages.volume(drive["file"])
        size = size_bytes(wish.lstrip("+")) + (volume.size if wish.startswith("+") else 0)
        if size < volume.size:
            raise Fails(f"unable to shrink disk size from {volume.size} to {size}")
        drive["size"] = size_text(ask.node.storages.resize(volume, size))
        vm.config[slot] = format_property(drive, default="file")
        worker.log(f"resized {slot} to {drive['size']}")

    return spawn(ask, "resize", work)


# -- power and end -----------------------------------------------------------------------------


def start(ask: Ask) -> str:
    ask.need("VM.PowerMgmt")
    ask.take(optional="timeout skiplock")
    ask.node.vm(ask.vmid)

    def work(_: Worker, vm: Vm) -> None:
        unlocked(vm)
        if vm.running:
            raise Fails(f"VM {vm.vmid} already running")
        written = ask.node.writers()
        if any(str(volume.file) in written for volume in ask.node.volumes_of(vm)):
            raise Fails("start failed: QEMU exited with code 1")  # it got no write lock
        ask.node.power_on(vm)

    return spawn(ask, "qmstart", work)


def stop(ask: Ask) -> str:
    ask.need("VM.PowerMgmt")
    given = ask.take(optional="timeout skiplock keepActive overrule-shutdown")
    ask.node.vm(ask.vmid)
    if given.get("overrule-shutdown") == "1":
        for task in ask.node.tasks.all():
            if (task.type, task.id, task.exit) == ("qmshutdown", str(ask.vmid), None):
                ask.node.tasks.abort(task.upid)

    def work(worker: Worker, vm: Vm) -> None:
        unlocked(vm)
        if vm.running:
            ask.node.power_off(vm)
        else:
            worker.log("VM already stopped")

    return spawn(ask, "qmstop", work)


def shutdown(ask: Ask) -> str:
    ask.need("VM.PowerMgmt")
    given = ask.take(optional="timeout skiplock keepActive forceStop")
    ask.node.vm(ask.vmid)

    def work(worker: Worker, vm: Vm) -> None:
        unlocked(vm)
        until = time.monotonic() + int(given.get("timeout", "60"))
        heard = False
        while vm.running:
            heard = heard or ask.node.guests.shutdown(
                str(vm.vmid), on_down=lambda: ask.node.went_down(vm.vmid)
            )
            if time.monotonic() > until:
                if given.get("forceStop") == "1":
                    ask.node.power_off(vm)
                    return
                raise Fails("VM quit/powerdown failed - got timeout")
            worker.wait(0.01)

    return spawn(ask, "qmshutdown", work)


def suspend(ask: Ask) -> str:
    ask.need("VM.PowerMgmt")
    return spawn(ask, "qmsuspend", lambda _, vm: _freeze(ask.node, vm, paused=True))


def resume(ask: Ask) -> str:
    ask.need("VM.PowerMgmt")
    return spawn(ask, "qmresume", lambda _, vm: _freeze(ask.node, vm, paused=False))


def destroy(ask: Ask) -> str:
    ask.need("VM.Allocate")
    ask.take(optional="purge destroy-unreferenced-disks skiplock")
    node, vm = ask.node, ask.node.vm(ask.vmid)
    if vm.config.get("protection") == "1":
        raise Refused(500, f"can't remove VM {vm.vmid} - protection mode enabled")
    if vm.running:
        raise Refused(500, f"VM {vm.vmid} is running - destroy failed")

    def work(worker: Worker, vm: Vm) -> None:
        unlocked(vm)
        if vm.running:
            raise Fails(f"VM {vm.vmid} is running - destroy failed")
        busy = node.exports()
        for volume in node.volumes_of(vm):
            if str(volume.file) in busy:
                raise Fails(f"cannot remove '{volume.path}': dataset is busy")
        config.free_all(node, vm)
        with node.lock:
            del node.vms[vm.vmid]
        worker.log("purged")

    return spawn(ask, "qmdestroy", work)


# -- the guest agent ---------------------------------------------------------------------------


def agent_ping(ask: Ask) -> dict[str, Any]:
    if not (ask.may(f"/vms/{ask.vmid}", "VM.GuestAgent.Audit")):
        ask.need("VM.GuestAgent.Unrestricted")
    vm = ask.node.vm(ask.vmid)
    if parse_property(vm.config.get("agent", "0"), default="enabled").get("enabled") != "1":
        raise Refused(500, "No QEMU guest agent configured")
    if not vm.running:
        raise Refused(500, f"VM {vm.vmid} is not running")
    if not ask.node.guests.ping(str(vm.vmid)):
        raise Refused(500, "QEMU guest agent is not running")
    return {"result": {}}


def _freeze(node: Node, vm: Vm, *, paused: bool) -> None:
    unlocked(vm)
    if not vm.running:
        raise Fails(f"VM {vm.vmid} not running")
    (node.guests.pause if paused else node.guests.resume)(str(vm.vmid))
    vm.suspended = paused


ROUTES = (
    route("GET", _Q, list_vms),
    route("POST", _Q, create),
    route("DELETE", _V, destroy),
    route("GET", _V + "/config", get_config),
    route("PUT", _V + "/config", update_now),
    route("POST", _V + "/config", update_as_task),
    route("GET", _V + "/pending", get_pending),
    route("PUT", _V + "/unlink", unlink),
    route("PUT", _V + "/resize", resize),
    route("GET", _V + "/status/current", get_status),
    route("POST", _V + "/status/start", start),
    route("POST", _V + "/status/stop", stop),
    route("POST", _V + "/status/shutdown", shutdown),
    route("POST", _V + "/status/suspend", suspend),
    route("POST", _V + "/status/resume", resume),
    route("POST", _V + "/agent/ping", agent_ping),
)
