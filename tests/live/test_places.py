"""How the environment names real sites."""

from pathlib import Path

from controlplane.domain.site import ProviderKind
from tests.live.places import gateway_address, place

ENVIRONMENT = {
    "LIVE_OPENSTACK_ENDPOINT": "https://cloud.example/identity/v3",
    "LIVE_OPENSTACK_SECRET_USERNAME": "demo",
    "LIVE_OPENSTACK_SECRET_PASSWORD": "a-long-password",
    "LIVE_OPENSTACK_OPTION_PROJECT": "shop",
    "LIVE_OPENSTACK_OPTION_UNHEARD_OF": "x",
    "LIVE_OPENSTACK_NETWORK": "net",
}


def test_no_endpoint_is_no_site():
    assert place(ProviderKind.OPENSTACK, {}) is None
    assert place(ProviderKind.XCPNG, ENVIRONMENT) is None


def test_a_site_is_described_by_the_names_of_its_card():
    found = place(ProviderKind.OPENSTACK, ENVIRONMENT)
    assert found is not None
    assert found.access.endpoint == "https://cloud.example/identity/v3"
    assert found.access.secrets == {"username": "demo", "password": "a-long-password"}
    assert found.access.options == {"project": "shop"}
    assert found.access.timeout == 60
    assert (found.network, found.deadline) == ("net", 240)


def test_a_value_may_stand_in_a_file(tmp_path: Path):
    key = tmp_path / "key"
    key.write_text("-----BEGIN\n")
    given = {"LIVE_PROXMOX_ENDPOINT": "https://node:8006", "LIVE_PROXMOX_SECRET_SSH_KEY": f"@{key}"}
    found = place(ProviderKind.PROXMOX, given)
    assert found is not None
    assert found.access.secrets == {"ssh_key": "-----BEGIN\n"}


def test_images_are_served_on_loopback_unless_another_address_is_named():
    assert gateway_address({}) == ("127.0.0.1", 0)
    assert gateway_address({"LIVE_GATEWAY": "10.0.0.5:8080"}) == ("10.0.0.5", 8080)
