"""The calls beside the VMs: access, cluster, nodes, tasks."""

from typing import Any

from drivers.simulators.proxmox.params import Refused, invalid
from drivers.simulators.proxmox.routes import Ask, route
from drivers.simulators.proxmox.tasks import Task

VERSION = {"version": "9.1.2", "release": "9.1", "repoid": "9d4e9a8b2c1f0e7d", "console": "html5"}
_LOG_PAGE = 50


def version(ask: Ask) -> dict[str, str]:
    ask.take()
    return VERSION


def permissions(ask: Ask) -> dict[str, dict[str, int]]:
    given = ask.take(optional="path userid")
    held = ask.node.access.permissions(ask.caller)
    return {p: r for p, r in held.items() if p == given["path"]} if "path" in given else held


def next_id(ask: Ask) -> str:
    """The lowest free vmid, as a string; nothing is reserved by asking."""
    given = ask.take(optional="vmid")
    with ask.node.lock:
        if wish := given.get("vmid"):
            if int(wish) in ask.node.vms:
                raise invalid(vmid=f"VM {wish} already exists")
            return wish
        return str(next(n for n in range(100, 10**9) if n not in ask.node.vms))


def resources(ask: Ask) -> list[dict[str, Any]]:
    given = ask.take(optional="type")
    kind, node = given.get("type"), ask.node
    out: list[dict[str, Any]] = []
    if kind in {None, "vm"}:
        out += [
            {"id": f"qemu/{vm['vmid']}", "type": "qemu", "node": node.name, **vm}
            for vm in node.shown()
            if ask.may(f"/vms/{vm['vmid']}", "VM.Audit")
        ]
    if kind in {None, "node"}:
        out += [
            {"id": f"node/{name}", "type": "node", "node": name, "status": status}
            for name, status in {node.name: "online", **node.peers}.items()
        ]
    if kind in {None, "storage"}:
        out += [
            {"id": f"storage/{node.name}/{s}", "type": "storage", "node": node.name, "storage": s}
            for s in node.storages.names()
            if ask.may(f"/storage/{s}", "Datastore.Audit")
        ]
    return out


def cluster_status(ask: Ask) -> list[dict[str, Any]]:
    ask.need("Sys.Audit", path="/")
    ask.take()
    return [
        {"id": f"node/{name}", "type": "node", "name": name, "online": int(status == "online")}
        for name, status in {ask.node.name: "online", **ask.node.peers}.items()
    ]


def ha_resources(ask: Ask) -> list[dict[str, Any]]:
    ask.need("Sys.Audit", path="/")
    ask.take(optional="type")
    return [{"sid": sid, "type": "vm", "state": state} for sid, state in ask.node.ha.items()]


def put_ha_resource(ask: Ask) -> None:
    ask.need("Sys.Console", path="/")
    given = ask.take(optional="state comment digest group max_relocate max_restart")
    if ask.at["sid"] not in ask.node.ha:
        raise Refused(500, f"no such resource '{ask.at['sid']}'")
    if "state" in given:
        if given["state"] not in {"started", "stopped", "enabled", "disabled", "ignored"}:
            raise invalid(state="value does not have a value in the enumeration")
        ask.node.ha[ask.at["sid"]] = given["state"]
        ask.node.save()


def nodes(ask: Ask) -> list[dict[str, Any]]:
    ask.take()
    here = {
        "node": ask.node.name,
        "status": "online",
        "id": f"node/{ask.node.name}",
        "type": "node",
        "maxcpu": ask.node.cpus,
        "maxmem": ask.node.memory,
    }
    return [here] + [
        {"node": name, "status": status, "id": f"node/{name}", "type": "node"}
        for name, status in ask.node.peers.items()
    ]


def node_status(ask: Ask) -> dict[str, Any]:
    ask.need("Sys.Audit", path=f"/nodes/{ask.at['node']}")
    ask.take()
    used = sum(
        int(vm.config.get("memory", "512")) << 20 for vm in ask.node.vms.values() if vm.running
    )
    total = ask.node.memory
    return {
        "cpu": 0.01,
        "cpuinfo": {"cpus": ask.node.cpus, "sockets": 1, "cores": ask.node.cpus},
        "memory": {"total": total, "used": used, "free": total - used},
        "rootfs": {"total": 1 << 36, "used": 1 << 33, "free": 7 << 33, "avail": 7 << 33},
        "loadavg": ["0.01", "0.02", "0.00"],
        "pveversion": f"pve-manager/{VERSION['version']}/{VERSION['repoid']}",
        "uptime": 100,
        "boot-info": {"mode": "efi"},
        "current-kernel": {"sysname": "Linux", "release": "6.17.2-1-pve"},
    }


