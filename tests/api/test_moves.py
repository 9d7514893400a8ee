"""Moves: planned, agreed to by digest, one at a time."""

import httpx
import pytest

from controlplane.domain.operation import DECIDING, Decision, OperationState
from tests.api.world import AUTHORIZATION, MOBILITY, World

DIGEST = "a" * 64
OTHER = "b" * 64


@pytest.fixture(scope="module")
def sites(w: World) -> tuple[str, str]:
    return w.site("openstack"), w.site("proxmox")


@pytest.fixture
def shop(w: World) -> str:
    return w.workspace()


@pytest.fixture
def web(w: World, sites: tuple[str, str], shop: str) -> str:
    return w.running_instance(shop, sites[0])


def wish(instance: str, site: str, **more) -> dict:
    return {
        "instanceRef": {"resource": f"instances/{instance}"},
        "target": {"site": site},
        **more,
    }


def at(w: World, shop: str, name: str = "m-1") -> str:
    return w.in_workspace(MOBILITY, shop, f"moves/{name}")


def planned(w: World, shop: str, web: str, site: str, name: str = "m-1") -> None:
    answer = w.put(at(w, shop, name), wish(web, site, planOnly=True))
    assert answer.status_code == 201, answer.text
    w.plan_made(answer, shop, name, DIGEST)


def test_a_plan_is_an_operation_with_the_whole_wish(w: World, sites, shop: str, web: str):
    answer = w.put(
        at(w, shop),
        wish(
            web,
            sites[1],
            planOnly=True,
            checks=[{"kind": "booted", "pattern": "OK"}, {"kind": "powered", "within": 30}],
            networkMap=[{"from": "shop-net", "to": "vmbr0"}],
            maxDowntime=180,
            maxBandwidth=50 << 20,
            deadline=3600,
            retainSource=60,
            skuRef={"resource": "skus/seca.dm"},
            waivers=[{"finding": "TGT01", "reason": "more is on its way"}],
            method="warm",
            cutover={"mode": "manual", "notAfter": "2030-01-02T03:04:05Z"},
        ),
    )
    assert answer.status_code == 201, answer.text
    operation = w.operation(answer)
    assert operation.kind == "plan-move"
    move = operation.order.pop("move")
    assert operation.order == {
        "to": sites[1],
        "method": "warm",
        "cutover": {"mode": "manual", "notAfter": "2030-01-02T03:04:05Z"},
        "checks": [
            {"kind": "booted", "pattern": "OK", "within": 120},
            {"kind": "powered", "pattern": "", "within": 30},
        ],
        "deadlineSeconds": 3600,
        "retainSeconds": 60,
        "sku": "seca.dm",
        "networkMap": [{"from": "shop-net", "to": "vmbr0"}],
        "maxDowntimeSeconds": 180,
        "maxBandwidth": 50 << 20,
        "planDigest": None,
        "waivers": [{"id": "TGT01", "reason": "more is on its way", "by": "ada"}],
    }
    with w.store.read() as tx:
        assert str(tx.resources.get(_key(w, shop)).id) == move
    assert answer.json()["status"]["phase"] == "queued"
    assert answer.json()["status"]["operation"] == f"plan-move-{web}-1"


WAIVED = [{"finding": "TGT01", "reason": "more is on its way"}]


def _mover(w: World, *waivers: str) -> tuple[str, httpx.Client]:
    """A user who may move, and waive what is named; and a client of theirs."""
    name, client = w.user()
    resources = ["moves", "moves/*", *(f"waivers/{each}" for each in waivers)]
    rights = [
        {"provider": "fedctl.mobility/v1", "resources": resources, "verb": ["get", "put", "post"]}
    ]
    role = w.fresh("mover")
    made = w.put(w.in_tenant(AUTHORIZATION, f"roles/{role}"), {"permissions": rights})
    assert made.status_code == 201, made.text
    given = {"subs": [name], "roles": [role], "scopes": [{}]}
    assert w.put(w.in_tenant(AUTHORIZATION, f"role-assignments/{role}"), given).status_code == 201
    return name, client


def test_a_waiver_needs_a_right_of_its_own_and_is_in_the_audit_log(
    w: World, sites, shop: str, web: str
):
    asked = {"spec": wish(web, sites[1], planOnly=True, waivers=WAIVED)}
    _, mover = _mover(w, "SRC03")
    with mover:
        refused = mover.put(at(w, shop), json=asked)
        assert refused.status_code == 403, refused.text
        assert "waivers/TGT01" in refused.json()["detail"]
    name, judge = _mover(w, "TGT*")
    with judge:
        answer = judge.put(at(w, shop), json=asked)
        assert answer.status_code == 201, answer.text
    assert answer.json()["status"]["waivedBy"] == {"TGT01": name}
    assert w.operation(answer).order["waivers"] == [
        {"id": "TGT01", "reason": "more is on its way", "by": name}
    ]
    with w.store.read() as tx:
        entries = [
            e
            for e in tx.audit.entries(limit=100_000)
            if e.action == "move.waive" and e.actor == name
        ]
    assert [e.detail for e in entries] == [{"finding": "TGT01", "reason": "more is on its way"}]


