"""One story of raw calls, told alike to a real OpenStack and to the simulator, and written down."""

import contextlib
import hashlib
import json
import re
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import requests

COMPUTE, VOLUME = "2.79", "3.59"
WORKING = {
    *("BUILD", "creating", "downloading", "uploading", "deleting", "attaching", "detaching"),
    *("queued", "saving", "importing", "reserved", "extending"),
}
KEPT = ("content-type", "content-range", "content-length", "retry-after", "www-authenticate")
VERSIONED = ("openstack-api-version", "x-openstack-nova-api-version", "vary")
LATER = {"locked_reason": "2.73"}
# One active partition of a megabyte, and content that no compression hides.
_PARTITION = struct.pack("<B3sB3sII", 0x80, b"\1\1\0", 0x83, b"\2\2\0", 1, 2047)
CONTENT = (b"\0" * 446 + _PARTITION).ljust(510, b"\0") + b"\x55\xaa" + bytes(range(256)) * 2048
CONTENT = CONTENT.ljust(1 << 20, b"\x07")
BROKEN = (b"\0" * 510 + b"\x55\xaa").ljust(1 << 20, b"\x07")  # signed, without a partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A cloud and the two accounts that the story needs."""

    url: str
    user: str
    password: str
    project: str
    admin_user: str
    admin_password: str
    admin_project: str
    pull_port: int  # a loopback port that glance may fetch from
    patience: float = 90.0
    pause: float = 0.5


@dataclass(slots=True)
class Recorder:
    """Sends calls and keeps what was said, by a name for each."""

    access: Access
    exchanges: dict[str, dict[str, Any]] = field(default_factory=dict)
    http: requests.Session = field(default_factory=requests.Session)
    services: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    project_id: str = ""

    def login(self, user: str, password: str, project: str, name: str) -> requests.Response:
        identity = {
            "methods": ["password"],
            "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}},
        }
        scope = {"project": {"name": project, "domain": {"id": "default"}}}
        body = {"auth": {"identity": identity, "scope": scope}}
        reply = self.http.post(self.access.url + "/auth/tokens", json=body, timeout=60)
        if reply.ok:
            self.tokens[name] = reply.headers["X-Subject-Token"]
            token = reply.json()["token"]
            for service in token["catalog"]:
                public = [e for e in service["endpoints"] if e["interface"] == "public"]
                self.services[service["type"]] = public[0]["url"].rstrip("/")
            if name == "member":
                self.project_id = token["project"]["id"]
        return reply

    def url(self, service: str, path: str) -> str:
        base = self.services["volumev3" if service == "volume" else service]
        if service in {"image", "network"} and path:
            base += {"image": "/v2", "network": "/v2.0"}[service]
        return base + path

    def call(
        self,
        name: str,
        method: str,
        service: str,
        path: str,
        body: Any = None,
        *,
        who: str = "member",
        version: str | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Any:
        """Send one call; keep it under `name` unless that is empty."""
        sent = {"X-Auth-Token": self.tokens.get(who, "wrong"), **(headers or {})}
        if service in {"compute", "volume"}:
            number = version or (COMPUTE if service == "compute" else VOLUME)
            sent["OpenStack-API-Version"] = f"{service} {number}"
        data = raw if raw is not None else (json.dumps(body) if body is not None else None)
        if body is not None and "Content-Type" not in sent:
            sent["Content-Type"] = "application/json"
        url = self.url(service, path)
        reply = self.http.request(method, url, data=data, headers=sent, timeout=120)
        kind = reply.headers.get("Content-Type", "")
        answer = reply.json() if "json" in kind and reply.content else None
        if name:
            assert name not in self.exchanges, name
            low = {key.lower(): value for key, value in reply.headers.items()}
            self.exchanges[name] = {
                "request": {
                    "method": method,
                    "service": service,
                    "path": path,
                    "version": sent.get("OpenStack-API-Version"),
                    "body": body,
                },
                "status": reply.status_code,
                "headers": {key: low[key] for key in (*KEPT, *VERSIONED) if key in low},
                "body": answer,
                "length": len(reply.content),
            }
        if name.startswith("bytes"):
            return reply.content
        return answer if answer is not None else reply

    def until(self, name: str, service: str, path: str, key: str, **wanted: Any) -> Any:
        """Look until the object is as wanted; keep the last look, and the states on the way."""
        deadline = time.monotonic() + self.access.patience
        states: list[str] = []
        while True:
            answer = self.call("", "GET", service, path)
            if isinstance(answer, requests.Response):
                gone = {"gone": answer.status_code == 404}
                seen: dict[str, Any] = gone
            else:
                seen = answer.get(key, answer) if key else answer
                if "itemNotFound" in answer:
                    seen = {"gone": True}
            state = str(seen.get("status", "gone"))
            task = seen.get("OS-EXT-STS:task_state")
            words = state + (f"/{task}" if task else "")
            if not states or states[-1] != words:
                states.append(words)
            if all(seen.get(k) == v for k, v in wanted.items()):
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"{name}: {states}: {seen}")
            time.sleep(self.access.pause)
        if name:
            self.call(name, "GET", service, path)
            self.exchanges[name]["states"] = states
        return seen