def networks(ask: Ask) -> list[dict[str, Any]]:
    given = ask.take(optional="type")
    out = []
    for name, cidr in sorted(ask.node.bridges.items()):
        bridge: dict[str, Any] = {
            "iface": name,
            "type": "bridge",
            "active": 1,
            "autostart": 1,
            "method": "static" if cidr else "manual",
            "bridge_ports": "",
        }
        if cidr:
            bridge |= {"cidr": cidr, "address": cidr.partition("/")[0]}
        if given.get("type") in {None, "bridge", "any_bridge", "any_local_bridge"}:
            out.append(bridge)
    return out


# -- tasks -------------------------------------------------------------------------------------


def list_tasks(ask: Ask) -> list[dict[str, Any]]:
    given = ask.take(
        optional="errors limit since source start statusfilter typefilter until userfilter vmid"
    )
    tasks = [task for task in reversed(ask.node.tasks.all()) if _mine(ask, task)]
    source = given.get("source", "archive")
    if source != "all":
        tasks = [task for task in tasks if (task.exit is None) == (source == "active")]
    if vmid := given.get("vmid"):
        tasks = [task for task in tasks if task.id == vmid]
    if kind := given.get("typefilter"):
        tasks = [task for task in tasks if task.type == kind]
    first = int(given.get("start", "0"))
    return [_listed(task) for task in tasks[first : first + int(given.get("limit", "50"))]]


def task_status(ask: Ask) -> dict[str, Any]:
    task = ask.node.tasks.get(ask.at["upid"])
    if not _mine(ask, task):
        ask.need("Sys.Audit", path=f"/nodes/{ask.node.name}")
    out: dict[str, Any] = {
        key: getattr(task, key)
        for key in ("upid", "node", "pid", "pstart", "starttime", "type", "id", "user")
    }
    if task.exit is None:
        return out | {"status": "running"}
    return out | {"status": "stopped", "exitstatus": task.exit}


def task_log(ask: Ask) -> list[dict[str, Any]]:
    given = ask.take(optional="start limit download")
    task = ask.node.tasks.get(ask.at["upid"])
    if not _mine(ask, task):
        ask.need("Sys.Audit", path=f"/nodes/{ask.node.name}")
    first, count = int(given.get("start", "0")), int(given.get("limit", str(_LOG_PAGE)))
    lines = task.lines[first : first + count] if count else task.lines[first:]
    return [{"n": first + n, "t": line} for n, line in enumerate(lines, start=1)]


def abort_task(ask: Ask) -> None:
    task = ask.node.tasks.get(ask.at["upid"])
    if not _mine(ask, task):
        ask.need("Sys.Modify", path=f"/nodes/{ask.node.name}")
    ask.node.tasks.abort(task.upid)


def _mine(ask: Ask, task: Task) -> bool:
    return task.user in {ask.caller.name, ask.caller.user} or ask.may(
        f"/nodes/{ask.node.name}", "Sys.Audit"
    )


def _listed(task: Task) -> dict[str, Any]:
    out: dict[str, Any] = {
        key: getattr(task, key)
        for key in ("upid", "node", "pid", "pstart", "starttime", "type", "id", "user")
    }
    if task.exit is not None:
        out |= {"status": task.exit, "endtime": task.endtime}
    return out


_T = "/nodes/{node}/tasks"

ROUTES = (
    route("GET", "/version", version),
    route("GET", "/access/permissions", permissions),
    route("GET", "/cluster/nextid", next_id),
    route("GET", "/cluster/resources", resources),
    route("GET", "/cluster/status", cluster_status),
    route("GET", "/cluster/ha/resources", ha_resources),
    route("PUT", "/cluster/ha/resources/{sid}", put_ha_resource),
    route("GET", "/nodes", nodes),
    route("GET", "/nodes/{node}/status", node_status),
    route("GET", "/nodes/{node}/network", networks),
    route("GET", _T, list_tasks),
    route("GET", _T + "/{upid}/status", task_status),
    route("GET", _T + "/{upid}/log", task_log),
    route("DELETE", _T + "/{upid}", abort_task),
)