def test_whoever_agrees_to_a_plan_need_not_waive_again_what_was_waived(
    w: World, sites, shop: str, web: str
):
    name, judge = _mover(w, "TGT*")
    with judge:
        planned_one = wish(web, sites[1], planOnly=True, waivers=WAIVED)
        answer = judge.put(at(w, shop), json={"spec": planned_one})
    w.plan_made(answer, shop, "m-1", DIGEST)
    _, mover = _mover(w, "SRC03")
    agreed = wish(web, sites[1], planOnly=False, planDigest=DIGEST, waivers=WAIVED)
    with mover:
        answer = mover.put(at(w, shop), json={"spec": agreed})
        assert answer.status_code == 200, answer.text
        assert w.operation(answer).order["waivers"][0]["by"] == name
        other = [{"finding": "TGT01", "reason": "because"}]
        assert mover.put(at(w, shop), json={"spec": agreed | {"waivers": other}}).status_code == 403


@pytest.mark.parametrize(
    ("finding", "words"),
    [("RET02", "cannot be waived"), ("SRC12", "cannot be waived"), ("ZZZ99", "no check ZZZ99")],
)
def test_fences_leases_and_what_is_no_check_are_waived_by_nobody(
    w: World, sites, shop: str, web: str, finding: str, words: str
):
    waivers = [{"finding": finding, "reason": "please"}]
    answer = w.put(at(w, shop), wish(web, sites[1], planOnly=True, waivers=waivers))
    assert answer.status_code == 412, answer.text
    assert words in answer.json()["detail"]


def _key(w: World, shop: str):
    from controlplane.domain.kinds import facts
    from controlplane.domain.resource import Kind

    return facts(Kind.MOVE).key("m-1", w.tenant, shop)


def test_the_plan_that_was_agreed_to_is_what_runs(w: World, sites, shop: str, web: str):
    planned(w, shop, web, sites[1])
    answer = w.put(at(w, shop), wish(web, sites[1], planOnly=False, planDigest=DIGEST))
    assert answer.status_code == 200, answer.text
    operation = w.operation(answer)
    assert operation.kind == "move"
    assert operation.order["planDigest"] == DIGEST
    assert operation.deadline is not None


def test_another_digest_is_refused_and_both_are_named(w: World, sites, shop: str, web: str):
    planned(w, shop, web, sites[1])
    answer = w.put(at(w, shop), wish(web, sites[1], planDigest=OTHER))
    assert answer.status_code == 409
    assert OTHER[:12] in answer.json()["detail"]
    assert DIGEST[:12] in answer.json()["detail"]


def test_a_digest_before_any_plan_is_refused(w: World, sites, shop: str, web: str):
    answer = w.put(at(w, shop), wish(web, sites[1], planDigest=DIGEST))
    assert answer.status_code == 409
    assert "no plan yet" in answer.json()["detail"]
    assert w.http.get(at(w, shop)).status_code == 404


def test_without_a_digest_it_plans_and_runs(w: World, sites, shop: str, web: str):
    answer = w.put(at(w, shop), wish(web, sites[1]))
    operation = w.operation(answer)
    assert (operation.kind, operation.order["planDigest"]) == ("move", None)


def test_two_moves_of_one_instance_meet_and_the_second_is_told_of_the_first(
    w: World, sites, shop: str, web: str
):
    first = w.operation(w.put(at(w, shop), wish(web, sites[1])))
    second = w.put(at(w, shop, "m-2"), wish(web, sites[1]))
    assert second.status_code == 409
    assert second.headers["Retry-After"]
    assert first.name in second.json()["detail"]
    assert w.http.get(at(w, shop, "m-2")).status_code == 404


def test_the_same_wish_again_starts_no_second_move(w: World, sites, shop: str, web: str):
    first = w.put(at(w, shop), wish(web, sites[1]))
    again = w.put(at(w, shop), wish(web, sites[1]))
    assert again.status_code == 200
    assert again.headers["Fedctl-Operation"] == first.headers["Fedctl-Operation"]


