"""Instances and their disks: admission, operations, power, deletion."""

from datetime import UTC, datetime

import pytest

from controlplane.domain.operation import OperationState
from controlplane.domain.resource import State
from tests.api.world import COMPUTE, FEDERATION, MOBILITY, STORAGE, WORKSPACES, World


@pytest.fixture(scope="module")
def site(w: World) -> str:
    return w.site()


@pytest.fixture
def shop(w: World) -> str:
    return w.workspace()


def path(w: World, shop: str, name: str) -> str:
    return w.in_workspace(COMPUTE, shop, f"instances/{name}")


def test_a_wish_leaves_resource_operation_outbox_and_audit_together(w: World, site: str, shop: str):
    made = w.put(path(w, shop, "web-1"), w.instance_spec(site, w.volume(shop)))
    assert made.status_code == 201
    assert made.json()["status"]["state"] == "pending"
    assert made.json()["status"]["powerState"] == "off"
    operation = w.operation(made)
    assert (operation.kind, operation.state) == ("provision", "queued")
    assert operation.subject_name == f"{shop}/web-1"
    assert (operation.id, "start") in w.outbox()
    entries = w.http.get(w.in_tenant(FEDERATION, "audit-entries")).json()["items"]
    mine = [e["spec"] for e in entries if e["spec"]["request"] == operation.request]
    assert [e["action"] for e in mine] == ["instance.put"]
    assert mine[0]["actor"] == "ada"


def test_a_refused_wish_leaves_nothing(w: World, shop: str):
    before = w.outbox()
    answer = w.put(path(w, shop, "web-1"), w.instance_spec("no-such-site", w.volume(shop)))
    assert answer.status_code == 404
    assert w.outbox() == before
    assert w.http.get(path(w, shop, "web-1")).status_code == 404


def test_an_unknown_site_is_answered_with_the_known_ones(w: World, site: str, shop: str):
    answer = w.put(path(w, shop, "web-1"), w.instance_spec("atlantis", w.volume(shop)))
    assert "atlantis" in answer.json()["detail"]
    assert site in answer.json()["detail"]


def test_the_same_wish_again_starts_no_second_operation(w: World, site: str, shop: str):
    spec = w.instance_spec(site, w.volume(shop))
    w.put(path(w, shop, "web-1"), spec)
    again = w.put(path(w, shop, "web-1"), spec)
    assert again.status_code == 200
    assert "Fedctl-Operation" not in again.headers


def test_a_failed_provisioning_is_tried_again_by_the_same_wish(w: World, site: str, shop: str):
    spec = w.instance_spec(site, w.volume(shop))
    made = w.put(path(w, shop, "web-1"), spec)
    operation = w.operation(made)
    w.end(operation, OperationState.FAILED)
    now = datetime.now(UTC)
    with w.store.begin() as tx:
        tx.resources.set_state(operation.subject, State.CREATING, now=now)
        tx.resources.set_state(operation.subject, State.ERROR, now=now)
    again = w.put(path(w, shop, "web-1"), spec)
    assert again.headers["Fedctl-Operation"].endswith("provision-web-1-2")


@pytest.mark.parametrize(
    ("extensions", "ok"),
    [
        ({"fedctl:network": "shop-net", "fedctl:address": "10.0.4.12"}, True),
        ({"fedctl:mac": "52:54:00:12:34:56", "fedctl:firmware": "uefi"}, True),
        ({"fedctl:unknown": "x"}, False),
        ({"fedctl:address": "10.0.4.300"}, False),
        ({"fedctl:mac": "ff:ff:ff:ff:ff:ff"}, False),
        ({"fedctl:mac": "52:54:00:12:34"}, False),
        ({"fedctl:firmware": "coreboot"}, False),
        ({"fedctl:network": ""}, False),
    ],
)
def test_extension_keys_are_checked(w: World, site: str, shop: str, extensions: dict, ok):
    spec = w.instance_spec(site, w.volume(shop))
    answer = w.put(path(w, shop, "web-1"), spec, extensions=extensions)
    assert answer.status_code == (201 if ok else 412), answer.text
    if ok:
        assert answer.json()["extensions"] == extensions
        changed = w.put(path(w, shop, "web-1"), spec, extensions={})
        assert changed.status_code == 412, "what a site was asked to make stays"


@pytest.mark.parametrize(
    "change",
    [
        {"zone": "other"},
        {"skuRef": {"resource": "skus/seca.dl"}},
        {"sshKeys": ["ssh-ed25519 AAAA"]},
        {"userData": "#cloud-config"},
        {"antiAffinityGroup": "g"},
    ],
)
def test_what_was_made_is_not_changed_by_a_put(w: World, site: str, shop: str, change: dict):
    spec = w.instance_spec(site, w.volume(shop))
    w.put(path(w, shop, "web-1"), spec)
    if "zone" in change:
        change = {"zone": w.site()}
    answer = w.put(path(w, shop, "web-1"), spec | change)
    assert answer.status_code == 412
    if "zone" in change:
        assert "fedctl move" in answer.json()["detail"]


