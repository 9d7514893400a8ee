"""How a server comes to be: what compute asks of a wish, and what it makes of one it accepts."""

import secrets
from typing import Any

from drivers.simulators.openstack.cinder import Cinder
from drivers.simulators.openstack.cloud import Cloud, mine
from drivers.simulators.openstack.lives import NOSTATE, hostname
from drivers.simulators.openstack.neutron import Neutron
from drivers.simulators.openstack.nova import Nova
from drivers.simulators.openstack.server_view import ServerView
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record, stamp


def _boot_order(mapping: dict[str, Any]) -> int:
    """Where a disk stands among those of a server; a negative index is not booted from."""
    index = mapping.get("boot_index")
    return int(index) if index is not None and int(index) >= 0 else 1 << 16


class Births:
    """The making of servers."""

    def __init__(
        self, cloud: Cloud, view: ServerView, nova: Nova, cinder: Cinder, neutron: Neutron
    ) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._view, self._nova, self._cinder, self._neutron = view, nova, cinder, neutron

    def add_routes(self, routes: Routes, root: str) -> None:
        routes.add("POST", root, self._create)

    def _create(self, call: Call) -> Reply:
        wish = call.json().get("server", {})
        name = wish.get("name") or ""
        if not 1 <= len(name) <= 255:
            raise Refusal(
                400, f"Invalid input for field/attribute name. Value: {name}. '{name}' is too long"
            )
        flavor = self._world.get("flavor", str(wish.get("flavorRef")))
        if flavor is None:
            raise Refusal(400, f"Flavor {wish.get('flavorRef')} could not be found.")
        tags = wish.get("tags", [])
        if tags and call.version < (2, 52):
            raise Refusal(400, "Additional properties are not allowed ('tags' was unexpected)")
        metadata = wish.get("metadata") or {}
        if any(len(k) > 255 or len(str(v)) > 255 for k, v in metadata.items()):
            raise Refusal(400, "Invalid input for field/attribute metadata. Value is too long")
        if any(len(tag) > 60 for tag in tags):
            raise Refusal(400, "Invalid input for field/attribute tags. A tag is longer than 60")
        with self._world.lock:
            image = self._image(call, wish)
            networks = self._networks(call, wish)
            volumes = self._devices(call, wish)
            if not image and not volumes:
                raise Refusal(
                    400,
                    "Block Device Mapping is Invalid: Boot sequence for the"
                    " instance and image/block device mapping combination is not"
                    " valid.",
                )
            if image and not volumes and not flavor["disk"]:
                raise Refusal(
                    403, "Only volume-backed servers are allowed for flavors with zero disk."
                )
            self._nova.reserve(call, flavor)
            ident = self._world.new_id()
            ports, own = self._ports(call, networks)
            for held in volumes:
                self._cinder.volumes.touch(held["volume_id"], status="reserved")
            now = stamp() + "Z"
            server: Record = {
                "id": ident,
                "project_id": call.project,
                "user_id": call.token["user_id"],
                "name": name,
                "hostname": wish.get("hostname") or hostname(name),
                "description": wish.get("description"),
                "flavor": {
                    k: flavor[k] for k in ("id", "name", "vcpus", "ram", "disk", "extra_specs")
                },
                "image": {"id": image["id"], "links": []} if image else "",
                "status": "BUILD",
                "vm_state": "building",
                "task_state": "scheduling",
                "power_state": NOSTATE,
                "metadata": dict(metadata),
                "tags": list(tags),
                "volumes": volumes,
                "ports": ports,
                "own_ports": own,
                "locked": False,
                "locked_reason": None,
                "fault": None,
                "config_drive": bool(wish.get("config_drive")),
                "key_name": wish.get("key_name"),
                "host": None,
                "launched_at": None,
                "created": now,
                "updated": now,
            }
            self._world.put("server", server)
        self._cloud.step("server.schedule", ident=ident)
        shown = self._view.shown(server, call)
        body = {key: shown[key] for key in ("id", "links", "OS-DCF:diskConfig")}
        body["security_groups"] = [{"name": "default"}]
        body["adminPass"] = secrets.token_urlsafe(9)
        where = {"Location": f"{call.base}/compute/v2.1/servers/{ident}"}
        return Reply(status=202, body={"server": body}, headers=where)

    def _image(self, call: Call, wish: dict[str, Any]) -> Record | None:
        ref = wish.get("imageRef")
        if not ref:
            return None
        image = self._world.get("image", ref)
        if image is None or image["project_id"] != call.project:
            raise Refusal(400, f"Image {ref} could not be found.")
        if image["status"] != "active":
            raise Refusal(400, f"Image {ref} is not active.")
        return image

    def _devices(self, call: Call, wish: dict[str, Any]) -> list[Record]:
        mappings = wish.get("block_device_mapping_v2") or []
        held = []
        for mapping in sorted(mappings, key=_boot_order):
            kind = mapping.get("source_type")
            if kind != "volume" or mapping.get("destination_type", "volume") != "volume":
                if kind == "image" and mapping.get("destination_type") == "local":
                    continue
                raise Refusal(
                    400, f"Block Device Mapping is Invalid: source type {kind} is not modelled"
                )
            ident = mapping.get("uuid")
            volume = self._world.get("volume", ident or "")
            if volume is None or volume["project_id"] != call.project:
                raise Refusal(
                    400, f"Block Device Mapping is Invalid: failed to get volume {ident}."
                )
            if volume["status"] != "available":
                raise Refusal(
                    400,
                    f"Invalid volume: volume '{ident}' status must be 'available'."
                    f" Currently in '{volume['status']}'",
                )
            if mapping.get("boot_index") in {0, "0"} and volume["bootable"] != "true":
                raise Refusal(400, f"Block Device {ident} is not bootable.")
            held.append(
                {
                    "volume_id": ident,
                    "device": mapping.get("device_name"),
                    "delete_on_termination": bool(mapping.get("delete_on_termination")),
                    "attachment_id": self._world.new_id(),
                }
            )
        return held

    def _networks(self, call: Call, wish: dict[str, Any]) -> list[dict[str, Any]]:
        """The networks as wished; a Refusal when one of the ports cannot be had."""
        networks = wish.get("networks")
        if networks is None and call.version >= (2, 37):
            raise Refusal(
                400,
                "Invalid input for field/attribute server. 'networks' is a required property",
            )
        if networks == "none":
            return []
        if not isinstance(networks, list):
            return [{"uuid": mine(self._world.all("network"), call)[0]["id"]}]
        for wanted in networks:
            if "port" not in wanted:
                continue
            try:
                port = self._neutron.port_of(call, wanted["port"])
            except Refusal as e:
                raise Refusal(400, f"Port id {wanted['port']} could not be found.") from e
            if port["device_id"]:
                raise Refusal(409, f"Port {port['id']} is still in use.")
        return networks

    def _ports(self, call: Call, networks: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
        given, own = [], []
        for wanted in networks:
            if "port" in wanted:
                given.append(wanted["port"])
                continue
            fixed = [{"ip_address": wanted["fixed_ip"]}] if wanted.get("fixed_ip") else None
            wish = {"network_id": wanted.get("uuid"), "fixed_ips": fixed}
            port = self._neutron.make_port(call, wish)
            given.append(port["id"])
            own.append(port["id"])
        return given, own
