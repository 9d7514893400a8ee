"""What somebody else does at a simulated cloud, beside every driver."""

import time
from typing import Any

import httpx

from drivers.simulators.openstack import OpenStackSim

GIB = 1 << 30


class Member:
    """A member of the project who speaks to the cloud's services as any client does."""

    def __init__(self, cloud: OpenStackSim) -> None:
        known = cloud.credentials
        self._base = cloud.url.removesuffix("/identity/v3")
        self.project = known.project_id
        asked = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {
                            "name": known.username,
                            "domain": {"id": known.domain},
                            "password": known.password,
                        }
                    },
                },
                "scope": {"project": {"id": known.project_id}},
            }
        }
        answer = httpx.post(f"{cloud.url}/auth/tokens", json=asked).raise_for_status()
        self._headers = {
            "X-Auth-Token": answer.headers["X-Subject-Token"],
            "OpenStack-API-Version": "compute 2.90",
        }

    def ask(self, method: str, path: str, body: object = None) -> Any:
        answer = httpx.request(method, self._base + path, json=body, headers=self._headers)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def await_(self, path: str, kind: str, status: str) -> None:
        end = time.monotonic() + 20
        while (now := self.ask("GET", path)[kind]["status"]) != status:
            assert now != "ERROR", now
            assert time.monotonic() < end, f"{path} is {now}"
            time.sleep(0.01)


def appear(cloud: OpenStackSim, name: str, disk: bytes) -> str:
    """A running server that boots from a volume, with a port that the site made; its id."""
    member = Member(cloud)
    volumes = f"/volume/v3/{member.project}/volumes"
    wish: dict[str, object] = {"size": -(-len(disk) // GIB), "name": f"{name}-root"}
    volume = member.ask("POST", volumes, {"volume": wish | {"metadata": {"team": "shop"}}})
    ref = volume["volume"]["id"]
    member.await_(f"{volumes}/{ref}", "volume", "available")
    with cloud.volume_path(ref).open("r+b") as file:
        file.write(disk)
    action = {"os-set_bootable": {"bootable": True}}
    member.ask("POST", f"{volumes}/{ref}/action", action)
    network = member.ask("GET", "/network/v2.0/networks")["networks"]
    own = next(n["id"] for n in network if not n.get("router:external"))
    flavor = member.ask("GET", "/compute/v2.1/flavors")["flavors"][0]["id"]
    boot = {
        "uuid": ref,
        "source_type": "volume",
        "destination_type": "volume",
        "boot_index": 0,
        "delete_on_termination": False,
    }
    server = member.ask(
        "POST",
        "/compute/v2.1/servers",
        {
            "server": {
                "name": name,
                "flavorRef": flavor,
                "block_device_mapping_v2": [boot],
                "networks": [{"uuid": own}],
                "metadata": {"team": "shop"},
                "tags": ["prod"],
            }
        },
    )["server"]["id"]
    member.await_(f"/compute/v2.1/servers/{server}", "server", "ACTIVE")
    return str(server)
