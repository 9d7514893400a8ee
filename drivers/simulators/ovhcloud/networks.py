"""The calls about vRacks and additional addresses: each change is a task."""

from typing import Any

from drivers.simulators.ovhcloud.asked import Asked, known_server, known_task, told_time
from drivers.simulators.ovhcloud.estate import (
    NETWORK_MINUTES,
    Address,
    Estate,
    Interface,
    Refusal,
    Server,
    Task,
)

# -- vRacks ------------------------------------------------------------------------------------


def vracks(estate: Estate, asked: Asked) -> list[str]:  # noqa: ARG001  # the shape of calls
    return list(estate.vracks)


def _vrack(estate: Estate, name: str) -> str:
    if name not in estate.vracks:
        raise Refusal(404, f"The requested object (serviceName = {name}) does not exist")
    return name


def _placed(estate: Estate, uuid: str) -> tuple[Server, Interface]:
    for it in estate.servers.values():
        for each in it.interfaces:
            if each.uuid == uuid and each.mode == "vrack":
                return it, each
    raise Refusal(400, "This interface is not eligible to a vRack")


def vrack_interfaces(estate: Estate, asked: Asked) -> list[str]:
    vrack = _vrack(estate, asked.parts[0])
    return [e.uuid for it in estate.servers.values() for e in it.interfaces if e.vrack == vrack]


def join_vrack(estate: Estate, asked: Asked) -> dict[str, Any]:
    vrack = _vrack(estate, asked.parts[0])
    it, each = _placed(estate, str(asked.body.get("dedicatedServerInterface")))
    if each.vrack is not None or estate.busy(each.uuid):
        raise Refusal(409, "This interface is already in a vRack, or on its way")
    return _plugging(estate, it, each, vrack, "addDedicatedServerInterfaceToVrack")


def leave_vrack(estate: Estate, asked: Asked) -> dict[str, Any]:
    vrack = _vrack(estate, asked.parts[0])
    it, each = _placed(estate, asked.parts[1])
    if each.vrack != vrack:
        raise Refusal(404, f"The requested object ({each.uuid}) does not exist")
    if estate.busy(each.uuid):
        raise Refusal(409, "This interface is on its way")
    return _plugging(estate, it, each, None, "removeDedicatedServerInterfaceFromVrack")


def _plugging(
    estate: Estate, it: Server, each: Interface, vrack: str | None, function: str
) -> dict[str, Any]:
    def plug() -> None:
        each.vrack = vrack
        estate.moved(it)

    made = estate.task(each.uuid, function, target=it.name)
    estate.works(made, NETWORK_MINUTES, plug)
    return _vrack_task(made, it)


def _vrack_task(made: Task, it: Server) -> dict[str, Any]:
    return {
        "function": made.function,
        "id": made.id,
        "lastUpdate": told_time(made.ended or made.began),
        "orderId": None,
        "serviceName": it.name,
        "status": "done" if made.ended else made.status,
        "targetDomain": made.target,
        "todoDate": told_time(made.began),
    }


def vrack_tasks(estate: Estate, asked: Asked) -> list[int]:
    _vrack(estate, asked.parts[0])
    return [each.id for each in estate.tasks.values() if each.function.endswith("Vrack")]


def vrack_task(estate: Estate, asked: Asked) -> dict[str, Any]:
    if asked.parts[1] not in map(str, vrack_tasks(estate, asked)):
        raise Refusal(404, f"The requested object (taskId = {asked.parts[1]}) does not exist")
    made = estate.tasks[int(asked.parts[1])]
    return _vrack_task(made, estate.servers[made.target or ""])


# -- addresses ---------------------------------------------------------------------------------


def addresses(estate: Estate, asked: Asked) -> list[str]:
    routed = asked.query.get("routedTo.serviceName")
    return [it.block for it in estate.addresses.values() if routed in {None, it.routed}]


def _address(estate: Estate, block: str) -> Address:
    if block not in estate.addresses:
        raise Refusal(404, f"The requested object (ip = {block}) does not exist", code="NOT_FOUND")
    return estate.addresses[block]


def address(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = _address(estate, asked.parts[0])
    return {
        "bringYourOwnIp": False,
        "campus": "RBX",
        "canBeTerminated": True,
        "country": "fr",
        "description": None,
        "iam": None,
        "ip": it.block,
        "isAdditionalIp": True,
        "organisationId": None,
        "regions": ["eu-west-rbx"],
        "rir": "RIPE",
        "routedTo": {"serviceName": it.routed},
        "type": "failover",
        "version": "4",
    }


def destinations(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = _address(estate, asked.parts[0])
    rest = ("cloudProject", "dedicatedCloud", "hostingReseller", "ipLoadbalancing")
    return {
        "dedicatedServer": [
            {"nexthop": None, "service": name} for name in estate.servers if name != it.routed
        ],
        **dict.fromkeys((*rest, "vmwareCloudDirector", "vps")),
    }


def move_address(estate: Estate, asked: Asked) -> dict[str, Any]:
    it = _address(estate, asked.parts[0])
    return _routing(estate, it, known_server(estate, str(asked.body.get("to"))).name)


def park_address(estate: Estate, asked: Asked) -> dict[str, Any]:
    return _routing(estate, _address(estate, asked.parts[0]), None)


def _routing(estate: Estate, it: Address, to: str | None) -> dict[str, Any]:
    if estate.busy(it.block):
        raise Refusal(409, "An operation is already in progress on this address")
    before = it.routed

    def route() -> None:
        it.routed = to
        for name in filter(None, (before, to)):
            estate.moved(estate.servers[name])

    made = estate.task(it.block, "genericMoveFloatingIp", target=to)
    estate.works(made, NETWORK_MINUTES, route)
    return _address_task(made)


def _address_task(made: Task) -> dict[str, Any]:
    return {
        "comment": None,
        "destination": {"serviceName": made.target},
        "doneDate": told_time(made.ended),
        "function": made.function,
        "lastUpdate": told_time(made.ended or made.began),
        "startDate": told_time(made.began),
        "status": made.status,
        "taskId": made.id,
    }


def address_tasks(estate: Estate, asked: Asked) -> list[int]:
    return [each.id for each in estate.of(_address(estate, asked.parts[0]).block)]


def address_task(estate: Estate, asked: Asked) -> dict[str, Any]:
    block = _address(estate, asked.parts[0]).block
    return _address_task(known_task(estate, block, asked.parts[1]))