@contextlib.contextmanager
def served(content: bytes, port: int) -> Any:
    """A small web server for glance to fetch from."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/image":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def tell(access: Access) -> dict[str, dict[str, Any]]:
    """The whole story; answers what was said by the name of each call."""
    r = Recorder(access)
    with r.http:
        reply = r.login(access.user, "not the password", access.project, "none")
        r.exchanges["login wrong"] = {"status": reply.status_code, "body": reply.json()}
        reply = r.login(access.admin_user, access.admin_password, access.admin_project, "admin")
        reply = r.login(access.user, access.password, access.project, "member")
        r.exchanges["login"] = {"status": reply.status_code, "body": reply.json()}
        _manners(r)
        network, ports = _network(r)
        image = _images(r)
        volume = _volumes(r, image)
        _servers(r, volume, ports)
        _quotas(r, image, network)
        left = r.call("", "GET", "network", f"/ports?network_id={network}")["ports"]
        for port in left:
            r.call("", "DELETE", "network", f"/ports/{port['id']}")
        r.call("network delete", "DELETE", "network", f"/networks/{network}")
        r.call("image delete", "DELETE", "image", f"/images/{image}")
        r.call("image gone", "GET", "image", f"/images/{image}")
        wish = {"id": image, "name": "again", "disk_format": "raw", "container_format": "bare"}
        r.call("image create after delete", "POST", "image", "/images", wish)
    return r.exchanges


def _manners(r: Recorder) -> None:
    for service in ("compute", "volume", "image", "network"):
        r.call(f"{service} without token", "GET", service, _some(service), who="nobody")
    r.call("compute version", "GET", "compute", "/")
    r.call("compute too new", "GET", "compute", "/flavors", version="2.999")
    r.call("compute no such version", "GET", "compute", "/flavors", version="two")
    r.call("volume too new", "GET", "volume", "/volumes", version="3.999")
    r.call("flavors", "GET", "compute", "/flavors/detail")
    r.call("compute limits", "GET", "compute", "/limits")
    r.call("compute quota", "GET", "compute", f"/os-quota-sets/{r.project_id}/detail")
    r.call("volume quota", "GET", "volume", f"/os-quota-sets/{r.project_id}?usage=true")
    r.call("network quota", "GET", "network", f"/quotas/{r.project_id}/details.json")
    r.call("volume types", "GET", "volume", "/types")
    r.call(
        "server missing", "GET", "compute", "/servers/" + "0" * 8 + "-0000-0000-0000-" + "0" * 12
    )
    r.call("volume missing", "GET", "volume", "/volumes/" + "0" * 8 + "-0000-0000-0000-" + "0" * 12)
    r.call("bad marker", "GET", "compute", "/servers?marker=nothing")


def _some(service: str) -> str:
    return {"compute": "/flavors", "volume": "/volumes", "image": "/images"}.get(service, "/ports")


def _network(r: Recorder) -> tuple[str, list[str]]:
    made = r.call("network create", "POST", "network", "/networks", {"network": {"name": "story"}})
    network = made["network"]["id"]
    wish = {"network_id": network, "cidr": "10.0.8.0/24", "ip_version": 4}
    r.call("subnet create", "POST", "network", "/subnets", {"subnet": wish})
    r.call("networks", "GET", "network", f"/networks?id={network}")
    r.call("subnets", "GET", "network", f"/subnets?network_id={network}")
    port = {
        "network_id": network,
        "name": "story-1",
        "description": "story port",
        "mac_address": "fa:16:3e:00:00:11",
        "fixed_ips": [{"ip_address": "10.0.8.12"}],
        "admin_state_up": False,
    }
    made = r.call("port create", "POST", "network", "/ports", {"port": port})
    ports = [made["port"]["id"]]
    tag = "fedctl." + "a" * 32 + "." + "b" * 32 + "." + "c" * 32 + ".1"
    r.call("port tags", "PUT", "network", f"/ports/{ports[0]}/tags", {"tags": ["one", tag]})
    r.call("ports by tag", "GET", "network", "/ports?tags=one")
    r.call("ports by description", "GET", "network", "/ports?description=story+port")
    r.call("ports by no tag", "GET", "network", "/ports?tags=none")
    same_mac = {**port, "fixed_ips": [{"ip_address": "10.0.8.13"}]}
    r.call("port same mac", "POST", "network", "/ports", {"port": same_mac})
    same_address = {**port, "mac_address": "fa:16:3e:00:00:12"}
    r.call("port same address", "POST", "network", "/ports", {"port": same_address})
    outside = {**same_address, "fixed_ips": [{"ip_address": "192.168.1.1"}]}
    r.call("port outside", "POST", "network", "/ports", {"port": outside})
    nowhere = {**port, "network_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12}
    r.call("port nowhere", "POST", "network", "/ports", {"port": nowhere})
    r.call("port missing", "GET", "network", "/ports/" + "0" * 8 + "-0000-0000-0000-" + "0" * 12)
    made = r.call("", "POST", "network", "/ports", {"port": {"network_id": network}})
    ports.append(made["port"]["id"])
    up = {"port": {"admin_state_up": True}}
    r.call("port up", "PUT", "network", f"/ports/{ports[1]}", up)
    r.call("network in use", "DELETE", "network", f"/networks/{network}")
    return network, ports


def _images(r: Recorder) -> str:
    raw = {"Content-Type": "application/octet-stream"}
    patch = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    ident = "5a5a5a5a-0000-4000-8000-" + "%012x" % (time.time_ns() & 0xFFFFFFFFFFFF)
    wish = {
        "id": ident,
        "name": "story",
        "disk_format": "raw",
        "container_format": "bare",
        "fedctl_owner": "x" * 200,
        "hw_disk_bus": "virtio",
        "tags": ["fedctl"],
    }
    r.call("image create", "POST", "image", "/images", wish)
    r.call("image create again", "POST", "image", "/images", wish)
    r.call("image queued", "GET", "image", f"/images/{ident}")
    r.call("bytes of queued", "GET", "image", f"/images/{ident}/file")
    r.call("image upload", "PUT", "image", f"/images/{ident}/file", raw=CONTENT, headers=raw)
    shown = r.until("image active", "image", f"/images/{ident}", "", status="active")
    assert shown["os_hash_value"] == hashlib.sha512(CONTENT).hexdigest()
    r.call("image upload again", "PUT", "image", f"/images/{ident}/file", raw=b"x", headers=raw)
    got = r.call("bytes", "GET", "image", f"/images/{ident}/file")
    assert got == CONTENT
    some = {"Range": "bytes=500-1499"}
    got = r.call("bytes in range", "GET", "image", f"/images/{ident}/file", headers=some)
    assert got == CONTENT[500:1500]
    far = {"Range": "bytes=99999999-"}
    r.call("bytes past the end", "GET", "image", f"/images/{ident}/file", headers=far)
    r.call("images by tag", "GET", "image", "/images?tag=fedctl&name=story&limit=1000")
    r.call("images by property", "GET", "image", "/images?fedctl_owner=nobody")
    change = [{"op": "replace", "path": "/fedctl_owner", "value": "y"}]
    r.call("image patch", "PATCH", "image", f"/images/{ident}", change, headers=patch)
    _imports(r)
    qcow = {"name": "no qcow2", "disk_format": "qcow2", "container_format": "bare"}
    made = r.call("", "POST", "image", "/images", qcow)
    path = f"/images/{made['id']}"
    r.call("image lies", "PUT", "image", path + "/file", raw=CONTENT[:9999], headers=raw)
    r.call("image after the lie", "GET", "image", path)
    r.call("", "DELETE", "image", path)
    raw_wish = {"name": "no partition", "disk_format": "raw", "container_format": "bare"}
    made = r.call("", "POST", "image", "/images", raw_wish)
    path = f"/images/{made['id']}"
    r.call("image unsafe", "PUT", "image", path + "/file", raw=BROKEN, headers=raw)
    r.call("image after unsafe", "GET", "image", path)
    r.call("", "DELETE", "image", path)
    return ident


def _imports(r: Recorder) -> None:
    base = {"disk_format": "raw", "container_format": "bare"}
    port = r.access.pull_port
    url = f"http://127.0.0.1:{port}"
    r.call("import info", "GET", "image", "/info/import")
    with served(CONTENT, port):
        made = r.call("", "POST", "image", "/images", {**base, "name": "pull"})
        path = f"/images/{made['id']}"
        wish = {"method": {"name": "web-download", "uri": url + "/image"}}
        r.call("import", "POST", "image", path + "/import", wish)
        shown = r.until("import active", "image", path, "", status="active")
        assert shown["os_hash_value"] == hashlib.sha512(CONTENT).hexdigest()
        r.call("import again", "POST", "image", path + "/import", wish)
        r.call("", "DELETE", "image", path)
        made = r.call("", "POST", "image", "/images", {**base, "name": "pull 404"})
        path = f"/images/{made['id']}"
        wish = {"method": {"name": "web-download", "uri": url + "/nothing"}}
        r.call("import of nothing", "POST", "image", path + "/import", wish)
        r.until("import failed", "image", path, "", os_glance_failed_import="fast")
        r.call("", "DELETE", "image", path)
    made = r.call("", "POST", "image", "/images", {**base, "name": "pull refused"})
    path = f"/images/{made['id']}"
    wish = {"method": {"name": "web-download", "uri": "http://127.0.0.1:9/image"}}
    r.call("import refused", "POST", "image", path + "/import", wish)
    r.call("import after refusal", "GET", "image", path)
    r.call("", "DELETE", "image", path)


def _volumes(r: Recorder, image: str) -> str:
    tag = {"fedctl": "fedctl." + "a" * 32 + "." + "b" * 32 + "." + "c" * 32 + ".1"}
    wish = {"size": 1, "name": "story", "imageRef": image, "metadata": tag}
    made = r.call("volume create", "POST", "volume", "/volumes", {"volume": wish})
    volume = made["volume"]["id"]
    path = f"/volumes/{volume}"
    shown = r.until("volume available", "volume", path, "volume", status="available")
    assert shown["bootable"] == "true"
    r.call("volumes", "GET", "volume", "/volumes/detail?limit=1")
    found = r.call(
        "volumes by metadata", "GET", "volume", f"/volumes/detail?metadata={json.dumps(tag)}"
    )
    assert [v["id"] for v in found["volumes"]] == [volume]
    none = json.dumps({"fedctl": "nothing"})
    r.call("volumes by no metadata", "GET", "volume", f"/volumes/detail?metadata={none}")
    r.call("volume metadata", "POST", "volume", path + "/metadata", {"metadata": {"more": "1"}})
    wish = {"os-set_image_metadata": {"metadata": {"hw_firmware_type": "bios"}}}
    r.call("volume image metadata", "POST", "volume", path + "/action", wish)
    r.call("volume extend", "POST", "volume", path + "/action", {"os-extend": {"new_size": 2}})
    r.until("volume extended", "volume", path, "volume", status="available", size=2)
    wish = {"os-extend": {"new_size": 1}}
    r.call("volume shrink", "POST", "volume", path + "/action", wish)
    small = {"volume": {"size": 0}}
    r.call("volume of nothing", "POST", "volume", "/volumes", small)
    wish = {"volume": {"size": 1, "imageRef": "0" * 8 + "-0000-0000-0000-" + "0" * 12}}
    r.call("volume from no image", "POST", "volume", "/volumes", wish)
    return str(volume)


def _servers(r: Recorder, volume: str, ports: list[str]) -> None:
    flavors = r.call("", "GET", "compute", "/flavors/detail")["flavors"]
    flavor = min(flavors, key=lambda f: (f["ram"], f["disk"])) if flavors else None
    if flavor is None:
        wish = {"flavor": {"name": "b1.small", "ram": 128, "vcpus": 1, "disk": 0}}
        flavor = r.call("", "POST", "compute", "/flavors", wish, who="admin")["flavor"]
    boot = {
        "boot_index": 0,
        "uuid": volume,
        "source_type": "volume",
        "destination_type": "volume",
        "delete_on_termination": False,
    }
    wish: dict[str, Any] = {
        "name": "story",
        "flavorRef": flavor["id"],
        "imageRef": "",
        "block_device_mapping_v2": [boot],
        "networks": [{"port": ports[0]}],
        "metadata": {"fedctl": "x" * 107},
        "tags": ["fedctl", "f" * 39],
        "config_drive": True,
    }
    made = r.call("server create", "POST", "compute", "/servers", {"server": wish})
    server = made["server"]["id"]
    path = f"/servers/{server}"
    r.call("server building", "GET", "compute", path)
    r.call("servers by tag at once", "GET", "compute", "/servers/detail?tags=fedctl")
    r.call("attachment reserved", "GET", "volume", f"/attachments?volume_id={volume}")
    r.call("volume reserved", "GET", "volume", f"/volumes/{volume}")
    r.call("port unbound", "GET", "network", f"/ports/{ports[0]}")
    again = {**wish, "networks": [{"port": ports[1]}]}
    r.call("server same volume", "POST", "compute", "/servers", {"server": again})
    r.until("server active", "compute", path, "server", status="ACTIVE")
    r.call("volume in use", "GET", "volume", f"/volumes/{volume}")
    r.call("port bound", "GET", "network", f"/ports/{ports[0]}")
    same = {**wish, "imageRef": "", "networks": [{"port": ports[0]}]}
    r.call("server same port", "POST", "compute", "/servers", {"server": same})
    r.call("servers by tag", "GET", "compute", "/servers/detail?tags=fedctl")
    r.call("servers by no tag", "GET", "compute", "/servers/detail?tags=nothing")
    r.call("servers brief", "GET", "compute", "/servers?limit=1")
    r.call("server metadata", "POST", "compute", path + "/metadata", {"metadata": {"more": "1"}})
    r.call("attachments", "GET", "compute", path + "/os-volume_attachments")
    output = {"os-getConsoleOutput": {"length": 50}}
    r.call("console", "POST", "compute", path + "/action", output)
    _exports(r, volume)
    r.call("start running", "POST", "compute", path + "/action", {"os-start": None})
    r.call("volume delete in use", "DELETE", "volume", f"/volumes/{volume}")
    r.call("stop", "POST", "compute", path + "/action", {"os-stop": None})
    r.until("server stopped", "compute", path, "server", status="SHUTOFF")
    r.call("console off", "POST", "compute", path + "/action", output)
    frozen = {"createImage": {"name": "story-frozen", "metadata": {}}}
    made = r.call("create image", "POST", "compute", path + "/action", frozen)
    image = f"/images/{made['image_id']}"
    shown = r.until("image of a server", "image", image, "", status="active")
    mapping = json.loads(shown["block_device_mapping"])
    assert not shown["size"]
    held = f"/snapshots/{mapping[0]['snapshot_id']}"
    r.until("", "volume", held, "snapshot", status="available")
    r.call("", "DELETE", "image", image)
    r.call("", "DELETE", "volume", held)
    r.until("", "volume", held, "snapshot", gone=True)
    lock = {"lock": {"locked_reason": "fedctl fence"}}
    r.call("lock", "POST", "compute", path + "/action", lock)
    r.call("server locked", "GET", "compute", path)
    tags = {"tags": ["fedctl", "fedctl.epoch.2"]}
    r.call("tags locked", "PUT", "compute", path + "/tags", tags)
    r.call("metadata locked", "POST", "compute", path + "/metadata", {"metadata": {"a": "b"}})
    r.call("start locked", "POST", "compute", path + "/action", {"os-start": None})
    r.call("delete locked", "DELETE", "compute", path)
    r.call("unlock", "POST", "compute", path + "/action", {"unlock": None})
    r.call("start", "POST", "compute", path + "/action", {"os-start": None})
    r.until("server started", "compute", path, "server", status="ACTIVE")
    up = {"port": {"admin_state_up": True}}
    r.call("port connected", "PUT", "network", f"/ports/{ports[0]}", up)
    r.call("port delete bound", "DELETE", "network", f"/ports/{ports[0]}")
    r.call("server delete", "DELETE", "compute", path)
    r.until("", "compute", path, "server", gone=True)
    r.call("server gone", "GET", "compute", path)
    r.call("volume free again", "GET", "volume", f"/volumes/{volume}")
    r.call("port free again", "GET", "network", f"/ports/{ports[0]}")
    r.call("volume delete", "DELETE", "volume", f"/volumes/{volume}")
    r.until("", "volume", f"/volumes/{volume}", "volume", gone=True)
    r.call("volume gone", "GET", "volume", f"/volumes/{volume}")


def _exports(r: Recorder, volume: str) -> None:
    upload: dict[str, Any] = {
        "image_name": "story-out",
        "disk_format": "qcow2",
        "container_format": "bare",
        "force": True,
    }
    action = {"os-volume_upload_image": upload}
    r.call("upload in use", "POST", "volume", f"/volumes/{volume}/action", action)
    wish = {"volume_id": volume, "name": "story", "force": False}
    r.call("snapshot unforced", "POST", "volume", "/snapshots", {"snapshot": wish})
    wish = {"volume_id": volume, "name": "story", "force": True, "metadata": {"fedctl": "1"}}
    made = r.call("snapshot create", "POST", "volume", "/snapshots", {"snapshot": wish})
    snapshot = made["snapshot"]["id"]
    path = f"/snapshots/{snapshot}"
    r.until("snapshot available", "volume", path, "snapshot", status="available")
    r.call("snapshots", "GET", "volume", f"/snapshots/detail?volume_id={volume}")
    filtered = '/snapshots/detail?metadata={"fedctl": "1"}'
    r.call("snapshots by metadata", "GET", "volume", filtered)
    small = {"size": 1, "snapshot_id": snapshot}
    r.call("volume too small", "POST", "volume", "/volumes", {"volume": small})
    wish = {"size": 2, "snapshot_id": snapshot, "name": "story-out"}
    made = r.call("volume from snapshot", "POST", "volume", "/volumes", {"volume": wish})
    copy = made["volume"]["id"]
    r.until("copy available", "volume", f"/volumes/{copy}", "volume", status="available")
    made = r.call("upload", "POST", "volume", f"/volumes/{copy}/action", action)
    image = made["os-volume_upload_image"]["image_id"]
    r.until("uploaded", "image", f"/images/{image}", "", status="active")
    head = r.call("", "GET", "image", f"/images/{image}/file", headers={"Range": "bytes=0-31"})
    assert head.content[:4] == b"QFI\xfb"
    r.call("", "DELETE", "image", f"/images/{image}")
    r.until("", "volume", f"/volumes/{copy}", "volume", status="available")
    r.call("copy delete", "DELETE", "volume", f"/volumes/{copy}")
    r.until("", "volume", f"/volumes/{copy}", "volume", gone=True)
    r.call("snapshot delete", "DELETE", "volume", path)
    r.until("", "volume", path, "snapshot", gone=True)
    r.call("snapshot gone", "GET", "volume", path)


def _quotas(r: Recorder, image: str, network: str) -> None:
    def quota(kind: str, **limits: int) -> None:
        if kind == "network":
            path, body = f"/quotas/{r.project_id}", {"quota": limits}
        else:
            path, body = f"/os-quota-sets/{r.project_id}", {"quota_set": limits}
        said = r.call("", "PUT", kind, path, body, who="admin")
        assert kind_key(kind) in said, said

    def kind_key(kind: str) -> str:
        return "quota" if kind == "network" else "quota_set"

    quota("volume", gigabytes=0)
    r.call("volume quota passed", "POST", "volume", "/volumes", {"volume": {"size": 1}})
    quota("volume", gigabytes=1000, volumes=0)
    r.call("volumes quota passed", "POST", "volume", "/volumes", {"volume": {"size": 1}})
    quota("volume", volumes=10)
    quota("compute", instances=0)
    flavors = r.call("", "GET", "compute", "/flavors/detail")["flavors"]
    empty = next(f["id"] for f in flavors if not f["disk"])
    wish = {"name": "x", "flavorRef": empty, "imageRef": image, "networks": "none"}
    r.call("server of zero disk", "POST", "compute", "/servers", {"server": wish})
    full = next((f["id"] for f in flavors if f["disk"]), None)
    if full is None:
        made = {"flavor": {"name": "m1.tiny", "ram": 128, "vcpus": 1, "disk": 1}}
        full = r.call("", "POST", "compute", "/flavors", made, who="admin")["flavor"]["id"]
    wish = {"name": "x", "flavorRef": full, "imageRef": image, "networks": "none"}
    r.call("server quota passed", "POST", "compute", "/servers", {"server": wish})
    quota("compute", instances=10)
    quota("network", port=2)  # as many as there are: fewer is refused
    r.call("port quota passed", "POST", "network", "/ports", {"port": {"network_id": network}})
    quota("network", port=100)


def normalised(exchanges: dict[str, dict[str, Any]], urls: dict[str, str]) -> Any:
    """Without secrets, addresses and ids that differ from run to run."""
    text = json.dumps(exchanges)
    for name, url in urls.items():
        text = text.replace(url, name)
    text = re.sub(r"http://127\.0\.0\.1:\d+", "{endpoint}", text)
    ids: dict[str, str] = {}
    pattern = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b"

    def numbered(match: re.Match[str]) -> str:
        plain = match[0].replace("-", "")
        if len(set(plain)) == 1:
            return match[0]
        mark = ids.setdefault(plain, f"{len(ids) + 1:032x}")
        if "-" not in match[0]:
            return mark
        return "-".join((mark[:8], mark[8:12], mark[12:16], mark[16:20], mark[20:]))

    text = re.sub(pattern, numbered, text)
    text = re.sub(r"20\d\d-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d+)?", r"2026-01-01\g<1>00:00:00", text)
    value = json.loads(text)
    return _redacted(value)


def _redacted(value: Any) -> Any:
    secret = {"adminPass", "audit_ids", "password", "hostId", "X-Subject-Token"}
    if isinstance(value, dict):
        return {
            k: ("redacted" if k in secret and isinstance(v, str) else _redacted(v))
            for k, v in value.items()
            if k != "audit_ids"
        }
    if isinstance(value, list):
        return [_redacted(v) for v in value]
    return value
