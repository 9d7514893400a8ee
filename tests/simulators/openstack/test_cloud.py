"""The simulated cloud as such: it keeps its state, goes down, loses answers, and its guests are seen."""

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from drivers.simulators.faults import STEADY, Garbage, Hang, LostAnswer, Reset, Status
from drivers.simulators.guest import format_journal, lost_writes, read_journal
from drivers.simulators.openstack import Knobs, OpenStackSim, facts, qcow2
from drivers.simulators.openstack.inspection import unsafe
from drivers.simulators.provenance import Provenance
from drivers.simulators.witness import Witness

IDENTITY = b"a disk of sixteen"[:16]


class User:
    """A member of the project, speaking plain HTTP."""

    def __init__(self, sim: OpenStackSim) -> None:
        self._sim = sim
        self.http = requests.Session()
        self.token = ""
        self.login()

    def login(self) -> None:
        known = self._sim.credentials
        own = {
            "id": known.application_credential_id,
            "secret": known.application_credential_secret,
        }
        identity = {"methods": ["application_credential"], "application_credential": own}
        body = {"auth": {"identity": identity}}
        reply = self.http.post(self._sim.url + "/auth/tokens", json=body, timeout=5)
        assert reply.status_code == 201
        self.token = reply.headers["X-Subject-Token"]

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        headers = {
            "X-Auth-Token": self.token,
            "OpenStack-API-Version": "compute 2.79, volume 3.59",
            **more.pop("headers", {}),
        }
        url = self._sim.url.replace("/identity/v3", path)
        kind = {"data" if isinstance(body, bytes) else "json": body} if body is not None else {}
        return self.http.request(method, url, headers=headers, timeout=5, **kind, **more)

    def json(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        reply = self.ask(method, path, body, **more)
        assert reply.ok, reply.text
        return reply.json()


@contextmanager
def used(folder: Path, name: str = "a", **more: Any) -> Iterator[tuple[OpenStackSim, User]]:
    with OpenStackSim(folder, name=name, profile=STEADY, **more) as sim:
        user = User(sim)
        with user.http:
            yield sim, user


def until(look: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.005)
    raise AssertionError(what)


def disk() -> bytes:
    """An MBR whose only partition is a guest's journal."""
    entry = struct.pack("<B3sB3sII", 0x80, bytes(3), 0xDA, bytes(3), 128, 128)
    head = (bytes(446) + entry).ljust(510, b"\0") + b"\x55\xaa"
    return head.ljust(65536, b"\0") + format_journal(IDENTITY, 65536)


def volume_with(user: User, data: bytes) -> str:
    wish = {"name": "i", "disk_format": "raw", "container_format": "bare"}
    image = user.json("POST", "/image/v2/images", wish)["id"]
    raw = {"Content-Type": "application/octet-stream"}
    reply = user.ask("PUT", f"/image/v2/images/{image}/file", data, headers=raw)
    assert reply.status_code == 204
    wish = {"volume": {"size": 1, "imageRef": image}}
    volume = user.json("POST", "/volume/v3/volumes", wish)["volume"]["id"]
    path = f"/volume/v3/volumes/{volume}"
    until(lambda: user.json("GET", path)["volume"]["status"] == "available", "the volume is there")
    return str(volume)


def server_on(user: User, volume: str, *, up: bool = True) -> tuple[str, str]:
    network = user.json("GET", "/network/v2.0/networks")["networks"][0]["id"]
    wish = {"port": {"network_id": network, "admin_state_up": up}}
    port = user.json("POST", "/network/v2.0/ports", wish)["port"]["id"]
    boot = {"boot_index": 0, "uuid": volume, "source_type": "volume"}
    server = {
        "name": "web-1",
        "flavorRef": "5",
        "imageRef": "",
        "block_device_mapping_v2": [{**boot, "destination_type": "volume"}],
        "networks": [{"port": port}],
    }
    made = user.json("POST", "/compute/v2.1/servers", {"server": server})["server"]["id"]
    wait_for(user, made, "ACTIVE")
    return str(made), str(port)


def wait_for(user: User, server: str, status: str) -> None:
    path = f"/compute/v2.1/servers/{server}"
    until(lambda: user.json("GET", path)["server"]["status"] == status, f"it is {status}")


def act(user: User, server: str, action: dict[str, Any]) -> requests.Response:
    return user.ask("POST", f"/compute/v2.1/servers/{server}/action", action)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    witness = Witness(tmp_path / "witness.sqlite")
    yield witness
    witness.close()


def test_a_cloud_that_starts_again_goes_on_where_it_was(tmp_path: Path, witness: Witness):
    with used(tmp_path / "c", witness=witness) as (sim, user):
        server, _ = server_on(user, volume_with(user, disk()))
        sim.slow_step("volume.create", 1)
        before = sim.credentials
        user.json("POST", "/volume/v3/volumes", {"volume": {"size": 1, "name": "late"}})
    with used(tmp_path / "c", witness=witness) as (sim, user):
        assert sim.credentials == before
        wait_for(user, server, "ACTIVE")
        until(lambda: sim.guests.is_up(server), "its guest runs again")
        path = "/volume/v3/volumes/detail?name=late"
        until(
            lambda: user.json("GET", path)["volumes"][0]["status"] == "available",
            "what was under way is finished",
        )


def test_clouds_live_side_by_side_in_one_process(tmp_path: Path):
    with (
        used(tmp_path / "a", "a") as (_, one),
        used(tmp_path / "b", "b") as (_, two),
    ):
        one.json("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
        assert len(one.json("GET", "/volume/v3/volumes")["volumes"]) == 1
        assert two.json("GET", "/volume/v3/volumes")["volumes"] == []
        assert (
            two.ask("GET", "/volume/v3/volumes", headers={"X-Auth-Token": one.token}).status_code
            == 401
        )


def test_a_guest_writes_its_journal_and_the_witness_sees_it(tmp_path: Path, witness: Witness):
    with used(tmp_path / "c", witness=witness) as (sim, user):
        volume = volume_with(user, disk())
        server, port = server_on(user, volume, up=False)
        until(lambda: witness.highest(IDENTITY.hex()) > 2, "the guest wrote")
        (run,) = witness.running(IDENTITY.hex())
        assert not run.connected
        assert not sim.guests.reachable(server)
        up = {"port": {"admin_state_up": True}}
        user.json("PUT", f"/network/v2.0/ports/{port}", up)
        until(lambda: sim.guests.reachable(server), "the guest is connected")
        assert (
            "FEDGUEST up name=web-1 boots=1"
            in act(user, server, {"os-getConsoleOutput": {}}).json()["output"]
        )
        act(user, server, {"os-stop": None})
        wait_for(user, server, "SHUTOFF")
        with sim.volume_path(volume).open("rb") as raw:
            journal = read_journal(lambda at, length: os.pread(raw.fileno(), length, at))
    assert journal
    told = [record.sequence for record in witness.durable(IDENTITY.hex())]
    assert lost_writes(journal, told) == ()


def test_each_start_begins_the_console_anew(tmp_path: Path):
    with used(tmp_path / "c") as (sim, user):
        server, _ = server_on(user, volume_with(user, disk()))
        for boot in (1, 2):
            until(lambda: sim.guests.is_up(server), "the guest is up")
            output = act(user, server, {"os-getConsoleOutput": {}}).json()["output"]
            assert output.count("FEDGUEST up") == 1
            assert f"boots={boot}" in output
            act(user, server, {"os-stop": None})
            wait_for(user, server, "SHUTOFF")
            assert act(user, server, {"os-getConsoleOutput": {}}).status_code == 404
            act(user, server, {"os-start": None})
            wait_for(user, server, "ACTIVE")


def test_a_down_site_refuses_connections_while_its_guests_run_on(tmp_path: Path):
    with used(tmp_path / "c") as (sim, user):
        server, _ = server_on(user, volume_with(user, disk()))
        sim.faults.go_down()
        with pytest.raises(requests.ConnectionError):
            user.ask("GET", "/compute/v2.1/servers")
        assert sim.guests.is_on(server)
        sim.faults.come_back()
        wait_for(user, server, "ACTIVE")


def test_a_lost_answer_had_its_effect(tmp_path: Path):
    with used(tmp_path / "c") as (sim, user):
        sim.faults.fail(LostAnswer(), method="POST")
        with pytest.raises(requests.ConnectionError):
            user.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
        assert len(user.json("GET", "/volume/v3/volumes")["volumes"]) == 1


@pytest.mark.parametrize("fault", [Hang(), Reset(), Garbage(), Status(code=503)])
def test_a_fault_has_no_effect_and_passes(tmp_path: Path, fault: Any):
    with used(tmp_path / "c") as (sim, user):
        sim.faults.fail(fault, method="POST")
        try:
            reply = user.http.post(
                sim.url.replace("/identity/v3", "/volume/v3/volumes"),
                json={"volume": {"size": 1}},
                headers={"X-Auth-Token": user.token},
                timeout=0.3,
            )
        except requests.RequestException:
            assert isinstance(fault, Hang | Reset)
        else:
            assert reply.status_code in {200, 503}
        assert user.json("GET", "/volume/v3/volumes")["volumes"] == []


def test_a_full_disk_stops_what_needs_room(tmp_path: Path):
    with used(tmp_path / "c") as (sim, user):
        sim.faults.fill_disk()
        made = user.json("POST", "/volume/v3/volumes", {"volume": {"size": 1}})["volume"]["id"]
        path = f"/volume/v3/volumes/{made}"
        until(lambda: user.json("GET", path)["volume"]["status"] == "error", "no room")
        sim.faults.free_disk()


def test_a_token_ends(tmp_path: Path):
    with used(tmp_path / "c", knobs=Knobs(token_seconds=-1)) as (_, user):
        reply = user.ask("GET", "/compute/v2.1/servers")
        assert reply.status_code == 401
        assert "Keystone uri" in reply.headers["WWW-Authenticate"]


def test_a_policy_may_forbid_to_choose_a_mac(tmp_path: Path):
    with used(tmp_path / "c", knobs=Knobs(choose_mac=False)) as (_, user):
        network = user.json("GET", "/network/v2.0/networks")["networks"][0]["id"]
        wish = {"port": {"network_id": network, "mac_address": "02:00:00:00:00:01"}}
        assert user.ask("POST", "/network/v2.0/ports", wish).status_code == 403


def test_a_full_host_builds_nothing_and_says_so(tmp_path: Path):
    with used(tmp_path / "c", knobs=Knobs(host_memory=512)) as (_, user):
        volume = volume_with(user, disk())
        boot = {"boot_index": 0, "uuid": volume, "source_type": "volume"}
        server = {
            "name": "x",
            "flavorRef": "5",
            "imageRef": "",
            "block_device_mapping_v2": [{**boot, "destination_type": "volume"}],
            "networks": "none",
        }
        made = user.json("POST", "/compute/v2.1/servers", {"server": server})["server"]["id"]
        wait_for(user, made, "ERROR")
        shown = user.json("GET", f"/compute/v2.1/servers/{made}")["server"]
        assert "No valid host" in shown["fault"]["message"]
        path = f"/volume/v3/volumes/{volume}"
        assert user.json("GET", path)["volume"]["status"] == "available"


def test_a_qcow2_becomes_the_same_disk_and_back(tmp_path: Path):
    raw, image, again = (tmp_path / name for name in ("raw", "image", "again"))
    with raw.open("wb") as file:
        for at in (0, 70_000, 9 << 20, (40 << 20) - 1000):
            file.seek(at)
            file.write(os.urandom(1000))
    qcow2.from_raw(raw, image, lambda: False)
    assert qcow2.virtual_size(image.read_bytes()[:64]) == 40 << 20
    assert image.stat().st_size < 1 << 20
    qcow2.to_raw(image, again, 41 << 20, lambda: False)
    data = again.read_bytes()
    assert data[: 40 << 20] == raw.read_bytes()
    assert not any(data[40 << 20 :])


def test_what_glance_takes_for_a_sound_boot_sector():
    assert not unsafe(disk()[:512])
    assert not unsafe(bytes(512))
    assert unsafe(bytes(510) + b"\x55\xaa")
    assert unsafe(b"\x7f" * 510 + b"\x55\xaa")


def test_every_fact_has_a_name_of_its_own():
    names = [fact.id for fact in facts.FACTS]
    assert len(names) == len(set(names))
    assert all(fact.text for fact in facts.FACTS)
    assert {fact.provenance for fact in facts.FACTS} == {*Provenance} - {Provenance.DOCS}
