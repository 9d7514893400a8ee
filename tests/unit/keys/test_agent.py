"""The key agent as a process: it lends the root key's use and keeps the key."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.domain.errors import Conflict, Denied, Integrity, Invalid, Unavailable
from controlplane.keys import sealed_file, wire
from controlplane.keys.agent import Agent, AgentServer, main
from controlplane.keys.client import AgentClient
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import AGENT_UNREACHABLE, SEALED, Purpose, SigningPurpose
from controlplane.keys.root import LocalAgent
from controlplane.keys.sealed_file import Cost

PASSPHRASE = "correct horse battery"
CHEAP = Cost(time=1, memory_kib=64, lanes=1)


@pytest.fixture
def folder():
    # pytest's own paths may be longer than a unix socket's name can be
    with tempfile.TemporaryDirectory(prefix="ka-") as name:
        yield Path(name)


@pytest.fixture
def root_file(folder):
    sealed_file.create(folder / "root.json", PASSPHRASE, cost=CHEAP)
    return folder / "root.json"


@contextmanager
def serving(path, agent, **more):
    server = AgentServer(path, agent, **more)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    client = AgentClient(path, timeout=5)
    try:
        yield client
    finally:
        client.close()
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


@pytest.fixture
def client(folder, root_file):
    agent = Agent(root=root_file)
    agent.unseal(PASSPHRASE)
    with serving(folder / "agent.sock", agent) as client:
        yield client


def test_a_keyring_works_through_the_socket_as_it_does_in_process(client):
    rows = MemoryKeys()
    sealed = Keyring(agent=client, rows=rows).seal(Purpose.PAYLOAD, "acme", b"text")
    assert Keyring(agent=client, rows=rows).open(Purpose.PAYLOAD, "acme", sealed) == b"text"


def test_signatures_check_with_the_public_key(client):
    for purpose in SigningPurpose:
        key = Ed25519PublicKey.from_public_bytes(client.public_key(purpose))
        key.verify(client.sign(purpose, b"head"), b"head")


def test_derived_bytes_are_those_of_the_root_key(client, root_file):
    local = LocalAgent(sealed_file.unlock(root_file, PASSPHRASE))
    assert client.derive("tokens") == local.derive("tokens")
    assert client.status() == local.status()


def test_the_agents_refusals_come_out_as_the_same_errors(client, tenant_key_name):
    with pytest.raises(Integrity):
        client.unwrap(tenant_key_name, bytes(80))
    with pytest.raises(Invalid, match="too long"):
        client.sign(SigningPurpose.AUDIT, bytes(33_000))
    with pytest.raises(Invalid, match="too long for the key agent"):
        client.sign(SigningPurpose.AUDIT, bytes(100_000))
    assert not client.status().sealed


def test_a_sealed_agent_says_so_and_unseals_with_the_passphrase_only(client, tenant_key_name):
    client.seal()
    assert client.status().sealed
    calls = [
        lambda: client.wrap(tenant_key_name, bytes(32)),
        lambda: client.unwrap(tenant_key_name, bytes(80)),
        lambda: client.derive("tokens"),
        lambda: client.sign(SigningPurpose.AUDIT, b"head"),
        lambda: client.public_key(SigningPurpose.AUDIT),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="sealed: unseal it") as caught:
            call()
        assert caught.value.reason == SEALED
    with pytest.raises(Denied) as refused:
        client.unseal("wrong horse battery")
    assert "wrong horse" not in repr(refused.value)
    assert client.status().sealed
    assert not client.unseal(PASSPHRASE).sealed
    calls[2]()


def test_the_socket_is_its_owners_and_goes_with_the_server(folder, root_file):
    path = folder / "agent.sock"
    with serving(path, Agent(root=root_file)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_another_user_is_not_served(folder, root_file):
    stranger = frozenset({os.geteuid() + 1})
    with (
        serving(folder / "agent.sock", Agent(root=root_file), uids=stranger) as client,
        pytest.raises(Denied, match="does not serve user"),
    ):
        client.status()


def test_a_second_agent_does_not_take_a_living_ones_place(client, folder, root_file):
    with pytest.raises(Conflict, match="serves"):
        AgentServer(folder / "agent.sock", Agent(root=root_file))
    assert not client.status().sealed


def test_a_dead_agents_socket_is_taken_over(folder, root_file):
    path = folder / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(path, Agent(root=root_file)) as client:
        assert client.status().sealed


def test_a_path_that_cannot_be_a_socket_is_refused(folder, root_file):
    (folder / "file").write_text("mine")
    with pytest.raises(Conflict, match="no socket"):
        AgentServer(folder / "file", Agent(root=root_file))
    with pytest.raises(Invalid, match="too long"):
        AgentServer(folder / ("x" * 120), Agent(root=root_file))


@pytest.mark.parametrize(
    "frame",
    [
        {"op": "steal"},
        {"op": 7},
        {},
        {"op": "wrap", "id": "x", "purpose": "tenant", "owner": "a", "version": 1, "key": ""},
        {"op": "wrap", "purpose": "tenant", "owner": "a", "key": ""},
        {"op": "sign", "signing": "other", "message": ""},
        {"op": "sign", "signing": "audit", "message": "***"},
    ],
)
def test_a_malformed_request_is_refused_by_name(root_file, frame):
    agent = Agent(root=root_file)
    agent.unseal(PASSPHRASE)
    assert agent.answer(frame)["code"] == "invalid"


@pytest.mark.parametrize("raw", [b"\x00\x00\x00\x02{]", b"\x00\x00\x00\x02[]", b"\xff\xff\xff\xff"])
def test_bytes_that_are_no_frame_end_the_conversation_not_the_agent(client, folder, raw):
    with socket.socket(socket.AF_UNIX) as rude:
        rude.settimeout(5)
        rude.connect(str(folder / "agent.sock"))
        rude.sendall(raw)
        assert wire.receive(rude)["code"] == "invalid"
        assert rude.recv(1) == b""
    assert not client.status().sealed


def test_many_threads_share_one_client(client):
    labels = [f"label-{n}" for n in range(24)]
    got: dict[str, bytes] = {}

    def ask(label: str) -> None:
        got[label] = client.derive(label)

    threads = [threading.Thread(target=ask, args=(label,)) for label in labels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert got == {label: client.derive(label) for label in labels}


def test_an_agent_started_anew_is_found_again(folder, root_file):
    path = folder / "agent.sock"
    client = AgentClient(path, timeout=5)
    for _ in range(2):
        with serving(path, Agent(root=root_file)):
            assert client.status().sealed
    client.close()


def test_nobody_there_is_unavailable_and_says_where(folder):
    client = AgentClient(folder / "nobody.sock", timeout=1)
    with pytest.raises(Unavailable, match=r"nobody\.sock does not answer") as caught:
        client.status()
    assert caught.value.reason == AGENT_UNREACHABLE


def test_an_agent_that_never_answers_is_given_up_in_time(folder):
    path = folder / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            AgentClient(path, timeout=0.2).status()
    assert caught.value.reason == AGENT_UNREACHABLE
    assert time.monotonic() - began < 5


@contextmanager
def process(folder, *more):
    """The agent as it is started for real; about half a second, for imports and argon2id."""
    command = [sys.executable, "-m", "controlplane.keys.agent"]
    paths = ["--socket", str(folder / "a.sock"), "--root", str(folder / "r.json")]
    with subprocess.Popen([*command, *paths, *more], stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
                running.wait(timeout=10)


def until_answered(client, running):
    deadline = time.monotonic() + 30
    while True:
        try:
            return client.status()
        except Unavailable:
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_the_process_opens_the_root_key_serves_and_stops_cleanly(folder):
    (folder / "pass").write_text(PASSPHRASE + "\n")
    client = AgentClient(folder / "a.sock", timeout=5)
    opened = []
    for _ in range(2):
        with process(folder, "--passphrase-file", str(folder / "pass"), "--create") as running:
            opened.append(until_answered(client, running).root)
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=10) == 0
            assert PASSPHRASE not in running.stderr.read()
        assert not (folder / "a.sock").exists()
    client.close()
    assert opened[0] is not None
    assert opened[0] == opened[1]


def test_the_process_without_a_passphrase_waits_sealed(folder):
    sealed_file.create(folder / "r.json", PASSPHRASE, cost=CHEAP)
    client = AgentClient(folder / "a.sock", timeout=5)
    with process(folder) as running:
        assert until_answered(client, running).sealed
        assert not client.unseal(PASSPHRASE).sealed
    client.close()


@pytest.mark.parametrize("passphrase", ["missing", "folder", "wrong"])
def test_what_hinders_the_start_is_told_in_one_line(folder, root_file, passphrase, caplog):
    (folder / "folder").mkdir()
    (folder / "wrong").write_text("wrong horse battery")
    given = ["--socket", str(folder / "a.sock"), "--root", str(root_file)]
    assert main([*given, "--passphrase-file", str(folder / passphrase)]) == 2
    [told] = [r.getMessage() for r in caplog.records if r.name == "fedctl.key-agent"]
    assert str(folder) in told
    assert "wrong horse" not in told
    assert not (folder / "a.sock").exists()


def test_the_process_with_a_wrong_passphrase_ends_with_the_reason(folder):
    sealed_file.create(folder / "r.json", PASSPHRASE, cost=CHEAP)
    (folder / "pass").write_text("wrong horse battery")
    with process(folder, "--passphrase-file", str(folder / "pass")) as running:
        assert running.wait(timeout=30) == 2
        told = running.stderr.read()
    assert "does not open the root key" in told
    assert "wrong horse" not in told
    assert "Traceback" not in told
