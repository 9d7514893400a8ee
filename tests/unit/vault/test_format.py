"""What docs/vault-format.md says is enough to read a store: by a reader that knows nothing else.

`REWRITE_VECTORS=1` makes `vectors/` anew; a change of it is a change of the format.
"""

import json
import os
import random
import shutil
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from zstandard import ZstdError

from controlplane.domain.disk import MIB, ExtentKind
from controlplane.domain.ids import GroupId, InstanceId, PointId
from controlplane.domain.vault import Moment
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import Purpose, SigningPurpose
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services.vaulting import KeptKeys, StoreSigner, domain_keys
from controlplane.vault import digest, manifest, pack, sealing
from controlplane.vault.nouns import Member
from tests.unit.vault import independent
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    TENANT,
    Bytes,
    World,
    commit,
    copy,
    some_disk,
)

VECTORS = Path(__file__).parent / "vectors"
PAGE = Path(__file__).parents[3] / "docs" / "vault-format.md"
ROOT_ID, ROOT = UUID(int=11), bytes(range(1, 33))
SIZE = 33 * MIB + 700  # two levels of pages, and a last chunk that is no whole block
POINTS = (PointId(UUID(int=1)), PointId(UUID(int=2)))
NOT_AS_WRITTEN = (
    independent.Broken, InvalidTag, InvalidSignature, ZstdError, ValueError, KeyError, IndexError,
    FileNotFoundError,
)  # fmt: skip
LATER = (7 * CHUNK, b"written later" * 999)
GROUPS, GROUP = VECTORS.parent / "vectors_group", GroupId(UUID(int=5))
MEMBERS = {PointId(UUID(int=n)): InstanceId(UUID(int=n)) for n in (8, 9)}


def contents() -> tuple[bytes, bytes]:
    """A disk at its first point and at its second."""
    disk = bytearray(SIZE)
    disk[: 5 * CHUNK] = some_disk(1, "RTZTR")
    disk[32 * MIB : 32 * MIB + CHUNK] = some_disk(2, "T")
    disk[-700:] = random.Random(3).randbytes(700)
    first = bytes(disk)
    at, data = LATER
    disk[at : at + len(data)] = data
    return first, bytes(disk)


def stored(folder: Path) -> tuple[bytes, bytes]:
    """A store of two points under two data keys; what they hold."""
    world = World(folder)
    agent = LocalAgent(RootKey(root=ROOT_ID, material=ROOT))
    rows = KeptKeys(MemoryKeys(), world.objects)
    keyring = Keyring(agent=agent, rows=rows)
    first, second = contents()
    changed = [
        (LATER[0], ExtentKind.UNCHANGED),
        (CHUNK, ExtentKind.DATA),
        (SIZE - LATER[0] - CHUNK, ExtentKind.UNCHANGED),
    ]
    for point, reader, base in (
        (POINTS[0], Bytes(first), None),
        (POINTS[1], Bytes(second, changed), POINTS[0]),
    ):
        vault = world.vault(
            keys=domain_keys(keyring, rows), signer=StoreSigner(agent, SigningPurpose.VAULT_HEAD)
        )
        copy(vault, reader, point=point, base=base)
        commit(vault, point)
        keyring.rotate(Purpose.VAULT_DATA, DOMAIN)
    world.close()
    return first, second


def reader(folder: Path) -> independent.Store:
    return independent.Store(folder, ROOT_ID, ROOT)


def test_another_reader_restores_every_point(tmp_path: Path) -> None:
    for point, content in zip(POINTS, stored(tmp_path), strict=True):
        assert reader(tmp_path).disk(point, 0) == content


def test_the_vectors_are_read_as_on_the_day_they_were_made() -> None:
    if os.environ.get("REWRITE_VECTORS"):
        shutil.rmtree(VECTORS, ignore_errors=True)
        held = stored(VECTORS / "store")
        shutil.rmtree(VECTORS / "store" / ".coming")
        told = {
            str(point): sha256(disk).hexdigest() for point, disk in zip(POINTS, held, strict=True)
        }
        known = {"root id": str(ROOT_ID), "root key": ROOT.hex(), "sha256 of disk 0": told}
        (VECTORS / "vectors.json").write_text(json.dumps(known, indent=2) + "\n")
    known = json.loads((VECTORS / "vectors.json").read_text())
    store = independent.Store(
        VECTORS / "store", UUID(known["root id"]), bytes.fromhex(known["root key"])
    )
    assert known["sha256 of disk 0"]
    for point, told in known["sha256 of disk 0"].items():
        assert sha256(store.disk(UUID(point), 0)).hexdigest() == told


