"""The real command against a real API, with hands that end its operations."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from api.cli.main import app
from tests.api.world import PASSWORD, World, world
from tests.cli.hands import Hands


@dataclass
class Said:
    out: str
    err: str
    code: int

    def json(self):
        return json.loads(self.out)


class Fedctl:
    """Runs the command as a person would, with a context file of its own."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._runner = CliRunner()

    def __call__(self, *words: str, input: str | None = None, **env: str) -> Said:
        environment = {"FEDCTL_CONFIG": str(self.config), "COLUMNS": "100", "NO_COLOR": "1", **env}
        result = self._runner.invoke(app, list(words), input=input, env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.stdout, result.stderr, result.exit_code)

    def ok(self, *words: str, **more) -> Said:
        said = self(*words, **more)
        assert said.code == 0, f"{words}: {said.code}\n{said.out}\n{said.err}"
        return said


@pytest.fixture(scope="session", autouse=True)
def _one_command() -> Iterator[None]:
    """Typer builds the command for each run, which takes a tenth of a second: once is enough."""
    command = get_command(app)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("typer.testing._get_command", lambda _: command)
        yield


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("cli")) as made:
        yield made


@pytest.fixture(scope="module")
def worker(w: World) -> Iterator[Hands]:
    with Hands(w.store) as working:
        yield working


@pytest.fixture
def hands(worker: Hands) -> Iterator[Hands]:
    """The worker, with what a test asked of it taken back afterwards."""
    yield worker
    worker.blockers.clear()
    worker.held.clear()
    worker.failure = None


@pytest.fixture(scope="module")
def fedctl(w: World, tmp_path_factory: pytest.TempPathFactory) -> Fedctl:
    run = Fedctl(tmp_path_factory.mktemp("config") / "contexts.json")
    run.ok(
        "login", w.url, "--user", "ada", "--password-stdin", "--name", "lab", input=PASSWORD + "\n"
    )
    return run
