"""The simulated API's door: signatures over exact bytes, tokens, both error shapes, the rate."""

import hashlib
import time

import ovh
import pytest
import requests
from ovh.exceptions import (
    APIError,
    BadParametersError,
    InvalidCredential,
    InvalidKey,
    InvalidResponse,
    NotCredential,
    ResourceConflictError,
    ResourceExpiredError,
    ResourceNotFoundError,
)

from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.ovhcloud.estate import TAGGED


def signed(sim: OvhSim, method: str, path: str, body: str = "", **changes) -> dict[str, str]:
    """The headers of a request, signed as the documentation says, by code of this test."""
    known, now = sim.credentials, changes.get("now", str(int(time.time())))
    text = "+".join(
        (
            changes.get("secret", known.application_secret),
            known.consumer_key,
            method,
            sim.url + changes.get("signed_path", path),
            changes.get("signed_body", body),
            now,
        )
    )
    return {
        "X-Ovh-Application": known.application_key,
        "X-Ovh-Consumer": known.consumer_key,
        "X-Ovh-Timestamp": now,
        "X-Ovh-Signature": "$1$" + hashlib.sha1(text.encode()).hexdigest(),
    }


def test_the_sdk_is_let_in_and_the_clock_is_a_bare_integer(sim: OvhSim, api: ovh.Client):
    assert requests.get(f"{sim.url}/auth/time", timeout=5).text.isdecimal()
    assert len(api.get("/dedicated/server")) == 2


def test_a_signature_is_over_the_exact_bytes(sim: OvhSim):
    path = "/dedicated/server"
    good = requests.get(sim.url + path, headers=signed(sim, "GET", path), timeout=5)
    assert good.status_code == 200
    assert good.headers["X-OVH-QUERYID"]
    for wrong in (
        {"secret": "0" * 32},
        {"signed_path": "/dedicated/serve"},
        {"signed_body": "{}"},
        {"now": str(int(time.time()) - 3600)},
        {"now": "soon"},
    ):
        refused = requests.get(sim.url + path, headers=signed(sim, "GET", path, **wrong), timeout=5)
        assert refused.status_code in {400, 403}, wrong
        assert refused.json()["errorCode"] in {"INVALID_SIGNATURE", "QUERY_TIME_OUT"}


def test_a_body_that_was_changed_on_its_way_is_refused(sim: OvhSim):
    (name,) = [each for each in sim.estate.servers if each.startswith("ns3000001")]
    path, body = f"/dedicated/server/{name}", '{"bootId":1122}'
    headers = signed(sim, "PUT", path, body)
    changed = requests.put(sim.url + path, data='{"bootId": 1122}', headers=headers, timeout=5)
    assert changed.json()["errorCode"] == "INVALID_SIGNATURE"
    assert sim.estate.servers[name].boot == 1
    kept = requests.put(sim.url + path, data=body, headers=headers, timeout=5)
    assert kept.status_code == 200
    assert sim.estate.servers[name].boot == 1122


def test_wrong_keys_are_told_apart(sim: OvhSim, api: ovh.Client):
    api._consumer_key = "nobody's"
    with pytest.raises(NotCredential):
        api.get("/dedicated/server")
    api._application_key = "nobody's"
    with pytest.raises(InvalidKey):
        api.get("/dedicated/server")


def test_a_token_ends(sim: OvhSim):
    known, where = sim.credentials, f"{sim.url}/dedicated/server"
    wish = {
        "grant_type": "client_credentials",
        "client_id": known.client_id,
        "client_secret": known.client_secret,
        "scope": "all",
    }
    sim.keys.token_seconds = 0.2
    told = requests.post(sim.token_url, data=wish, timeout=5).json()
    bearer = {"Authorization": f"Bearer {told['access_token']}"}
    assert requests.get(where, headers=bearer, timeout=5).status_code == 200
    time.sleep(0.25)
    assert requests.get(where, headers=bearer, timeout=5).status_code == 403
    for wrong in ({"client_secret": "no"}, {"scope": "some"}):
        refused = requests.post(sim.token_url, data=wish | wrong, timeout=5)
        assert refused.status_code in {400, 401}


def test_refusals_have_both_shapes(sim: OvhSim, api: ovh.Client):
    with pytest.raises(ResourceNotFoundError) as older:
        api.get("/dedicated/server/ns0")
    assert older.value.response.json()["class"] == "Client::NotFound"
    with pytest.raises(ResourceNotFoundError) as newer:
        api.get("/ip/192.0.2.1%2F32")
    assert newer.value.response.json()["errorCode"] == "NOT_FOUND"
    with pytest.raises(BadParametersError):
        api.put(f"/dedicated/server/{min(sim.estate.servers)}", name="mine")


def test_an_expired_server_says_so(sim: OvhSim, api: ovh.Client):
    name = min(sim.estate.servers)
    sim.estate.servers[name].expired = True
    with pytest.raises(ResourceExpiredError):
        api.get(f"/dedicated/server/{name}")


def test_beyond_the_rate_the_answer_is_no_json(sim: OvhSim, api: ovh.Client):
    sim.keys.rate = 3
    for _ in range(3):
        api.get("/dedicated/server")
    with pytest.raises(InvalidResponse):
        api.get("/dedicated/server")


def test_a_second_action_on_a_busy_server_is_refused(sim: OvhSim, api: ovh.Client):
    name = min(sim.estate.servers)
    api.post(f"/dedicated/server/{name}/reboot")
    with pytest.raises(ResourceConflictError):
        api.post(f"/dedicated/server/{name}/reboot")


def test_tags_are_kept_replaced_removed_and_checked(sim: OvhSim, api: ovh.Client):
    server = api.get(f"/dedicated/server/{min(sim.estate.servers)}")
    path = f"/v2/iam/resource/{server['iam']['urn']}/tag"
    for value in ("one", "two"):
        api.post(path, key="team", value=value)
    listed = api.get("/v2/iam/resource", resourceType="dedicatedServer")
    assert [it["tags"] for it in listed if it["urn"] == server["iam"]["urn"]] == [
        {**TAGGED, "team": "two"}
    ]
    for key, value in (("ovh:mine", "x"), ("k" * 129, "x"), ("k", "v" * 257), ("k", "?")):
        with pytest.raises(BadParametersError):
            api.post(path, key=key, value=value)
    api.delete(f"{path}/team")
    with pytest.raises(ResourceNotFoundError):
        api.delete(f"{path}/team")
    with pytest.raises((APIError, InvalidCredential)):
        api.post("/v2/iam/resource/urn:v1:eu:resource:vps:x/tag", key="k", value="v")
