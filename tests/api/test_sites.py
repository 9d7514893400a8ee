"""Sites: registered by operators, with credentials that nobody reads back."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.ids import SiteName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind
from tests.api.world import COMPUTE, FEDERATION, World

SPEC = {"provider": "openstack", "endpoint": "https://x.example:5000/v3", "region": "eu-fr"}


def test_credentials_are_sealed_and_never_returned(w: World):
    name = w.site()
    shown = w.http.get(w.site_path(name))
    assert "s3cret" not in shown.text
    assert shown.json()["status"]["hasCredentials"] is True
    with w.store.read() as tx:
        site = tx.resources.get(facts(Kind.SITE).key(name, None, None))
        sealed = tx.credentials.get(site.id)
    assert b"s3cret" not in sealed
    assert w.secrets.open(site.id, sealed) == {"username": "u", "password": "s3cret"}
    log = w.http.get(f"{FEDERATION}/audit-log").text
    assert "s3cret" not in log
    assert "site.put-credentials" in log


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "not a url"},
        {"endpoint": "https://user:pass@x.example"},
        {"endpoint": "ftp://x.example"},
        {"provider": "vmware"},
        {"region": "EU FR"},
        {"country": "France"},
    ],
)
def test_a_site_that_cannot_be_is_refused(w: World, wrong: dict):
    answer = w.put(w.site_path(w.fresh("site")), SPEC | wrong)
    assert answer.status_code == 412, answer.text


def test_provider_and_region_of_a_site_stay_and_its_endpoint_may_change(w: World):
    name = w.site()
    now = datetime.now(UTC)
    with w.store.begin() as tx:
        site = tx.resources.get(facts(Kind.SITE).key(name, None, None))
        tx.resources.patch_status(site.id, {"health": "healthy"}, now=now)
    assert w.put(w.site_path(name), SPEC | {"provider": "proxmox"}).status_code == 412
    assert w.put(w.site_path(name), SPEC | {"region": "eu-de"}).status_code == 412
    moved = w.put(w.site_path(name), SPEC | {"endpoint": "https://y.example"})
    assert moved.status_code == 200
    assert moved.json()["status"]["health"] == "unverified"


def test_a_site_s_images_may_be_for_certain_clients(w: World):
    path = w.site_path(w.site())
    seen = w.http.get(path).json()
    clients = ["192.0.2.0/24", "2001:db8::7"]
    assert w.put(path, {**seen["spec"], "imageClients": clients}).status_code == 200
    now = w.http.get(path).json()
    assert now["spec"]["imageClients"] == ["192.0.2.0/24", "2001:db8::7/128"]
    assert now["status"]["health"] == seen["status"]["health"], "nothing to verify"
    for wrong in ([], ["192.0.2.1/24"], ["host.example"], ["192.0.2.0/33"], "192.0.2.0/24"):
        assert w.put(path, {**seen["spec"], "imageClients": wrong}).status_code in {400, 412}


def test_verifying_is_an_operation_above_all_tenants(w: World):
    name = w.site()
    answer = w.http.post(f"{w.site_path(name)}/verify")
    assert answer.status_code == 202
    assert answer.headers["Fedctl-Operation"] == (
        f"fedctl.federation/v1/operations/verify-site-{name}-1"
    )
    operation = w.operation(answer)
    assert (operation.kind, operation.tenant) == ("verify-site", None)
    busy = w.http.post(f"{w.site_path(name)}/verify")
    assert busy.json()["meta"]["code"] == "busy"
    shown = w.http.get(f"{FEDERATION}/operations/{operation.name}")
    assert shown.json()["spec"]["subjectRef"] == f"fedctl.federation/v1/sites/{name}"
    listed = w.http.get(f"{FEDERATION}/operations").json()["items"]
    assert operation.name in {item["metadata"]["name"] for item in listed}
    cancelled = w.http.post(f"{FEDERATION}/operations/{operation.name}/cancel")
    assert cancelled.status_code == 202


def test_a_site_without_credentials_is_not_verified(w: World):
    name = w.fresh("site")
    w.put(w.site_path(name), SPEC)
    answer = w.http.post(f"{w.site_path(name)}/verify")
    assert answer.status_code == 409
    assert "no credentials" in answer.json()["detail"]
    nobody = w.http.put(f"{w.site_path('none')}/credentials", json={"secrets": {"a": "b"}})
    assert nobody.status_code == 404
    empty = w.http.put(f"{w.site_path(name)}/credentials", json={"secrets": {}})
    assert empty.status_code == 412


def test_sweeps_are_of_one_site_or_of_all(w: World):
    name = w.site()
    one = w.operation(w.http.post(f"{w.site_path(name)}/sweep"))
    assert one.kind == "sweep"
    every = w.operation(w.http.post(f"{FEDERATION}/sweep"))
    assert every.subject == UUID(int=0)
    assert w.http.post(f"{FEDERATION}/sweep").json()["meta"]["code"] == "busy"


def test_a_site_goes_when_nothing_of_ours_is_left_there(w: World):
    name = w.site()
    shop = w.workspace()
    web = w.running_instance(shop, name)
    refused = w.http.delete(w.site_path(name))
    assert refused.status_code == 409
    assert "home of 1 instance" in refused.json()["detail"]
    instance = w.operation(w.http.delete(w.in_workspace(COMPUTE, shop, f"instances/{web}")))
    w.end(instance)
    with w.store.begin() as tx:
        tx.placements.delete(instance.subject)
        tx.resources.remove(instance.subject, datetime.now(UTC))
    kept = w.http.delete(w.site_path(name))
    assert "1 object(s) of ours" in kept.json()["detail"]
    with w.store.begin() as tx:
        for artefact in tx.artefacts.list(site=SiteName(name)):
            tx.artefacts.set_state(artefact.id, ArtefactState.RELEASED)
    assert w.http.delete(w.site_path(name)).status_code == 202
    assert w.http.get(w.site_path(name)).status_code == 404
    assert w.http.delete(w.site_path(name)).status_code == 404