def test_the_same_sku_by_another_name_is_no_change(w: World, site: str, shop: str):
    spec = w.instance_spec(site, w.volume(shop))
    w.put(path(w, shop, "web-1"), spec)
    urn = {"resource": f"seca.compute/v1/tenants/{w.tenant}/skus/seca.ss"}
    assert w.put(path(w, shop, "web-1"), spec | {"skuRef": urn}).status_code == 200


def test_network_kinds_that_are_not_here_are_refused_with_the_way_out(
    w: World, site: str, shop: str
):
    spec = w.instance_spec(site, w.volume(shop)) | {"primaryNicRef": {"resource": "nics/n"}}
    answer = w.put(path(w, shop, "web-1"), spec)
    assert answer.status_code == 412
    assert "fedctl:network" in answer.json()["detail"]


def test_a_volume_serves_one_instance_and_stays_while_it_does(w: World, site: str, shop: str):
    volume = w.volume(shop)
    assert w.put(path(w, shop, "web-1"), w.instance_spec(site, volume)).status_code == 201
    second = w.put(path(w, shop, "web-2"), w.instance_spec(site, volume))
    assert second.status_code == 409
    disk = w.in_workspace(STORAGE, shop, f"block-storages/{volume}")
    assert w.http.get(disk).json()["status"]["attachedTo"] == {"resource": "instances/web-1"}
    assert w.http.delete(disk).status_code == 409
    grow = {"skuRef": {"resource": "skus/seca.rd500"}, "sizeGB": 9}
    assert w.put(disk, grow).status_code == 409


def test_a_volume_named_twice_or_not_there_is_refused(w: World, site: str, shop: str):
    volume = w.volume(shop)
    device = {"deviceRef": {"resource": f"block-storages/{volume}"}}
    twice = w.instance_spec(site, volume, dataVolumes=[device])
    assert w.put(path(w, shop, "web-1"), twice).status_code == 412
    assert w.put(path(w, shop, "web-1"), w.instance_spec(site, "none")).status_code == 412
    elsewhere = {"deviceRef": {"resource": f"workspaces/other/block-storages/{volume}"}}
    spec = w.instance_spec(site, volume) | {"bootVolume": elsewhere}
    assert w.put(path(w, shop, "web-1"), spec).status_code == 412


def test_a_volume_grows_and_never_shrinks(w: World, shop: str):
    volume = w.volume(shop)
    disk = w.in_workspace(STORAGE, shop, f"block-storages/{volume}")
    sku = {"skuRef": {"resource": "skus/seca.rd500"}}
    grown = w.put(disk, sku | {"sizeGB": 8})
    assert grown.status_code == 200
    assert grown.json()["status"]["sizeGB"] == 8
    assert w.put(disk, sku | {"sizeGB": 2}).status_code == 412
    assert w.put(disk, {"skuRef": {"resource": "skus/seca.ld500"}, "sizeGB": 8}).status_code == 412
    unknown = {"sourceImageRef": {"resource": "images/none"}}
    assert w.put(disk, sku | {"sizeGB": 8} | unknown).status_code == 412
    assert w.http.delete(disk).status_code == 202
    assert w.http.get(disk).status_code == 404


def test_power_is_asked_for_from_a_fitting_state_only(w: World, site: str, shop: str):
    name = w.running_instance(shop, site)
    assert w.http.post(f"{path(w, shop, name)}/stop").status_code == 409
    started = w.http.post(f"{path(w, shop, name)}/start")
    assert (started.status_code, started.content) == (202, b"")
    assert w.operation(started).kind == "start"
    busy = w.http.post(f"{path(w, shop, name)}/start")
    assert busy.status_code == 409
    assert busy.headers["Retry-After"]
    assert f"start-{name}-1" in busy.json()["detail"]


def test_stopping_says_how(w: World, site: str, shop: str):
    name = w.running_instance(shop, site, power="on")
    assert w.http.post(f"{path(w, shop, name)}/start").status_code == 409
    odd = w.http.post(f"{path(w, shop, name)}/stop", params={"manner": "gently"})
    assert odd.status_code == 412
    stopped = w.http.post(f"{path(w, shop, name)}/stop", params={"manner": "hard"})
    assert dict(w.operation(stopped).order) == {"manner": "hard"}


def test_the_extension_keys_are_published_as_data(w: World):
    items = w.http.get(f"{FEDERATION}/extension-keys").json()["items"]
    found = {item["name"]: item for item in items}
    assert found["fedctl:firmware"]["kinds"] == ["instance"]
    assert found["fedctl:mac"]["mutable"] is False


def test_an_instance_that_is_not_active_is_not_switched(w: World, site: str, shop: str):
    made = w.put(path(w, shop, "web-1"), w.instance_spec(site, w.volume(shop)))
    w.end(w.operation(made), OperationState.FAILED)
    answer = w.http.post(f"{path(w, shop, 'web-1')}/start")
    assert answer.status_code == 409
    assert "pending" in answer.json()["detail"]


