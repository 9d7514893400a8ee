"""Compute v2.1 beside its servers: versions, flavors, quotas, limits, zones, keypairs."""

from typing import Any

from drivers.simulators.openstack.cloud import Cloud, negotiated, page, set_quota, version_of
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record

LOW, HIGH = (2, 1), (2, 104)
FLAVORS = (
    ("1", "m1.tiny", 1, 512, 1),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
    ("4", "m1.large", 4, 8192, 80),
    ("5", "b1.small", 1, 1024, 0),
    ("6", "b1.medium", 2, 2048, 0),
)


class Nova:
    """The parts of the compute service that do not change servers."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._world = cloud.world
        if not self._world.all("flavor"):
            for ident, name, vcpus, ram, disk in FLAVORS:
                self.add_flavor(ident, name, vcpus=vcpus, ram=ram, disk=disk)
        self.routes = Routes()
        add = self.routes.add
        add("GET", "/compute", self._versions)
        add("GET", "/compute/v2.1", self._version)
        add("GET", "/compute/v2.1/flavors", self._flavors)
        add("GET", "/compute/v2.1/flavors/detail", self._flavors_detail)
        add("GET", "/compute/v2.1/flavors/{ident}", self._flavor)
        add("GET", "/compute/v2.1/flavors/{ident}/os-extra_specs", self._extra_specs)
        add("GET", "/compute/v2.1/limits", self._limits)
        add("GET", "/compute/v2.1/os-quota-sets/{whose}", self._quota)
        add("PUT", "/compute/v2.1/os-quota-sets/{whose}", self._set_quota)
        add("GET", "/compute/v2.1/os-quota-sets/{whose}/detail", self._quota_detail)
        add("GET", "/compute/v2.1/os-availability-zone", self._zones)

    def add_flavor(self, ident: str, name: str, *, vcpus: int, ram: int, disk: int) -> None:
        flavor = {"id": ident, "name": name, "vcpus": vcpus, "ram": ram, "disk": disk}
        self._world.put("flavor", flavor | {"extra_specs": {}, "description": None})

    def negotiate(self, call: Call) -> None:
        """Read the microversion of a call, and tell it in the answer's headers."""
        if not call.path.startswith("/compute/v2.1/"):
            return
        asked = version_of(call.headers.get("OpenStack-API-Version"), "compute")
        asked = asked or call.headers.get("X-OpenStack-Nova-API-Version")
        text = asked if asked and asked != "latest" else ".".join(map(str, HIGH if asked else LOW))
        call.spoken = {
            "OpenStack-API-Version": f"compute {text}",
            "X-OpenStack-Nova-API-Version": text,
            "Vary": "OpenStack-API-Version, X-OpenStack-Nova-API-Version",
        }
        call.version = negotiated(asked, LOW, HIGH)

    def _describe(self, call: Call) -> dict[str, Any]:
        return {
            "id": "v2.1",
            "status": "CURRENT",
            "version": f"{HIGH[0]}.{HIGH[1]}",
            "min_version": f"{LOW[0]}.{LOW[1]}",
            "updated": "2013-07-23T11:33:21Z",
            "links": [{"rel": "self", "href": f"{call.base}/compute/v2.1/"}],
        }

    def _versions(self, call: Call) -> Reply:
        return Reply(status=200, body={"versions": [self._describe(call)]})

    def _version(self, call: Call) -> Reply:
        kind = "application/vnd.openstack.compute+json;version=2.1"
        media = [{"base": "application/json", "type": kind}]
        return Reply(status=200, body={"version": self._describe(call) | {"media-types": media}})

    # flavors

    def _sorted(self, call: Call) -> tuple[list[Record], list[dict[str, str]]]:
        least = int(call.one("minRam") or 0)
        flavors = [f for f in self._world.all("flavor") if f["ram"] >= least]
        refuse = lambda text: Refusal(400, text)  # noqa: E731  # one word for one case
        most = self._cloud.knobs.max_page
        path = call.base + call.path
        records, following = page(
            sorted(flavors, key=lambda f: str(f["id"])), call, path, most, refuse
        )
        return records, [{"rel": "next", "href": following}] if following else []

    @staticmethod
    def _links(call: Call, ident: str) -> list[dict[str, str]]:
        return [
            {"rel": "self", "href": f"{call.base}/compute/v2.1/flavors/{ident}"},
            {"rel": "bookmark", "href": f"{call.base}/compute/flavors/{ident}"},
        ]

    def _flavors(self, call: Call) -> Reply:
        records, links = self._sorted(call)
        brief = [
            {"id": f["id"], "name": f["name"], "links": self._links(call, f["id"])} for f in records
        ]
        more = {"flavors_links": links} if links else {}
        return Reply(status=200, body={"flavors": brief, **more})

    def _full(self, call: Call, flavor: Record) -> dict[str, Any]:
        shown = {
            "id": flavor["id"],
            "name": flavor["name"],
            "ram": flavor["ram"],
            "disk": flavor["disk"],
            "swap": 0 if call.version >= (2, 75) else "",
            "OS-FLV-EXT-DATA:ephemeral": 0,
            "OS-FLV-DISABLED:disabled": False,
            "vcpus": flavor["vcpus"],
            "os-flavor-access:is_public": True,
            "rxtx_factor": 1.0,
            "links": self._links(call, flavor["id"]),
        }
        if call.version >= (2, 55):
            shown["description"] = flavor["description"]
        if call.version >= (2, 61):
            shown["extra_specs"] = flavor["extra_specs"]
        return shown

    def _flavors_detail(self, call: Call) -> Reply:
        records, links = self._sorted(call)
        more = {"flavors_links": links} if links else {}
        return Reply(status=200, body={"flavors": [self._full(call, f) for f in records], **more})

    def _flavor_record(self, ident: str) -> Record:
        flavor = self._world.get("flavor", ident)
        if flavor is None:
            raise Refusal(404, f"Flavor {ident} could not be found.")
        return flavor

    def _flavor(self, call: Call, ident: str) -> Reply:
        return Reply(status=200, body={"flavor": self._full(call, self._flavor_record(ident))})

    def _extra_specs(self, call: Call, ident: str) -> Reply:
        del call
        return Reply(status=200, body={"extra_specs": self._flavor_record(ident)["extra_specs"]})

    # quotas

    def used(self, project: str) -> dict[str, int]:
        servers = list(self._world.where("server", project_id=project))
        return {
            "instances": len(servers),
            "cores": sum(s["flavor"]["vcpus"] for s in servers),
            "ram": sum(s["flavor"]["ram"] for s in servers),
        }

    def reserve(self, call: Call, flavor: Record) -> None:
        """Refuse as nova does, with 403, when a quota would be passed."""
        quota, used = self._cloud.knobs.quota, self.used(call.project)
        wanted = {"instances": 1, "cores": flavor["vcpus"], "ram": flavor["ram"]}
        over = [name for name, n in wanted.items() if 0 <= quota[name] < used[name] + n]
        if over:
            asked = ", ".join(str(wanted[name]) for name in over)
            have = ", ".join(str(used[name]) for name in over)
            allowed = ", ".join(str(quota[name]) for name in over)
            raise Refusal(
                403,
                f"Quota exceeded for {', '.join(over)}: Requested {asked}, but already used {have}"
                f" of {allowed} {', '.join(over)}",
            )

    def _quota(self, call: Call, whose: str) -> Reply:
        quota = {name: self._cloud.knobs.quota[name] for name in self.used(call.project)}
        body = {"id": whose, **quota, "metadata_items": 128, "key_pairs": 100}
        return Reply(status=200, body={"quota_set": body})

    def _set_quota(self, call: Call, whose: str) -> Reply:
        set_quota(self._cloud, call, call.json()["quota_set"])
        return self._quota(call, whose)

    def _quota_detail(self, call: Call, whose: str) -> Reply:
        quota = self._cloud.knobs.quota
        shown: dict[str, Any] = {
            name: {"limit": quota[name], "in_use": n, "reserved": 0}
            for name, n in self.used(call.project).items()
        }
        fixed = {"metadata_items": 128, "key_pairs": 100}
        fixed |= {"server_groups": 10, "server_group_members": 10}
        for name, limit in fixed.items():
            shown[name] = {"limit": limit, "in_use": 0, "reserved": 0}
        return Reply(status=200, body={"quota_set": {"id": whose, **shown}})

    def _limits(self, call: Call) -> Reply:
        quota, used = self._cloud.knobs.quota, self.used(call.project)
        absolute = {
            "maxTotalInstances": quota["instances"],
            "maxTotalCores": quota["cores"],
            "maxTotalRAMSize": quota["ram"],
            "maxServerMeta": 128,
            "maxTotalKeypairs": 100,
            "maxServerGroups": 10,
            "maxServerGroupMembers": 10,
            "totalInstancesUsed": used["instances"],
            "totalCoresUsed": used["cores"],
            "totalRAMUsed": used["ram"],
            "totalServerGroupsUsed": 0,
        }
        return Reply(status=200, body={"limits": {"rate": [], "absolute": absolute}})

    def _zones(self, call: Call) -> Reply:
        del call
        zones = [{"zoneName": "nova", "zoneState": {"available": True}, "hosts": None}]
        return Reply(status=200, body={"availabilityZoneInfo": zones})
