"""Denied unless an assignment allows it, and never beyond a tenant's own walls."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.identity import (
    AccessRequest,
    Actor,
    Permission,
    Role,
    RoleAssignment,
    RoleScope,
)
from controlplane.domain.ids import RegionName, TenantName, WorkspaceName
from controlplane.domain.kinds import KINDS, Scope
from controlplane.identity.roles import allowed, permits, system_roles

ACME, GLOBEX, OPS = TenantName("acme"), TenantName("globex"), TenantName("ops")
COMPUTE = "seca.compute/v1"
ROLES = (
    "seca.admin",
    "seca.region-admin",
    "seca.workspace-admin",
    "seca.workspace-editor",
    "seca.workspace-viewer",
)


def assignment(**more):
    fields = {
        "name": "a",
        "tenant": ACME,
        "subs": ("maria",),
        "roles": ("seca.admin",),
        "scopes": (RoleScope(),),
    }
    return RoleAssignment(**(fields | more))


def request(**more):
    fields = {
        "actor": Actor(subject="maria", tenant=ACME),
        "provider": COMPUTE,
        "collection": "instances",
        "name": "web-1",
        "verb": "get",
        "tenant": ACME,
        "region": RegionName("eu-fr"),
        "workspace": WorkspaceName("shop"),
    }
    return AccessRequest(**(fields | more))


def of(*, system, **more):
    return allowed([assignment(roles=(system,))], [], request(**more))


def test_nothing_is_allowed_without_an_assignment():
    assert not allowed([], system_roles(ACME), request())


def test_an_assignment_to_nobody_or_without_scope_grants_nothing():
    assert not allowed([assignment(subs=())], [], request())
    assert not allowed([assignment(scopes=())], [], request())
    assert not allowed([assignment(roles=())], [], request())
    assert not allowed([assignment(roles=("seca.unknown",))], [], request())


def test_every_authenticated_actor_reads_regions_and_changes_none():
    region = request(provider="seca.region/v1", collection="regions", tenant=None, workspace=None)
    assert allowed([], [], region)
    assert allowed([], [], replace(region, name=None, verb="list"))
    assert not allowed([], [], replace(region, verb="put"))


def test_any_subject_means_everybody_of_the_tenant():
    everybody = assignment(subs=("*",))
    assert allowed([everybody], [], request())
    stranger = request(actor=Actor(subject="otto", tenant=GLOBEX))
    assert not allowed([everybody], [], stranger)
    assert allowed([replace(everybody, subs=("otto",))], [], stranger)


@pytest.mark.parametrize(
    ("scope", "inside"),
    [
        (RoleScope(), True),
        (RoleScope(tenants=("acme",)), True),
        (RoleScope(tenants=("*",)), True),
        (RoleScope(tenants=("globex",)), False),
        (RoleScope(regions=("eu-fr",)), True),
        (RoleScope(regions=("eu-de",)), False),
        (RoleScope(workspaces=("shop", "lab")), True),
        (RoleScope(workspaces=("lab",)), False),
        (RoleScope(regions=("eu-fr",), workspaces=("lab",)), False),
        (RoleScope(regions=("*",), workspaces=("*",)), True),
    ],
)
def test_dimensions_of_a_scope_hold_all_at_once(scope, inside):
    assert allowed([assignment(scopes=(scope,))], [], request()) is inside


def test_one_of_several_scopes_is_enough():
    scopes = (RoleScope(workspaces=("lab",)), RoleScope(regions=("eu-fr",)))
    assert allowed([assignment(scopes=scopes)], [], request())


def test_a_dimension_that_the_call_does_not_have_is_not_checked():
    narrow = assignment(scopes=(RoleScope(regions=("eu-de",), workspaces=("lab",)),))
    roles = request(
        provider="seca.authorization/v1", collection="roles", region=None, workspace=None
    )
    assert allowed([narrow], [], roles)


def test_a_workspace_lies_within_itself():
    narrow = assignment(scopes=(RoleScope(workspaces=("shop",)),))
    for name, inside in (("shop", True), ("lab", False)):
        item = request(
            provider="seca.workspace/v1", collection="workspaces", name=name, workspace=None
        )
        assert allowed([narrow], [], item) is inside


def test_a_tenant_gives_nobody_rights_elsewhere():
    wide = assignment(scopes=(RoleScope(tenants=("*", "globex")),))
    assert not allowed([wide], [], request(tenant=GLOBEX))
    sites = request(
        provider="fedctl.federation/v1", collection="sites", tenant=None, workspace=None
    )
    assert not allowed([wide], [], sites)
    assert not allowed([wide], [], sites, operator=OPS)


def test_the_operators_reach_as_far_as_their_scope_says():
    sites = request(
        provider="fedctl.federation/v1", collection="sites", tenant=None, workspace=None
    )
    ops = assignment(tenant=OPS)
    assert allowed([ops], [], sites, operator=OPS)
    assert not allowed([ops], [], request(), operator=OPS)
    assert allowed([replace(ops, scopes=(RoleScope(tenants=("*",)),))], [], request(), operator=OPS)
    named = replace(ops, scopes=(RoleScope(tenants=("acme",)),))
    assert allowed([named], [], request(), operator=OPS)
    assert not allowed([named], [], request(tenant=GLOBEX), operator=OPS)
    assert not allowed([named], [], request(), operator=None)


def test_a_role_of_another_tenant_with_the_same_name_grants_nothing():
    permission = Permission(provider=COMPUTE, resources=("*",), verbs=("*",))
    theirs = Role(name="ops", tenant=GLOBEX, permissions=(permission,))
    mine = assignment(roles=("ops",))
    assert not allowed([mine], [theirs], request())
    assert allowed([mine], [replace(theirs, tenant=ACME)], request())


def test_a_tenants_own_role_cannot_take_a_system_name():
    everything = Permission(provider=COMPUTE, resources=("*",), verbs=("*",))
    for name in ("seca.workspace-viewer", "seca.new"):
        forged = Role(name=name, tenant=ACME, permissions=(everything,))
        assert not allowed([assignment(roles=(name,))], [forged], request(verb="delete"))


@pytest.mark.parametrize(
    ("pattern", "name", "match"),
    [
        ("*", "web-1", True),
        ("*", None, True),
        ("instances", None, True),
        ("instances", "web-1", False),
        ("instances/*", "web-1", True),
        ("instances/*", None, False),
        ("instances/web-*", "web-1", True),
        ("instances/web-*", "db-1", False),
        ("instances/web.1", "web-1", False),
        ("inst*", None, True),
        ("inst*", "web-1", False),
        ("*/*", "web-1", True),
        ("images/*", "web-1", False),
        ("", None, False),
    ],
)
def test_patterns_mean_the_list_or_items(pattern, name, match):
    permission = Permission(provider=COMPUTE, resources=(pattern,), verbs=("get",))
    assert permits(permission, request(name=name)) is match


@pytest.mark.parametrize(
    ("verbs", "verb", "action", "match"),
    [
        (("post",), "post", "start", True),
        (("post.start",), "post", "start", True),
        (("post.start",), "post", "stop", False),
        (("post.start",), "post", "", False),
        (("*",), "post", "stop", True),
        (("get",), "list", "", False),
        ((), "get", "", False),
    ],
)
def test_verbs_are_exact_and_post_covers_its_actions(verbs, verb, action, match):
    permission = Permission(provider=COMPUTE, resources=("*",), verbs=verbs)
    assert permits(permission, request(verb=verb, action=action)) is match


def test_a_permission_speaks_of_its_own_provider_only():
    permission = Permission(provider="seca.storage/v1", resources=("*",), verbs=("*",))
    assert not permits(permission, request())


def test_the_viewer_looks_the_editor_changes_the_admin_deletes():
    may = {
        role: {verb for verb in ("get", "put", "post", "delete") if of(system=role, verb=verb)}
        for role in ROLES
    }
    everything = {"get", "put", "post", "delete"}
    assert may == {
        "seca.admin": everything,
        "seca.region-admin": everything,
        "seca.workspace-admin": everything,
        "seca.workspace-editor": {"get", "put", "post"},
        "seca.workspace-viewer": {"get"},
    }


def test_workspaces_themselves_are_made_by_admins_and_deleted_by_higher_ones():
    workspace = {
        "provider": "seca.workspace/v1",
        "collection": "workspaces",
        "name": "shop",
        "workspace": None,
    }
    may = {
        role: {v for v in ("get", "put", "delete") if of(system=role, verb=v, **workspace)}
        for role in ROLES
    }
    assert may == {
        "seca.admin": {"get", "put", "delete"},
        "seca.region-admin": {"get", "put", "delete"},
        "seca.workspace-admin": {"get", "put"},
        "seca.workspace-editor": {"get"},
        "seca.workspace-viewer": {"get"},
    }


def test_only_the_admin_touches_rights_and_only_tenant_wide_roles_read_the_audit_log():
    rights = {"provider": "seca.authorization/v1", "collection": "role-assignments"}
    log = {"provider": "fedctl.federation/v1", "collection": "audit-entries", "name": None}
    for role in ROLES:
        for verb in ("get", "put"):
            assert of(system=role, verb=verb, **rights) is (role == "seca.admin")
        assert of(system=role, verb="list", **log) is (role in {"seca.admin", "seca.region-admin"})


def test_every_kind_is_within_reach_of_some_system_role():
    for facts in KINDS:
        if facts.scope is not Scope.GLOBAL:
            asked = {"provider": facts.provider, "collection": facts.collection, "name": "x"}
            assert of(system="seca.admin", verb="get", **asked), facts


def test_system_roles_are_the_same_in_every_tenant():
    assert [role.name for role in system_roles(ACME)] == list(ROLES)
    assert {role.tenant for role in system_roles(GLOBEX)} == {GLOBEX}


NAMES = st.sampled_from(["acme", "globex", "ops", "*"])
SUBJECTS = st.sampled_from(["maria", "otto", "*"])
TENANTS = st.sampled_from([ACME, GLOBEX, OPS])
SCOPES = st.builds(
    RoleScope,
    tenants=st.lists(NAMES, max_size=2).map(tuple),
    regions=st.lists(st.sampled_from(["eu-fr", "eu-de", "*"]), max_size=2).map(tuple),
    workspaces=st.lists(st.sampled_from(["shop", "lab", "*"]), max_size=2).map(tuple),
)
ASSIGNMENTS = st.builds(
    RoleAssignment,
    name=st.just("a"),
    tenant=TENANTS,
    subs=st.lists(SUBJECTS, max_size=2).map(tuple),
    roles=st.lists(st.sampled_from([*ROLES, "own"]), max_size=2).map(tuple),
    scopes=st.lists(SCOPES, max_size=2).map(tuple),
)
OWN_ROLES = st.builds(
    Role,
    name=st.just("own"),
    tenant=TENANTS,
    permissions=st.lists(
        st.builds(
            Permission,
            provider=st.sampled_from([COMPUTE, "seca.storage/v1"]),
            resources=st.lists(
                st.sampled_from(["*", "instances", "instances/*", "instances/web-*"]), max_size=2
            ).map(tuple),
            verbs=st.lists(st.sampled_from(["get", "put", "post.start", "*"]), max_size=2).map(
                tuple
            ),
        ),
        max_size=2,
    ).map(tuple),
)
ASKED = st.sampled_from([(facts.provider, facts.collection) for facts in KINDS])
REQUESTS = st.builds(
    lambda subject, home, asked, name, verb, tenant, workspace: AccessRequest(
        actor=Actor(subject=subject, tenant=home),
        provider=asked[0],
        collection=asked[1],
        name=name,
        verb=verb,
        tenant=tenant,
        region=RegionName("eu-fr"),
        workspace=workspace,
    ),
    st.sampled_from(["maria", "otto"]),
    TENANTS,
    ASKED,
    st.sampled_from([None, "web-1", "shop"]),
    st.sampled_from(["get", "list", "put", "delete", "post"]),
    st.one_of(st.none(), TENANTS),
    st.sampled_from([None, "shop", "lab"]),
)
SETS = st.lists(ASSIGNMENTS, max_size=3)


@given(assignments=SETS, roles=st.lists(OWN_ROLES, max_size=2), asked=REQUESTS)
def test_what_is_allowed_has_one_assignment_that_allows_it(assignments, roles, asked):
    alone = [allowed([one], roles, asked, operator=OPS) for one in assignments]
    reading_regions = asked.provider == "seca.region/v1" and asked.verb in {"get", "list"}
    assert allowed(assignments, roles, asked, operator=OPS) == (any(alone) or reading_regions)


@given(assignments=SETS, roles=st.lists(OWN_ROLES, max_size=2), asked=REQUESTS)
def test_no_tenants_assignment_ever_reaches_another_tenant(assignments, roles, asked):
    foreign = [a for a in assignments if a.tenant not in {asked.tenant, OPS}]
    if asked.provider != "seca.region/v1":
        assert not allowed(foreign, roles, asked, operator=OPS)


@given(assignments=SETS, asked=REQUESTS)
def test_each_system_role_grants_what_the_next_lower_one_does(assignments, asked):
    granted = [
        allowed([replace(a, roles=(role,)) for a in assignments], [], asked, operator=OPS)
        for role in ROLES
    ]
    assert granted == sorted(granted, reverse=True)


@given(assignments=SETS, asked=REQUESTS)
def test_a_subject_that_nobody_names_has_nothing(assignments, asked):
    unnamed = [replace(a, subs=tuple(s for s in a.subs if s != "*")) for a in assignments]
    stranger = replace(asked, actor=replace(asked.actor, subject="nobody"))
    if asked.provider != "seca.region/v1":
        assert not allowed(unnamed, [], stranger, operator=OPS)
