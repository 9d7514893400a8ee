"""What every kind has in common: envelope, versions, lists, deletion, errors."""

import json
from time import monotonic, sleep

import httpx
import pytest

from tests.api.world import (
    AUTHORIZATION,
    COMPUTE,
    FEDERATION,
    IMAGES,
    MOBILITY,
    PROTECTION,
    REGIONS,
    STORAGE,
    WORKSPACES,
    World,
)
from tests.logged import told


def workspaces(w: World, name: str = "") -> str:
    return w.in_tenant(WORKSPACES, f"workspaces/{name}" if name else "workspaces")


def test_a_new_resource_answers_201_with_the_whole_envelope(w: World):
    name = w.fresh("env")
    made = w.put(workspaces(w, name), {"team": "a"}, labels={"tier": "web"}, annotations={"n": "x"})
    assert made.status_code == 201
    body = made.json()
    assert set(body) == {"labels", "annotations", "extensions", "metadata", "spec", "status"}
    assert body["spec"] == {"team": "a"}
    metadata = body["metadata"]
    assert metadata["ref"] == f"seca.workspace/v1/tenants/acme/workspaces/{name}"
    assert metadata["resource"] == f"workspaces/{name}"
    assert metadata["verb"] == "PUT"
    assert metadata["resourceVersion"] == 1
    assert metadata["region"] == "eu-fr"
    assert "workspace" not in metadata
    assert metadata["createdAt"].endswith("Z")
    assert "deletedAt" not in metadata


def test_states_pass_one_by_one_and_newest_come_first(w: World):
    name = w.workspace()
    again = w.put(workspaces(w, name), {"changed": True})
    assert again.status_code == 200
    states = [c["state"] for c in again.json()["status"]["conditions"]]
    assert states == ["active", "updating", "active", "creating", "pending"]
    assert again.json()["metadata"]["resourceVersion"] == 2


def test_the_same_wish_again_changes_nothing(w: World):
    name = w.workspace()
    before = w.http.get(workspaces(w, name)).json()
    assert w.put(workspaces(w, name), {}).status_code == 200
    after = w.http.get(workspaces(w, name)).json()
    assert after == before


def test_what_clients_send_as_metadata_and_status_is_not_read(w: World):
    name = w.fresh("sdk")
    body = {
        "labels": None,
        "annotations": None,
        "extensions": None,
        "metadata": {"createdAt": "0001-01-01T00:00:00Z", "kind": "", "verb": "", "name": "other"},
        "spec": {},
        "status": {"state": "error", "conditions": None},
    }
    made = w.http.put(workspaces(w, name), json=body)
    assert made.status_code == 201
    assert made.json()["metadata"]["name"] == name
    assert made.json()["status"]["state"] == "active"


def test_annotations_of_the_server_are_not_taken_from_clients(w: World):
    name = w.fresh("own")
    made = w.put(workspaces(w, name), {}, annotations={"fedctl:workflow": "x", "mine": "y"})
    assert made.json()["annotations"] == {"mine": "y"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"if-unmodified-since": "1"}, 200), ({"if-unmodified-since": "7"}, 412)],
)
def test_a_write_may_name_the_version_it_replaces(w: World, headers: dict, status: int):
    name = w.workspace()
    answer = w.http.put(workspaces(w, name), json={"spec": {"a": 1}}, headers=headers)
    assert answer.status_code == status
    answer = w.http.delete(workspaces(w, name), headers={"if-unmodified-since": "9"})
    assert answer.status_code == 412
    assert answer.json()["type"].endswith("/precondition-failed")


