"""A server as compute shows it, by the version that is spoken."""

from typing import Any

from drivers.simulators.openstack.cloud import Cloud, found
from drivers.simulators.openstack.wire import Call, Refusal
from drivers.simulators.openstack.world import Record

ROOT = "/compute/v2.1/servers"


class ServerView:
    """The servers of one cloud, to look at."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._world = cloud.world

    def server(self, call: Call, ident: str) -> Record:
        what = f"Instance {ident} could not be found."
        return found(self._world.get("server", ident), what, call)

    # showing

    def shown(self, server: Record, call: Call) -> dict[str, Any]:
        version = call.version
        flavor = server["flavor"]
        links = [
            {"rel": "self", "href": f"{call.base}{ROOT}/{server['id']}"},
            {"rel": "bookmark", "href": f"{call.base}/compute/servers/{server['id']}"},
        ]
        if self._cloud.knobs.cell_down:
            if version < (2, 69):
                raise Refusal(500, "Unexpected API Error.")
            return {
                "id": server["id"],
                "status": "UNKNOWN",
                "tenant_id": server["project_id"],
                "created": server["created"],
                "links": links,
            }
        shown: dict[str, Any] = {
            "id": server["id"],
            "name": server["name"],
            "status": server["status"],
            "tenant_id": server["project_id"],
            "user_id": server["user_id"],
            "metadata": server["metadata"],
            "hostId": "5f" * 28 if server["host"] else "",
            "image": server["image"] or "",
            "flavor": self._flavor_shown(flavor, call),
            "created": server["created"],
            "updated": server["updated"],
            "addresses": self._addresses(server),
            "accessIPv4": "",
            "accessIPv6": "",
            "links": links,
            "OS-DCF:diskConfig": "MANUAL",
            "OS-EXT-AZ:availability_zone": "nova" if server["host"] else "",
            "config_drive": "True" if server["config_drive"] else "",
            "key_name": server["key_name"],
            "OS-SRV-USG:launched_at": server["launched_at"],
            "OS-SRV-USG:terminated_at": None,
            "security_groups": [{"name": "default"} for _ in server["ports"]],
            "OS-EXT-STS:task_state": server["task_state"],
            "OS-EXT-STS:vm_state": server["vm_state"],
            "OS-EXT-STS:power_state": server["power_state"],
            "os-extended-volumes:volumes_attached": [
                {"id": held["volume_id"]}
                | (
                    {"delete_on_termination": held["delete_on_termination"]}
                    if version >= (2, 3)
                    else {}
                )
                for held in server["volumes"]
            ],
        }
        if server["status"] in {"ACTIVE", "BUILD"}:
            shown["progress"] = 0
        if server["fault"]:
            shown["fault"] = server["fault"]
        later: dict[tuple[int, int], dict[str, Any]] = {
            (2, 9): {"locked": server["locked"]},
            (2, 19): {"description": server["description"]},
            (2, 26): {"tags": server["tags"]},
            (2, 63): {"trusted_image_certificates": None},
            (2, 71): {"server_groups": []},
            (2, 73): {"locked_reason": server["locked_reason"]},
            (2, 90): {"OS-EXT-SRV-ATTR:hostname": server["hostname"]},
        }
        for since, fields in later.items():
            if version >= since:
                shown |= fields
        return shown

    @staticmethod
    def _flavor_shown(flavor: Record, call: Call) -> dict[str, Any]:
        if call.version < (2, 47):
            href = f"{call.base}/compute/flavors/{flavor['id']}"
            return {"id": flavor["id"], "links": [{"rel": "bookmark", "href": href}]}
        return {
            "vcpus": flavor["vcpus"],
            "ram": flavor["ram"],
            "disk": flavor["disk"],
            "ephemeral": 0,
            "swap": 0,
            "original_name": flavor["name"],
            "extra_specs": flavor["extra_specs"],
        }

    def _addresses(self, server: Record) -> dict[str, list[dict[str, Any]]]:
        shown: dict[str, list[dict[str, Any]]] = {}
        for ident in server["ports"]:
            port = self._world.get("port", ident)
            network = port and self._world.get("network", port["network_id"])
            if not port or not network:
                continue
            for fixed in port["fixed_ips"]:
                address = {
                    "version": 4 if "." in fixed["ip_address"] else 6,
                    "addr": fixed["ip_address"],
                    "OS-EXT-IPS:type": "fixed",
                    "OS-EXT-IPS-MAC:mac_addr": port["mac_address"],
                }
                shown.setdefault(network["name"], []).append(address)
        return shown
