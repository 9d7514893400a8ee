"""Servers: what compute v2.1 answers about them, and what it accepts to do."""

from typing import Any

from drivers.simulators.openstack.actions import Actions, in_state, unlocked
from drivers.simulators.openstack.births import Births
from drivers.simulators.openstack.cinder import Cinder
from drivers.simulators.openstack.cloud import Cloud, found, mine, page
from drivers.simulators.openstack.glance import Glance
from drivers.simulators.openstack.lives import Lives
from drivers.simulators.openstack.neutron import Neutron
from drivers.simulators.openstack.nova import Nova
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record

ROOT = "/compute/v2.1/servers"
PLAIN = {"limit", "marker", "all_tenants", "project_id"}


class Servers:
    """The servers of one cloud."""

    def __init__(
        self, cloud: Cloud, nova: Nova, cinder: Cinder, glance: Glance, neutron: Neutron
    ) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._cinder = cinder
        self.lives = Lives(cloud, glance, cinder.volumes, neutron)
        self.routes = Routes()
        add = self.routes.add
        Births(cloud, self, nova, cinder, neutron).add_routes(self.routes, ROOT)
        add("GET", ROOT, self._list)
        add("GET", ROOT + "/detail", self._list)
        add("GET", ROOT + "/{ident}", self._show)
        add("PUT", ROOT + "/{ident}", self._rename)
        add("DELETE", ROOT + "/{ident}", self._delete)
        Actions(cloud, self, cinder, glance).add_routes(self.routes, ROOT)
        for verb in ("GET", "POST", "PUT"):
            add(verb, ROOT + "/{ident}/metadata", self._metadata)
        add("PUT", ROOT + "/{ident}/metadata/{key}", self._metadata_item)
        add("DELETE", ROOT + "/{ident}/metadata/{key}", self._metadata_item)
        add("GET", ROOT + "/{ident}/tags", self._tags)
        add("PUT", ROOT + "/{ident}/tags", self._tags)
        add("PUT", ROOT + "/{ident}/tags/{tag}", self._tag)
        add("DELETE", ROOT + "/{ident}/tags/{tag}", self._tag)
        add("GET", ROOT + "/{ident}/os-volume_attachments", self._attachments)
        add("POST", ROOT + "/{ident}/os-volume_attachments", self._attach)
        add("DELETE", ROOT + "/{ident}/os-volume_attachments/{volume}", self._detach)
        add("GET", ROOT + "/{ident}/os-interface", self._interfaces)
        add("DELETE", ROOT + "/{ident}/os-interface/{port}", self._unplug)

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

    def _list(self, call: Call) -> Reply:
        records = sorted(
            mine(self._world.all("server"), call), key=lambda r: (r["created"], r["id"])
        )[::-1]
        for key, value in call.query:
            if key in {"tags", "tags-any"} and call.version >= (2, 26):
                wanted = set(value.split(","))
                records = [
                    r
                    for r in records
                    if (wanted <= set(r["tags"]) if key == "tags" else wanted & set(r["tags"]))
                ]
            elif key == "name":  # nova searches for a regular expression
                records = [r for r in records if value.strip("^$") in r["name"]]
            elif key == "status":
                records = [r for r in records if r["status"] == value.upper()]
        refuse = lambda text: Refusal(400, text)  # noqa: E731  # one word for one case
        path = call.base + call.path
        records, following = page(records, call, path, self._cloud.knobs.max_page, refuse)
        if self._cloud.knobs.cell_down and (
            call.version < (2, 69) or {key for key, _ in call.query} - PLAIN
        ):
            records = []  # servers of the silent cell cannot be filtered: they are left out
        full = [self.shown(r, call) for r in records]
        if not call.path.endswith("/detail"):
            brief = ("id", "name", "links")
            full = [{k: s[k] for k in brief if k in s} if "name" in s else s for s in full]
        links = [{"rel": "next", "href": following}] if following else []
        return Reply(
            status=200, body={"servers": full, **({"servers_links": links} if links else {})}
        )

    def _show(self, call: Call, ident: str) -> Reply:
        return Reply(status=200, body={"server": self.shown(self.server(call, ident), call)})

    # changing

    def _rename(self, call: Call, ident: str) -> Reply:
        self.server(call, ident)
        wish = call.json().get("server", {})
        kept = {key: wish[key] for key in ("name", "description") if key in wish}
        self.lives.set(ident, **kept)
        return self._show(call, ident)

    def _delete(self, call: Call, ident: str) -> Reply:
        server = self.server(call, ident)
        unlocked(server, call)
        if server["task_state"] != "deleting":
            self.lives.set(ident, task_state="deleting")
            self._cloud.step("server.delete", ident=ident)
        return Reply(status=204)

    # metadata and tags

    def _metadata(self, call: Call, ident: str) -> Reply:
        server = self.server(call, ident)
        if call.method != "GET":
            unlocked(server, call)
            given = call.json().get("metadata", {})
            if any(len(str(v)) > 255 for v in given.values()):
                raise Refusal(400, "Invalid input for field/attribute metadata. Value is too long")
            kept = {**server["metadata"], **given} if call.method == "POST" else given
            self.lives.set(ident, metadata=kept)
        return Reply(status=200, body={"metadata": server["metadata"]})

    def _metadata_item(self, call: Call, ident: str, key: str) -> Reply:
        server = self.server(call, ident)
        unlocked(server, call)
        kept = dict(server["metadata"])
        if call.method == "DELETE":
            if kept.pop(key, None) is None:
                raise Refusal(404, "Metadata item was not found")
            self.lives.set(ident, metadata=kept)
            return Reply(status=204)
        kept[key] = call.json()["meta"][key]
        self.lives.set(ident, metadata=kept)
        return Reply(status=200, body={"meta": {key: kept[key]}})

    def _tags(self, call: Call, ident: str) -> Reply:
        server = self.server(call, ident)
        if call.version < (2, 26):
            raise Refusal(404, "The resource could not be found.")
        if call.method == "PUT":
            self.lives.set(ident, tags=call.json()["tags"])
        return Reply(status=200, body={"tags": server["tags"]})

    def _tag(self, call: Call, ident: str, tag: str) -> Reply:
        server = self.server(call, ident)
        if call.method == "DELETE":
            if tag not in server["tags"]:
                raise Refusal(404, f"Server {ident} has no tag '{tag}'")
            self.lives.set(ident, tags=[t for t in server["tags"] if t != tag])
            return Reply(status=204)
        new = tag not in server["tags"]
        if new:
            self.lives.set(ident, tags=[*server["tags"], tag])
        return Reply(status=201 if new else 204)

    # volumes and interfaces of a server

    def _attachments(self, call: Call, ident: str) -> Reply:
        server = self.server(call, ident)
        shown = []
        for held in server["volumes"]:
            record = {
                "volumeId": held["volume_id"],
                "serverId": ident,
                "device": held["device"],
                "attachment_id": held["attachment_id"],
                "bdm_uuid": held["attachment_id"],
                "delete_on_termination": held["delete_on_termination"],
                "tag": None,
            }
            if call.version < (2, 89):
                record["id"] = held["volume_id"]
            shown.append(record)
        return Reply(status=200, body={"volumeAttachments": shown})

    def _attach(self, call: Call, ident: str) -> Reply:
        server = self.server(call, ident)
        unlocked(server, call)
        in_state(server, {"active", "stopped", "paused"}, "attach_volume")
        wish = call.json()["volumeAttachment"]
        volume = self._world.get("volume", wish["volumeId"])
        if volume is None or volume["project_id"] != call.project:
            raise Refusal(404, f"Volume {wish['volumeId']} could not be found.")
        if volume["status"] != "available":
            raise Refusal(
                400,
                f"Invalid volume: volume '{volume['id']}' status must be"
                f" 'available'. Currently in '{volume['status']}'",
            )
        held = {
            "volume_id": volume["id"],
            "device": wish.get("device"),
            "delete_on_termination": bool(wish.get("delete_on_termination")),
            "attachment_id": self._world.new_id(),
        }
        self._cinder.volumes.touch(volume["id"], status="attaching")
        self.lives.set(ident, volumes=[*server["volumes"], held])
        self._cloud.step("server.attach", ident=ident, volume=volume["id"])
        body = {
            "id": volume["id"],
            "volumeId": volume["id"],
            "serverId": ident,
            "device": held["device"],
        }
        return Reply(status=200, body={"volumeAttachment": body})

    def _detach(self, call: Call, ident: str, volume: str) -> Reply:
        server = self.server(call, ident)
        unlocked(server, call)
        at = next((i for i, h in enumerate(server["volumes"]) if h["volume_id"] == volume), None)
        if at is None:
            raise Refusal(404, f"Instance {ident} is not attached to volume {volume}.")
        if at == 0:
            raise Refusal(403, "Cannot detach a root device volume")
        self._cinder.volumes.touch(volume, status="detaching")
        self._cloud.step("server.detach", ident=ident, volume=volume)
        return Reply(status=202)

    def _unplug(self, call: Call, ident: str, port: str) -> Reply:
        server = self.server(call, ident)
        unlocked(server, call)
        in_state(server, {"active", "stopped", "paused"}, "detach_interface")
        if port not in server["ports"]:
            raise Refusal(404, f"Port {port} is not attached to instance {ident}.")
        self._cloud.step("server.unplug", ident=ident, port=port)
        return Reply(status=202)

    def _interfaces(self, call: Call, ident: str) -> Reply:
        server = self.server(call, ident)
        ports = [p for i in server["ports"] if (p := self._world.get("port", i))]
        shown = [
            {
                "port_id": port["id"],
                "net_id": port["network_id"],
                "mac_addr": port["mac_address"],
                "port_state": port["status"],
                "fixed_ips": port["fixed_ips"],
            }
            for port in ports
        ]
        return Reply(status=200, body={"interfaceAttachments": shown})
