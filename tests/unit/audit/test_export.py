"""An exported log verifies untouched, and every way to touch it has its name."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit import entries, merkle
from controlplane.audit.checkpoint import (
    Checkpoint,
    open_note,
    parse_verifier_key,
    signed_note,
    verifier_key,
)
from controlplane.audit.export import checkpoint_line, entry_line, verify
from controlplane.audit.merkle import Frontier
from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Integrity, Invalid

ORIGIN = "fedctl.example/audit"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
START = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


def entry(sequence, **more):
    fields = {
        "actor": "maria",
        "tenant": "acme",
        "action": "instance.move",
        "subject": "seca.compute/v1/tenants/acme/workspaces/shop/instances/web-1",
        "outcome": "allowed",
        "operation": "0d6c",
        "request": "r-1",
        "detail": {"to": "par-pve"},
    } | more
    return AuditEntry(sequence=sequence, at=START + timedelta(seconds=sequence), **fields)


def note_of(written, private=PRIVATE, origin=ORIGIN):
    frontier = Frontier()
    for one in written:
        frontier = frontier.append(merkle.leaf_hash(entries.leaf(one)))
    public = private.public_key().public_bytes_raw()
    checkpoint = Checkpoint(origin=origin, size=frontier.size, root=frontier.root())
    return signed_note(checkpoint, public_key=public, sign=private.sign)


def export(count, *, every=4, written=None):
    """Lines of a log with a checkpoint after each `every` entries and at its end."""
    written = [entry(n) for n in range(count)] if written is None else written
    lines = []
    for n, one in enumerate(written):
        lines.append(entry_line(one))
        if (n + 1) % every == 0 or n + 1 == count:
            lines.append(checkpoint_line(note_of(written[: n + 1])))
    return lines


def refused(lines, reason, **more):
    with pytest.raises(Integrity) as caught:
        verify(lines, PUBLIC, **more)
    assert caught.value.reason == reason, str(caught.value)
    return str(caught.value)


def entry_lines(lines):
    return [at for at, line in enumerate(lines) if '"entry"' in line]


def test_an_untouched_log_verifies():
    done = verify(export(10), PUBLIC, origin=ORIGIN)
    assert (done.entries, done.checkpoints, done.origin) == (10, 3, ORIGIN)
    assert done.root == merkle.root([merkle.leaf_hash(entries.leaf(entry(n))) for n in range(10)])


def test_an_empty_log_with_a_signed_head_verifies():
    assert verify([checkpoint_line(note_of([]))], PUBLIC).entries == 0


def test_blank_lines_do_no_harm():
    assert verify(["\n", *export(2), "\n"], PUBLIC).entries == 2


def test_an_altered_entry_is_named():
    lines = export(10)
    for at in entry_lines(lines)[5:7]:
        whole = json.loads(lines[at])
        whole["entry"]["actor"] = "nobody"
        lines[at] = json.dumps(whole)
    assert "altered since they were signed: entry 5, 6" in refused(lines, "altered")


def test_an_entry_altered_with_its_leaf_hash_is_bounded_by_checkpoints():
    written = [entry(n) for n in range(10)]
    lines = export(10, written=written)
    lines[entry_lines(lines)[5]] = entry_line(entry(5, actor="nobody"))
    assert "between entry 4 and entry 7" in refused(lines, "altered")


def test_a_dropped_entry_is_named():
    lines = export(10)
    del lines[entry_lines(lines)[5]]
    assert "entry 5" in refused(lines, "dropped")


def test_several_dropped_entries_are_named():
    lines = export(10, every=10)
    del lines[5:8]
    assert "5 to 7" in refused(lines, "dropped")


def test_an_entry_dropped_just_before_a_checkpoint_is_named():
    lines = export(8)
    del lines[3]
    assert "entries 3 to 3 are missing" in refused(lines, "dropped")


def test_a_dropped_entry_with_renumbered_followers_does_not_pass():
    lines = export(10)
    forged = [*(entry(n) for n in range(5)), *(entry(n, actor="later") for n in range(5, 9))]
    heads = [line for line in lines if "checkpoint" in line]
    changed = [entry_line(one) for one in forged]
    refused([*changed[:4], heads[0], *changed[4:8], heads[1]], "altered")
    refused([*changed[:4], heads[0], *changed[4:], heads[2]], "dropped")


def test_swapped_entries_are_named():
    lines = export(10, every=10)
    lines[5], lines[6] = lines[6], lines[5]
    assert "entry 5 stands in line 7, behind entry 6 of line 6" in refused(lines, "reordered")


def test_a_repeated_entry_is_named():
    lines = export(10, every=10)
    lines.insert(6, lines[5])
    assert "line 7 repeats entry 5" in refused(lines, "reordered")


def test_a_checkpoint_out_of_its_place_is_named():
    lines = export(8)
    lines[4], lines[5] = lines[5], lines[4]
    assert "behind entry 4" in refused(lines, "reordered")


def test_a_log_cut_at_a_checkpoint_passes_only_without_a_later_one_in_hand():
    lines, later = export(10), note_of([entry(n) for n in range(10)])
    cut = lines[:5]
    assert verify(cut, PUBLIC).entries == 4
    assert "entries 4 to 9 were cut off" in refused(cut, "truncated", held=[later])
    assert verify(lines, PUBLIC, held=[later, note_of([entry(0)])]).entries == 10


def test_a_log_written_anew_with_the_same_key_is_found_by_a_checkpoint_in_hand():
    anew = [entry(n, actor="nobody") for n in range(10)]
    held = note_of([entry(n) for n in range(6)])
    refused(export(10, written=anew), "rewritten", held=[held])


def test_entries_behind_the_last_checkpoint_are_not_taken_for_signed():
    lines = export(10)[:-1]
    assert "entries 8 to 9 stand behind" in refused(lines, "unsigned")
    refused([entry_line(entry(0))], "unsigned")
    refused([], "unsigned")


def test_an_altered_entry_behind_the_last_checkpoint_is_still_named():
    lines = export(3)
    whole = json.loads(lines[2])
    whole["entry"]["outcome"] = "denied"
    assert "entry 2" in refused([*lines[:2], json.dumps(whole)], "altered")


def test_a_checkpoint_signed_by_another_key_is_refused():
    stranger = Ed25519PrivateKey.generate()
    written = [entry(0)]
    lines = [entry_line(written[0]), checkpoint_line(note_of(written, stranger))]
    refused(lines, "forged")


def test_a_checkpoint_of_another_log_is_refused():
    written = [entry(0)]
    other = [entry_line(written[0]), checkpoint_line(note_of(written, origin="else.example/audit"))]
    refused(other, "other-log", origin=ORIGIN)
    refused([*export(1), *other[1:]], "other-log")


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"checkpoint": 7}',
        '{"entry": {}, "leaf": ""}',
        '{"entry": [], "leaf": ""}',
        '{"entry": {}, "leaf": "", "more": 1}',
    ],
)
def test_lines_that_are_neither_are_refused(line):
    assert "line 1" in refused([line], "malformed")


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": True},
        {"sequence": "0"},
        {"at": "2026-11-22T09:30:00+00:00"},
        {"at": "yesterday"},
        {"at": 7},
        {"actor": None},
        {"actor": "\ud800"},
        {"detail": {"to": 1}},
        {"detail": None},
        {"more": ""},
    ],
)
def test_an_entry_of_another_shape_is_refused(change):
    whole = json.loads(entry_line(entry(0)))
    whole["entry"] |= change
    refused([json.dumps(whole), checkpoint_line(note_of([entry(0)]))], "malformed")


@given(count=st.integers(1, 12), every=st.integers(1, 5), data=st.data(), flip=st.integers(1, 255))
def test_no_changed_byte_of_an_entry_or_checkpoint_passes_unseen(count, every, data, flip):
    lines = export(count, every=every)
    text = "".join(lines).encode()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = bytearray(text)
    changed[at] ^= flip
    try:
        done = verify(changed.decode("utf-8", "surrogateescape").split("\n"), PUBLIC)
    except Integrity:
        return
    # white space between JSON tokens, or two spellings of one string, mean the same entries
    assert done == verify(lines, PUBLIC)


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
AT = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=2))]))


@given(
    sequence=st.integers(0, 2**53 - 1),
    at=AT,
    text=TEXT,
    detail=st.dictionaries(TEXT, TEXT, max_size=4),
)
def test_an_entry_comes_back_from_its_line(sequence, at, text, detail):
    one = AuditEntry(
        sequence=sequence,
        at=at,
        actor=text,
        tenant="acme",
        action="a",
        subject=text,
        outcome="done",
        detail=detail,
    )
    back = entries.from_json(json.loads(entry_line(one))["entry"])
    assert back == one
    assert entries.leaf(back) == entries.leaf(one)


def test_the_bytes_of_an_entry_never_change():
    assert entries.leaf(entry(0)) == (
        b'{"action":"instance.move","actor":"maria","at":"2026-11-22T09:30:00.000000Z",'
        b'"detail":{"to":"par-pve"},"operation":"0d6c","outcome":"allowed","request":"r-1",'
        b'"sequence":0,"subject":"seca.compute/v1/tenants/acme/workspaces/shop/instances/web-1",'
        b'"tenant":"acme"}'
    )


def test_an_entry_that_cannot_be_written_down_is_refused():
    naive = AuditEntry(
        sequence=0,
        at=START.replace(tzinfo=None),
        actor="",
        tenant="",
        action="",
        subject="",
        outcome="",
    )
    with pytest.raises(Invalid, match="without a zone"):
        entries.leaf(naive)
    for unsayable in (replace(entry(0), sequence=2**60), entry(0, actor="\ud800")):
        with pytest.raises(Invalid, match="what JSON cannot"):
            entries.leaf(unsayable)


def test_a_note_is_what_other_tools_read():
    note = note_of([entry(0)])
    body, signature = note.split("\n\n")
    origin, size, root = body.split("\n")
    assert (origin, size) == (ORIGIN, "1")
    assert len(base64.b64decode(root)) == 32
    dash, name, encoded = signature.removesuffix("\n").split(" ")
    assert (dash, name) == ("\u2014", ORIGIN)
    assert len(base64.b64decode(encoded)) == 4 + 64


def test_the_published_example_of_a_verifier_key_is_read():
    # golang.org/x/mod/sumdb/note, whose format this is
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    name, public_key = parse_verifier_key(text)
    assert verifier_key(name, public_key) == text


def test_a_verifier_key_that_is_none_is_refused():
    good = verifier_key(ORIGIN, PUBLIC)
    assert parse_verifier_key(good + "\n") == (ORIGIN, PUBLIC)
    origin, hint, encoded = good.split("+", 2)
    for bad in (
        "",
        "a+b",
        f"{origin}+00000000+{encoded}",
        f"{origin}+{hint}+***",
        f"{origin}+{hint}+AAAA",
    ):
        with pytest.raises(Invalid):
            parse_verifier_key(bad)
    with pytest.raises(Invalid):
        verifier_key("two words", PUBLIC)


def test_a_witness_signature_beside_ours_does_no_harm():
    note = note_of([entry(0)])
    body, ours = note.split("\n\n")
    witnessed = f"{body}\n\n\u2014 witness.example AAAAAAAA\n\u2014 odd ***\nodd\n{ours}"
    assert open_note(witnessed, public_key=PUBLIC) == open_note(note, public_key=PUBLIC)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n1\n", "\n01\n"),
        ("\n1\n", "\none\n"),
        ("\n1\n", "\n1\nmore\n"),
        ("\n\n", "\n"),
        ("=\n\n", "\n\n"),
        ("fedctl.example/audit\n1", "two words\n1"),
        ("=\n\n", "*\n\n"),
    ],
)
def test_a_note_of_another_shape_is_refused(old, new):
    note = note_of([entry(0)])
    with pytest.raises(Integrity):
        open_note(note.replace(old, new, 1), public_key=PUBLIC)
    with pytest.raises(Integrity):
        open_note(note.removesuffix("\n"), public_key=PUBLIC)
