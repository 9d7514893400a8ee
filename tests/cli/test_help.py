"""Help and exit codes are promises: golden, and examples first."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from typer.main import get_command

from api.cli.main import app
from api.schemas.errors import BLOCKED, DETACHED, EXIT, NEEDS_ATTENTION, OUTCOME_EXIT, ROLLED_BACK
from controlplane.domain.operation import ENDED, OperationState
from tests.children import child
from tests.cli.conftest import Fedctl

GOLDEN = Path(__file__).parent / "help.txt"
ROOT = Path(__file__).parents[2]


def commands(command, path: tuple[str, ...] = ()):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Fedctl:
    return Fedctl(tmp_path_factory.mktemp("none") / "contexts.json")


def test_the_help_is_the_golden_one(offline: Fedctl):
    """After a wanted change: REWRITE_GOLDEN=1 pytest tests/cli/test_help.py."""
    text = ""
    for path, _ in commands(get_command(app)):
        text += f"$ fedctl {' '.join((*path, '--help'))}\n{offline.ok(*path, '--help').out}\n"
    if os.environ.get("REWRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_every_command_shows_two_real_examples_first():
    for path, command in commands(get_command(app)):
        if getattr(command, "commands", {}) and path:
            continue
        lines = (command.help or "").split("\n")
        assert lines[1] == "Examples:", path
        examples = [line for line in lines if line.startswith("  fedctl ")]
        assert len(examples) == 2, path
        assert any(" ".join(("fedctl", *path)) in line for line in examples), path


def test_exit_codes_are_these():
    assert {kind.__name__: code for kind, code in EXIT.items()} == {
        "Invalid": 2,
        "Denied": 3,
        "NotFound": 4,
        "Conflict": 5,
        "Unsupported": 6,
        "Exhausted": 7,
        "Busy": 8,
        "Unavailable": 9,
        "Integrity": 10,
    }
    assert (BLOCKED, ROLLED_BACK, NEEDS_ATTENTION, DETACHED) == (20, 21, 22, 130)
    assert set(OUTCOME_EXIT) == {*ENDED, OperationState.NEEDS_ATTENTION}


def test_a_wrong_word_is_a_usage_error(offline: Fedctl):
    assert offline("instance", "explode").code == 2
    assert offline("move", "web-1").code == 2
    assert offline("--version").out.startswith("fedctl ")


def started(
    *words: str, module: str = "tests.cli.child"
) -> AbstractContextManager[subprocess.Popen[str]]:
    script = (
        f"import api.cli.commands.dev as d; d.MODULE = {module!r};"
        " from api.cli.main import app; app()"
    )
    return child([sys.executable, "-c", script, "dev", *words], cwd=ROOT, stdout=subprocess.PIPE)


def test_dev_passes_arguments_on_and_exits_as_the_system_does():
    """Two interpreters start: longer than a second."""
    with started("--exit", "--state", "here") as running:
        out, _ = running.communicate(timeout=30)
    assert out == "started --exit --state here\n"
    assert running.returncode == 7


def test_dev_hands_a_stop_on_and_waits_for_a_clean_end():
    """Two interpreters start: longer than a second."""
    with started() as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        running.terminate()
        out, _ = running.communicate(timeout=30)
    assert "stopped by 15" in out
    assert running.returncode == 0
