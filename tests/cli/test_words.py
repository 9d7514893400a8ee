"""Units, bars and outcome texts as people read them."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from api.cli import units
from api.cli.commands.moves import _networks, _waiver
from api.cli.contexts import Context, Contexts
from api.cli.plans import blocked, failed, plan_text
from api.cli.session import Rows
from api.cli.watch import progress_line, screen, step_line
from controlplane.domain.errors import Invalid
from controlplane.domain.plan import Method
from controlplane.domain.site import Capability
from controlplane.planning.digest import as_json
from controlplane.planning.facts import MoveWish
from controlplane.planning.move import move
from tests.unit.planning.test_move import FACTS

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
GIB = 1024**3


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (6.1 * GIB, "6.1 GiB"), (5e15, "4547.5 TiB")],
)
def test_sizes(count: float, text: str):
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0.04, "0.0s"),
        (1.2, "1.2s"),
        (59.4, "59s"),
        (60, "1m"),
        (252, "4m 12s"),
        (7500, "2h 5m"),
        (86400 * 3 + 3600 * 4, "3d 4h"),
    ],
)
def test_durations(count: float, text: str):
    assert units.seconds(count) == text


@pytest.mark.parametrize(
    ("passed", "text"), [(5, "5s"), (125, "2m"), (7300, "2h"), (86400 * 40, "40d"), (-3, "0s")]
)
def test_ages(passed: int, text: str):
    assert units.age((NOW - timedelta(seconds=passed)).isoformat(), NOW) == text


@pytest.mark.parametrize(("text", "count"), [("90", 90), ("90s", 90), ("3m", 180), ("7d", 604800)])
def test_spans(text: str, count: int):
    assert units.span(text) == count


def test_a_span_that_is_none_is_refused():
    with pytest.raises(ValueError, match="invalid literal"):
        units.span("soon")


def operation(**status) -> dict:
    return {
        "metadata": {"name": "move-web-1-1", "workspace": "shop"},
        "spec": {"kind": "move", "subject": "shop/web-1"},
        "status": {"steps": [], "progress": [], "findings": [], **status},
    }


def running(name: str, seconds: int) -> dict:
    started = (NOW - timedelta(seconds=seconds)).isoformat()
    return {"name": name, "state": "running", "startedAt": started, "attempts": 1}


def copy(done: int, total: int) -> dict:
    return {"what": "copy 0", "done": done, "total": total, "sent": done, "at": NOW.isoformat()}


def test_a_copy_shows_rate_and_time_left():
    line = progress_line(copy(4 * GIB, 6 * GIB), operation(steps=[running("copy 0", 100)]))
    assert "[###########------]  4.0 GiB / 6.0 GiB" in line
    assert "41.0 MiB/s" in line
    assert "50s left" in line


def test_a_copy_without_a_step_shows_how_far_it_is():
    assert progress_line(copy(0, 0), operation()).endswith("0 B / 0 B")


def test_steps_show_their_state_their_time_and_their_tries():
    done = {"name": "lease", "state": "ok", "attempts": 2, "seconds": 2.0, "message": "held"}
    assert step_line(done).split() == ["ok", "lease", "2.0s", "try", "2", "held"]


def test_the_screen_of_work_that_runs_says_how_to_leave():
    console = Console(record=True, width=120, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(
            screen(
                "Moving shop/web-1 to par-pve",
                operation(steps=[running("copy 0", 10)], progress=[copy(1, 3)]),
            )
        )
        console.print(screen("Moving", operation()))
    text = captured.get()
    assert "operation shop/move-web-1-1" in text
    assert "Ctrl-C leaves it running." in text
    assert "waiting for a worker" in text


def test_a_long_list_of_steps_shows_its_end_while_it_runs_and_all_of_it_afterwards():
    steps = [{"name": f"step {n}", "state": "ok", "attempts": 1, "seconds": 1.0} for n in range(30)]
    console = Console(width=80, force_terminal=False)
    with console.capture() as captured:
        console.print(screen("Moving", operation(steps=steps), rows=5))
    text = captured.get()
    assert "25 steps before" in text
    assert "step 29" in text
    assert "step 24 " not in text
    with console.capture() as captured:
        console.print(screen("Moving", operation(steps=steps, outcome="succeeded"), rows=5))
    assert "step 0 " in captured.get()


def test_a_table_is_cut_to_a_screen_and_never_where_there_is_none():
    rows = Rows(("NAME", "NOTE"), [("web-1", "x" * 200), ("db", "")])
    pipe = io.StringIO()
    rows.write(Console(file=pipe, width=40))
    assert pipe.getvalue().splitlines()[1] == f"web-1  {'x' * 200}"
    assert pipe.getvalue().splitlines()[2] == "db"
    screen_ = io.StringIO()
    rows.write(Console(file=screen_, width=40, force_terminal=True, no_color=True))
    cut = screen_.getvalue().splitlines()[1]
    assert cut.startswith("web-1  xxx")
    assert len(cut) <= 40


@pytest.mark.parametrize(
    ("outcome", "words", "code"),
    [
        ("rolled-back", "was rolled back", 21),
        ("cancelled", "was cancelled", 21),
        ("failed", "before anything was changed", 21),
        ("needs-attention", "needs a person", 22),
    ],
)
def test_every_end_of_a_move_has_words(outcome: str, words: str, code: int):
    stopped = failed("shop/web-1", {"status": {}}, operation(outcome=outcome))
    assert words in stopped.text
    assert stopped.exit_code == code


def test_a_refusal_lists_blockers_only():
    findings = [
        {"id": "POL01", "severity": "blocker", "subject": "w", "evidence": "no", "remedy": "ask"},
        {"id": "GST10", "severity": "warning", "subject": "w", "evidence": "careful"},
    ]
    stopped = blocked("shop/web-1", "par", {"status": {"findings": findings}})
    text = "\n".join(stopped.notes)
    assert "POL01" in text
    assert "GST10" not in text
    assert stopped.exit_code == 20


def test_a_plan_names_in_one_line_what_could_not_be_looked_at():
    findings = [
        {"id": "SRC08", "severity": "unseen", "subject": "w", "evidence": "not seen: no answer"},
        {"id": "TGT02", "severity": "unseen", "subject": "w", "evidence": "not seen: not told"},
        {"id": "SRC08", "severity": "unseen", "subject": "w", "evidence": "not seen: no answer"},
        {"id": "GST10", "severity": "warning", "subject": "w", "evidence": "careful"},
    ]
    text = plan_text("shop/web-1", {"status": {"findings": findings}})
    assert "unseen    SRC08 TGT02  (-o yaml says why)" in text
    assert "warning   GST10  careful" in text
    assert "no answer" not in text


@pytest.mark.parametrize(
    ("method", "disk", "copy"),
    [
        (Method.COLD, "20.0 GiB; written while it is read for the vault", "read, written there"),
        (Method.DIRECT, "20.0 GiB; written straight from the source", "direct: the source is"),
        (None, "20.0 GiB as qcow2-zstd; the site fetches it", "imported at the cutover"),
    ],
)
def test_a_plan_says_which_way_the_bytes_go(method: Method | None, disk: str, copy: str):
    """Without a method it is to a site whose disks cannot be written to."""
    less = FACTS.target.capabilities - ({Capability.DISK_IMPORT} if method is None else set())
    facts = replace(FACTS, target=replace(FACTS.target, capabilities=less))
    plan = as_json(move(facts, MoveWish(method=method)))
    text = plan_text("shop/web-1", {"status": {"plan": plan, "findings": []}})
    assert disk in text
    assert copy in text


def test_a_waiver_without_a_reason_is_refused_before_anything_is_asked():
    assert _waiver("TGT01=more is on its way") == {
        "finding": "TGT01", "reason": "more is on its way"
    }  # fmt: skip
    for text in ("TGT01", "TGT01="):
        with pytest.raises(Invalid):
            _waiver(text)


def test_rules_of_networks_and_addresses_are_one_list():
    assert _networks(["shop=lan"], ["shop", "office"]) == [
        {"from": "shop", "to": "lan", "address": "new"},
        {"from": "office", "address": "new"},
    ]


def test_a_context_does_not_print_its_token(tmp_path):
    contexts = Contexts(tmp_path / "deep" / "contexts.json")
    contexts.save("a", Context(token="fedctl_secret"))
    assert "fedctl_secret" not in repr(contexts.get("a"))
    assert Contexts(contexts.path).get("a").token == "fedctl_secret"
