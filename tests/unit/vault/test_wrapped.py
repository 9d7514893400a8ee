"""Wrapped keys of the store: put back from the replica where they are ours, and looked after."""

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from controlplane.domain.errors import Integrity, Unavailable
from controlplane.domain.finding import Severity
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import Purpose, SigningPurpose
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services.vaulting import (
    CheckedKeys,
    KeptKeys,
    StoreSigner,
    _object_name,
    domain_keys,
)
from controlplane.vault.local import LocalObjects
from controlplane.vault.vault import Vault
from tests.unit.vault.support import DOMAIN, World, read_all, some_disk
from tests.unit.vault.test_checking import STRUCTURE, check, told


@dataclass
class Ring:
    """A control plane's keys, and its vault with a replica."""

    world: World
    replica: LocalObjects
    agent: LocalAgent
    rows: MemoryKeys

    @property
    def keyring(self) -> Keyring:
        return Keyring(agent=self.agent, rows=self.kept)

    @property
    def kept(self) -> KeptKeys:
        return KeptKeys(self.rows, self.world.objects)

    def vault(self, **other: object) -> Vault:
        keyring = self.keyring
        signer = StoreSigner(self.agent, SigningPurpose.VAULT_HEAD)
        given = {
            "keys": domain_keys(keyring, self.kept),
            "signer": signer,
            "replica": self.replica,
            "wrapped": CheckedKeys(self.kept, keyring),
        }
        return self.world.vault(**{**given, **other})


@pytest.fixture
def ring(world: World, tmp_path: Path) -> Ring:
    ring = Ring(
        world,
        LocalObjects(tmp_path / "replica"),
        LocalAgent(RootKey(root=uuid4(), material=bytes(range(32)))),
        MemoryKeys(),
    )
    vault = ring.vault()
    world.take(vault, some_disk(1, "R"))
    ring.keyring.rotate(Purpose.VAULT_DATA, DOMAIN)
    assert vault.replicate().troubles == ()
    return ring


def key_names(objects: LocalObjects) -> list[str]:
    return sorted(objects.names("keys"))


def document(objects: LocalObjects, name: str) -> dict[str, object]:
    return json.loads(objects.get(name))


def spoil(objects: LocalObjects, name: str, **changes: object) -> None:
    changed = {**document(objects, name), **changes}
    (objects._root / name).write_bytes(json.dumps(changed).encode())


def spoil_bytes(objects: LocalObjects, name: str) -> None:
    """It is a well-formed document still."""
    wrapped = bytearray(b64decode(str(document(objects, name)["wrapped"])))
    wrapped[-1] ^= 1
    spoil(objects, name, wrapped=b64encode(wrapped).decode())


@pytest.mark.parametrize("rows", ["on record", "on no record"])
def test_keys_that_only_the_replica_has_are_put_back(ring, rows):
    """Also what a restored database does not know: they open with the root key's chain."""
    before = {name: ring.replica.get(name) for name in key_names(ring.replica)}
    assert len(before) == 4  # tenant, id, two data keys
    for file in ring.world.files("keys"):
        file.unlink()
    if rows == "on no record":
        ring.rows = MemoryKeys()
        mended = ring.vault().put_back_keys()
        assert ring.kept.recall() == 4
    else:
        done = ring.vault().replicate()
        assert done.troubles == ()
        mended = done.mended
    assert sorted(mended) == sorted(before)
    assert mended[0].startswith("keys/tenant/")
    assert {n: ring.world.objects.get(n) for n in key_names(ring.world.objects)} == before
    assert ring.vault().replicate().mended == ()
    [record] = ring.world.records.points()
    assert read_all(ring.vault(), record.point) == some_disk(1, "R")


@pytest.mark.parametrize("rows", ["on record", "on no record"])
@pytest.mark.parametrize("how", ["changed", "moved", "no key"])
def test_a_key_that_cannot_be_verified_is_not_put_back_and_the_check_says_so(ring, rows, how):
    name = next(n for n in key_names(ring.replica) if n.startswith("keys/vault-data/"))
    other = next(n for n in key_names(ring.replica) if n.startswith("keys/vault-id/"))
    (ring.world.root / name).unlink()
    if how == "changed":
        spoil_bytes(ring.replica, name)
    elif how == "moved":
        (ring.replica._root / name).write_bytes(ring.replica.get(other))
    else:
        (ring.replica._root / name).write_bytes(b'{"id": 1}')
    if rows == "on no record":
        rest = [row for row in ring.rows.every() if _object_name(row.name) != name]
        ring.rows = MemoryKeys()
        for row in rest:
            ring.rows.put_if_absent(row)
    done = ring.vault().replicate(again=0)
    assert done.mended == ()
    [trouble] = done.troubles
    assert name in trouble
    assert name not in key_names(ring.world.objects)
    checked = check(ring.vault(), STRUCTURE)
    text = told(checked, "VLT12")
    assert text.startswith(
        f"{name}: it is missing from the store; the replica's cannot be verified"
    )
    assert checked.damaged == (rows == "on no record")  # a lost key is VLT06, too