def stored_group(folder: Path) -> dict[PointId, bytes]:
    """A store of two instances whose points are one group, the first of which had one before."""
    world = World(folder)
    agent = LocalAgent(RootKey(root=ROOT_ID, material=ROOT))
    rows = KeptKeys(MemoryKeys(), world.objects)
    keyring = Keyring(agent=agent, rows=rows)
    vault = world.vault(
        keys=domain_keys(keyring, rows), signer=StoreSigner(agent, SigningPurpose.VAULT_HEAD)
    )
    alone = PointId(UUID(int=7))
    copy(vault, some_disk(7, "T"), point=alone)
    commit(vault, alone, instance=min(MEMBERS.values()))
    held = {point: some_disk(seed, "TZT") for seed, point in enumerate(MEMBERS)}
    at = datetime(2026, 11, 30, 9, 15, 2, tzinfo=UTC)
    members = [
        Member(
            point=point, disks=(0,), domain=DOMAIN, instance=MEMBERS[point], attempt=1,
            taken=Moment(asked=at, answered=at + timedelta(milliseconds=1500)),
        )
        for point in held
    ]  # fmt: skip
    for point, disk in held.items():
        copy(vault, disk, point=point)
    vault.commit_group(GROUP, tenant=TENANT, members=members)
    world.close()
    return held


def test_another_reader_sees_from_the_store_alone_whether_a_group_is_whole(tmp_path: Path) -> None:
    held = stored_group(tmp_path)
    assert reader(tmp_path).group(GROUP) == sorted(held)
    for point, disk in held.items():
        assert reader(tmp_path).disk(point, 0) == disk
    for path in (tmp_path / "heads").rglob("*/*/*"):
        if b'"group"' in path.read_bytes():
            sound = path.read_bytes()
            path.unlink()
            with pytest.raises(independent.Broken, match="not whole"):
                reader(tmp_path).group(GROUP)
            path.write_bytes(sound.replace(b'"members":2', b'"members":1'))
            with pytest.raises(NOT_AS_WRITTEN):
                reader(tmp_path).group(GROUP)
            path.write_bytes(sound)


def test_the_group_of_the_vectors_is_read_as_on_the_day_it_was_made() -> None:
    if os.environ.get("REWRITE_VECTORS"):
        shutil.rmtree(GROUPS, ignore_errors=True)
        held = stored_group(GROUPS / "store")
        shutil.rmtree(GROUPS / "store" / ".coming")
        told = {str(point): sha256(disk).hexdigest() for point, disk in held.items()}
        known = {
            "root id": str(ROOT_ID), "root key": ROOT.hex(), "group": str(GROUP),
            "sha256 of disk 0": told,
        }  # fmt: skip
        (GROUPS / "vectors.json").write_text(json.dumps(known, indent=2) + "\n")
    known = json.loads((GROUPS / "vectors.json").read_text())
    store = independent.Store(
        GROUPS / "store", UUID(known["root id"]), bytes.fromhex(known["root key"])
    )
    assert [str(point) for point in store.group(UUID(known["group"]))] == [
        *known["sha256 of disk 0"]
    ]
    for point, told in known["sha256 of disk 0"].items():
        assert sha256(store.disk(UUID(point), 0)).hexdigest() == told


def test_no_flipped_bit_of_what_a_disk_needs_goes_unseen(tmp_path: Path) -> None:
    """The reader tells, so what is written down of bindings is what is bound.

    Takes some seconds: two disks are read whole for each bit.
    """
    stored(tmp_path)
    chance = random.Random(4)
    needed = [
        path
        for folder in ("heads", "points", "packs")
        for path in sorted((tmp_path / folder).rglob("*"))
        if path.is_file()
    ]
    assert len(needed) > 6
    for path in needed:
        sound = path.read_bytes()
        for _ in range(2):
            at = chance.randrange(len(sound))
            bit = sound[at] ^ 1 << chance.randrange(8)
            path.write_bytes(sound[:at] + bytes([bit]) + sound[at + 1 :])
            with pytest.raises(NOT_AS_WRITTEN):
                both(tmp_path)
        path.write_bytes(sound)
    both(tmp_path)


def both(folder: Path) -> list[bytes]:
    return [reader(folder).disk(point, 0) for point in POINTS]


def test_the_page_names_what_the_code_is_bound_to() -> None:
    page = PAGE.read_text()
    for what in (digest._LEAF, digest._NODE, digest._ROOT, sealing._SUBKEY):
        assert what in page.replace("\n", " "), what
    for magic in (pack._MAGIC, pack._END, sealing._OBJECT, manifest._MAGIC):
        assert magic.decode().replace("\n", "\\n") in page, magic
