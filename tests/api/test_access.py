"""Nobody comes in without a token, and nobody does what no role allows."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from starlette.routing import Route

from api.http.app import create_app
from api.http.routes.wellknown import OPEN_PATHS
from controlplane.domain.ids import ResourceId, UserName
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind
from controlplane.identity.tokens import issue
from tests.api.world import (
    AUTHORIZATION,
    COMPUTE,
    FEDERATION,
    IDENTITY,
    PASSWORD,
    REGIONS,
    WORKSPACES,
    World,
)

EXTENSION_KEYS = f"{FEDERATION}/extension-keys"


def routes(w: World) -> list[tuple[str, str]]:
    """Every method and path that the application answers, shown in the document or not."""
    found = []

    def walk(items):
        for route in items:
            if isinstance(route, Route):
                found.extend((m, route.path) for m in route.methods or () if m != "HEAD")
            else:
                walk(route.original_router.routes)

    walk(create_app(w.services).routes)
    return found


def filled(path: str) -> str:
    return path.replace("{", "").replace("}", "")


def test_every_route_but_the_open_ones_asks_for_a_token(w: World):
    walked = [(m, p) for m, p in routes(w) if p not in OPEN_PATHS]
    assert len(walked) > 70
    stranger = httpx.Client(base_url=w.url)
    for method, path in walked:
        answer = stranger.request(method, filled(path))
        assert answer.status_code == 401, f"{method} {path} let somebody in: {answer.status_code}"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "json" in answer.headers["Content-Type"]
    stranger.close()


@pytest.mark.parametrize("what", ["tenant", "global"])
def test_every_route_refuses_a_user_without_a_role(w: World, what: str):
    """Own tokens, one's own name and regions are everybody's, and so is what may be asked for."""
    _, client = w.user()
    everybody = ("/providers/seca.region/", f"{IDENTITY}/me", f"{IDENTITY}/tokens", EXTENSION_KEYS)
    with client:
        for method, path in routes(w):
            if path in OPEN_PATHS or path.startswith(everybody):
                continue
            if ("{tenant}" in path) != (what == "tenant"):
                continue
            url = filled(path.replace("{tenant}", w.tenant))
            json = {"spec": {}, "password": PASSWORD} if method == "PUT" else None
            if path.endswith("users/{name}"):
                json = {"password": PASSWORD}
            answer = client.request(method, url, json=json)
            assert answer.status_code == 403, f"{method} {path}: {answer.status_code}"


def test_rights_in_one_tenant_open_nothing_in_another(w: World):
    other = w.fresh("rival")
    name, client = w.user(other)
    spec = {"subs": [name], "roles": ["seca.admin"], "scopes": [{"tenants": ["*"]}]}
    own = f"{AUTHORIZATION}/tenants/{other}/role-assignments/all"
    with w.store.begin() as tx:
        key = facts(Kind.ROLE_ASSIGNMENT).key("all", other, None)
        tx.resources.put(key, id=ResourceId(uuid4()), spec=spec, now=datetime.now(UTC))
    with client:
        assert client.get(own).status_code in {200, 403}
        assert client.get(f"{WORKSPACES}/tenants/{w.tenant}/workspaces").status_code == 403
        assert client.get(f"{FEDERATION}/sites").status_code == 403


def test_a_viewer_reads_and_changes_nothing(w: World):
    name, client = w.user()
    workspace = w.workspace()
    spec = {"subs": [name], "roles": ["seca.workspace-viewer"], "scopes": [{}]}
    path = w.in_tenant(AUTHORIZATION, f"role-assignments/{name}")
    assert w.put(path, spec).status_code == 201
    with client:
        instances = w.in_workspace(COMPUTE, workspace, "instances")
        assert client.get(instances).status_code == 200
        refused = client.put(f"{instances}/web-1", json={"spec": {}})
        assert refused.status_code == 403
        assert name in refused.json()["detail"]
    assert w.http.delete(path).status_code == 202
    with w.client(w.token) as admin:
        assert admin.get(path).status_code == 404


def test_the_creator_of_a_workspace_administers_it_until_it_is_gone(w: World):
    name, client = w.user()
    spec = {
        "permissions": [
            {"provider": "seca.workspace/v1", "resources": ["workspaces/*"], "verb": ["put"]}
        ]
    }
    role = w.fresh("founder")
    assert w.put(w.in_tenant(AUTHORIZATION, f"roles/{role}"), spec).status_code == 201
    given = {"subs": [name], "roles": [role], "scopes": [{}]}
    assert w.put(w.in_tenant(AUTHORIZATION, f"role-assignments/{role}"), given).status_code == 201
    workspace = w.fresh("own")
    path = w.in_tenant(WORKSPACES, f"workspaces/{workspace}")
    with client:
        assert client.put(path, json={"spec": {}}).status_code == 201
        instances = w.in_workspace(COMPUTE, workspace, "instances")
        assert client.get(instances).status_code == 200
        assert client.delete(path).status_code == 403, "an admin of a workspace may not delete it"
        assert w.http.delete(path).status_code == 202
        assert w.put(path, {}).status_code == 201
        assert client.get(instances).status_code == 403, "the new one is somebody else's"


@pytest.mark.parametrize("token", ["-", "nonsense", "fedctl_" + "A" * 43])
def test_a_token_that_is_not_known_is_refused_with_the_next_step(w: World, token: str):
    answer = httpx.get(w.url + REGIONS, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert "log in" in answer.json()["detail"]


def test_a_token_that_has_expired_is_refused(w: World):
    with w.store.begin() as tx:
        user = tx.identity.users.get(UserName("ada"))
        old = issue(user, now=datetime.now(UTC) - timedelta(days=2), lifetime=timedelta(days=1))
        tx.identity.tokens.add(old.record)
    answer = httpx.get(w.url + REGIONS, headers={"Authorization": f"Bearer {old.text}"})
    assert answer.status_code == 401
    assert "ended" in answer.json()["detail"]


def test_a_token_is_made_listed_and_revoked(w: World):
    made = w.http.post(f"{IDENTITY}/tokens", json={"label": "ci", "seconds": 3600})
    assert made.status_code == 201
    token = made.json()
    with w.client(token["token"]) as client:
        assert client.get(f"{IDENTITY}/me").json()["subject"] == "ada"
        listed = client.get(f"{IDENTITY}/tokens").json()["items"]
        assert any(each["id"] == token["id"] for each in listed)
        assert all("token" not in each for each in listed)
        assert client.delete(f"{IDENTITY}/tokens/{token['id']}").status_code == 202
        assert client.get(f"{IDENTITY}/me").status_code == 401


@pytest.mark.parametrize(
    "wrong", [{"password": "not the password"}, {"user": "nobody"}, {"tenant": "rival"}]
)
def test_a_wrong_login_says_the_same_whatever_was_wrong(w: World, wrong: dict):
    body = {"user": "ada", "password": PASSWORD, "tenant": w.tenant} | wrong
    answer = httpx.post(f"{w.url}{IDENTITY}/login", json=body)
    assert answer.status_code == 401
    assert answer.json()["detail"].startswith("user and password do not belong together")


def test_logging_in_gives_a_token_that_opens_the_door(w: World):
    answer = httpx.post(f"{w.url}{IDENTITY}/login", json={"user": "ada", "password": PASSWORD})
    assert answer.status_code == 201
    with w.client(answer.json()["token"]) as client:
        assert client.get(f"{IDENTITY}/me").json()["tenant"] == w.tenant


def test_bootstrapping_twice_keeps_the_password_and_gives_another_token(w: World):
    again = w.services.identity.bootstrap(w.tenant, "ada", "another password of hers")
    assert again != w.token
    answer = httpx.post(f"{w.url}{IDENTITY}/login", json={"user": "ada", "password": PASSWORD})
    assert answer.status_code == 201


def test_system_roles_are_shown_and_cannot_be_touched(w: World):
    roles = w.http.get(w.in_tenant(AUTHORIZATION, "roles")).json()["items"]
    names = {role["metadata"]["name"] for role in roles}
    assert {"seca.admin", "seca.region-admin", "seca.workspace-viewer"} <= names
    spec = roles[0]["spec"]
    assert w.put(w.in_tenant(AUTHORIZATION, "roles/seca.admin"), spec).status_code == 412


def test_a_role_in_use_is_not_deleted_and_an_unknown_one_not_given(w: World):
    role = w.fresh("reader")
    path = w.in_tenant(AUTHORIZATION, f"roles/{role}")
    spec = {
        "permissions": [
            {"provider": "seca.compute/v1", "resources": ["instances"], "verb": ["list"]}
        ]
    }
    assert w.put(path, spec).status_code == 201
    given = {"subs": ["x"], "roles": [role], "scopes": [{}]}
    assignment = w.in_tenant(AUTHORIZATION, f"role-assignments/{role}")
    assert w.put(assignment, given).status_code == 201
    assert w.http.delete(path).status_code == 409
    assert w.put(assignment, given | {"roles": ["no-such"]}).status_code == 412
    outside = given | {"scopes": [{"tenants": ["rival"]}]}
    assert w.put(assignment, outside).status_code == 412
    assert w.http.delete(assignment).status_code == 202
    assert w.http.delete(path).status_code == 202


def test_users_are_made_by_those_who_administer_their_tenant(w: World):
    _, client = w.user()
    path = f"{IDENTITY}/tenants/{w.tenant}/users/eve"
    with client:
        assert client.put(path, json={"password": PASSWORD}).status_code == 403
        assert client.put(f"{IDENTITY}/tenants/mine").status_code == 403
    assert w.http.put(path, json={"password": "short"}).status_code == 412
    assert w.http.put(f"{IDENTITY}/tenants/seca").status_code == 409


def test_a_refused_change_is_in_the_audit_log(w: World):
    name, client = w.user()
    with client:
        assert client.put(w.in_tenant(WORKSPACES, "workspaces/x"), json={}).status_code == 403
    entries = w.http.get(w.in_tenant(FEDERATION, "audit-entries")).json()["items"]
    assert any(e["spec"]["actor"] == name and e["spec"]["outcome"] == "denied" for e in entries)