def test_a_check_tells_of_a_missing_key_who_has_it(ring):
    name = next(n for n in key_names(ring.replica) if n.startswith("keys/vault-id/"))
    assert check(ring.vault(), STRUCTURE).findings == ()
    (ring.world.root / name).unlink()

    class Away(LocalObjects):
        def names(self, folder):
            raise Unavailable("away")

        get = size = names

    for replica, text in (
        (ring.replica, "the worker's next round puts it back"),
        (Away(ring.replica._root), "the replica does not answer: away"),
        (None, "there is no replica"),
    ):
        checked = check(ring.vault(replica=replica), STRUCTURE)
        assert text in told(checked, "VLT12")
        assert [finding.severity for finding in checked.findings] == [Severity.WARNING]
    (ring.replica._root / name).unlink()
    assert "does not have it either" in told(check(ring.vault(), STRUCTURE), "VLT12")


def test_a_damaged_key_of_the_first_store_is_told_and_does_not_reach_the_copy(ring):
    ring.keyring.rotate(Purpose.VAULT_DATA, DOMAIN)
    name = key_names(ring.world.objects)[-2]
    assert name not in key_names(ring.replica)
    spoil_bytes(ring.world.objects, name)
    done = ring.vault().replicate()
    assert [name in trouble for trouble in done.troubles] == [True]
    assert name not in key_names(ring.replica)
    assert "not the wrapped key that is on record" in told(check(ring.vault(), STRUCTURE), "VLT12")


def test_a_key_that_the_copy_damaged_is_found_by_looking_again_and_renewed(ring):
    for name in key_names(ring.replica):
        whole = ring.replica.get(name)
        spoil_bytes(ring.replica, name)
        assert ring.vault().replicate().renewed == (name,)
        assert ring.replica.get(name) == whole


@pytest.mark.parametrize("field", ["id", "purpose", "owner", "version", "wrapped", "created_at"])
def test_whatever_a_document_says_it_is_no_key_or_the_one_it_was(ring, field):
    documents = CheckedKeys(ring.kept, ring.keyring)
    for name in key_names(ring.world.objects):
        documents.check(name, ring.world.objects.get(name))
        for value in (None, 5, "x", [], {}):
            spoilt = json.dumps({**document(ring.world.objects, name), field: value}).encode()
            with pytest.raises(Integrity, match=name):
                documents.check(name, spoilt)


def lose_tenant_key(ring: Ring) -> None:
    rows = ring.rows.every()
    ring.rows = MemoryKeys()
    for row in rows:
        if row.name.purpose is not Purpose.TENANT:
            ring.rows.put_if_absent(row)


def open_another_root(ring: Ring) -> None:
    ring.agent = LocalAgent(RootKey(root=uuid4(), material=bytes(32)))


@pytest.mark.parametrize("harm", [lose_tenant_key, open_another_root])
def test_keys_that_do_not_open_put_no_damage_on_record(ring, harm):
    """As with a wrong root key: what is stored is whole, and nothing must be stored again."""
    [record] = ring.world.records.points()
    kept = ring.rows, ring.agent
    vault = ring.vault(replica=None)  # its signer has the right root still
    reader = vault.open(record.point, 0)
    harm(ring)
    vault._packs._keys = domain_keys(ring.keyring, ring.kept)
    with pytest.raises(Integrity):
        reader.read(0, 10)
    signer = StoreSigner(kept[1], SigningPurpose.VAULT_HEAD)
    checked = check(ring.vault(signer=signer, wrapped=None, replica=None))
    assert {finding.id for finding in checked.findings} <= {"VLT01", "VLT06", "VLT09"}
    assert "keys of acme/shop do not open" in told(checked, "VLT06")
    assert ring.world.records.damaged(DOMAIN) == frozenset()
    ring.rows, ring.agent = kept
    assert check(ring.vault()).findings == ()
    assert read_all(ring.vault(), record.point) == some_disk(1, "R")


def test_a_former_key_that_does_not_open_costs_what_was_sealed_with_it_alone(ring):
    newer, _ = ring.world.take(ring.vault(), some_disk(2, "R"))
    [older] = [r.point for r in ring.world.records.points() if r.point != newer]
    rows = ring.rows.every()
    ring.rows = MemoryKeys()
    for row in rows:
        former = row.name.purpose is Purpose.VAULT_DATA and row.name.version == 1
        ring.rows.put_if_absent(replace(row, wrapped=row.wrapped[:-1]) if former else row)
    assert read_all(ring.vault(), newer) == some_disk(2, "R")
    with pytest.raises(Integrity, match="which the keyring does not have"):
        read_all(ring.vault(), older)
    assert ring.world.records.damaged(DOMAIN) == frozenset()
