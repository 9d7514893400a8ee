"""Who may do what at a simulated Proxmox VE site, and how refusals look."""

import pytest
from proxmoxer import AuthenticationError
from proxmoxer.core import ResourceException

from drivers.simulators.proxmox.access import AUDITOR_ROLE, FEDCTL_ROLE


def refused(call, status: int, words: str) -> ResourceException:
    with pytest.raises(ResourceException) as caught:
        call()
    assert caught.value.status_code == status
    assert words in str(caught.value.content), caught.value
    return caught.value


def test_a_ticket_logs_in_and_a_change_without_its_csrf_token_is_401(sim, other, raw):
    root = other(user="root@pam", password=sim.credentials.root_password)
    assert root.node.qemu.get() == []
    ticket, csrf = root.proxmox.get_tokens()
    cookie = {"Cookie": f"PVEAuthCookie={ticket}"}
    assert raw("GET", "/version", token=False, headers=cookie).status_code == 200
    for headers in ({}, {"CSRFPreventionToken": csrf[:-1] + "x"}):
        answer = raw("POST", "/nodes/pve/qemu", token=False, headers=cookie | headers)
        assert answer.status_code == 401
    good = cookie | {"CSRFPreventionToken": csrf}
    assert raw("POST", "/nodes/pve/qemu", token=False, headers=good).status_code == 400


def test_a_ticket_renews_itself_and_a_wrong_password_does_not_log_in(sim, other):
    root = other(user="root@pam", password=sim.credentials.root_password)
    ticket, _ = root.proxmox.get_tokens()
    renewed = other(user="root@pam", password=ticket)
    assert renewed.proxmox.version.get()["release"] == "9.1"
    with pytest.raises(AuthenticationError):
        other(user="root@pam", password="wrong")


def test_without_or_with_a_wrong_token_everything_is_401(sim, other, raw):
    assert raw("GET", "/version", token=False).status_code == 401
    refused(other(secret="wrong").proxmox.version.get, 401, "invalid token value")
    refused(other("fedctl@pve!nobody").proxmox.version.get, 401, "no such token")


def test_a_separated_token_without_rights_sees_empty_lists_and_is_refused_reads(sim, api, other):
    api.vm()
    access = sim.node.access
    access.add_token("fedctl@pve", "poor", "secret")
    poor = other("fedctl@pve!poor", "secret")
    assert poor.node.qemu.get() == []
    assert poor.node.storage.get() == []
    assert poor.proxmox.cluster.resources.get(type="vm") == []
    assert poor.proxmox.access.permissions.get() == {}
    refused(poor.node.qemu(100).config.get, 403, "VM.Audit")
    refused(poor.node.storage("local").content.get, 403, "Datastore.Audit")
    access.grant("fedctl@pve!poor", "/", AUDITOR_ROLE)
    assert [vm["vmid"] for vm in poor.node.qemu.get()] == [100]
    refused(poor.node.qemu(100).status.start.post, 403, "VM.PowerMgmt")
    access.add_user("guest@pve", "x")
    access.add_token("guest@pve", "rich", "secret")
    access.grant("guest@pve!rich", "/", FEDCTL_ROLE)
    assert other("guest@pve!rich", "secret").node.qemu.get() == [], "the user has no rights"


def test_a_token_of_root_is_not_root(sim, api, other):
    api.vm()
    sim.node.access.add_token("root@pam", "auto", "secret", privsep=False)
    token = other("root@pam!auto", "secret")
    assert len(token.node.qemu.get()) == 1
    refused(lambda: token.node.qemu(100).config.put(lock="migrate"), 500, "only root")
    answer = refused(lambda: token.node.qemu(100).config.put(skiplock=1), 400, "verification")
    assert "skiplock" in answer.errors


def test_messages_stand_in_the_reason_phrase_and_wrong_parameters_in_errors(api, raw):
    refused(api.node.qemu(999).config.get, 500, "nodes/pve/qemu-server/999.conf' does not exist")
    answer = raw("GET", "/nodes/pve/qemu/999/config")
    assert "does not exist" in answer.reason
    assert answer.json()["data"] is None
    assert "does not exist" in answer.json()["message"]
    refused(api.proxmox("no/such/path").get, 501, "not implemented")
    wrong = refused(lambda: api.node.qemu.post(vmid=100, onboot=True), 400, "verification failed")
    assert "boolean" in wrong.errors["onboot"]
    unknown = refused(lambda: api.node.qemu.post(vmid=100, colour="red"), 400, "verification")
    assert "not defined in schema" in unknown.errors["colour"]
    upid = "UPID:pve:00000001:00000001:00000001:qmstart:1:x@pve:"
    assert refused(api.node.tasks(upid).status.get, 400, "").errors == {"upid": "no such task"}


def test_a_dead_peer_answers_595(sim, api):
    sim.node.peers["pve2"] = "offline"
    assert {n["node"]: n["status"] for n in api.proxmox.nodes.get()} == {
        "pve": "online",
        "pve2": "offline",
    }
    refused(api.proxmox.nodes("pve2").qemu.get, 595, "No route to host")
