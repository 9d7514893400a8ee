"""fedctl backup on the folder of a `fedctl dev` that does not run: real processes, real keys."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.embedded import State
from controlplane.domain.ids import TenantName
from controlplane.keys import sealed_file
from controlplane.store.engine import Store
from tests.cli.conftest import Fedctl


@pytest.fixture
def fedctl(tmp_path: Path) -> Fedctl:
    return Fedctl(tmp_path / "contexts.json")


@pytest.fixture
def state(tmp_path: Path) -> State:
    """As a first start leaves it: a root key, a database with one tenant."""
    made = State(folder=tmp_path / "dev")
    sealed_file.create(made.folder / "root.key", made.secret(made.passphrase))
    store = Store(f"sqlite:///{made.folder}/fedctl.db")
    store.migrate()
    with store.begin() as tx:
        tx.identity.tenants.add(TenantName("acme"), datetime.now(UTC))
    store.close()
    return made


class Said:
    """Runs the command and tells what its process wrote, which no runner of ours sees."""

    def __init__(self, fedctl: Fedctl, capfd: pytest.CaptureFixture[str], state: Path) -> None:
        self._fedctl = fedctl
        self._capfd = capfd
        self._state = state

    def __call__(self, *words: str, code: int = 0) -> str:
        found = self._fedctl("backup", *words, "--state", str(self._state))
        out, err = self._capfd.readouterr()
        assert found.code == code, out + err
        return out if code == 0 else err


@pytest.mark.timeout(180)  # four times two processes that load much
def test_a_backup_begins_a_new_life_in_an_empty_database(
    fedctl: Fedctl, state: State, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "monday.fedctl")
    backup = Said(fedctl, capfd, state.folder)
    written = backup("create", file)
    assert "root key" in written
    assert backup("verify", file).splitlines()[1:] == written.splitlines()[1:]
    assert "not empty" in backup("restore", file, "--yes", code=5)
    for each in state.folder.glob("fedctl.db*"):
        each.unlink()
    (state.folder / "temporal.db").touch()
    assert "life 2" in backup("restore", file, "--yes")
    assert not (state.folder / "temporal.db").exists()
    store = Store(f"sqlite:///{state.folder}/fedctl.db")
    with store.read() as tx:
        assert tx.identity.tenants.find(TenantName("acme")) is not None
        assert tx.settings.life == 2
    store.close()


def test_a_folder_that_is_none_of_a_dev_is_named(
    fedctl: Fedctl, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backup = Said(fedctl, capfd, tmp_path / "empty")
    assert "holds no passphrase" in backup("create", str(tmp_path / "x"), code=4)
