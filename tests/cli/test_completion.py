"""What a shell offers while somebody types, and that it offers nothing where it cannot."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from api.cli.main import app
from tests.api.world import World
from tests.cli.conftest import Fedctl


def offered(fedctl: Fedctl, *words: str, shell: str = "bash", **env: str) -> list[str]:
    """The words that the shell's own function would be given for the last of `words`."""
    line = " ".join(("fedctl", *words))
    asked = {
        "_FEDCTL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "FEDCTL_CONFIG": str(fedctl.config),
        **env,
    }
    said = fedctl.runner.invoke(app, [], env=asked, prog_name="fedctl")
    assert said.stderr == ""
    assert said.exit_code == 0
    return said.stdout.split()


@pytest.fixture(scope="module")
def here(w: World) -> tuple[str, str, str]:
    """A site, a workspace and an instance."""
    site, workspace = w.site(), w.workspace()
    return site, workspace, w.running_instance(workspace, site)


def test_names_of_every_kind_are_offered(w: World, fedctl: Fedctl, here: tuple[str, str, str]):
    site, workspace, instance = here
    assert instance in offered(fedctl, "instance", "show", "web")
    assert instance in offered(fedctl, "move", "web")
    assert instance in offered(fedctl, "moves", "show", "web")
    assert offered(fedctl, "instance", "show", f"{workspace}/") == [f"{workspace}/{instance}"]
    assert site in offered(fedctl, "move", instance, "--to", "site")
    assert site in offered(fedctl, "site", "show", "site")
    assert workspace in offered(fedctl, "instance", "list", "-w", "shop")
    assert f"provision-{instance}-1" in offered(fedctl, "operation", "show", "prov")
    assert offered(fedctl, "context", "use", "l") == ["lab"]
    assert offered(fedctl, "site", "list", "-o", "js") == ["json", "jsonl"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_offered_them_too(
    fedctl: Fedctl, here: tuple[str, str, str], shell: str
):
    assert here[2] in " ".join(offered(fedctl, "instance", "show", "web", shell=shell))


def test_a_workspace_that_was_said_is_the_one_that_is_looked_in(
    w: World, fedctl: Fedctl, here: tuple[str, str, str]
):
    other = w.workspace()
    assert offered(fedctl, "instance", "show", "-w", other, "web") == []
    assert offered(fedctl, "instance", "show", "web", FEDCTL_WORKSPACE=other) == []


def test_flags_and_the_environment_are_heeded(w: World, fedctl: Fedctl, tmp_path: Path):
    nowhere = str(tmp_path / "none.json")
    site = w.site()
    said = ("--url", w.url, "--token", w.token, "site", "show", site[:5])
    assert site in offered(fedctl, *said, FEDCTL_CONFIG=nowhere)
    env = {"FEDCTL_URL": w.url, "FEDCTL_TOKEN": w.token, "FEDCTL_CONFIG": nowhere}
    assert site in offered(fedctl, "site", "show", site[:5], **env)


def test_nothing_is_offered_and_nothing_said_where_nobody_answers(
    w: World, fedctl: Fedctl, tmp_path: Path
):
    words = ("instance", "show", "web")
    assert offered(fedctl, *words, FEDCTL_URL="http://127.0.0.1:9") == []
    assert offered(fedctl, *words, FEDCTL_URL="nonsense") == []
    assert offered(fedctl, *words, FEDCTL_TOKEN="fedctl_wrong") == []
    (tmp_path / "bad.json").write_text("{")
    assert offered(fedctl, *words, FEDCTL_CONFIG=str(tmp_path / "bad.json")) == []
    assert offered(fedctl, "context", "use", "l", FEDCTL_CONFIG=str(tmp_path / "bad.json")) == []


def test_one_who_does_not_answer_is_not_waited_for(fedctl: Fedctl):
    """Waits for the end of patience: longer than a second on a loaded machine."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        before = time.monotonic()
        assert offered(fedctl, "site", "show", "s", FEDCTL_URL=url) == []
        assert time.monotonic() - before < 5


def test_bash_itself_completes_by_the_installed_script(fedctl: Fedctl, here: tuple[str, str, str]):
    """Starts a shell and two interpreters: longer than a second."""
    script = """
        eval "$(_FEDCTL_COMPLETE=source_bash fedctl)"
        complete -p fedctl
        COMP_WORDS=(fedctl instance show web) COMP_CWORD=3
        _fedctl_completion fedctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": path, "FEDCTL_CONFIG": str(fedctl.config)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "-F _fedctl_completion fedctl" in said.stdout, said.stderr
    assert here[2] in said.stdout.split(), said.stdout
