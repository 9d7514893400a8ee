"""What operations and placements show of the work behind them; small decisions of the services."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import Unsupported
from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import ArtefactId, InstanceId, SiteName
from controlplane.domain.kinds import KINDS, facts
from controlplane.domain.operation import OperationState, Problem, Progress
from controlplane.domain.resource import Kind
from controlplane.domain.selector import parse_selector
from controlplane.services.selecting import selects
from controlplane.services.wish import Caller, Wish
from tests.api.world import FEDERATION, MOBILITY, World

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def test_an_operation_shows_problem_findings_progress_and_deadline(w: World):
    shop, source, target = w.workspace(), w.site(), w.site("proxmox")
    web = w.running_instance(shop, source)
    spec = {
        "instanceRef": {"resource": f"instances/{web}"},
        "target": {"site": target},
        "deadline": 60,
    }
    operation = w.operation(w.put(w.in_workspace(MOBILITY, shop, "moves/m"), spec))
    finding = Finding(
        id="TGT02", severity=Severity.BLOCKER, subject=web, evidence="full", remedy="free some"
    )
    with w.store.begin() as tx:
        tx.operations.set_progress(
            Progress(operation=operation.id, what="copy 0", done=1, total=3, sent=1, at=NOW)
        )
    w.end(
        operation,
        OperationState.NEEDS_ATTENTION,
        Problem(code="unavailable", message="no answer", detail="timeout", step="copy 0"),
        findings=(finding,),
        phase="copying",
        plan_digest="ab" * 32,
    )
    path = w.in_workspace(FEDERATION, shop, f"operations/{operation.name}")
    shown = w.http.get(path).json()
    status = shown["status"]
    assert status["outcome"] == "needs-attention"
    assert status["state"] == "error"
    assert status["problem"] == {
        "code": "unavailable",
        "message": "no answer",
        "detail": "timeout",
        "step": "copy 0",
    }
    assert status["findings"][0]["id"] == "TGT02"
    assert status["progress"][0]["total"] == 3
    assert status["phase"] == "copying"
    assert shown["spec"]["planDigest"] == "ab" * 32
    deadline = datetime.fromisoformat(shown["spec"]["deadline"])
    created = datetime.fromisoformat(shown["metadata"]["createdAt"])
    assert deadline - created == timedelta(seconds=60)
    assert status["conditions"][0]["message"] == "no answer"


def test_a_placement_shows_disks_and_what_is_retained(w: World):
    shop, site = w.workspace(), w.site()
    web = w.running_instance(shop, site)
    path = w.in_workspace(MOBILITY, shop, f"placements/{web}")
    with w.store.read() as tx:
        instance = tx.resources.get(
            facts(Kind.INSTANCE).key(web, w.tenant, shop)  # type: ignore[arg-type]
        )
    operation = uuid4()
    with w.store.begin() as tx:
        for state, where in ((ArtefactState.ATTACHED, site), (ArtefactState.RETAINED, "old")):
            id_ = ArtefactId(uuid4())
            tx.artefacts.intend(
                Artefact(
                    id=id_,
                    kind=ArtefactKind.VOLUME,
                    site=SiteName(where),
                    instance=InstanceId(instance.id),
                    operation=operation,
                    epoch=1,
                    state=ArtefactState.INTENDED,
                    size=4096,
                )
            )
            tx.artefacts.set_state(id_, ArtefactState.ALLOCATED)
            tx.artefacts.set_state(id_, state, expires_at=NOW, note="kept for the return")
        tx.resources.patch_status(instance.id, {"address": "10.0.4.12"}, now=NOW)
    status = w.http.get(path).json()["status"]
    assert [disk["sizeBytes"] for disk in status["disks"]] == [4096]
    assert status["address"] == "10.0.4.12"
    assert len(status["retained"]) == 1
    assert status["retained"][0]["site"] == "old"
    assert status["retained"][0]["expiresAt"] == "2026-11-22T10:00:00.000000Z"


@pytest.mark.parametrize(
    ("selector", "holds"),
    [
        ("", True),
        ("tier=web", True),
        ("tier==web,env!=test", True),
        ("tier=w*", True),
        ("t*=web", True),
        ("tier!=web", False),
        ("cpus>3", True),
        ("cpus>=4,cpus<=4,cpus<5", True),
        ("cpus<4", False),
        ("tier>3", False),
        ("missing=*", False),
    ],
)
def test_selectors_hold_for_labels(selector: str, holds: bool):  # noqa: FBT001  # a table's column
    assert selects(parse_selector(selector), {"tier": "web", "cpus": "4"}) is holds


def test_what_is_read_only_refuses_to_change(w: World):
    caller = Caller(subject="ada", tenant="acme", request="r")
    skus = w.services.cases[Kind.INSTANCE_SKU]
    key = facts(Kind.INSTANCE_SKU).key("seca.ds", "acme", None)
    for refused in (
        lambda: skus.put(caller, key, Wish(spec={})),
        lambda: skus.delete(caller, key, None),
        lambda: skus.act(caller, key, "start", None, {}),
    ):
        with pytest.raises(Unsupported):
            refused()


def test_every_kind_has_use_cases_and_only_kinds_do(w: World):
    assert set(w.services.cases) == {entry.kind for entry in KINDS}


def test_many_who_log_in_at_once_wait_for_each_other(w: World, monkeypatch):
    from tests.api.world import IDENTITY, PASSWORD

    hashing = w.services.identity._hashing
    monkeypatch.setattr("controlplane.services.identity._HASHING_PATIENCE", 0.01)
    with hashing, hashing:
        answer = w.http.post(f"{IDENTITY}/login", json={"user": "ada", "password": PASSWORD})
    assert answer.status_code == 409
    assert answer.headers["Retry-After"]
