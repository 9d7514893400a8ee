"""The simulated XAPI on the wire: answers, sessions, redirects, tasks, events."""

import ssl
import threading
import time
import xmlrpc.client

import pytest
import XenAPI

from drivers.simulators.faults import LostAnswer
from drivers.simulators.xcpng import FACTS, XcpngSim
from tests.simulators.xcpng.conftest import Api

BOTH_HOSTS = pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2"])


def test_every_fact_has_one_id():
    assert len({fact.id for fact in FACTS}) == len(FACTS)


def test_integers_are_text_and_void_is_empty(api: Api):
    vdi = api.vdi()
    assert api.xen.VDI.get_virtual_size(vdi) == "4194304"
    assert api.xen.VDI.destroy(vdi) == ""


def refused(call) -> list[str]:
    with pytest.raises(XenAPI.Failure) as caught:
        call()
    return caught.value.details


def test_what_is_no_call_is_told_in_xapis_words(api: Api):
    assert refused(lambda: api.xen.VM.frobnicate("x"))[0] == "MESSAGE_METHOD_UNKNOWN"
    assert refused(api.xen.VM.get_record)[0] == "MESSAGE_PARAMETER_COUNT_MISMATCH"
    assert refused(lambda: api.xen.VM.get_record("x")) == ["HANDLE_INVALID", "VM", "x"]
    assert refused(lambda: api.xen.VM.get_by_uuid("x")) == ["UUID_INVALID", "VM", "x"]
    assert api.http("POST", "/RPC2", {}, b"<methodCall><meth")[0] == 404
    assert api.http("GET", "/nowhere", {})[0] == 404


@BOTH_HOSTS
def test_a_wrong_password_is_refused_and_a_member_names_the_coordinator(sim: XcpngSim):
    session = XenAPI.Session(sim.url, ignore_ssl=True)
    wrong = refused(lambda: session.login_with_password("fedctl", "wrong"))
    assert wrong[0] == "SESSION_AUTHENTICATION_FAILED"
    member = XenAPI.Session(sim.member_url, ignore_ssl=True)
    known = sim.credentials
    told = refused(lambda: member.login_with_password(known.username, known.password))
    assert told == ["HOST_IS_SLAVE", "127.0.0.1"]
    session("close")()
    member("close")()


def test_a_session_that_ends_inside_a_wait_raises_there(sim: XcpngSim, api: Api):
    """Asked by hand: XenAPI would log in again by itself."""
    session = api.session._session
    token = api.session.xenapi_request("event.from", (["vm"], "", 0.1))["token"]
    said: list[dict] = []
    raw = xmlrpc.client.ServerProxy(sim.url, context=ssl._create_unverified_context())

    def ask() -> None:
        said.append(getattr(raw, "event.from")(session, ["vm"], token, 20.0))

    waiting = threading.Thread(target=ask)
    waiting.start()
    time.sleep(0.2)
    sim.expire_sessions()
    waiting.join(10)
    raw("close")()
    assert said[0]["Status"] == "Failure"
    assert said[0]["ErrorDescription"][0] == "SESSION_INVALID"


def test_a_key_is_added_once(api: Api):
    vdi = api.vdi()
    api.xen.VDI.add_to_other_config(vdi, "a", "1")
    assert refused(lambda: api.xen.VDI.add_to_other_config(vdi, "a", "2"))[0] == "MAP_DUPLICATE_KEY"
    api.xen.VDI.remove_from_other_config(vdi, "a")
    api.xen.VDI.add_to_other_config(vdi, "a", "2")
    assert api.xen.VDI.get_other_config(vdi) == {"a": "2"}


def test_a_task_tells_what_came_of_it(api: Api):
    vdi = api.vdi()
    task = api.xen.Async.VDI.snapshot(vdi, {})
    assert api.ended(task) == "success"
    result = api.xen.task.get_result(task)
    copy = result.removeprefix("<value>").removesuffix("</value>")
    assert api.xen.VDI.get_snapshot_of(copy) == vdi
    failed = api.xen.Async.VDI.destroy("OpaqueRef:none")
    assert api.ended(failed) == "failure"
    assert api.xen.task.get_error_info(failed) == ["HANDLE_INVALID", "VDI", "OpaqueRef:none"]


def test_finished_tasks_are_collected(api: Api):
    first = api.xen.Async.VDI.destroy("OpaqueRef:none")
    api.ended(first)
    with api.sim.pool.lock:
        for _ in range(205):
            api.sim.pool.finish(api.sim.pool.task("old"))
    api.xen.task.create("one more", "")
    assert refused(lambda: api.xen.task.get_status(first))[0] == "HANDLE_INVALID"


def test_events_tell_the_latest_of_what_changed(api: Api):
    vdi = api.vdi()
    first = api.session.xenapi_request("event.from", (["vdi"], "", 1.0))
    assert vdi in [event["ref"] for event in first["events"]]
    api.xen.VDI.add_to_other_config(vdi, "a", "1")
    api.xen.VDI.destroy(vdi)
    then = api.session.xenapi_request("event.from", (["vdi"], first["token"], 1.0))
    assert [(e["ref"], e["operation"], "snapshot" in e) for e in then["events"]] == [
        (vdi, "del", False)
    ]


def test_an_answer_that_is_lost_had_its_effect(sim: XcpngSim, api: Api):
    """Python's XML-RPC asks again by itself: the effect is there twice."""
    sim.faults.fail(LostAnswer(), method="POST", path="VDI.create")
    api.vdi(name_label="lost")
    assert len(sim.pool.where("VDI", name_label="lost")) == 2
