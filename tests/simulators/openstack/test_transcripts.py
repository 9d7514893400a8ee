"""The simulator says what a real OpenStack said: same status, same shape, call by call."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from drivers.simulators.faults import STEADY
from drivers.simulators.openstack import Knobs, OpenStackSim
from tests.simulators.openstack.story import Access, tell

FOLDER = Path(__file__).parent / "transcripts"
RECORDED: dict[str, dict[str, Any]] = {
    name: exchange
    for file in sorted(FOLDER.glob("*.json"))
    for name, exchange in json.loads(file.read_text()).items()
}
# What the simulator leaves out: quotas of kinds it does not have, and fields about hosts.
LEFT_OUT = {
    *("backup_gigabytes", "backups", "groups", "floatingip", "rbac_policy", "router"),
    *("router_route", "security_group", "security_group_rule", "subnetpool"),
    *("gigabytes___DEFAULT__", "gigabytes_nfs", "snapshots___DEFAULT__", "snapshots_nfs"),
    *("volumes___DEFAULT__", "volumes_nfs", "domain_id", "is_default"),
    *("deleted", "deleted_at", "volume_backend_name"),
}
# What differs by nature: free text, and states that one cloud passes faster than another.
FREE = {"message", "title", "detail", "description"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    knobs = Knobs(allow_loopback_pull=True, pull_ports=frozenset({port}))
    folder = tmp_path_factory.mktemp("cloud")
    with OpenStackSim(folder, name="story", profile=STEADY, knobs=knobs) as sim:
        sim.slow_step("server.schedule", 5)  # so that BUILD is seen
        known = sim.credentials
        access = Access(
            url=sim.url,
            user=known.username,
            password=known.password,
            project=known.project_name,
            admin_user=known.admin_username,
            admin_password=known.admin_password,
            admin_project=known.project_name,
            pull_port=port,
            patience=10,
            pause=0.005,
        )
        yield tell(access)


def differences(real: Any, simulated: Any, at: str = "") -> list[str]:
    """Where the shapes differ: a field that is missing, or of another type."""
    if real is None or simulated is None:
        return []  # what a field is when it is set shows elsewhere
    if isinstance(real, dict) and isinstance(simulated, dict):
        found = []
        for key, value in real.items():
            if key in FREE or key in LEFT_OUT or at.endswith(".volume_type"):
                continue
            if key not in simulated:
                found.append(f"{at}.{key} is missing")
            else:
                found += differences(value, simulated[key], f"{at}.{key}")
        return found
    if isinstance(real, list) and isinstance(simulated, list):
        if real and not simulated:
            return [f"{at} is empty"]
        return differences(real[0], simulated[0], f"{at}[0]") if real and simulated else []
    if type(real) is not type(simulated):
        return [f"{at} is {type(simulated).__name__}, was {type(real).__name__}"]
    return []


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_the_simulator_answers_as_the_real_cloud_did(told: Any, name: str) -> None:
    real, simulated = RECORDED[name], told[name]
    assert simulated["status"] == real["status"], simulated
    body = differences(real["body"], simulated["body"])
    if name == "image of a server":  # nova adds a dozen properties; these are what is read
        read = ("id", "status", "size", "block_device_mapping", "root_device_name", "bdm_v2")
        body = [key for key in read if type(simulated["body"][key]) is not type(real["body"][key])]
    assert body == []
    wanted = {"retry-after", "content-range", "openstack-api-version"}
    for header in wanted & set(real.get("headers", {})):
        assert simulated["headers"][header] == real["headers"][header]


def test_the_states_on_the_way_are_visible(told: Any) -> None:
    for name in ("server active", "server stopped", "server started", "volume available"):
        last = [s.split("/")[0] for s in (RECORDED[name]["states"][-1], told[name]["states"][-1])]
        assert last[0] == last[1]
        assert len(told[name]["states"]) > 1, told[name]["states"]


def test_nothing_of_the_story_was_left_out(told: Any) -> None:
    assert set(told) == set(RECORDED)
