"""The audit log: read by its tenant, exported whole, verified by anybody."""

import json

import pytest

from controlplane.audit.checkpoint import parse_verifier_key
from controlplane.audit.export import verify
from controlplane.domain.errors import Integrity
from tests.api.world import FEDERATION, World


def exported(w: World) -> tuple[list[str], bytes]:
    lines = w.http.get(f"{FEDERATION}/audit-log").text.splitlines()
    _, key = parse_verifier_key(w.http.get(f"{FEDERATION}/audit-key").text)
    return lines, key


def test_an_export_verifies_with_nothing_but_the_key(w: World):
    w.workspace()
    lines, key = exported(w)
    first = verify(lines, key)
    w.workspace()
    lines, key = exported(w)
    second = verify(lines, key, held=[json.loads(line)["checkpoint"] for line in lines[-1:]])
    assert second.entries > first.entries
    assert second.checkpoints >= 2


def test_one_altered_word_is_found(w: World):
    w.workspace()
    lines, key = exported(w)
    changed = [line.replace('"ada"', '"eve"') for line in lines]
    with pytest.raises(Integrity):
        verify(changed, key)


def test_exporting_twice_without_a_change_gives_the_same_bytes(w: World):
    w.workspace()
    assert exported(w) == exported(w)


def test_entries_are_read_one_by_one_and_in_pages(w: World):
    w.workspace()
    path = w.in_tenant(FEDERATION, "audit-entries")
    first = w.http.get(path, params={"limit": "1"}).json()
    token = first["metadata"]["skipToken"]
    second = w.http.get(path, params={"limit": "1", "skipToken": token}).json()
    numbers = [p["items"][0]["spec"]["sequence"] for p in (first, second)]
    assert numbers[0] < numbers[1]
    one = w.http.get(f"{path}/{numbers[1]}").json()
    assert one["spec"] == second["items"][0]["spec"]
    assert one["metadata"]["kind"] == "audit-entry"
    assert w.http.get(f"{path}/999999").status_code == 404
    assert w.http.get(f"{path}/first").status_code == 412


def test_signed_heads_are_listed_by_the_size_they_cover(w: World):
    exported(w)
    w.workspace()
    exported(w)
    path = f"{FEDERATION}/audit-checkpoints"
    items = w.http.get(path).json()["items"]
    sizes = [item["spec"]["size"] for item in items]
    assert sizes == sorted(set(sizes))
    page = w.http.get(path, params={"limit": "1"}).json()
    token = page["metadata"]["skipToken"]
    rest = w.http.get(path, params={"skipToken": token}).json()["items"]
    assert [i["spec"]["size"] for i in page["items"] + rest] == sizes
    one = w.http.get(f"{path}/{sizes[0]}").json()
    assert one["spec"]["note"].startswith("fedctl.test/audit\n")
    assert w.http.get(f"{path}/4242").status_code == 404


def test_a_tenant_reads_its_own_entries_only(w: World):
    other = w.fresh("rival")
    w.user(other)
    entries = w.http.get(w.in_tenant(FEDERATION, "audit-entries")).json()["items"]
    assert all(e["metadata"]["tenant"] == w.tenant for e in entries)
    assert not any(other in e["spec"]["subject"] for e in entries if e["spec"]["actor"] != "ada")
