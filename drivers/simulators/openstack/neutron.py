"""Networking v2.0: networks, subnets, and ports with MAC, fixed addresses and an admin state."""

import ipaddress
from typing import Any

from drivers.simulators.openstack.addresses import Addresses
from drivers.simulators.openstack.cloud import Cloud, found, mine, page, set_quota
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record, stamp

KINDS = ("network", "subnet", "port", "security-group")
EXTENSIONS = (
    "standard-attr-tag",
    "port-security",
    "quotas",
    "quota_details",
    "router",
    "pagination",
)


class Neutron:
    """The network service, with one network that everybody may use."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._taken = Addresses(cloud.world)
        self.routes = Routes()
        add = self.routes.add
        add("GET", "/network", self._versions)
        add("GET", "/network/v2.0", self._resources)
        add("GET", "/network/v2.0/extensions", self._extensions)
        add("GET", "/network/v2.0/extensions/{alias}", self._extension)
        add("GET", "/network/v2.0/quotas/{whose}", self._quota)
        add("PUT", "/network/v2.0/quotas/{whose}", self._set_quota)
        add("GET", "/network/v2.0/quotas/{whose}/details", self._quota_details)
        for kind in KINDS:
            root = f"/network/v2.0/{kind}s"
            add("GET", root, self._list)
            add("GET", root + "/{ident}", self._show)
            add("DELETE", root + "/{ident}", self._delete)
            add("GET", root + "/{ident}/tags", self._tags)
            add("PUT", root + "/{ident}/tags", self._replace_tags)
            add("PUT", root + "/{ident}/tags/{tag}", self._tag)
            add("DELETE", root + "/{ident}/tags/{tag}", self._untag)
        add("POST", "/network/v2.0/networks", self._create_network)
        add("POST", "/network/v2.0/subnets", self._create_subnet)
        add("POST", "/network/v2.0/ports", self._create_port)
        add("PUT", "/network/v2.0/ports/{ident}", self._update_port)
        add("PUT", "/network/v2.0/networks/{ident}", self._update)
        add("PUT", "/network/v2.0/subnets/{ident}", self._update)

    def seed(self, project: str, name: str, cidr: str) -> None:
        """The network and the security group that the project starts with."""
        if not self._world.all("network"):
            network = self._new_network(project, {"name": name})
            self._new_subnet(project, {"network_id": network["id"], "cidr": cidr, "ip_version": 4})
            group = {"id": self._world.new_id(), "project_id": project, "name": "default"}
            self._world.put("security-group", group | {"description": "", "tags": []})

    # what other services use

    def port_of(self, call: Call, ident: str) -> Record:
        return found(self._world.get("port", ident), f"Port {ident} could not be found.", call)

    def make_port(self, call: Call, wish: dict[str, Any]) -> Record:
        """A new port; a Refusal in neutron's words when it cannot be."""
        network = self._one(call, "network", wish.get("network_id") or "")
        quota = self._cloud.knobs.quota["port"]
        if 0 <= quota <= len(list(self._world.where("port", project_id=call.project))):
            raise Refusal(409, "Quota exceeded for resources: ['port'].", kind="OverQuota")
        mac = wish.get("mac_address")
        if mac and not (self._cloud.knobs.choose_mac or call.admin):
            raise Refusal(
                403,
                "(rule:create_port and rule:create_port:mac_address) is disallowed by policy",
                kind="PolicyNotAuthorized",
            )
        with self._world.lock:
            mac = self._taken.mac(network["id"], mac)
            addresses = self._taken.fixed(network["id"], wish.get("fixed_ips"))
            now = stamp() + "Z"
            groups = [g["id"] for g in self._world.where("security-group", project_id=call.project)]
            record: Record = {
                "id": self._world.new_id(),
                "project_id": call.project,
                "tenant_id": call.project,
                "name": wish.get("name", ""),
                "network_id": network["id"],
                "mac_address": mac,
                "fixed_ips": addresses,
                "admin_state_up": bool(wish.get("admin_state_up", True)),
                "status": "DOWN",
                "device_id": wish.get("device_id", ""),
                "device_owner": wish.get("device_owner", ""),
                "security_groups": wish.get("security_groups", groups),
                "port_security_enabled": wish.get("port_security_enabled", True),
                "allowed_address_pairs": [],
                "extra_dhcp_opts": [],
                "binding:vnic_type": "normal",
                "plugged": False,
                "description": wish.get("description", ""),
                "tags": list(wish.get("tags") or []),
                "created_at": now,
                "updated_at": now,
                "revision_number": 1,
            }
            return self._world.put("port", record)

    def drop_port(self, ident: str) -> None:
        self._world.drop("port", ident)

    def bind(self, ident: str, **fields: Any) -> None:
        """Set a port's device; the guest behind it sees its link."""
        port = self._world.get("port", ident)
        if port:
            revision = port["revision_number"] + 1
            now = stamp() + "Z"
            self._world.update("port", ident, **fields, revision_number=revision, updated_at=now)

    # versions, extensions, quotas

    def _versions(self, call: Call) -> Reply:
        links = [{"rel": "self", "href": f"{call.base}/network/v2.0/"}]
        body = {"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}
        return Reply(status=200, body=body)

    def _resources(self, call: Call) -> Reply:
        resources = [
            {
                "name": kind,
                "collection": kind + "s",
                "links": [{"rel": "self", "href": f"{call.base}/network/v2.0/{kind}s"}],
            }
            for kind in KINDS
        ]
        return Reply(status=200, body={"resources": resources})

    @staticmethod
    def _extended(alias: str) -> dict[str, Any]:
        return {
            "alias": alias,
            "name": alias,
            "description": "",
            "links": [],
            "updated": "2016-01-01T00:00:00-00:00",
        }

    def _extensions(self, call: Call) -> Reply:
        del call
        return Reply(status=200, body={"extensions": [self._extended(a) for a in EXTENSIONS]})

    def _extension(self, call: Call, alias: str) -> Reply:
        del call
        if alias not in EXTENSIONS:
            raise Refusal(
                404, f"Extension with alias {alias} does not exist", kind="ExtensionNotFound"
            )
        return Reply(status=200, body={"extension": self._extended(alias)})

    def _quota(self, call: Call, whose: str) -> Reply:
        del call, whose
        names = ("network", "subnet", "port")
        return Reply(status=200, body={"quota": {n: self._cloud.knobs.quota[n] for n in names}})

    def _set_quota(self, call: Call, whose: str) -> Reply:
        set_quota(self._cloud, call, call.json()["quota"])
        return self._quota(call, whose)

    def _quota_details(self, call: Call, whose: str) -> Reply:
        del whose
        shown = {}
        for name in ("network", "subnet", "port"):
            used = len(list(self._world.where(name, project_id=call.project)))
            limit = self._cloud.knobs.quota[name]
            shown[name] = {"limit": limit, "used": used, "reserved": 0}
        return Reply(status=200, body={"quota": shown})

    # all kinds alike

    @staticmethod
    def _kind(call: Call) -> str:
        return (
            call.path.removeprefix("/network/v2.0/").split("/")[0].split(".")[0].removesuffix("s")
        )

    def _one(self, call: Call, kind: str, ident: str) -> Record:
        title = kind.replace("-", " ").capitalize()
        try:
            return found(self._world.get(kind, ident), f"{title} {ident} could not be found.", call)
        except Refusal as e:
            e.kind = "".join(part.capitalize() for part in kind.split("-")) + "NotFound"
            raise

    def _list(self, call: Call) -> Reply:
        kind = self._kind(call)
        key = kind.replace("-", "_") + "s"
        records = sorted(mine(self._world.all(kind), call), key=lambda r: str(r["id"]))
        skip = {"limit", "marker", "fields", "sort_key", "sort_dir", "page_reverse", "all_tenants"}
        for name, value in call.query:
            if name in {"tags", "tags-any"}:
                wanted = set(value.split(","))
                records = [
                    r
                    for r in records
                    if (wanted <= set(r["tags"]) if name == "tags" else wanted & set(r["tags"]))
                ]
            elif name == "fixed_ips":
                address = value.rpartition("=")[2]
                records = [r for r in records if any(address in f.values() for f in r["fixed_ips"])]
            elif name not in skip:
                records = [r for r in records if str(r.get(name)).lower() == value.lower()]
        refuse = lambda text: Refusal(400, text, kind="BadRequest")  # noqa: E731  # one word for one case
        most = self._cloud.knobs.max_page
        shown, following = page(records, call, call.base + call.path, most, refuse)
        body: dict[str, Any] = {key: [self._shown(kind, r) for r in shown]}
        if following:
            body[key + "_links"] = [{"rel": "next", "href": following}]
        return Reply(status=200, body=body)

    def _shown(self, kind: str, record: Record) -> Record:
        if kind == "network":
            subnets = [s["id"] for s in self._world.where("subnet", network_id=record["id"])]
            return record | {"subnets": subnets}
        return {key: value for key, value in record.items() if key != "plugged"}

    def _reply(self, kind: str, record: Record, status: int = 200) -> Reply:
        return Reply(status=status, body={kind.replace("-", "_"): self._shown(kind, record)})

    def _show(self, call: Call, ident: str) -> Reply:
        kind = self._kind(call)
        return self._reply(kind, self._one(call, kind, ident))

    def _update(self, call: Call, ident: str) -> Reply:
        kind = self._kind(call)
        record = self._one(call, kind, ident)
        wish = call.json().get(kind, {})
        kept = {k: v for k, v in wish.items() if k in {"name", "description", "admin_state_up"}}
        self._world.update(kind, ident, **kept)
        return self._reply(kind, record)

    def _delete(self, call: Call, ident: str) -> Reply:
        kind = self._kind(call)
        record = self._one(call, kind, ident)
        ports = [p for p in self._world.all("port") if p["network_id"] == ident]
        if kind == "network":
            if ports:
                raise Refusal(
                    409,
                    f"Unable to complete operation on network {ident}. There are"
                    " one or more ports still in use on the network.",
                    kind="NetworkInUse",
                )
            for subnet in self._world.where("subnet", network_id=ident):
                self._world.drop("subnet", subnet["id"])
        if kind == "port" and record["device_owner"].startswith("compute:") and not call.admin:
            raise Refusal(
                403, "rule:delete_port is disallowed by policy", kind="PolicyNotAuthorized"
            )
        if kind == "subnet" and any(
            fixed["subnet_id"] == ident for p in self._world.all("port") for fixed in p["fixed_ips"]
        ):
            raise Refusal(
                409,
                f"Unable to complete operation on subnet {ident}: One or more"
                " ports have an IP allocation from this subnet.",
                kind="SubnetInUse",
            )
        self._world.drop(kind, record["id"])
        return Reply(status=204)

    def _tags(self, call: Call, ident: str) -> Reply:
        return Reply(status=200, body={"tags": self._one(call, self._kind(call), ident)["tags"]})

    def _replace_tags(self, call: Call, ident: str) -> Reply:
        kind = self._kind(call)
        self._one(call, kind, ident)
        tags = call.json().get("tags", [])
        if any(len(tag) > 255 for tag in tags):
            raise Refusal(
                400, "Invalid input for operation: a tag is longer than 255.", kind="InvalidInput"
            )
        self._world.update(kind, ident, tags=tags)
        return Reply(status=200, body={"tags": tags})

    def _tag(self, call: Call, ident: str, tag: str) -> Reply:
        kind = self._kind(call)
        record = self._one(call, kind, ident)
        if tag not in record["tags"]:
            self._world.update(kind, ident, tags=[*record["tags"], tag])
        return Reply(status=201)

    def _untag(self, call: Call, ident: str, tag: str) -> Reply:
        kind = self._kind(call)
        record = self._one(call, kind, ident)
        if tag not in record["tags"]:
            raise Refusal(404, f"Tag {tag} could not be found.", kind="TagNotFound")
        self._world.update(kind, ident, tags=[t for t in record["tags"] if t != tag])
        return Reply(status=204)

    # making and changing

    def _limit(self, call: Call, kind: str) -> None:
        quota = self._cloud.knobs.quota[kind]
        if 0 <= quota <= len(list(self._world.where(kind, project_id=call.project))):
            raise Refusal(409, f"Quota exceeded for resources: ['{kind}'].", kind="OverQuota")

    def _create_network(self, call: Call) -> Reply:
        self._limit(call, "network")
        return self._reply("network", self._new_network(call.project, call.json()["network"]), 201)

    def _new_network(self, project: str, wish: dict[str, Any]) -> Record:
        now = stamp() + "Z"
        record: Record = {
            "id": self._world.new_id(),
            "project_id": project,
            "tenant_id": project,
            "name": wish.get("name", ""),
            "admin_state_up": wish.get("admin_state_up", True),
            "mtu": 1450,
            "status": "ACTIVE",
            "shared": False,
            "router:external": False,
            "port_security_enabled": True,
            "availability_zones": [],
            "availability_zone_hints": [],
            "ipv4_address_scope": None,
            "ipv6_address_scope": None,
            "description": wish.get("description", ""),
            "tags": [],
            "created_at": now,
            "updated_at": now,
            "revision_number": 1,
            "qinq": False,
            "vlan_transparent": False,
        }
        return self._world.put("network", record)

    def _create_subnet(self, call: Call) -> Reply:
        self._limit(call, "subnet")
        wish = call.json()["subnet"]
        self._one(call, "network", wish.get("network_id") or "")
        return self._reply("subnet", self._new_subnet(call.project, wish), 201)

    def _new_subnet(self, project: str, wish: dict[str, Any]) -> Record:
        try:
            net = ipaddress.ip_network(wish["cidr"])
        except (KeyError, ValueError) as e:
            raise Refusal(400, "Invalid input for cidr.", kind="HTTPBadRequest") from e
        hosts = net.hosts()
        first = str(next(hosts))
        now = stamp() + "Z"
        record: Record = {
            "id": self._world.new_id(),
            "project_id": project,
            "tenant_id": project,
            "name": wish.get("name", ""),
            "network_id": wish["network_id"],
            "ip_version": net.version,
            "cidr": str(net),
            "gateway_ip": wish.get("gateway_ip", first),
            "enable_dhcp": wish.get("enable_dhcp", True),
            "allocation_pools": [{"start": str(next(hosts, first)), "end": str(net[-2])}],
            "dns_nameservers": [],
            "host_routes": [],
            "ipv6_ra_mode": None,
            "ipv6_address_mode": None,
            "service_types": [],
            "router:external": False,
            "subnetpool_id": None,
            "description": "",
            "tags": [],
            "created_at": now,
            "updated_at": now,
            "revision_number": 0,
        }
        return self._world.put("subnet", record)

    def _create_port(self, call: Call) -> Reply:
        return self._reply("port", self.make_port(call, call.json()["port"]), 201)

    def _update_port(self, call: Call, ident: str) -> Reply:
        port = self._one(call, "port", ident)
        wish = call.json()["port"]
        kept = {
            key: wish[key]
            for key in ("name", "description", "admin_state_up", "device_id", "device_owner")
            if key in wish
        }
        if kept.get("admin_state_up") is False and port["device_id"]:
            kept["status"] = "DOWN"
        if kept.get("admin_state_up") is True and port.get("plugged"):
            kept["status"] = "ACTIVE"
        self.bind(ident, **kept)
        if port["device_id"]:
            self._world.later(0, "server.nics", ident=port["device_id"])
        return self._reply("port", port)
