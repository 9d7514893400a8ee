"""A simulated Proxmox VE site as a whole: its faults, its guests, its facts, its schema."""

from dataclasses import replace

import pytest
import requests
from proxmoxer.core import ResourceException

from drivers.simulators.faults import (
    FAST,
    STEADY,
    Garbage,
    Hang,
    LostAnswer,
    Reset,
    Status,
    too_many,
)
from drivers.simulators.guest import format_journal, lost_writes, read_journal
from drivers.simulators.proxmox import FACTS, ProxmoxSim
from drivers.simulators.witness import Witness
from tests.simulators.proxmox.conftest import CALLS, Api
from tests.simulators.proxmox.schema import faults_in, schema
from tests.simulators.proxmox.test_vms import bytes_of, write
from tests.simulators.test_guest import IDENTITY, eventually


def test_each_asked_for_fault_shows_once(sim, api, raw):
    sim.faults.fail(too_many(7), method="GET", path="/version$")
    answer = raw("GET", "/version")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert raw("GET", "/version").status_code == 200
    sim.faults.fail(Status(code=500, reason="got timeout"), path="/version$")
    assert raw("GET", "/version").reason == "got timeout"
    sim.faults.fail(Garbage(), path="/version$")
    with pytest.raises(ValueError, match="Expecting value"):
        raw("GET", "/version").json()
    sim.faults.fail(Reset(), path="/version$")
    with pytest.raises(requests.exceptions.ConnectionError):
        raw("GET", "/version")
    sim.faults.fail(Hang(), path="/version$")
    session = api.proxmox._store["session"]
    with pytest.raises(requests.exceptions.ReadTimeout):
        session.get(f"{sim.url}/api2/json/version", timeout=0.1)
    assert raw("GET", "/version").status_code == 200


def test_the_effect_of_a_call_whose_answer_was_lost_is_there(sim, api):
    sim.faults.fail(LostAnswer(), method="POST", path="/qemu$")
    with pytest.raises(requests.exceptions.ConnectionError):
        api.node.qemu.post(vmid=100, name="web-1")
    with pytest.raises(ResourceException, match="already exists"):
        api.node.qemu.post(vmid=100, name="web-1")


def test_a_site_that_is_down_refuses_and_comes_back_on_its_port(sim, api):
    url = sim.url
    sim.faults.go_down()
    with pytest.raises(requests.exceptions.ConnectionError):
        api.proxmox.version.get()
    sim.faults.come_back()
    assert sim.url == url
    assert api.proxmox.version.get()["release"] == "9.1"


def test_a_slow_link_is_as_slow_as_it_says(sim, api):
    sim.faults.profile = replace(STEADY, bandwidth=100 * 1024**2)
    assert sim.faults.transfer_seconds(1024**2) == pytest.approx(0.01)


def test_a_guest_keeps_its_journal_on_the_simulated_disk(tmp_path):
    witness = Witness(tmp_path / "witness.db")
    with ProxmoxSim(tmp_path / "pve", profile=STEADY, witness=witness) as sim:
        api = Api(sim)
        api.vm(net0="virtio,bridge=vmbr0,link_down=1", ipconfig0="ip=10.0.4.12/24")
        mbr = bytearray(512)
        mbr[510:512], mbr[450] = b"\x55\xaa", 0xDA
        mbr[454:462] = (2048).to_bytes(4, "little") + (256).to_bytes(4, "little")
        write(sim, "local-zfs:vm-100-disk-0", 0, bytes(mbr))
        journal = format_journal(IDENTITY, 256 * 512)
        write(sim, "local-zfs:vm-100-disk-0", 2048 * 512, journal)
        assert api.done(api.node.qemu(100).status.start.post()) == "OK"
        eventually(lambda: witness.highest(IDENTITY.hex()) >= 3)
        [run] = witness.running(IDENTITY.hex())
        assert not run.connected
        mac = api.node.qemu(100).config.get()["net0"].split(",")[0]
        api.node.qemu(100).config.put(net0=f"{mac},bridge=vmbr0")
        [run] = witness.running(IDENTITY.hex())
        assert run.connected
        assert api.done(api.node.qemu(100).status.stop.post()) == "OK"
        disk = bytes_of(sim, "local-zfs:vm-100-disk-0")
        api.close()
        assert "ip=10.0.4.12" in sim.guest_console(100)
    kept = read_journal(lambda offset, length: disk[offset : offset + length])
    assert lost_writes(kept, (r.sequence for r in witness.durable(IDENTITY.hex()))) == ()
    assert witness.running(IDENTITY.hex()) == ()
    witness.close()


def test_chance_loses_answers_by_its_seed(tmp_path):
    with ProxmoxSim(tmp_path / "pve", profile=replace(FAST, lost_answers=1.0), seed=3) as sim:
        api = Api(sim)
        assert api.node.qemu.get() == []
        with pytest.raises(requests.exceptions.ConnectionError):
            api.node.qemu.post(vmid=100)
        assert [vm["vmid"] for vm in api.node.qemu.get()] == [100]
        api.close()


def test_facts_are_named_once():
    ids = [fact.id for fact in FACTS]
    assert len(ids) == len(set(ids))
    assert all(fact.text for fact in FACTS)


def test_what_these_tests_asked_and_were_answered_is_in_the_providers_schema():
    """Judges all tests of this folder that ran before it in this process."""
    assert faults_in(schema(), CALLS) == []
