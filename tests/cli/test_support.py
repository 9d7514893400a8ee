"""fedctl support bundle: what helps is in it, and nothing that was planted as a secret."""

import base64
import json
import re
import tarfile
from pathlib import Path

import pytest

from api.cli.masking import scrubbed
from controlplane.domain.operation import OperationState, Problem
from tests.api.world import World
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands

CREDENTIAL, USER_DATA, PASSPHRASE = "c4edential-hunter2", "u5erdata-hunter3", "p4ssphrase-hunter4"
QUOTED = "q6oted-hunter5"
PARTS = {
    "versions.json", "settings.json", "server.json", "sites.json", "operations.json",
    "failures.json", "findings.json", "metrics.txt", "events.jsonl", "audit-checkpoints.json",
    "CONTENTS.txt",
}  # fmt: skip


def unpacked(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        entries = {Path(entry.name).name: archive.extractfile(entry) for entry in archive}
        return {name: opened.read().decode() for name, opened in entries.items() if opened}


@pytest.fixture
def planted(
    w: World, fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands, tmp_path: Path
) -> str:
    """Secrets wherever a person or a provider may leave some; returns a site that has one."""
    (tmp_path / "secrets.json").write_text(json.dumps({"token_secret": CREDENTIAL}))
    (tmp_path / "cloud.yaml").write_text(f"#cloud-config\nchpasswd: {USER_DATA}\n")
    site = w.fresh("leaky")
    fedctl.ok(
        "site", "add", site, "--provider", "proxmox", "--endpoint",
        "https://pve.example", "--option", f"note={CREDENTIAL}",
        "--credentials", str(tmp_path / "secrets.json"),
    )  # fmt: skip
    shop, name = web.split("/")
    image = fedctl.ok("image", "list", "-o", "json").json()[0]["metadata"]["name"]
    fedctl.ok(
        "instance", "create", f"{shop}/{name}-data", "--image", image, "--site", site,
        "--user-data", str(tmp_path / "cloud.yaml"),
    )  # fmt: skip
    fedctl.ok("token", "create", "ci")
    fedctl.ok("audit", "export")  # signs a head
    hands.failure = (
        OperationState.ROLLED_BACK,
        Problem(
            code="conflict",
            message=f"the site refused: Authorization: Bearer {QUOTED}",
            detail=f"token_secret={QUOTED}, passphrase: '{PASSPHRASE}', https://u:{QUOTED}@pve",
            step="acceptance",
        ),
    )
    assert fedctl("move", web, "--to", sites[1], "--yes").code == 21
    return site


def test_a_bundle_tells_what_helps_and_holds_no_secret(
    w: World, fedctl: Fedctl, planted: str, web: str, tmp_path: Path
):
    file = tmp_path / "case.tar.gz"
    env = {"FEDCTL_PASSPHRASE": PASSPHRASE, "FEDCTL_TOKEN": w.token}
    said = fedctl.ok("support", "bundle", "--file", str(file), **env)
    held = unpacked(file)
    assert set(held) == PARTS
    everything = "\n".join([*held.values(), said.out, said.err])
    for secret in (CREDENTIAL, USER_DATA, PASSPHRASE, QUOTED, w.token):
        assert secret not in everything
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in everything
    assert not re.search(r"fedctl_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])", everything)

    [site] = [each for each in json.loads(held["sites.json"]) if each["name"] == planted]
    assert site["health"] == "healthy"
    [failure] = [each for each in json.loads(held["failures.json"]) if web[-4:] in each["name"]]
    assert failure["problem"]["step"] == "acceptance"
    assert "the site refused: Authorization: Bearer ***" in failure["problem"]["message"]
    operations = json.loads(held["operations.json"])
    assert all("order" not in each for each in operations)
    assert planted in {each["subject"] for each in operations}
    assert [step["name"] for step in failure["steps"]] == ["preflight", "copy 0"]
    [move] = [each for each in json.loads(held["findings.json"]) if each["move"] == f"{web}-1"]
    assert move["findings"][0]["id"] == "GST10"
    origins = {each["name"]: each["origin"] for each in json.loads(held["settings.json"])}
    assert origins["token"] == "environment FEDCTL_TOKEN"
    assert json.loads(held["server.json"])["region"]
    assert "fedctl_operations" in held["metrics.txt"]
    changes = [json.loads(line) for line in held["events.jsonl"].splitlines()]
    assert web.split("/")[1] in {each["name"] for each in changes}
    assert json.loads(held["audit-checkpoints.json"])


def test_it_is_its_owners_alone_says_what_it_holds_and_overwrites_nothing(
    fedctl: Fedctl, tmp_path: Path
):
    file = tmp_path / "case.tar.gz"
    said = fedctl.ok("support", "bundle", "--file", str(file), "-o", "json")
    assert file.stat().st_mode & 0o777 == 0o600
    assert {each["name"] for each in said.json()["parts"]} == PARTS - {"CONTENTS.txt"}
    assert "settings.json           each setting and its origin" in said.err
    before = file.read_bytes()
    again = fedctl("support", "bundle", "--file", str(file))
    assert again.code == 5
    assert "is there already" in again.err
    assert file.read_bytes() == before
    assert fedctl("support", "bundle", "--file", str(tmp_path / "no" / "x.tar.gz")).code == 2


def test_what_cannot_be_had_is_named(w: World, fedctl: Fedctl, tmp_path: Path):
    file = tmp_path / "away.tar.gz"
    said = fedctl.ok("support", "bundle", "--file", str(file), FEDCTL_URL="http://127.0.0.1:9")
    held = unpacked(file)
    assert set(held) == {"versions.json", "settings.json", "CONTENTS.txt"}
    assert held["CONTENTS.txt"].count("not there: http://127.0.0.1:9 did not answer") == 8
    assert "not there" in said.err
    _, stranger = w.user()
    token = stranger.headers["Authorization"].removeprefix("Bearer ")
    fedctl.ok("support", "bundle", "--file", str(tmp_path / "s.tar.gz"), FEDCTL_TOKEN=token)
    contents = unpacked(tmp_path / "s.tar.gz")["CONTENTS.txt"]
    assert re.search(r"metrics\.txt +not there: ", contents)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("password=hunter2, code 5", "password=***, code 5"),
        ('{"api_key": "a b", "x": 1}', '{"api_key": ***, "x": 1}'),
        ("Basic dXNlcjpwYXNz done", "Basic *** done"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----!",
         "-----BEGIN RSA PRIVATE KEY-----***!"),
        ("host key changed, the token is unknown", "host key changed, the token is unknown"),
        ("fedctl_operations_total 3", "fedctl_operations_total 3"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked(text: str, clean: str):
    assert scrubbed({"a": [text]}) == {"a": [clean]}
