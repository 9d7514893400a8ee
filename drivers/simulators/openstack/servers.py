"""Servers: what compute v2.1 answers about them, and what it accepts to do."""

from drivers.simulators.openstack.actions import Actions, in_state, unlocked
from drivers.simulators.openstack.births import Births
from drivers.simulators.openstack.cinder import Cinder
from drivers.simulators.openstack.cloud import Cloud, mine, page
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.lives import Lives
from drivers.simulators.openstack.neutron import Neutron
from drivers.simulators.openstack.nova import Nova
from drivers.simulators.openstack.server_view import ROOT, ServerView
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes

PLAIN = {"limit", "marker", "all_tenants", "project_id"}


class Servers:
    """The servers of one cloud."""

    def __init__(
        self, cloud: Cloud, nova: Nova, cinder: Cinder, images: ImageStore, neutron: Neutron
    ) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._cinder = cinder
        self._view = ServerView(cloud)
        self.lives = Lives(cloud, images, cinder.volumes, neutron)
        self.routes = Routes()
        add = self.routes.add
        Births(cloud, self._view, nova, cinder, neutron).add_routes(self.routes, ROOT)
        add("GET", ROOT, self._list)
        add("GET", ROOT + "/detail", self._list)
        add("GET", ROOT + "/{ident}", self._show)
        add("PUT", ROOT + "/{ident}", self._rename)
        add("DELETE", ROOT + "/{ident}", self._delete)
        Actions(cloud, self._view, self.lives, cinder, images).add_routes(self.routes, ROOT)
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
        full = [self._view.shown(r, call) for r in records]
        if not call.path.endswith("/detail"):
            brief = ("id", "name", "links")
            full = [{k: s[k] for k in brief if k in s} if "name" in s else s for s in full]
        links = [{"rel": "next", "href": following}] if following else []
        return Reply(
            status=200, body={"servers": full, **({"servers_links": links} if links else {})}
        )

    def _show(self, call: Call, ident: str) -> Reply:
        return Reply(
            status=200, body={"server": self._view.shown(self._view.server(call, ident), call)}
        )

    # changing

    def _rename(self, call: Call, ident: str) -> Reply:
        self._view.server(call, ident)
        wish = call.json().get("server", {})
        kept = {key: wish[key] for key in ("name", "description") if key in wish}
        self.lives.set(ident, **kept)
        return self._show(call, ident)

    def _delete(self, call: Call, ident: str) -> Reply:
        server = self._view.server(call, ident)
        unlocked(server, call)
        if server["task_state"] != "deleting":
            self.lives.set(ident, task_state="deleting")
            self._cloud.step("server.delete", ident=ident)
        return Reply(status=204)

    # metadata and tags

    def _metadata(self, call: Call, ident: str) -> Reply:
        server = self._view.server(call, ident)
        if call.method != "GET":
            unlocked(server, call)
            given = call.json().get("metadata", {})
            if any(len(str(v)) > 255 for v in given.values()):
                raise Refusal(400, "Invalid input for field/attribute metadata. Value is too long")
            kept = {**server["metadata"], **given} if call.method == "POST" else given
            self.lives.set(ident, metadata=kept)
        return Reply(status=200, body={"metadata": server["metadata"]})

    def _metadata_item(self, call: Call, ident: str, key: str) -> Reply:
        server = self._view.server(call, ident)
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
        server = self._view.server(call, ident)
        if call.version < (2, 26):
            raise Refusal(404, "The resource could not be found.")
        if call.method == "PUT":
            self.lives.set(ident, tags=call.json()["tags"])
        return Reply(status=200, body={"tags": server["tags"]})

    def _tag(self, call: Call, ident: str, tag: str) -> Reply:
        server = self._view.server(call, ident)
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
        server = self._view.server(call, ident)
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
        server = self._view.server(call, ident)
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
        server = self._view.server(call, ident)
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
        server = self._view.server(call, ident)
        unlocked(server, call)
        in_state(server, {"active", "stopped", "paused"}, "detach_interface")
        if port not in server["ports"]:
            raise Refusal(404, f"Port {port} is not attached to instance {ident}.")
        self._cloud.step("server.unplug", ident=ident, port=port)
        return Reply(status=202)

    def _interfaces(self, call: Call, ident: str) -> Reply:
        server = self._view.server(call, ident)
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
