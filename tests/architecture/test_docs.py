"""What the documents say is so: commands, modules, settings, tests, links, and files to deploy with."""

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from api.cli.main import app
from api.embedded import temporal_pace
from api.schemas.errors import BLOCKED, DETACHED, EXIT, NEEDS_ATTENTION, ROLLED_BACK
from controlplane.keys import agent
from controlplane.settings import Settings
from drivers import cards
from tests.architecture import module_map
from tests.architecture.sources import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
UNITS = sorted(ROOT.glob("deploy/systemd/*.service"))
OURS = {"controlplane", "drivers", "workflows", "api", "tests"}
SETTINGS = {f"FEDCTL_{name.upper()}": field for name, field in Settings.model_fields.items()}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


# Words


@pytest.mark.parametrize("name", names(PAGES))
def test_links_lead_somewhere(name: str):
    links = re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", page(name))
    assert [it for it in links if not (ROOT / name).parent.joinpath(it).exists()] == []


@cache
def there_are() -> frozenset[str]:
    found: set[str] = set()
    for path in ROOT.glob("tests/**/*.py"):
        found |= set(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    return frozenset(found)


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "DECISIONS.md", "deploy/README.md"])
def test_every_test_that_is_named_exists(name: str):
    told = set(re.findall(r"`(test_\w+)`", page(name)))
    assert told - there_are() == set()


@pytest.mark.parametrize("name", names(PAGES))
def test_every_module_and_path_that_is_named_exists(name: str):
    text = page(name).partition(module_map.BEGIN)[0]
    run = {it for it in re.findall(r"python -m ([\w.]+)", text) if it.split(".")[0] in OURS}
    assert {it for it in run if find_spec(it) is None} == set()
    paths = re.findall(r"`((?:controlplane|drivers|workflows|api|tests|deploy)/[\w./]+)`", text)
    assert [it for it in paths if not (ROOT / it).exists()] == []


def test_the_map_names_every_module_and_no_other():
    assert module_map.parts()[1].strip() == module_map.text().strip(), (
        "run: python -m tests.architecture.module_map"
    )


def test_the_page_of_providers_is_up_to_date():
    assert page("docs/providers.md") == cards.text(), "run: make docs"


# Commands


