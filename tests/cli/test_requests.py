"""--show-request: each request as a line that a shell can run again, with nothing secret in it."""

import json
import shlex
from pathlib import Path

import httpx
from typer.main import get_command

from api.cli.curl import curl
from api.cli.main import app
from tests.api.world import FEDERATION, IDENTITY, PASSWORD, World
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands
from tests.cli.test_help import commands


def shown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if "curl " in line]
    return [shlex.split(line) for line in lines]


def again(words: list[str], token: str) -> httpx.Response:
    """What curl would do with these words."""
    assert words[:2] == ["curl", "-X"]
    method, url, *rest = words[2:]
    given = dict(zip(rest[1::2], rest[::2], strict=True))
    headers = [each.split(": ", 1) for each, option in given.items() if option == "-H"]
    sent = {name: value.replace("$FEDCTL_TOKEN", token) for name, value in headers}
    [body] = [each for each, option in given.items() if option == "-d"] or [""]
    return httpx.request(method, url, headers=sent, content=body)


def test_requests_are_shown_before_and_behind_the_command(fedctl: Fedctl):
    before = fedctl.ok("--show-request", "site", "list", "-o", "json")
    behind = fedctl.ok("site", "list", "-o", "json", "--show-request")
    assert before.err == behind.err
    assert "curl -X GET" in before.err
    assert '-H "Authorization: Bearer $FEDCTL_TOKEN"' in before.err
    assert "fedctl_" not in before.err
    assert "curl" not in fedctl.ok("site", "list").err


def test_every_command_but_dev_shows_its_requests():
    for path, command in commands(get_command(app)):
        if not getattr(command, "commands", {}) and path != ("dev",):
            assert any("--show-request" in each.opts for each in command.params), path


def test_a_shown_request_runs_again_with_its_body(w: World, fedctl: Fedctl):
    name = w.fresh("shop")
    said = fedctl.ok("workspace", "create", name, "--show-request")
    [words] = shown(said.err)
    answer = again(words, w.token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["name"] == name


def test_passwords_and_credentials_are_not_shown(
    w: World, fedctl: Fedctl, hands: Hands, tmp_path: Path
):
    fresh = {"FEDCTL_CONFIG": str(tmp_path / "c.json"), "input": f"{PASSWORD}\n"}
    words = ("login", w.url, "--user", "ada", "--password-stdin", "--show-request")
    login, me = shown(fedctl.ok(*words, **fresh).err)
    assert login[3] == f"{w.url}{IDENTITY}/login"
    assert json.loads(login[login.index("-d") + 1])["password"] == "***"
    assert "Authorization: Bearer $FEDCTL_TOKEN" not in login
    assert "Authorization: Bearer $FEDCTL_TOKEN" in me
    (tmp_path / "secrets.json").write_text('{"username": "u", "password": "hunter2"}')
    site = w.fresh("pve")
    said = fedctl.ok(
        "site", "add", site, "--provider", "proxmox", "--endpoint", "https://x.example",
        "--credentials", str(tmp_path / "secrets.json"), "--show-request",
    )  # fmt: skip
    assert f"PUT {w.url}{FEDERATION}/sites/{site}/credentials" in said.err
    assert "hunter2" not in said.err
    assert PASSWORD not in said.err


def test_a_part_of_a_file_is_piped_in_and_a_stream_is_shown(
    w: World, fedctl: Fedctl, hands: Hands, tmp_path: Path
):
    file = tmp_path / "a disk.raw"
    file.write_bytes(b"x" * 1000)
    said = fedctl.ok("image", "upload", str(file), "--name", w.fresh("d"), "--show-request").err
    assert f"tail -c +1 '{file}' | head -c 1000 | curl -X PUT" in said
    assert "-H 'Content-Range: bytes 0-999/1000'" in said
    assert "--data-binary @-" in said
    assert (
        f"curl -X GET {w.url}{FEDERATION}/audit-log"
        in fedctl.ok("audit", "export", "--show-request").err
    )


def test_what_a_shell_would_read_is_quoted():
    line = curl(
        "PUT", "http://x/a", json={"a": "it's $HOME", "userData": "key"}, params={"q": "a b"}
    )
    words = shlex.split(line)
    assert words[3] == "http://x/a?q=a+b"
    assert json.loads(words[words.index("-d") + 1]) == {"a": "it's $HOME", "userData": "***"}
