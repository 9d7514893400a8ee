"""fedctl config view: each setting, and which of flag, environment, file or default gave it."""

from pathlib import Path

from api.cli.contexts import DEFAULT_URL
from tests.api.world import World
from tests.cli.conftest import Fedctl


def origins(fedctl: Fedctl, *words: str, **env: str) -> dict[str, tuple[str, str]]:
    shown = fedctl.ok(*words, "config", "view", "--show-origin", "-o", "json", **env).json()
    return {each["name"]: (each["value"], each["origin"]) for each in shown}


def test_each_setting_says_where_it_came_from(w: World, fedctl: Fedctl):
    fedctl.ok("context", "use", "lab", "--workspace", "shop")
    told = origins(fedctl, "--tenant", "other", FEDCTL_TOKEN="fedctl_planted", FEDCTL_CONTEXT="lab")
    fedctl.ok("context", "use", "lab", "--workspace", "")
    assert told == {
        "config": (str(fedctl.config), "environment FEDCTL_CONFIG"),
        "context": ("lab", "environment FEDCTL_CONTEXT"),
        "url": (w.url, "context file, lab"),
        "token": ("***", "environment FEDCTL_TOKEN"),
        "tenant": ("other", "flag --tenant"),
        "workspace": ("shop", "context file, lab"),
        "user": ("ada", "context file, lab"),
        "output": ("json", "flag --output"),
    }


def test_a_flag_comes_before_the_environment_and_that_before_the_file(fedctl: Fedctl):
    both = origins(fedctl, "--url", "http://flag", FEDCTL_URL="http://variable")
    assert both["url"] == ("http://flag", "flag --url")
    assert origins(fedctl, FEDCTL_URL="http://variable")["url"] == (
        "http://variable",
        "environment FEDCTL_URL",
    )
    assert origins(fedctl)["context"] == ("lab", "context file")


def test_where_nothing_was_said_it_is_the_default(fedctl: Fedctl, tmp_path: Path):
    told = origins(fedctl, FEDCTL_CONFIG=str(tmp_path / "none.json"))
    assert told["url"] == (DEFAULT_URL, "default")
    assert told["token"] == ("", "default")


def test_no_secret_is_viewed(w: World, fedctl: Fedctl):
    table = fedctl.ok("--url", "http://ada:hunter2@host", "config", "view")
    assert "ORIGIN" not in table.out
    assert "http://ada:***@host" in table.out
    for said in (table, fedctl.ok("config", "view", "--show-origin", "-o", "yaml")):
        assert "fedctl_" not in said.out + said.err
        assert "hunter2" not in said.out