def test_a_version_that_is_a_date_is_malformed(w: World):
    headers = {"if-unmodified-since": "Sun, 22 Nov 2026 11:00:00 GMT"}
    answer = w.http.delete(workspaces(w, w.workspace()), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["sources"] == [{"pointer": "", "parameter": "if-unmodified-since"}]


def test_lists_come_in_pages_with_a_signed_token(w: World):
    names = sorted(w.workspace() for _ in range(5))
    found, token = [], None
    while True:
        params = {"limit": "2"} | ({"skipToken": token} if token else {})
        page = w.http.get(workspaces(w), params=params).json()
        assert len(page["items"]) <= 2
        found += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("skipToken")
        if token is None:
            break
    assert [n for n in found if n in names] == names
    assert len(found) == len(set(found))


def test_a_token_of_another_list_or_of_nobody_is_malformed(w: World):
    for _ in range(2):
        w.workspace()
    token = w.http.get(workspaces(w), params={"limit": "1"}).json()["metadata"]["skipToken"]
    for path, text in ((workspaces(w), "x" + token[1:]), (w.in_tenant(STORAGE, "images"), token)):
        answer = w.http.get(path, params={"skipToken": text})
        assert answer.status_code == 400
        assert answer.json()["sources"][0]["parameter"] == "skipToken"


@pytest.mark.parametrize("limit", ["0", "99999"])
def test_a_limit_outside_its_bounds_is_brought_inside(w: World, limit: str):
    assert w.http.get(workspaces(w), params={"limit": limit}).status_code == 200


def test_a_limit_that_is_no_number_is_malformed(w: World):
    assert w.http.get(workspaces(w), params={"limit": "many"}).status_code == 400


def test_lists_are_chosen_by_labels(w: World):
    name = w.fresh("lab")
    w.put(workspaces(w, name), {}, labels={"tier": name, "cpus": "8"})
    chosen = w.http.get(workspaces(w), params={"labels": f"tier={name},cpus>4"}).json()
    assert [item["metadata"]["name"] for item in chosen["items"]] == [name]
    assert not w.http.get(workspaces(w), params={"labels": f"tier={name},cpus>8"}).json()["items"]
    assert w.http.get(workspaces(w), params={"labels": "=;"}).status_code == 400


def test_skus_are_chosen_by_labels_too(w: World):
    path = w.in_tenant(COMPUTE, "skus")
    items = w.http.get(path, params={"labels": "tier=dedicated", "limit": "3"}).json()["items"]
    assert len(items) == 3
    assert {item["labels"]["tier"] for item in items} == {"dedicated"}
    assert w.http.get(path, params={"labels": "tier!=*"}).status_code == 400


def test_the_deleted_are_listed_on_request_only(w: World):
    name = w.workspace()
    assert w.http.delete(workspaces(w, name)).status_code == 202
    assert w.http.get(workspaces(w, name)).status_code == 404

    def listed(accept: str) -> bool:
        answer = w.http.get(workspaces(w), headers={"Accept": accept}).json()
        return name in {item["metadata"]["name"] for item in answer["items"]}

    assert not listed("application/json")
    assert listed("application/json; deleted=true")
    assert listed("application/json;deleted=only")
    again = w.put(workspaces(w, name), {})
    assert again.status_code == 201, "the name is free again"


def test_deleting_what_is_not_there_is_404(w: World):
    assert w.http.delete(workspaces(w, "never-was")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{not json", 400),
        (b'{"spec": []}', 400),
        (b'{"labels": {"a": 1}, "spec": {}}', 400),
        (b'{"labels": {"a": "%s"}, "spec": {}}' % (b"x" * 64), 412),
        (b'{"spec": {}, "unknown": 1}', 412),
        (b"{}", 412),
    ],
)
def test_bad_bodies_are_refused_as_malformed_or_invalid(w: World, body: bytes, status: int):
    answer = w.http.put(
        workspaces(w, "bad"), content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    problem = answer.json()
    assert problem["status"] == status
    assert problem["sources"], "each wrong place is pointed at"
    assert {"type", "title", "detail", "instance", "meta"} <= set(problem)


def test_a_body_of_another_media_type_is_refused(w: World):
    answer = w.http.put(workspaces(w, "x"), content=b"a", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


def test_a_client_that_takes_no_json_is_told(w: World):
    answer = w.http.get(workspaces(w), headers={"Accept": "text/html"})
    assert answer.status_code == 406


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(w: World):
    answer = w.http.put(
        workspaces(w, "x"),
        content=b" " * (3 * 1024 * 1024),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413

    def chunks():
        for _ in range(48):
            yield b" " * 65536

    answer = w.http.put(
        workspaces(w, "x"), content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("name", ["UPPER", "-x", "x" * 129, "a_b"])
def test_a_name_that_is_no_name_is_invalid(w: World, name: str):
    answer = w.put(w.in_tenant(AUTHORIZATION, f"roles/{name}"), {"permissions": []})
    assert answer.status_code == 412


def test_a_workspace_has_a_shorter_name_and_sites_a_still_shorter_one(w: World):
    assert w.put(workspaces(w, "x" * 65), {}).status_code == 412
    spec = {"provider": "openstack", "endpoint": "https://x.example", "region": "eu-fr"}
    long = w.put(w.site_path("x" * 33), spec)
    assert long.status_code == 412
    assert "33 characters" in long.json()["detail"]


def test_other_methods_and_other_paths_are_problems_too(w: World):
    wrong = w.http.patch(workspaces(w, "x"))
    assert wrong.status_code == 405
    assert "json" in wrong.headers["Content-Type"]
    assert w.http.get("/providers/seca.compute/v1/nothing").status_code == 404


def test_the_request_id_is_kept_or_made(w: World):
    given = w.http.get(REGIONS, headers={"X-Request-Id": "my-request-1"})
    assert given.headers["X-Request-Id"] == "my-request-1"
    made = w.http.get(workspaces(w, "nope"), headers={"X-Request-Id": "bad id"})
    assert made.json()["meta"]["requestId"] == made.headers["X-Request-Id"]


def test_a_fault_of_our_own_tells_nothing_of_the_inside(w: World, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(w.services.regions, "list", broken)
    answer = w.http.get(REGIONS)
    assert answer.status_code == 500
    assert "secret inside" not in answer.text
    assert "secret inside" in caplog.text
    assert answer.json()["meta"]["requestId"] in caplog.text


def test_regions_are_made_of_their_sites(w: World):
    site = w.site()
    spec = w.http.get(f"{REGIONS}/eu-fr").json()["spec"]
    assert site in spec["availableZones"]
    urls = {p["name"]: p["url"] for p in spec["providers"]}
    assert urls["seca.compute"].endswith("/providers/seca.compute")
    assert w.http.get(f"{REGIONS}/eu-xx").status_code == 404


def test_the_wellknown_document_is_open_and_names_global_providers(w: World):
    answer = httpx.get(f"{w.url}/.wellknown/secapi").json()
    names = {each["provider"] for each in answer["endpoints"]}
    assert {"seca.region/v1", "seca.authorization/v1", "fedctl.federation/v1"} <= names
    assert httpx.get(f"{w.url}/healthz").json()["status"] == "ok"


@pytest.mark.parametrize(
    "reference",
    [
        {"resource": "skus/seca.rd500"},
        {"resource": "skus/seca.rd500", "tenant": "seca"},
        {"resource": "tenants/seca/skus/seca.rd500"},
        {"resource": "seca.storage/v1/tenants/acme/skus/seca.rd500"},
        {"resource": "skus/seca.rd500", "provider": "seca.storage/v1"},
    ],
)
def test_references_are_understood_in_every_form_and_returned_as_written(w: World, reference: dict):
    workspace = w.workspace()
    path = w.in_workspace(STORAGE, workspace, "block-storages/d")
    made = w.put(path, {"skuRef": reference, "sizeGB": 1})
    assert made.status_code == 201, made.text
    assert w.http.get(path).json()["spec"]["skuRef"] == reference


@pytest.mark.parametrize(
    "reference",
    [
        {"resource": "skus/none"},
        {"resource": "images/x"},
        {"resource": "skus/seca.rd500", "tenant": "rival"},
        {"resource": "seca.compute/v1/tenants/acme/skus/seca.rd500"},
        {"resource": "skus/seca.rd500", "provider": "seca.compute/v1"},
        {"resource": ""},
    ],
)
def test_references_to_nothing_are_refused(w: World, reference: dict):
    path = w.in_workspace(STORAGE, w.workspace(), "block-storages/d")
    answer = w.put(path, {"skuRef": reference, "sizeGB": 1})
    assert answer.status_code in {404, 412}, answer.text


def test_what_lies_in_a_workspace_that_is_not_there_is_404(w: World):
    for base, what in (
        (COMPUTE, "instances"),
        (STORAGE, "block-storages"),
        (MOBILITY, "moves"),
        (MOBILITY, "placements"),
        (PROTECTION, "protections"),
    ):
        assert w.http.get(w.in_workspace(base, "nowhere", what)).status_code == 404
        assert w.http.get(w.in_workspace(base, "nowhere", f"{what}/x")).status_code == 404


def test_a_workspace_with_content_is_not_deleted(w: World):
    workspace = w.workspace()
    w.volume(workspace)
    refused = w.http.delete(workspaces(w, workspace))
    assert refused.status_code == 409
    assert "block-storage" in refused.json()["detail"]
    assert w.http.get(workspaces(w, workspace)).json()["status"]["resourceCount"] == 1


def test_every_collection_lists_as_json(w: World):
    workspace = w.workspace()
    for path in (
        REGIONS,
        f"{FEDERATION}/sites",
        f"{FEDERATION}/operations",
        f"{FEDERATION}/audit-checkpoints",
        w.in_tenant(FEDERATION, "operations"),
        w.in_tenant(FEDERATION, "audit-entries"),
        w.in_tenant(IMAGES, "image-uploads"),
        w.in_tenant(STORAGE, "images"),
        w.in_tenant(STORAGE, "skus"),
        w.in_workspace(FEDERATION, workspace, "operations"),
        w.in_workspace(MOBILITY, workspace, "moves"),
        w.in_workspace(MOBILITY, workspace, "placements"),
        w.in_workspace(PROTECTION, workspace, "protections"),
    ):
        answer = w.http.get(path)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        assert isinstance(answer.json()["items"], list)
        assert json.dumps(answer.json()).find("null") == -1


def test_the_log_tells_each_request_by_its_id(w: World):
    """Of what changed or failed; reading that went well is told only at the level debug."""
    w.http.get(REGIONS)
    with told() as lines:
        w.http.get(REGIONS)
        assert lines == []
        path = f"{FEDERATION}/nowhere"
        w.http.get(f"{path}?token=s3cr3t", headers={"X-Request-Id": "asked-by-me"})
        until = monotonic() + 10  # it is told after the answer was sent
        while not lines and monotonic() < until:
            sleep(0.01)
    [(record, about)] = lines
    assert record.getMessage() == f"GET {path}"
    assert record.status == 404
    assert about == {"request": "asked-by-me"}
    assert "s3cr3t" not in str(record.__dict__)
