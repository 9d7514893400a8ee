"""fedctl move --where: a plan for each site, of which nothing stays."""

import pytest

from controlplane.domain.finding import Finding, Severity
from controlplane.domain.operation import OperationKind, Problem
from tests.api.world import MOBILITY, World
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands


def moves(w: World, web: str) -> list[dict]:
    path = w.in_workspace(MOBILITY, web.split("/", maxsplit=1)[0], "moves")
    return w.http.get(path).json()["items"]


def test_every_site_says_whether_it_could_go_there_and_nothing_stays(
    w: World, fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    full, dead = w.site(), w.site()
    hands.refusing[full] = Finding(
        id="TGT02",
        severity=Severity.BLOCKER,
        subject="web",
        evidence="3.2 GiB of memory are free, web needs 8 GiB",
        remedy="choose a smaller sku",
    )
    hands.silent[dead] = Problem(code="unavailable", message="the site does not answer")
    said = fedctl.ok("move", web, "--where")
    rows = {line.split()[0]: line.split()[1:] for line in said.out.splitlines()}
    assert rows[sites[1]][:7] == ["yes", "6m", "10s", "2m", "35s", "3.0", "GiB"]
    assert " ".join(rows[sites[1]]).endswith("1 warning GST10")
    assert rows[full] == ["no", "1", "warning", "GST10,", "1", "blocker", "TGT02"]
    assert rows[dead] == ["unknown", "the", "site", "does", "not", "answer"]
    assert rows[sites[0]] == ["here"]
    assert f"{full}  blocker   TGT02  3.2 GiB of memory are free" in said.err
    assert "choose a smaller sku" in said.err
    assert f"next    fedctl move {web} --to " in said.err
    listed = {each["metadata"]["name"] for each in fedctl.ok("site", "list", "-o", "json").json()}
    assert set(rows) - {"SITE"} == listed
    assert moves(w, web) == []


def test_the_wish_counts_and_programs_read_it(
    w: World, fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    words = ("move", web, "--where", "--max-downtime", "3m", "-o", "jsonl", "--show-request")
    said = fedctl.ok(*words)
    assert '"maxDowntime": 180' in said.err
    assert '"planOnly": true' in said.err
    first = said.out.splitlines()[0]
    assert '"verdict": "yes"' in first
    assert '"downtime_seconds": 155.0' in first


def test_a_plan_that_does_not_come_is_cancelled_and_taken_back(
    w: World,
    fedctl: Fedctl,
    web: str,
    sites: tuple[str, str],
    hands: Hands,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("api.cli.where._PATIENCE", 0.4)
    hands.held.add(OperationKind.PLAN_MOVE)
    said = fedctl.ok("move", web, "--where")
    assert "unknown" in said.out
    assert "no plan within 0.4s" in said.out
    assert f"No site that answered can take {web} now." in said.err
    assert moves(w, web) == []


def test_an_instance_that_is_busy_says_so_with_the_servers_code(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    hands.held.add(OperationKind.STOP)
    fedctl.ok("instance", "stop", web, "--no-wait")
    said = fedctl("move", web, "--where")
    assert said.code == 8
    assert f"stop-{web.split('/')[1]}" in said.err


def test_to_and_where_are_one_or_the_other(fedctl: Fedctl, web: str, sites: tuple[str, str]):
    assert fedctl("move", web).code == 2
    assert fedctl("move", web, "--to", sites[1], "--where").code == 2