def commands(name: str) -> Iterator[str]:
    """Every `fedctl ...` of a page's code, without what follows on the line for people."""
    text = page(name)
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            found = re.match(r"(?:\$ |  next {4})?(fedctl [a-z-].*)", line)
            if found and not line.startswith("fedctl is ready"):
                yield found[1]
    yield from re.findall(r"`(fedctl [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def mistake(line: str) -> str:
    """What is wrong with a command line; empty when the program would take it."""
    words = shlex.split(re.sub(r"\s(#|<|>).*", "", line))[1:]
    there = get_command(app)
    known = {option for param in there.params for option in param.opts}
    for word in words:
        if word.startswith("-"):
            if word not in known | {"--help", "--state"}:
                return f"{line}: {there.name} has no {word}"
        elif isinstance(there, TyperGroup) and word != "COMMAND":
            if word not in there.commands:
                return f"{line}: {there.name} has no {word}"
            there = there.commands[word]
            known |= {option for param in there.params for option in param.opts}
    return ""


@pytest.mark.parametrize("name", names(PAGES))
def test_every_command_that_is_shown_exists(name: str):
    assert [wrong for line in commands(name) if (wrong := mistake(line))] == []


def test_a_wrong_command_would_be_noticed():
    assert mistake("fedctl instance fly web-1")
    assert mistake("fedctl move web-1 --whither par-pve")
    assert not mistake("fedctl move web-1 --to par-pve --plan")


def test_the_targets_that_the_readme_names_are_in_the_makefile():
    told = set(re.findall(r"\bmake ([a-z]+)\b", page("README.md"))) | {"dev", "check", "fix"}
    there = set(re.findall(r"^([a-z]+):", page("Makefile"), re.MULTILINE))
    assert {"demo", "test"} <= told <= there


def test_the_exit_codes_are_those_of_the_program():
    cells = re.findall(r"\| (\d+) \| ([a-z0-9 ]+)", page("README.md"))
    told = {int(code): words for code, words in cells}
    own = {BLOCKED, ROLLED_BACK, NEEDS_ATTENTION, DETACHED, 0}
    assert set(told) == set(EXIT.values()) | own
    for kind, code in EXIT.items():
        word = {"exhausted": "no room"}.get(kind.code, kind.code.replace("-", " "))
        assert told[code].startswith(word), (kind.code, told[code])


# Settings


def rows(name: str) -> dict[str, str]:
    """First cell to second cell of a page's tables whose first cell is a variable."""
    return dict(re.findall(r"^\| `(FEDCTL_\w+)` \| ([^|]*?) ?\|", page(name), re.MULTILINE))


def test_the_page_of_settings_has_every_setting_with_what_it_is_without_it():
    told = {name: cell for name, cell in rows("docs/settings.md").items() if name in SETTINGS}
    assert set(told) == set(SETTINGS)
    for name, field in SETTINGS.items():
        default = field.default
        if isinstance(default, tuple):
            default = json.dumps(default)
        assert told[name] == ("" if default is None else f"`{default}`"), name


def test_the_page_of_settings_has_every_variable_of_the_command_line():
    there = {
        str(param.envvar): set(param.opts)
        for command in (get_command(app), *every_command(get_command(app)))
        for param in command.params
        if param.envvar
    }
    told = {n: c for n, c in rows("docs/settings.md").items() if n not in SETTINGS}
    assert set(told) == set(there)
    for name, options in there.items():
        assert options & set(re.findall(r"`(-[-\w]+)`", told[name])), name


def every_command(group: object) -> Iterator[object]:
    if isinstance(group, TyperGroup):
        for command in group.commands.values():
            yield command
            yield from every_command(command)


def test_settings_that_nothing_reads_are_said_to_be_so():
    unread = page("docs/settings.md").partition("read by nothing yet:")[2].partition("The key")[0]
    told = set(re.findall(r"`FEDCTL_(\w+)`", unread))
    sources = "".join(
        path.read_text(encoding="utf-8")
        for package in ("api", "workflows", "controlplane")
        for path in (ROOT / package).rglob("*.py")
    )
    read = set(re.findall(r"settings\.(\w+)", sources))
    assert told == {name.upper() for name in Settings.model_fields if name not in read}


# Files to deploy with


def variables() -> dict[str, str]:
    lines = page("deploy/fedctl.env.example").splitlines()
    given = [line for line in lines if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in given)


def test_the_example_settings_are_settings(monkeypatch: pytest.MonkeyPatch):
    given = variables()
    assert {name for name in given if name.startswith("FEDCTL_")} <= set(SETTINGS)
    assert set(given) - set(SETTINGS) == {"PGPASSFILE"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.regions == ("eu-fr",)
    assert settings.database_url.startswith("postgresql+psycopg://")


def runs(command: list[str]) -> str:
    """The module that a command starts; the key agent's arguments are parsed as it would."""
    assert command[1] == "-m"
    module = command[2]
    found = find_spec(module)
    assert found is not None, module
    if found.submodule_search_locations is not None:
        found = find_spec(f"{module}.__main__")
    assert found is not None, f"{module} starts nothing"
    assert 'if __name__ == "__main__":' in Path(str(found.origin)).read_text(encoding="utf-8")
    if module == agent.__name__:
        agent._arguments(command[3:])
    return module


def test_the_units_start_every_process_with_settings_that_exist():
    started = set()
    for path in UNITS:
        unit = configparser.ConfigParser(interpolation=None, strict=True)
        unit.optionxform = str
        unit.read_string(path.read_text(encoding="utf-8"))
        service = unit["Service"]
        started.add(runs(service["ExecStart"].split()))
        assert service["NoNewPrivileges"] == "yes"
        assert service["User"] == "fedctl"
        for other in f"{unit['Unit'].get('Wants', '')} {unit['Unit'].get('Before', '')}".split():
            assert (path.parent / other).exists(), other
    assert started == {agent.__name__, "api.http", "api.gateway", "workflows"}


def test_the_compose_file_starts_every_process_with_settings_that_exist():
    whole = yaml.safe_load(page("deploy/compose.yaml"))
    services = whole["services"]
    started = {runs(service["command"]) for service in services.values() if "command" in service}
    assert started == {
        agent.__name__, "api.http", "api.http.bootstrap", "api.gateway", "workflows",
    }  # fmt: skip
    for name, service in services.items():
        told = {it for it in service.get("environment", {}) if it.startswith("FEDCTL_")}
        assert told <= set(SETTINGS), name
        assert set(service.get("depends_on", {})) <= set(services), name
        assert set(service.get("secrets", [])) <= set(whole["secrets"]), name
        assert {it.split(":")[0] for it in service.get("volumes", [])} <= set(whole["volumes"])
        for file in service.get("env_file", []):
            assert (ROOT / "deploy" / f"{file}.example").exists(), name
        if "build" in service:
            build = service["build"]
            assert (ROOT / "deploy" / build["context"] / build["dockerfile"]).exists(), name


def test_temporal_runs_at_the_same_pace_everywhere():
    told = yaml.safe_load(page("deploy/temporal.yaml"))
    here = dict(each.split("=") for each in temporal_pace()[1::2])
    assert {k: [{"value": yaml.safe_load(v)}] for k, v in here.items()} == told


def test_the_image_is_built_from_what_is_there():
    lines = [line.split() for line in page("deploy/Containerfile").splitlines() if line]
    copied = [it for words in lines if words[0] == "COPY" for it in words[1:-1]]
    assert {it for it in copied if not (ROOT / it).exists()} == set()
    assert OURS - {"tests"} <= set(copied)
    last = next(line for line in page("deploy/Containerfile").splitlines() if line[:4] == "CMD ")
    assert runs(json.loads(last[4:])) == "api.http"
