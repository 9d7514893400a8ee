"""MAC and fixed addresses of a network's ports: chosen, or refused because they are taken."""

import ipaddress
from typing import Any

from drivers.simulators.openstack.wire import Refusal
from drivers.simulators.openstack.world import Record, World


class Addresses:
    """The addresses of one cloud's networks."""

    def __init__(self, world: World) -> None:
        self._world = world

    def mac(self, network: str, wished: str | None) -> str:
        taken = {p["mac_address"] for p in self._world.where("port", network_id=network)}
        if wished:
            mac = wished.lower()
            if mac in taken:
                raise Refusal(
                    409,
                    f"Unable to complete operation for network {network}. The mac"
                    f" address {mac} is in use.",
                    kind="MacAddressInUse",
                )
            return mac
        while True:
            tail = self._world.random.getrandbits(24).to_bytes(3, "big")
            mac = "fa:16:3e:" + ":".join(f"{octet:02x}" for octet in tail)
            if mac not in taken:
                return mac

    def fixed(self, network: str, wished: Any) -> list[dict[str, str]]:
        subnets = {s["id"]: s for s in self._world.where("subnet", network_id=network)}
        taken = {
            fixed["ip_address"]
            for port in self._world.where("port", network_id=network)
            for fixed in port["fixed_ips"]
        } | {s["gateway_ip"] for s in subnets.values()}
        if wished is None:
            wished = [{"subnet_id": ident} for ident in list(subnets)[:1]]
        chosen = []
        for wish in wished:
            address = wish.get("ip_address")
            if address is None:
                subnet = subnets.get(wish.get("subnet_id"))
                if subnet is None:
                    raise Refusal(
                        400, "Invalid input for operation: no such subnet.", kind="InvalidInput"
                    )
                address = self._free(subnet, taken, network)
            else:
                subnet = self._subnet_for(subnets, address, network)
            if address in taken:
                raise Refusal(
                    409,
                    f"IP address {address} already allocated in subnet {subnet['id']}",
                    kind="IpAddressAlreadyAllocated",
                )
            taken.add(address)
            chosen.append({"subnet_id": subnet["id"], "ip_address": address})
        return chosen

    @staticmethod
    def _subnet_for(subnets: dict[str, Record], address: str, network: str) -> Record:
        try:
            at = ipaddress.ip_address(address)
        except ValueError as e:
            raise Refusal(
                400,
                f"Invalid input for fixed_ips. Reason: '{address}' is not a valid IP address.",
                kind="HTTPBadRequest",
            ) from e
        for subnet in subnets.values():
            if at in ipaddress.ip_network(subnet["cidr"]):
                return subnet
        raise Refusal(
            400,
            f"IP address {address} is not a valid IP for any of the subnets"
            f" on the specified network ({network}).",
            kind="InvalidIpForNetwork",
        )

    @staticmethod
    def _free(subnet: Record, taken: set[str], network: str) -> str:
        for at in ipaddress.ip_network(subnet["cidr"]).hosts():
            if str(at) not in taken:
                return str(at)
        raise Refusal(
            409,
            f"No more IP addresses available on network {network}.",
            kind="IpAddressGenerationFailure",
        )
