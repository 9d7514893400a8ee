"""The real command against a real API, with hands that end its operations."""

import json
import os
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
        self.runner = CliRunner()

    def __call__(self, *words: str, input: str | None = None, **env: str) -> Said:
        environment = {"FEDCTL_CONFIG": str(self.config), "COLUMNS": "100", "NO_COLOR": "1", **env}
        result = self.runner.invoke(app, list(words), input=input, env=environment)
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
    worker.refusing.clear()
    worker.silent.clear()
    worker.held.clear()
    worker.failure = None


@pytest.fixture(scope="module")
def fedctl(w: World, tmp_path_factory: pytest.TempPathFactory) -> Fedctl:
    run = Fedctl(tmp_path_factory.mktemp("config") / "contexts.json")
    run.ok(
        "login", w.url, "--user", "ada", "--password-stdin", "--name", "lab", input=PASSWORD + "\n"
    )
    return run


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / "debian-13.raw"
    file.write_bytes(os.urandom(9 * 1024 * 1024))
    return file


def add_site(fedctl: Fedctl, w: World, folder: Path, provider: str) -> str:
    name = w.fresh(provider[:4])
    secrets = folder / "secrets.json"
    secrets.write_text('{"username": "u", "password": "hidden"}')
    said = fedctl.ok(
        "site", "add", name, "--provider", provider, "--endpoint", "https://x.example",
        "--region", "eu-fr", "--country", "FR", "--credentials", str(secrets),
        "--option", "node=pve1", "--pin", "tls=ab:cd",
    )  # fmt: skip
    assert "healthy" in said.out
    assert "hidden" not in said.out + said.err
    return name


@pytest.fixture(scope="module")
def sites(fedctl: Fedctl, w: World, worker: Hands, tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("secrets")
    return add_site(fedctl, w, folder, "openstack"), add_site(fedctl, w, folder, "proxmox")


@pytest.fixture
def shop(fedctl: Fedctl, w: World) -> str:
    name = w.fresh("shop")
    fedctl.ok("workspace", "create", name)
    return name


def upload(fedctl: Fedctl, w: World, file: Path) -> str:
    name = w.fresh("debian")
    fedctl.ok("image", "upload", str(file), "--name", name)
    return name


@pytest.fixture(scope="module")
def image(fedctl: Fedctl, w: World, worker: Hands, image_file: Path) -> str:
    return upload(fedctl, w, image_file)


@pytest.fixture
def web(
    fedctl: Fedctl, w: World, shop: str, image: str, sites: tuple[str, str], hands: Hands
) -> str:
    name = w.fresh("web")
    said = fedctl.ok(
        "instance", "create", f"{shop}/{name}", "--image", image, "--site", sites[0],
        "--network", "shop-net", "--address", "10.0.4.12", "--start",
    )  # fmt: skip
    assert "10.0.4.12" in said.out
    assert "on" in said.out
    return f"{shop}/{name}"
