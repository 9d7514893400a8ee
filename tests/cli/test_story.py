"""From login to a move and back, as a person types it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from controlplane.domain.finding import Finding, Severity
from controlplane.domain.operation import OperationKind, OperationState, Problem
from tests.api.world import PASSWORD, World
from tests.children import child
from tests.cli.conftest import Fedctl, add_site, upload
from tests.cli.hands import Hands


def test_the_whole_story(fedctl: Fedctl, web: str, sites: tuple[str, str], shop: str, hands: Hands):
    listed = fedctl.ok("instance", "list", "-w", shop).out
    assert listed.split()[:2] == ["NAME", "SITE"]
    assert sites[0] in listed
    assert "1 vCPU / 1 GiB" in listed

    plan = fedctl.ok("move", web, "--to", sites[1], "--plan", "--max-downtime", "3m")
    for words in (
        f"Move {web}   {sites[0]}  ->  {sites[1]}   plan 7f3a9c",
        "compute   2 vCPU / 4.0 GiB",
        "disk 0    20.0 GiB as raw on local-zfs; the site fetches it",
        "nic 0     vmbr0 (was shop-net), keeps 10.0.4.12, 52:54:00:12:34:56",
        "estimate  6m 10s in all, 2m 35s downtime, 3.0 GiB sent",
        "warning   GST10  guest agent not seen",
        "return    ",
    ):
        assert words in plan.err, plan.err

    moved = fedctl.ok("move", web, "--to", sites[1], "--yes", "--check", "booted:OK@60s")
    assert f"Moved {web}: now on {sites[1]}, 10.0.4.12" in moved.err
    assert (
        "downtime 2m 31s   sent 3.0 GiB of 12.0 GiB read   proof 1 of 1 disk(s) equal" in moved.err
    )
    assert "stays until 29 Nov" in moved.err
    assert f"return  fedctl move {web} --to {sites[0]}" in moved.err

    shown = fedctl.ok("instance", "show", web, "-o", "json").json()
    assert shown["placement"]["site"] == sites[1]

    name = web.split("/")[1]
    assert sites[1] in fedctl.ok("moves", "list", "-w", shop).out
    assert "succeeded" in fedctl.ok("moves", "show", name).out
    operation = fedctl.ok("operation", "show", f"move-{name}-1")
    assert "OVERHEAD" in operation.out
    assert "copy 0" in operation.out
    fedctl.ok("move", web, "--to", sites[0], "--plan")
    assert sites[0] in fedctl.ok("moves", "show", name).out, "the plan is the newest"
    final = fedctl.ok("moves", "finalize", name, "--yes")
    assert "nothing of it is retained any more" in final.err
    back = fedctl.ok("move", web, "--to", sites[0], "--yes", "-o", "json")
    assert back.json()["spec"]["target"]["site"] == sites[0]
    assert fedctl.ok("sweep").err.endswith("accounted for.\n")
    swept = fedctl.ok("sweep", sites[0], "-o", "json").json()
    assert swept["status"]["result"]["sites"]


def test_a_site_s_limits_are_set_each_by_itself(fedctl: Fedctl, sites: tuple[str, str]):
    limit = ("site", "limit", sites[1])
    said = fedctl.ok(*limit, "--max-moves", "4", "--max-bandwidth", "50MiB/s").err
    assert "50.0 MiB/s at most, 4 moves at once" in said
    assert "4 moves at once" in fedctl.ok("site", "show", sites[1]).out
    assert "4 moves at once" in fedctl.ok(*limit, "--max-bandwidth", "none").err
    assert "no limit" in fedctl.ok(*limit, "--max-moves", "none").err
    night = "sat,sun 22:00-06:00 10MiB/s Europe/Paris"
    said = fedctl.ok(*limit, "--bandwidth-hours", night).err
    assert "10.0 MiB/s sat,sun 22:00-06:00 Europe/Paris" in said
    assert "Mars" in fedctl(*limit, "--bandwidth-hours", "08:00-09:00 1MiB/s Mars/Base").err
    assert "mon-fri" in fedctl(*limit, "--bandwidth-hours", "funday 08:00-09:00 1MiB/s").err
    assert "no limit" in fedctl.ok(*limit, "--bandwidth-hours", "none").err
    said = fedctl.ok(*limit, "--image-clients", "192.0.2.0/24, 198.51.100.7").err
    assert "images for 192.0.2.0/24, 198.51.100.7 only" in said
    assert fedctl(*limit, "--image-clients", "host.example").code == 2
    assert "no limit" in fedctl.ok(*limit, "--image-clients", "none").err
    assert fedctl(*limit).code == 2
    assert "write a number" in fedctl(*limit, "--max-moves", "few").err


def test_a_move_that_waits_for_its_turn_says_so(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands, shop: str
):
    limit = ("site", "limit", sites[1], "--max-moves")
    fedctl.ok(*limit, "0")
    left = fedctl.ok("move", web, "--to", sites[1], "--yes", "--no-wait")
    waits = f"1st of 1 waiting: site {sites[1]} takes no moves"
    assert waits in fedctl.ok("moves", "list", "-w", shop).out
    assert waits in fedctl.ok("moves", "show", web.split("/")[1]).out
    operation = left.out.split()[-1]
    assert waits in fedctl.ok("operation", "show", operation).err
    assert waits in fedctl.ok("operation", "list", "-w", shop).out
    fedctl.ok(*limit, "none")
    assert fedctl.ok("operation", "watch", operation).err.endswith("done.\n")


def test_a_refused_move_says_why_and_changes_nothing(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    hands.blockers.append(
        Finding(
            id="TGT02",
            severity=Severity.BLOCKER,
            subject="web",
            evidence="par has 3.2 GiB of memory free, web needs 8 GiB",
            remedy="choose a smaller sku",
        )
    )
    said = fedctl("move", web, "--to", sites[1], "--yes")
    assert said.code == 20
    assert f"Not moved: {web} may not run on {sites[1]}." in said.err
    assert "blocker   TGT02  par has 3.2 GiB" in said.err
    assert "choose a smaller sku" in said.err
    assert "Nothing was changed." in said.err


def test_a_move_that_rolls_back_says_what_is_safe_and_what_is_next(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    hands.failure = (
        OperationState.ROLLED_BACK,
        Problem(code="conflict", message="no proof of boot", detail="502", step="acceptance"),
    )
    said = fedctl("move", web, "--to", sites[1], "--yes")
    assert said.code == 21
    assert f'Move of {web} failed at "acceptance" and was rolled back.' in said.err
    assert f"{web} is on {sites[0]}, as it was before" in said.err
    assert "why     no proof of boot" in said.err
    assert f"kept    instance on {sites[1]} (6.0 GiB)" in said.err
    assert f"fedctl moves retry {web}" in said.err
    hands.failure = None
    again = fedctl.ok("moves", "retry", web)
    assert f"Moved {web}: now on {sites[1]}" in again.err


def test_a_move_that_needs_a_person_has_a_code_of_its_own(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    hands.failure = (
        OperationState.NEEDS_ATTENTION,
        Problem(code="unavailable", message="the source does not answer"),
    )
    assert fedctl("move", web, "--to", sites[1], "--yes").code == 22
    hands.failure = (OperationState.FAILED, Problem(code="busy", message="held"))


def test_a_move_goes_on_when_nobody_waits_and_can_be_cancelled(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    hands.held.add(OperationKind.MOVE)
    said = fedctl.ok("move", web, "--to", sites[1], "--yes", "--no-wait")
    assert said.out.split() == ["OPERATION", f"{web.replace('/', '/move-')}-1"]
    busy = fedctl("move", web, "--to", sites[1], "--yes")
    assert busy.code == 8
    assert "move-" in busy.err
    cancelled = fedctl.ok("moves", "cancel", web)
    assert "cancelled" in cancelled.err
    watched = fedctl("operation", "watch", said.out.split()[1])
    assert watched.code == 21


def test_ctrl_c_leaves_the_work_running_and_says_how_to_come_back(
    fedctl: Fedctl, web: str, sites: tuple[str, str], hands: Hands
):
    """Starts an interpreter: longer than a second."""
    hands.held.add(OperationKind.MOVE)
    said = ""
    with child(
        [sys.executable, "-m", "api.cli.main", "move", web, "--to", sites[1], "--yes"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "FEDCTL_CONFIG": str(fedctl.config)},
        stderr=subprocess.PIPE,
    ) as moving:
        assert moving.stderr is not None
        for line in moving.stderr:
            said += line
            if line.startswith("  ok  preflight") and "Moving" in said:
                moving.send_signal(signal.SIGINT)
                break
        said += moving.stderr.read()
        moving.wait(timeout=10)
    assert moving.returncode == 130, said
    name = f"{web.replace('/', '/move-')}-1"
    assert f"fedctl operation watch {name}" in said
    assert (
        fedctl.ok("operation", "show", name, "-o", "json").json()["status"].get("outcome") is None
    )
    fedctl.ok("operation", "cancel", name)


def test_where_nobody_can_be_asked_yes_must_be_said(
    fedctl: Fedctl, web: str, sites: tuple[str, str]
):
    said = fedctl("move", web, "--to", sites[1])
    assert said.code == 2
    assert "add --yes" in said.err
    assert fedctl("instance", "delete", web).code == 2


def test_power_and_deletion(fedctl: Fedctl, web: str, shop: str, hands: Hands):
    assert "is off." in fedctl.ok("instance", "stop", web, "--hard").err
    assert "is on." in fedctl.ok("instance", "start", web).err
    assert "is on." in fedctl.ok("instance", "restart", web).err
    again = fedctl("instance", "start", web)
    assert again.code == 5
    assert fedctl("workspace", "delete", shop, "--yes").code == 5
    assert "Deleted" in fedctl.ok("instance", "delete", web, "--yes").err
    assert fedctl("instance", "show", web).code == 4
    assert "Deleted" in fedctl.ok("workspace", "delete", shop, "--yes").err


def test_names_are_completed_and_candidates_listed(
    fedctl: Fedctl, web: str, shop: str, sites: tuple[str, str], image: str
):
    name = web.split("/")[1]
    fedctl.ok("instance", "create", f"{shop}/{name}-b", "--image", image, "--site", sites[0])
    fedctl.ok("instance", "create", f"{shop}/{name}-c", "--image", image, "--site", sites[0])
    assert fedctl.ok("instance", "show", name, "-o", "json").json()["metadata"]["name"] == name
    many = fedctl("instance", "show", f"{name}-")
    assert many.code == 2
    assert f"{shop}/{name}-b" in many.err
    assert f"{shop}/{name}-c" in many.err
    assert fedctl("instance", "show", "no-such").code == 4
    one = fedctl.ok("instance", "show", f"{shop}/{name}-b", "-o", "yaml")
    assert f"name: {name}-b" in one.out


def test_images_and_sites_are_listed_shown_and_removed(
    fedctl: Fedctl, w: World, image_file: Path, tmp_path: Path, hands: Hands
):
    image = upload(fedctl, w, image_file)
    site = add_site(fedctl, w, tmp_path, "proxmox")
    assert "1.5 GiB" in fedctl.ok("image", "list").out
    assert "active" in fedctl.ok("image", "show", image).out
    assert fedctl.ok("image", "delete", image, "--yes").code == 0
    assert fedctl("image", "show", image).code == 4
    assert "healthy" in fedctl.ok("site", "list").out
    assert "shop-net" in fedctl.ok("site", "show", site).out
    assert "healthy" in fedctl.ok("site", "verify", site).out
    assert "Forgot" in fedctl.ok("site", "remove", site, "--yes").err


def test_an_upload_goes_on_where_it_broke_off(
    fedctl: Fedctl, w: World, hands: Hands, image_file: Path
):
    import hashlib

    from tests.api.world import IMAGES

    name = w.fresh("half")
    content = image_file.read_bytes()
    spec = {
        "image": name, "format": "auto", "cpuArchitecture": "amd64", "boot": "BIOS",
        "sizeBytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    at = w.in_tenant(IMAGES, f"image-uploads/{name}")
    w.put(at, spec)
    w.http.put(
        f"{at}/data",
        content=content[:1000],
        headers={"Content-Range": f"bytes 0-999/{len(content)}"},
    )
    said = fedctl.ok("image", "upload", str(image_file), "--name", name)
    assert f"Goes on at byte 1000 of {len(content)}." in said.err


def test_an_upload_that_was_refused_begins_anew_and_a_finished_one_is_known(
    fedctl: Fedctl, w: World, hands: Hands, image_file: Path
):
    name = w.fresh("again")
    for _ in range(2):
        refused = fedctl("image", "upload", str(image_file), "--name", name, "--format", "qcow2")
        assert refused.code == 2
        assert "no qcow2 image" in refused.err
    fine = w.fresh("fine")
    fedctl.ok("image", "upload", str(image_file), "--name", fine, "--no-wait")
    assert fedctl.ok("image", "upload", str(image_file), "--name", fine).out.startswith("name")


def test_what_is_no_file_is_no_image(fedctl: Fedctl, tmp_path: Path):
    assert fedctl("image", "upload", str(tmp_path / "none")).code == 2
    (tmp_path / "empty.raw").touch()
    assert "is empty" in fedctl("image", "upload", str(tmp_path / "empty.raw")).err


def test_the_audit_log_is_exported_and_verified_without_a_server(
    fedctl: Fedctl, shop: str, tmp_path: Path
):
    log, key = tmp_path / "audit.jsonl", tmp_path / "audit.key"
    assert shop in fedctl.ok("audit", "list").out
    fedctl.ok("audit", "export", "--file", str(log))
    assert fedctl.ok("audit", "export").out == log.read_text()
    key.write_text(fedctl.ok("audit", "key").out)
    assert fedctl.ok("audit", "key", "-o", "json").json()["key"] == key.read_text().strip()
    nowhere = {"FEDCTL_URL": "http://127.0.0.1:9"}
    good = fedctl.ok("audit", "verify", str(log), "--key", str(key), "-o", "json", **nowhere)
    assert good.json()["verified"] is True
    log.write_text(log.read_text().replace('"ada"', '"eve"', 1))
    bad = fedctl("audit", "verify", str(log), "--key", key.read_text(), **nowhere)
    assert bad.code == 10
    assert "does not verify" in bad.err
    assert fedctl("audit", "verify", str(log), "--key", "nonsense").code == 2
    assert fedctl("audit", "verify", str(tmp_path / "none"), "--key", str(key)).code == 2


def test_operations_are_listed_and_watched(fedctl: Fedctl, web: str, shop: str):
    name = web.split("/")[1]
    assert f"provision-{name}-1" in fedctl.ok("operation", "list", "-w", shop).out
    assert f"provision-{name}-1" in fedctl.ok("operation", "list").out
    watched = fedctl.ok("operation", "watch", f"provision-{name}-1")
    assert "ok  preflight" in watched.err
    assert fedctl("operation", "show", "none").code == 4
    assert fedctl("operation", "cancel", f"provision-{name}-1").code == 5
    document = fedctl.ok("operation", "show", f"{shop}/provision-{name}-1", "-o", "json").json()
    assert document["status"]["steps"]


def test_contexts_are_kept_private_and_chosen(fedctl: Fedctl, w: World):
    assert fedctl.config.stat().st_mode & 0o777 == 0o600
    assert "fedctl_" in fedctl.config.read_text()
    listed = fedctl.ok("context", "list", "-o", "json")
    assert listed.json()[0]["user"] == "ada"
    assert "fedctl_" not in listed.out
    assert "workspace shop" in fedctl.ok("context", "use", "lab", "--workspace", "shop").err
    fedctl.ok("context", "use", "lab", "--workspace", "")
    assert w.url in fedctl.ok("context", "show").out
    assert fedctl("context", "use", "none").code == 2
    assert fedctl("--context", "none", "site", "list").code == 2


def test_tokens_are_made_and_revoked(fedctl: Fedctl, w: World):
    made = fedctl.ok("token", "create", "ci", "--lasts", "12h", "-o", "json").json()
    other = {"FEDCTL_TOKEN": made["token"], "FEDCTL_URL": w.url}
    assert fedctl.ok("token", "list", **other).code == 0
    fedctl.ok("token", "revoke", made["id"])
    assert fedctl("token", "list", **other).code == 3
    assert fedctl("token", "create", "ci", "--lasts", "soon").code == 2


def test_environment_and_flags_come_before_the_context(fedctl: Fedctl, w: World, tmp_path: Path):
    nowhere = str(tmp_path / "none.json")
    assert fedctl("site", "list", FEDCTL_CONFIG=nowhere, FEDCTL_URL=w.url).code == 3
    flags = ("--url", w.url, "--token", w.token)
    assert fedctl.ok(*flags, "site", "list", FEDCTL_CONFIG=nowhere).code == 0
    unreachable = fedctl("--url", "http://127.0.0.1:9", "site", "list")
    assert unreachable.code == 9
    assert "did not answer" in unreachable.err


def test_logging_in_with_a_wrong_password_or_url(fedctl: Fedctl, w: World, tmp_path: Path):
    fresh = {"FEDCTL_CONFIG": str(tmp_path / "c.json")}
    wrong = fedctl("login", w.url, "--user", "ada", "--password-stdin", input="no\n", **fresh)
    assert wrong.code == 3
    assert not (tmp_path / "c.json").exists()
    assert fedctl("login", "nowhere", "--user", "ada", **fresh).code == 2
    assert fedctl("login", w.url, **fresh).code == 2
    token = fedctl.ok("login", w.url, "--token-stdin", input=w.token + "\n", **fresh)
    assert "as ada" in token.err
    prompted = fedctl.ok("login", w.url, "--user", "ada", input=PASSWORD + "\n", **fresh)
    assert PASSWORD not in prompted.out + prompted.err


def test_a_broken_context_file_is_said_so(fedctl: Fedctl, tmp_path: Path):
    (tmp_path / "bad.json").write_text("{")
    assert fedctl("site", "list", FEDCTL_CONFIG=str(tmp_path / "bad.json")).code == 2


def test_bad_options_are_said_so(fedctl: Fedctl, web: str, sites: tuple[str, str]):
    for words in (
        ("--check", "shaken"),
        ("--deadline", "later"),
        ("--network", "no-arrow"),
    ):
        said = fedctl("move", web, "--to", sites[1], *words, "--plan")
        assert said.code == 2, said.err
    mapped = fedctl.ok("move", web, "--to", sites[1], "--plan", "--network", "a=b", "-o", "json")
    assert mapped.json()["spec"]["networkMap"] == [{"from": "a", "to": "b"}]
    assert json.loads(mapped.out)["spec"]["planOnly"] is True
