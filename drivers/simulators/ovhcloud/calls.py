"""The calls of the simulated API, one function each: what they take, do and answer."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from drivers.simulators.ovhcloud import installs, networks
from drivers.simulators.ovhcloud.asked import (
    Asked,
    Page,
    known_server,
    known_task,
    told_time,
)
from drivers.simulators.ovhcloud.estate import (
    NETBOOTS,
    REBOOT_MINUTES,
    Estate,
    Refusal,
    Server,
    Task,
)

_TAG_KEY = re.compile(r"[A-Za-z0-9_.:/=+@-]{1,128}")
_TAG_VALUE = re.compile(r"[A-Za-z0-9 _.:/=+@-]{1,256}")
_WRITABLE = {
    "bootId", "bootScript", "efiBootloaderPath", "monitoring", "noIntervention", "rescueMail",
    "rescueSshKey", "rootDevice", "state",
}  # fmt: skip
_PAGE = 4


# -- servers -----------------------------------------------------------------------------------


def servers(estate: Estate, asked: Asked) -> list[str]:  # noqa: ARG001  # the shape of calls
    return sorted(estate.servers)


def server(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = known_server(estate, asked.parts[0])
    return {
        "availabilityZone": "eu-west-rbx-a",
        "bootId": it.boot,
        "bootScript": None,
        "commercialRange": it.kind,
        "datacenter": "rbx8",
        "efiBootloaderPath": it.efi,
        "iam": _iam(it),
        "ip": it.ip,
        "linkSpeed": 1000,
        "monitoring": False,
        "name": it.name,
        "newUpgradeSystem": True,
        "noIntervention": False,
        "os": it.os,
        "powerState": "poweron" if it.shown_on else "poweroff",
        "professionalUse": False,
        "rack": "R01A01",
        "region": "eu-west-rbx",
        "rescueMail": None,
        "rescueSshKey": it.rescue_key,
        "reverse": f"{it.name}.",
        "rootDevice": None,
        "serverId": it.id,
        "state": "ok",
        "supportLevel": "pro",
    }


def _iam(it: Server) -> dict[str, Any]:
    return {
        "displayName": it.display or it.name,
        "id": it.iam,
        "state": "OK",
        "tags": dict(it.tags),
        "urn": it.urn,
    }


def change_server(estate: Estate, asked: Asked) -> None:
    it = known_server(estate, asked.parts[0])
    if unknown := set(asked.body) - _WRITABLE:
        raise Refusal(400, f"[{min(unknown)}] cannot be changed", code="INVALID_ARGUMENT")
    if "bootId" in asked.body:
        if asked.body["bootId"] not in NETBOOTS:
            raise Refusal(400, "This netboot is not available for this server")
        it.boot = asked.body["bootId"]
    if "rescueSshKey" in asked.body:
        it.rescue_key = asked.body["rescueSshKey"]
    if "efiBootloaderPath" in asked.body:
        it.efi = asked.body["efiBootloaderPath"]


def hardware(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = known_server(estate, asked.parts[0])
    return {
        "bootMode": it.boot_mode,
        "coresPerProcessor": it.cores,
        "defaultHardwareRaidSize": None,
        "defaultHardwareRaidType": None,
        "description": "a simulated server",
        "diskGroups": [
            {
                "defaultHardwareRaidSize": None,
                "defaultHardwareRaidType": None,
                "description": "1 X a disk",
                "diskGroupId": 1,
                "diskSize": {"unit": "MB", "value": -(-it.disk >> 20)},
                "diskType": "NVME",
                "numberOfDisks": 1,
                "raidController": None,
            }
        ],
        "expansionCards": None,
        "formFactor": "1u",
        "memorySize": {"unit": "MB", "value": it.memory_mib},
        "motherboard": "a board",
        "numberOfProcessors": 1,
        "processorArchitecture": "x86_64",
        "processorName": "a processor",
        "threadsPerProcessor": it.threads,
        "usbKeys": None,
    }


def boots(estate: Estate, asked: Asked) -> list[int]:
    known_server(estate, asked.parts[0])
    kind = asked.query.get("bootType")
    return [number for number, it in NETBOOTS.items() if kind in {None, it[0]}]


def boot(estate: Estate, asked: Asked) -> dict[str, Any]:
    known_server(estate, asked.parts[0])
    number = int(asked.parts[1]) if asked.parts[1].isdecimal() else 0
    if number not in NETBOOTS:
        raise Refusal(404, f"The requested object (bootId = {asked.parts[1]}) does not exist")
    kind, description, kernel = NETBOOTS[number]
    return {"bootId": number, "bootType": kind, "description": description, "kernel": kernel}


def reboot(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = known_server(estate, asked.parts[0])
    if estate.busy(it.name):
        raise Refusal(409, "An action is already pending on this server")
    made = estate.task(it.name, "hardReboot")
    estate.works(made, REBOOT_MINUTES, lambda: estate.boot(it))
    return _task(made)


def reinstall(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = known_server(estate, asked.parts[0])
    made = installs.begin(estate, it, asked.body)
    return {
        "comment": made.comment,
        "doneDate": None,
        "function": made.function,
        "startDate": told_time(made.began),
        "status": made.status,
        "taskId": made.id,
    }


def install_status(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = known_server(estate, asked.parts[0])
    if it.name not in estate.installs:
        raise Refusal(404, "Server is not being installed or reinstalled at the moment")
    return {"elapsedTime": 60, "progress": [dict(each) for each in estate.installs[it.name]]}


def _task(made: Task) -> dict[str, Any]:
    return {
        "comment": made.comment or None,
        "doneDate": told_time(made.ended),
        "function": made.function,
        "lastUpdate": told_time(made.ended or made.began),
        "needSchedule": False,
        "note": None,
        "plannedInterventionId": None,
        "startDate": told_time(made.began),
        "status": made.status,
        "tags": None,
        "taskId": made.id,
        "ticketReference": None,
    }


def tasks(estate: Estate, asked: Asked) -> list[int]:
    it = known_server(estate, asked.parts[0])
    status, function = asked.query.get("status"), asked.query.get("function")
    return [
        each.id
        for each in estate.of(it.name)
        if status in {None, each.status} and function in {None, each.function}
    ]


def task(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = known_server(estate, asked.parts[0])
    return _task(known_task(estate, it.name, asked.parts[1]))


def interfaces(estate: Estate, asked: Asked) -> list[str]:
    it = known_server(estate, asked.parts[0])
    mode = asked.query.get("mode")
    return [each.uuid for each in it.interfaces if mode in {None, each.mode}]


def interface(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = known_server(estate, asked.parts[0])
    for each in it.interfaces:
        if each.uuid == asked.parts[1]:
            return {
                "enabled": True,
                "mode": each.mode,
                "name": each.mode,
                "networkInterfaceController": [each.mac],
                "serverName": it.name,
                "uuid": each.uuid,
                "vrack": each.vrack,
            }
    raise Refusal(404, f"The requested object (uuid = {asked.parts[1]}) does not exist")


# -- resources and their tags ------------------------------------------------------------------


def resources(estate: Estate, asked: Asked) -> Page:
    """Sorted by name, some at a time."""
    rows = [
        {
            "displayName": it.display or it.name,
            "id": it.iam,
            "name": it.name,
            "owner": "xx1111-ovh",
            "tags": dict(it.tags),
            "type": "dedicatedServer",
            "urn": it.urn,
        }
        for it in sorted(estate.servers.values(), key=lambda it: it.name)
        if asked.query.get("resourceType") in {None, "dedicatedServer"}
    ]
    start = int(asked.cursor) if asked.cursor.isdecimal() else 0
    after = str(start + _PAGE) if start + _PAGE < len(rows) else ""
    return Page(rows=rows[start : start + _PAGE], after=after)


def _resource(estate: Estate, urn: str) -> Server:
    for it in estate.servers.values():
        if it.urn == urn:
            return it
    raise Refusal(404, "The requested resource was not found")


def add_tag(estate: Estate, asked: Asked) -> None:
    it = _resource(estate, asked.parts[0])
    key, value = str(asked.body.get("key", "")), str(asked.body.get("value", ""))
    if not _TAG_KEY.fullmatch(key) or key.startswith("ovh:") or not _TAG_VALUE.fullmatch(value):
        raise Refusal(400, "The tag is malformed")
    it.tags[key] = value


def remove_tag(estate: Estate, asked: Asked) -> None:
    it = _resource(estate, asked.parts[0])
    if asked.parts[1] not in it.tags:
        raise Refusal(404, "The requested tag was not found")
    it.tags.pop(asked.parts[1])


def clock(estate: Estate, asked: Asked) -> int:  # noqa: ARG001  # the shape of calls
    return int(datetime.now(UTC).timestamp())


def query_id(number: int) -> str:
    return f"EU.ext-1.{uuid5(NAMESPACE_URL, str(number)).hex[:24]}"


Handler = Callable[[Estate, Asked], Any]
_SERVER = r"/dedicated/server/([^/]+)"
_TAGS = r"/v2/iam/resource/([^/]+)/tag"
ROUTES: tuple[tuple[str, re.Pattern[str], Handler], ...] = tuple(
    (method, re.compile(path), act)
    for method, path, act in (
        ("GET", r"/auth/time", clock),
        ("GET", r"/dedicated/server", servers),
        ("GET", _SERVER, server),
        ("PUT", _SERVER, change_server),
        ("GET", rf"{_SERVER}/specifications/hardware", hardware),
        ("GET", rf"{_SERVER}/boot", boots),
        ("GET", rf"{_SERVER}/boot/([^/]+)", boot),
        ("POST", rf"{_SERVER}/reboot", reboot),
        ("POST", rf"{_SERVER}/reinstall", reinstall),
        ("GET", rf"{_SERVER}/install/status", install_status),
        ("GET", rf"{_SERVER}/task", tasks),
        ("GET", rf"{_SERVER}/task/([^/]+)", task),
        ("GET", rf"{_SERVER}/virtualNetworkInterface", interfaces),
        ("GET", rf"{_SERVER}/virtualNetworkInterface/([^/]+)", interface),
        ("GET", r"/vrack", networks.vracks),
        ("GET", r"/vrack/([^/]+)/dedicatedServerInterface", networks.vrack_interfaces),
        ("POST", r"/vrack/([^/]+)/dedicatedServerInterface", networks.join_vrack),
        ("DELETE", r"/vrack/([^/]+)/dedicatedServerInterface/([^/]+)", networks.leave_vrack),
        ("GET", r"/vrack/([^/]+)/task", networks.vrack_tasks),
        ("GET", r"/vrack/([^/]+)/task/([^/]+)", networks.vrack_task),
        ("GET", r"/ip", networks.addresses),
        ("GET", r"/ip/([^/]+)", networks.address),
        ("GET", r"/ip/([^/]+)/move", networks.destinations),
        ("POST", r"/ip/([^/]+)/move", networks.move_address),
        ("POST", r"/ip/([^/]+)/park", networks.park_address),
        ("GET", r"/ip/([^/]+)/task", networks.address_tasks),
        ("GET", r"/ip/([^/]+)/task/([^/]+)", networks.address_task),
        ("GET", r"/v2/iam/resource", resources),
        ("POST", _TAGS, add_tag),
        ("DELETE", rf"{_TAGS}/([^/]+)", remove_tag),
    )
)
