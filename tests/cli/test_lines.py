"""-o jsonl: one JSON object a line, for lists and for what goes on."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import yaml

from controlplane.domain.operation import OperationKind
from tests.api.world import World
from tests.children import child
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands


def documents(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_list_is_a_line_for_each_thing(w: World, fedctl: Fedctl):
    names = {w.workspace(), w.workspace()}
    listed = documents(fedctl.ok("workspace", "list", "-o", "jsonl").out)
    assert names <= {each["metadata"]["name"] for each in listed}
    assert listed == fedctl.ok("workspace", "list", "-o", "json").json()
    [one] = documents(fedctl.ok("site", "show", w.site(), FEDCTL_OUTPUT="jsonl").out)
    assert one["spec"]["provider"] == "openstack"


def test_work_that_is_followed_is_a_line_for_each_change(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    """Starts an interpreter: longer than a second."""
    hands.held.add(OperationKind.MOVE)
    fedctl.ok("move", web, "--to", sites[1], "--yes", "--no-wait")
    operation = f"{web.replace('/', '/move-')}-1"
    with child(
        [sys.executable, "-m", "api.cli.main", "operation", "watch", operation, "-o", "jsonl"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "FEDCTL_CONFIG": str(fedctl.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert "outcome" not in first["status"]
        fedctl.ok("operation", "cancel", operation)
        rest, _ = watching.communicate(timeout=30)
    told = [first, *documents(rest)]
    assert watching.returncode == 21
    assert told[-1]["status"]["outcome"] == "cancelled"
    assert len([each for each in told if each["status"].get("outcome")]) == 1
    assert all(one != after for one, after in pairwise(told))


def test_a_move_ends_with_a_line_of_its_own(fedctl: Fedctl, web: str, sites: tuple[str, str]):
    told = documents(fedctl.ok("move", web, "--to", sites[1], "--yes", "-o", "jsonl").out)
    assert told[-1]["spec"]["target"]["site"] == sites[1]
    assert {each["metadata"]["kind"] for each in told} == {"operation", "move"}
    assert told[-1]["metadata"]["kind"] == "move"


def test_events_are_told_in_every_form(w: World, fedctl: Fedctl):
    _, start = w.services.changes.place(None)
    with w.store.read() as tx:
        since = f"{tx.settings.incarnation}.{start.until}"
    name = w.workspace()
    words = ("events", "--since", since, "--limit", "1", "-o")
    for form in ("json", "jsonl"):
        [line] = documents(fedctl.ok(*words, form).out)
        assert name in line["name"]
    assert yaml.safe_load(fedctl.ok(*words, "yaml").out)["name"] == line["name"]
