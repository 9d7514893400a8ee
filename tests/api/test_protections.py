"""Protections: a wish that names instances, and the asking for their points."""

import pytest

from controlplane.domain.operation import OperationKind
from tests.api.world import AUTHORIZATION, PROTECTION, World


@pytest.fixture(scope="module")
def site(w: World) -> str:
    return w.site("openstack")


@pytest.fixture
def shop(w: World) -> str:
    return w.workspace()


def at(w: World, shop: str, name: str = "nightly") -> str:
    return w.in_workspace(PROTECTION, shop, f"protections/{name}")


def test_a_wish_takes_no_points_and_each_asking_takes_them_once(w: World, site: str, shop: str):
    web = w.running_instance(shop, site)
    before = len(w.outbox())
    made = w.put(at(w, shop), {"members": [web], "maxSpread": 2.5})
    assert made.status_code == 201, made.text
    assert made.json()["status"]["state"] == "active"
    assert len(w.outbox()) == before
    asked = w.http.post(f"{at(w, shop)}/sync")
    assert asked.status_code == 202, asked.text
    operation = w.operation(asked)
    assert operation.kind is OperationKind.TAKE_POINTS
    assert operation.order == {"members": [web], "maxSpreadSeconds": 2.5}
    assert w.http.get(at(w, shop)).json()["status"]["operation"] == operation.name
    again = w.http.post(f"{at(w, shop)}/sync")
    assert again.status_code == 409
    assert operation.name in again.json()["detail"]
    assert w.http.delete(at(w, shop)).status_code == 409
    w.end(operation)
    assert w.http.post(f"{at(w, shop)}/sync").status_code == 202


@pytest.mark.parametrize(
    "more",
    [
        {"members": []},
        {"members": ["WEB", "WEB"]},
        {"members": ["nobody"]},
        {"members": ["WEB"], "maxSpread": 0},
        {"members": ["WEB"], "consistency": "application"},
        {"members": ["WEB"], "rpo": "PT15M"},
        {"members": ["WEB"], "target": {"site": "gra"}},
        {"members": ["WEB"], "group": False},
    ],
)
def test_what_nobody_keeps_is_refused(w: World, site: str, shop: str, more: dict):
    """A field that would be ignored is refused: nobody is to rely on a schedule there is not."""
    web = w.running_instance(shop, site)
    members = [web if each == "WEB" else each for each in more["members"]]
    answer = w.put(at(w, shop), {**more, "members": members})
    assert answer.status_code in {400, 412, 422}, answer.text


def test_a_workspace_with_a_protection_is_not_deleted(w: World, site: str, shop: str):
    web = w.running_instance(shop, site)
    assert w.put(at(w, shop), {"members": [web]}).status_code == 201
    refused = w.http.delete(w.in_tenant("/providers/seca.workspace/v1", f"workspaces/{shop}"))
    assert refused.status_code == 409
    assert "protection" in refused.json()["detail"]
    assert w.http.delete(at(w, shop)).status_code in {202, 204}
    assert w.http.get(at(w, shop)).status_code == 404


def test_asking_for_points_is_a_right_of_its_own(w: World, site: str, shop: str):
    web = w.running_instance(shop, site)
    name, client = w.user()
    role = w.fresh("keeper")
    rights = [
        {
            "provider": "fedctl.protection/v1",
            "resources": ["protections", "protections/*"],
            "verb": ["get", "put"],
        }
    ]
    made = w.put(w.in_tenant(AUTHORIZATION, f"roles/{role}"), {"permissions": rights})
    assert made.status_code == 201, made.text
    given = {"subs": [name], "roles": [role], "scopes": [{}]}
    assert w.put(w.in_tenant(AUTHORIZATION, f"role-assignments/{role}"), given).status_code == 201
    with client:
        wish = client.put(at(w, shop), json={"spec": {"members": [web]}})
        assert wish.status_code == 201, wish.text
        assert client.post(f"{at(w, shop)}/sync").status_code == 403
    assert w.http.post(f"{at(w, shop)}/sync").status_code == 202
