"""Commands beside a `fedctl dev`: also after one that was killed. An agent takes a second to open."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from api import extract
from api.beside import of_embedded
from api.embedded import State, agent_command
from controlplane.domain.disk import MIB
from controlplane.domain.errors import NotFound, Unavailable
from controlplane.keys.client import AgentClient
from tests.e2e.system import until
from tests.unit.vault.support import World, some_disk


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    for name in ("FEDCTL_DATABASE_URL", "FEDCTL_AGENT_SOCKET"):
        monkeypatch.setenv(name, "")  # what is set beside the test goes after it
    state = State(folder=tmp_path / "dev")
    state.secret(state.passphrase)
    return state


def root(state: State) -> str | None:
    with closing(AgentClient(state.agent_socket)) as client:
        return client.status().root


def answers(state: State) -> bool:
    try:
        return root(state) is not None
    except Unavailable:
        return False


def started(state: State, *more: str) -> subprocess.Popen[bytes]:
    agent = subprocess.Popen([*agent_command(state), *more], stderr=subprocess.DEVNULL)
    until(lambda: answers(state), "the agent answers")
    return agent


@pytest.fixture
def used(state: State) -> Iterator[State]:
    """A root key is there; the agent that made it was killed, as the whole system was."""
    agent = started(state, "--create")
    state.ready.touch()
    agent.kill()
    agent.wait()
    assert state.agent_socket.is_socket()
    yield state
    assert not answers(state)


def test_after_a_system_that_was_killed_a_command_has_an_agent_of_its_own(used):
    with of_embedded(used):
        assert root(used)


def test_a_command_that_is_killed_leaves_no_agent_with_an_open_key(used):
    code = (
        "import sys, time; from pathlib import Path; from api.beside import of_embedded\n"
        "from api.embedded import State\n"
        f"with of_embedded(State(folder=Path({str(used.folder)!r}))):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"in\n"
        assert root(used)
        killed.kill()
    until(lambda: not answers(used), "the agent ends")


def test_the_agent_of_a_running_system_is_used_and_left(used):
    agent = started(used)
    try:
        known = root(used)
        with of_embedded(used):
            assert root(used) == known
        assert agent.poll() is None
    finally:
        agent.terminate()
        agent.wait()


def test_a_folder_of_no_system_is_told(tmp_path):
    with (
        pytest.raises(NotFound, match="not the folder of a fedctl dev"),
        of_embedded(State(folder=tmp_path)),
    ):
        pass


def test_an_extracted_disk_is_read_by_its_owner_alone(tmp_path):
    """What it holds was encrypted until now."""
    world = World(tmp_path / "store")
    data = some_disk(1, "RT")
    vault = world.vault()
    point, _ = world.take(vault, data)
    out = tmp_path / "disk"
    with closing(vault.open(point, 0)) as disk:
        extract._extracted(disk, out)
    assert out.read_bytes() == data
    assert out.stat().st_size < MIB
    assert out.stat().st_mode & 0o777 == 0o600
    world.close()


def test_a_database_that_is_none_of_ours_is_named_as_that(tmp_path, monkeypatch, capsys):
    for name, value in (
        ("FEDCTL_DATABASE_URL", f"sqlite:///{tmp_path / 'other.db'}"),
        ("FEDCTL_AGENT_SOCKET", str(tmp_path / "agent.sock")),
        ("FEDCTL_VAULT", str(tmp_path / "vault")),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["extract", str(uuid4()), str(tmp_path / "out")])
    assert extract.main() != 0
    assert "the database has schema none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_socket_is_taken_for_an_agent(used):
    used.agent_socket.unlink()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as nobody:
        nobody.bind(str(used.agent_socket))
    with of_embedded(used):
        assert root(used)