def test_deleting_is_work_that_is_asked_for_once(w: World, site: str, shop: str):
    name = w.running_instance(shop, site)
    first = w.http.delete(path(w, shop, name))
    assert first.status_code == 202
    second = w.http.delete(path(w, shop, name))
    assert second.status_code == 202
    assert second.headers["Fedctl-Operation"] == first.headers["Fedctl-Operation"]
    shown = w.http.get(path(w, shop, name)).json()
    assert shown["status"]["state"] == "deleting"
    assert shown["metadata"]["deletedAt"]
    again = w.put(path(w, shop, name), shown["spec"])
    assert again.status_code == 409
    assert w.http.delete(w.in_tenant(WORKSPACES, f"workspaces/{shop}")).status_code == 409
    operation = w.operation(first)
    w.end(operation)
    with w.store.begin() as tx:
        tx.resources.remove(operation.subject, datetime.now(UTC))
    assert w.http.get(path(w, shop, name)).status_code == 404
    assert w.http.delete(path(w, shop, name)).status_code == 404


def test_an_instance_that_is_worked_on_is_not_deleted(w: World, site: str, shop: str):
    name = w.instance(shop, site)
    answer = w.http.delete(path(w, shop, name))
    assert answer.status_code == 409
    assert answer.json()["meta"]["code"] == "busy"


def test_a_site_that_cannot_hold_instances_is_refused(w: World, shop: str):
    other = w.site()
    with w.store.begin() as tx:
        from controlplane.domain.kinds import facts
        from controlplane.domain.resource import Kind

        found = tx.resources.get(facts(Kind.SITE).key(other, None, None))
        tx.resources.patch_status(found.id, {"capabilities": ["volumes"]}, now=datetime.now(UTC))
    answer = w.put(path(w, shop, "web-1"), w.instance_spec(other, w.volume(shop)))
    assert answer.status_code == 412
    assert answer.json()["meta"]["code"] == "unsupported"


def test_where_an_instance_is_can_be_read(w: World, site: str, shop: str):
    name = w.running_instance(shop, site)
    shown = w.http.get(w.in_workspace(MOBILITY, shop, f"placements/{name}")).json()
    assert shown["status"]["site"] == site
    assert shown["status"]["epoch"] == 1
    assert shown["status"]["nativeRef"] == "vm-1"
    assert shown["metadata"]["region"] == "eu-fr"
    listed = w.http.get(w.in_workspace(MOBILITY, shop, "placements")).json()
    assert [item["metadata"]["name"] for item in listed["items"]] == [name]
    waiting = w.instance(shop, site)
    answer = w.http.get(w.in_workspace(MOBILITY, shop, f"placements/{waiting}"))
    assert answer.status_code == 404


def test_an_operation_shows_its_steps_and_what_they_cost(w: World, site: str, shop: str):
    name = w.running_instance(shop, site)
    operations = w.in_workspace(FEDERATION, shop, "operations")
    shown = w.http.get(f"{operations}/provision-{name}-1").json()
    step = shown["status"]["steps"][0]
    assert step["providerSeconds"] == 0.5
    assert step["copySeconds"] == 0.25
    assert {"seconds", "overheadSeconds", "attempts"} <= set(step)
    assert shown["status"]["outcome"] == "succeeded"
    assert shown["status"]["state"] == "active"
    assert shown["spec"]["subjectRef"].endswith(f"/instances/{name}")
    assert w.http.post(f"{operations}/provision-{name}-1/cancel").status_code == 409
    assert w.http.get(f"{operations}/none").status_code == 404


def test_an_operation_that_runs_is_cancelled_once(w: World, site: str, shop: str):
    name = w.instance(shop, site)
    path_ = w.in_workspace(FEDERATION, shop, f"operations/provision-{name}-1/cancel")
    assert w.http.post(path_).status_code == 202
    answer = w.http.post(path_)
    assert answer.status_code == 202
    operation = w.operation(answer)
    assert operation.cancel_requested
    assert w.outbox().count((operation.id, "cancel")) == 1


def test_operations_come_newest_first_in_pages(w: World, site: str, shop: str):
    names = [w.instance(shop, site) for _ in range(3)]
    operations = w.in_workspace(FEDERATION, shop, "operations")
    first = w.http.get(operations, params={"limit": "2"}).json()
    token = first["metadata"]["skipToken"]
    second = w.http.get(operations, params={"limit": "2", "skipToken": token}).json()
    found = [item["metadata"]["name"] for item in first["items"] + second["items"]]
    assert found == [f"provision-{name}-1" for name in reversed(names)]


def test_instance_skus_are_the_standard_ones(w: World):
    items = w.http.get(w.in_tenant(COMPUTE, "skus")).json()["items"]
    found = {item["metadata"]["name"]: item["spec"] for item in items}
    assert found["seca.dm"] == {"vCPU": 4, "ram": 8}
    assert "createdAt" not in items[0]["metadata"]
    assert "status" not in items[0]
    assert w.http.get(w.in_tenant(STORAGE, "skus/seca.ld5k")).json()["spec"]["iops"] == 5000
    assert w.http.get(w.in_tenant(COMPUTE, "skus/huge")).status_code == 404
