"""What docs/vault-format.md says is enough to read a store: by a reader that knows nothing else.

`REWRITE_VECTORS=1` makes `vectors/` anew; a change of it is a change of the format.
"""

import json
import os
import random
import shutil
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from zstandard import ZstdError

from controlplane.domain.disk import MIB, ExtentKind
from controlplane.domain.ids import PointId
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import Purpose, SigningPurpose
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services.vaulting import KeptKeys, StoreSigner, domain_keys
from controlplane.vault import digest, manifest, pack, sealing
from tests.unit.vault import independent
from tests.unit.vault.support import CHUNK, DOMAIN, Bytes, World, commit, copy, some_disk

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
