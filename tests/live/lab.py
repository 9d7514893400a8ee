"""A lab's OpenStack made ready for the live tests: a folder with clouds.yaml, and perhaps a guest.

clouds.yaml names the clouds `admin` and `demo`. The administrator makes small flavors where they
are missing; the member gets a network and an application credential of its own.
"""

from pathlib import Path
from typing import Any
from uuid import uuid4

from openstack.config import OpenStackConfig
from openstack.connection import Connection

from controlplane.domain.site import ProviderKind
from tests.live.places import GATEWAY, GUEST, variable

# The first two are the contract suite's, the third fits the smallest instance that is offered.
FLAVORS = {"live.small": (1, 128), "live.large": (2, 256), "live.2xs": (1, 1024)}
NETWORK, CIDR = "live-net", "10.77.0.0/24"
CREDENTIAL = "live-tests"
# The usual configuration lets Glance fetch from 80 and 443 only; a lab may allow this one.
PULL_FROM = "127.0.0.1:18080"


def environment(folder: Path) -> dict[str, str]:
    """The variables by which the live tests find the lab in `folder`."""
    clouds = folder / "clouds.yaml"
    if not clouds.exists():
        raise SystemExit(
            f"{clouds} is not there: OPENSTACK_LAB names the folder of a lab that runs"
        )
    with _connected(clouds, "admin") as admin:
        _make_flavors(admin)
    with _connected(clouds, "demo") as demo:
        _make_network(demo)
        credential = _make_credential(demo)
        endpoint = str(demo.session.auth.auth_url)
    named = {
        "endpoint": endpoint,
        "secret_application_credential_id": credential["id"],
        "secret_application_credential_secret": credential["secret"],
        "network": NETWORK,
    }
    found = {variable(ProviderKind.OPENSTACK, name): value for name, value in named.items()}
    guest = folder / "guest" / "guest.qcow2"
    return found | {GATEWAY: PULL_FROM} | ({GUEST: str(guest)} if guest.exists() else {})


def _connected(clouds: Path, name: str) -> Connection:
    return Connection(config=OpenStackConfig(config_files=[str(clouds)]).get_one(cloud=name))


def _make_flavors(admin: Connection) -> None:
    there = {flavor.name for flavor in admin.compute.flavors()}
    for name, (cpus, memory) in FLAVORS.items():
        if name not in there:
            admin.compute.create_flavor(name=name, vcpus=cpus, ram=memory, disk=0)


def _make_network(demo: Connection) -> None:
    if demo.network.find_network(NETWORK) is None:
        network = demo.network.create_network(name=NETWORK)
        demo.network.create_subnet(network_id=network.id, ip_version=4, cidr=CIDR)


def _make_credential(demo: Connection) -> dict[str, Any]:
    """A new one each time: its secret is told only once; those of earlier runs go."""
    user = demo.current_user_id
    for old in demo.identity.application_credentials(user):
        if str(old.name).startswith(CREDENTIAL):
            demo.identity.delete_application_credential(user, old)
    made = demo.identity.create_application_credential(user, name=f"{CREDENTIAL}-{uuid4().hex[:8]}")
    return {"id": made.id, "secret": made.secret}
