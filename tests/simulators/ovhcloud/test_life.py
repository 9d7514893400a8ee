"""What a simulated server goes through: boots, rescue, installations, networks."""

import asyncio
import base64
import os
from pathlib import Path

import asyncssh
import ovh
import pytest
from ovh.exceptions import BadParametersError, ResourceConflictError, ResourceNotFoundError

from controlplane.domain.disk import DiskFormat
from drivers.simulators.faults import STEADY, Direction
from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.ovhcloud.estate import TAGGED
from tests.contract.images import Gateway, Published, pattern
from tests.simulators.ovhcloud.conftest import ended, eventually

KEY = asyncssh.generate_private_key("ssh-ed25519")
PUBLIC = KEY.export_public_key().decode().strip()
LOADER = "\\EFI\\BOOT\\BOOTX64.EFI"


@pytest.fixture
def name(sim: OvhSim) -> str:
    return min(sim.estate.servers)


def booted(api: ovh.Client, name: str, mode: str) -> dict | None:
    path = f"/dedicated/server/{name}"
    (number,) = api.get(f"{path}/boot", bootType=mode)
    api.put(path, bootId=number, rescueSshKey=PUBLIC)
    return ended(api, path, api.post(f"{path}/reboot")["taskId"])


def shown_key(sim: OvhSim, name: str) -> str:
    """The host key fingerprint of a login into rescue."""
    port = int(dict(each.split("=") for each in sim.ssh_at.split(","))[name].rpartition(":")[2])

    async def login() -> str:
        async with asyncssh.connect(
            "127.0.0.1", port, username="root", client_keys=[KEY], known_hosts=None, config=[]
        ) as line:
            assert (await line.run("hostname")).stdout.startswith("rescue")
            return line.get_server_host_key().get_fingerprint()

    def look() -> str:
        try:
            return asyncio.run(login())
        except (OSError, asyncssh.Error):
            return ""

    return eventually(look)


def wish(published: Published, **more) -> dict:
    return {
        "operatingSystem": "byoi_64",
        "customizations": {
            "imageURL": published.source.url,
            "imageType": str(published.source.format),
            "imageCheckSum": published.source.sha256,
            "imageCheckSumType": "sha256",
            "efiBootloaderPath": LOADER,
            **more,
        },
    }


def installed(api: ovh.Client, name: str, published: Published, **more) -> dict | None:
    path = f"/dedicated/server/{name}"
    return ended(api, path, api.post(f"{path}/reinstall", **wish(published, **more))["taskId"])


def test_each_boot_of_rescue_has_another_host_key(sim: OvhSim, api: ovh.Client, name: str):
    booted(api, name, "rescue")
    first = shown_key(sim, name)
    assert first == shown_key(sim, name)
    booted(api, name, "rescue")
    eventually(lambda: shown_key(sim, name) != first)


def test_what_is_to_be_booted_stays_until_it_is_set_again(sim: OvhSim, api: ovh.Client, name: str):
    booted(api, name, "rescue")
    path = f"/dedicated/server/{name}"
    ended(api, path, api.post(f"{path}/reboot")["taskId"])
    assert sim.estate.servers[name].runs == "rescue"
    booted(api, name, "harddisk")
    assert sim.guests.is_on(name)
    booted(api, name, "power")
    assert not sim.guests.is_on(name)
    eventually(lambda: api.get(path)["powerState"] == "poweroff")


def test_a_task_that_is_done_is_forgotten(sim: OvhSim, api: ovh.Client, name: str):
    path = f"/dedicated/server/{name}"
    number = api.post(f"{path}/reboot")["taskId"]
    assert number in api.get(f"{path}/task")
    eventually(lambda: number not in api.get(f"{path}/task"))
    with pytest.raises(ResourceNotFoundError):
        api.get(f"{path}/task/{number}")


@pytest.mark.parametrize("form", [DiskFormat.RAW, DiskFormat.QCOW2])
def test_an_image_is_pulled_checked_and_put_onto_the_disk(
    sim: OvhSim, api: ovh.Client, gateway: Gateway, name: str, form: DiskFormat
):
    server, raw = sim.estate.servers[name], pattern()
    sim.estate.file(server).write_bytes(os.urandom(server.disk))
    api.put(f"/dedicated/server/{name}", bootId=1122, rescueSshKey=PUBLIC)
    installed(api, name, gateway.publish(raw, form))
    disk = sim.estate.file(server).read_bytes()
    assert disk[: len(raw)] == raw
    assert not any(disk[len(raw) :]), "an installation wipes the rest"
    assert server.runs == "rescue", "it starts what its bootId says"
    assert not sim.guests.is_on(name)


def test_an_installation_tells_how_far_it_is_and_nothing_when_idle(
    sim: OvhSim, api: ovh.Client, published: Published, name: str
):
    path = f"/dedicated/server/{name}"
    with pytest.raises(ResourceNotFoundError):
        api.get(f"{path}/install/status")
    number = api.post(f"{path}/reinstall", **wish(published))["taskId"]
    told = api.get(f"{path}/install/status")
    assert [step["status"] for step in told["progress"]].count("done") < len(told["progress"])
    ended(api, path, number)
    with pytest.raises(ResourceNotFoundError):
        api.get(f"{path}/install/status")


