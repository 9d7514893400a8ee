"""The root key's file opens with its passphrase, untouched, or not at all."""

import json
import stat

import pytest

from controlplane.domain.errors import Conflict, Denied, Integrity, Invalid, NotFound
from controlplane.keys import sealed_file
from controlplane.keys.sealed_file import Cost

CHEAP = Cost(time=1, memory_kib=64, lanes=1)
PASSPHRASE = "correct horse battery"


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "root.json"
    root = sealed_file.create(path, PASSPHRASE, cost=CHEAP)
    return path, root


def test_it_opens_with_its_passphrase(sealed):
    path, root = sealed
    opened = sealed_file.unlock(path, PASSPHRASE)
    assert (opened.id, opened.secret()) == (root.id, root.secret())


def test_the_default_cost_is_the_one_of_the_rfc(tmp_path):
    # longer than the others on purpose: it runs the real parameters once
    path = tmp_path / "root.json"
    root = sealed_file.create(path, PASSPHRASE)
    kdf = json.loads(path.read_text())["kdf"]
    assert (kdf["name"], kdf["time"], kdf["memory_kib"], kdf["lanes"]) == ("argon2id", 3, 65536, 4)
    assert sealed_file.unlock(path, PASSPHRASE).id == root.id


def test_only_its_owner_may_read_it_and_nothing_else_lies_beside_it(sealed):
    path, _ = sealed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["root.json"]


def test_a_file_open_to_others_is_refused(sealed):
    path, _ = sealed
    path.chmod(0o640)
    with pytest.raises(Denied, match="chmod 600"):
        sealed_file.unlock(path, PASSPHRASE)


def test_a_wrong_passphrase_is_refused_without_telling_it(sealed):
    path, _ = sealed
    with pytest.raises(Denied) as caught:
        sealed_file.unlock(path, "wrong horse battery")
    assert "wrong horse" not in f"{caught.value!r}{caught.value.detail}"
    assert caught.value.__cause__ is None


def _changed(whole, field):
    if field in whole["kdf"]:
        value = whole["kdf"][field]
        whole["kdf"][field] = value * 2 if isinstance(value, int) else value[:-4] + "AAA="
    elif field == "root":
        whole["root"] = "00000000-0000-0000-0000-000000000000"
    else:
        whole[field] = "AAAA" + whole[field][4:]


@pytest.mark.parametrize("field", ["time", "memory_kib", "salt", "root", "nonce", "sealed"])
def test_every_stored_field_is_authenticated(sealed, field):
    path, _ = sealed
    whole = json.loads(path.read_text())
    _changed(whole, field)
    path.write_text(json.dumps(whole))
    with pytest.raises(Denied, match="was changed"):
        sealed_file.unlock(path, PASSPHRASE)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "not json", '{"format": "other", "kdf": {"name": "argon2id"}}']
)
def test_what_is_no_sealed_key_is_named(sealed, text):
    path, _ = sealed
    path.write_text(text)
    with pytest.raises(Integrity, match="no sealed root key"):
        sealed_file.unlock(path, PASSPHRASE)


def test_absurd_parameters_are_refused_before_they_cost_anything(sealed):
    path, _ = sealed
    whole = json.loads(path.read_text())
    whole["kdf"]["memory_kib"] = 2**40
    path.write_text(json.dumps(whole))
    with pytest.raises(Integrity):
        sealed_file.unlock(path, PASSPHRASE)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(NotFound):
        sealed_file.unlock(tmp_path / "nowhere.json", PASSPHRASE)
    with pytest.raises(Denied, match="cannot be read"):
        sealed_file.unlock(tmp_path, PASSPHRASE)


def test_a_root_key_is_never_written_over(sealed):
    path, root = sealed
    with pytest.raises(Conflict, match="never written over"):
        sealed_file.create(path, PASSPHRASE, cost=CHEAP)
    assert sealed_file.unlock(path, PASSPHRASE).id == root.id
    assert [p.name for p in path.parent.iterdir()] == ["root.json"]


def test_a_short_passphrase_is_refused(tmp_path):
    with pytest.raises(Invalid, match="shorter than"):
        sealed_file.create(tmp_path / "root.json", "short", cost=CHEAP)
    assert list(tmp_path.iterdir()) == []


def test_the_passphrase_changes_and_the_key_stays(sealed):
    path, root = sealed
    sealed_file.change_passphrase(path, PASSPHRASE, "another long passphrase", cost=CHEAP)
    opened = sealed_file.unlock(path, "another long passphrase")
    assert (opened.id, opened.secret()) == (root.id, root.secret())
    with pytest.raises(Denied):
        sealed_file.unlock(path, PASSPHRASE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