def test_a_move_to_where_it_is_or_to_nowhere_is_refused(w: World, sites, shop: str, web: str):
    assert w.put(at(w, shop), wish(web, sites[0])).status_code == 409
    nowhere = w.put(at(w, shop), wish(web, "atlantis"))
    assert nowhere.status_code == 404
    assert sites[1] in nowhere.json()["detail"]
    assert w.put(at(w, shop), wish("none", sites[1])).status_code == 412
    assert w.put(at(w, shop), wish(web, sites[1], skuRef={"resource": "x"})).status_code == 412


def test_an_instance_without_a_home_is_not_moved(w: World, sites, shop: str):
    waiting = w.instance(shop, sites[0])
    answer = w.put(at(w, shop), wish(waiting, sites[1]))
    assert answer.status_code == 409


def test_a_move_keeps_its_instance_and_its_target(w: World, sites, shop: str, web: str):
    planned(w, shop, web, sites[1])
    third = w.site("proxmox")
    assert w.put(at(w, shop), wish(web, third)).status_code == 412


def test_cancelling_marks_the_operation_and_nudges_it(w: World, sites, shop: str, web: str):
    started = w.put(at(w, shop), wish(web, sites[1]))
    w.admit()
    answer = w.http.post(f"{at(w, shop)}/cancel")
    assert answer.status_code == 202
    operation = w.operation(answer)
    assert operation.id == w.operation(started).id
    assert operation.cancel_requested
    assert (operation.id, "cancel") in w.outbox()
    w.end(operation, OperationState.CANCELLED)
    assert w.http.post(f"{at(w, shop)}/cancel").status_code == 409


def test_a_move_goes_forward_only_where_its_source_cannot_return(
    w: World, sites, shop: str, web: str
):
    started = w.put(at(w, shop), wish(web, sites[1]))
    w.admit()
    w.http.post(f"{at(w, shop)}/cancel")
    refused = w.http.post(f"{at(w, shop)}/forward")
    assert refused.status_code == 409
    assert "only while its source cannot return" in refused.text
    with w.store.begin() as tx:
        tx.operations.update(w.operation(started).id, phase=DECIDING)
    assert w.http.post(f"{at(w, shop)}/hold").status_code == 409
    answer = w.http.post(f"{at(w, shop)}/forward")
    assert answer.status_code == 202
    operation = w.operation(answer)
    assert operation.decision is Decision.FORWARD
    assert not operation.cancel_requested, "it was taken back"
    assert (operation.id, "nudge") in w.outbox()
    assert w.http.post(f"{at(w, shop)}/forward").status_code == 202, "said twice"


def test_a_move_that_rolled_back_is_retried_with_a_plan_of_its_own(
    w: World, sites, shop: str, web: str
):
    planned(w, shop, web, sites[1])
    answer = w.put(at(w, shop), wish(web, sites[1], planDigest=DIGEST))
    assert w.http.post(f"{at(w, shop)}/retry").status_code == 409, "it runs"
    w.end(w.operation(answer), OperationState.ROLLED_BACK)
    again = w.http.post(f"{at(w, shop)}/retry")
    assert again.status_code == 202
    operation = w.operation(again)
    assert (operation.kind, operation.order["planDigest"]) == ("move", None)
    w.end(operation)
    assert w.http.post(f"{at(w, shop)}/retry").status_code == 409, "it succeeded"


def test_finalizing_is_for_moves_that_ran(w: World, sites, shop: str, web: str):
    planned(w, shop, web, sites[1])
    assert w.http.post(f"{at(w, shop)}/finalize").status_code == 409
    answer = w.put(at(w, shop), wish(web, sites[1], planDigest=DIGEST))
    assert w.http.post(f"{at(w, shop)}/finalize").status_code == 409, "it runs"
    w.end(w.operation(answer))
    done = w.http.post(f"{at(w, shop)}/finalize")
    assert done.status_code == 202
    operation = w.operation(done)
    assert (operation.kind, set(operation.order)) == ("finalize", {"move"})


def test_a_move_is_deleted_when_nothing_runs_for_it(w: World, sites, shop: str, web: str):
    answer = w.put(at(w, shop), wish(web, sites[1]))
    assert w.http.delete(at(w, shop)).status_code == 409
    w.end(w.operation(answer))
    assert w.http.delete(at(w, shop)).status_code == 202
    assert w.http.get(at(w, shop)).status_code == 404


def test_a_move_that_runs_holds_off_power_and_deletion(w: World, sites, shop: str, web: str):
    from tests.api.world import COMPUTE

    w.put(at(w, shop), wish(web, sites[1]))
    instance = w.in_workspace(COMPUTE, shop, f"instances/{web}")
    assert w.http.post(f"{instance}/start").json()["meta"]["code"] == "busy"
    assert w.http.delete(instance).json()["meta"]["code"] == "busy"