@pytest.mark.parametrize(
    "change",
    [
        {"imageCheckSum": None},
        {"imageCheckSumType": "crc32"},
        {"efiBootloaderPath": None},
        {"imageType": "vhd"},
        {"imageURL": "ftp://127.0.0.1/x"},
        {"colour": "red"},
    ],
)
def test_a_wish_that_is_not_whole_is_refused_at_once(
    sim: OvhSim, api: ovh.Client, published: Published, name: str, change: dict
):
    asked = wish(published, **change)
    custom = asked["customizations"]
    asked["customizations"] = {key: value for key, value in custom.items() if value is not None}
    with pytest.raises(BadParametersError):
        api.post(f"/dedicated/server/{name}/reinstall", **asked)
    assert not sim.estate.tasks


def test_a_legacy_server_needs_no_loader(
    sim: OvhSim, api: ovh.Client, published: Published, name: str
):
    sim.estate.servers[name].boot_mode = "legacy"
    assert installed(api, name, published, efiBootloaderPath="")["status"] == "done"


def failed(api: ovh.Client, name: str, published: Published, **more) -> str:
    told = installed(api, name, published, **more)
    assert told is not None
    assert told["status"] == "customerError"
    return told["comment"]


def test_bytes_that_changed_on_their_way_are_not_written(
    sim: OvhSim, api: ovh.Client, published: Published, name: str
):
    sim.faults.corrupt(Direction.IN, offset=70_000)
    assert "checksum" in failed(api, name, published)
    assert not any(sim.estate.file(sim.estate.servers[name]).read_bytes())


def test_memory_disk_type_and_absence_end_an_installation(
    sim: OvhSim, api: ovh.Client, gateway: Gateway, published: Published, name: str
):
    server = sim.estate.servers[name]
    assert "type" in failed(
        api, name, gateway.publish(pattern(), DiskFormat.QCOW2), imageType="raw"
    )
    assert "404" in failed(api, name, published, imageURL=published.source.url + "x")
    server.disk = 1 << 20
    assert "disk" in failed(api, name, published)
    server.memory_mib = 3 * 1024 + 2
    assert "memory" in failed(api, name, published)


def test_name_keys_and_user_data_stand_at_the_disks_end(
    sim: OvhSim, api: ovh.Client, published: Published, name: str
):
    user_data = base64.b64encode(b"#cloud-config").decode()
    installed(api, name, published, hostname="web-1", configDriveUserData=user_data)
    tail = sim.estate.file(sim.estate.servers[name]).read_bytes()[-(64 << 10) :]
    assert b"hostname: web-1" in tail
    assert b"#cloud-config" in tail


def test_an_interface_is_in_one_vrack_or_in_none(sim: OvhSim, api: ovh.Client, name: str):
    path = f"/dedicated/server/{name}/virtualNetworkInterface"
    (uuid,) = api.get(path, mode="vrack")
    (vrack,) = api.get("/vrack")
    joining = f"/vrack/{vrack}/dedicatedServerInterface"
    number = api.post(joining, dedicatedServerInterface=uuid)["id"]
    assert number in api.get(f"/vrack/{vrack}/task")
    assert api.get(f"/vrack/{vrack}/task/{number}")["targetDomain"] == name
    with pytest.raises(ResourceConflictError):
        api.post(joining, dedicatedServerInterface=uuid)
    eventually(lambda: api.get(f"{path}/{uuid}")["vrack"] == vrack)
    assert api.get(joining) == [uuid]
    api.delete(f"{joining}/{uuid}")
    eventually(lambda: api.get(f"{path}/{uuid}")["vrack"] is None)
    with pytest.raises(ResourceNotFoundError):
        api.delete(f"{joining}/{uuid}")


def test_an_address_moves_between_servers(sim: OvhSim, api: ovh.Client, name: str):
    block = api.get("/ip")[0]
    path = f"/ip/{block.replace('/', '%2F')}"
    assert name in [each["service"] for each in api.get(f"{path}/move")["dedicatedServer"]]
    number = api.post(f"{path}/move", to=name)["taskId"]
    assert api.get(f"{path}/task") == [number]
    assert ended(api, path, number)["destination"] == {"serviceName": name}
    eventually(lambda: api.get(path)["routedTo"]["serviceName"] == name)
    api.post(f"{path}/park")
    eventually(lambda: api.get(path)["routedTo"]["serviceName"] is None)


def test_a_site_goes_on_where_it_was(tmp_path: Path):
    with OvhSim(tmp_path / "s", profile=STEADY, seed=1, servers=2) as sim:
        name, where = min(sim.estate.servers), (sim.url, sim.ssh_at)
        with sim.estate.changing():
            sim.estate.servers[name].tags["team"] = "one"
            sim.estate.boot(sim.estate.servers[name])
    again = OvhSim(tmp_path / "s", profile=STEADY, seed=1)
    with again as sim:
        assert (sim.url, sim.ssh_at) == where
        assert sim.estate.servers[name].tags == {**TAGGED, "team": "one"}
        assert sim.guests.is_on(name)
