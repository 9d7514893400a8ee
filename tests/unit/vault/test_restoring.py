"""A point becomes a file: every byte, with holes, or an error that names what is damaged."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.domain.disk import MIB
from controlplane.domain.errors import Integrity, Invalid
from controlplane.vault.nouns import CopyProgress, CopyStopped
from controlplane.vault.restoring import restore
from controlplane.vault.vault import Vault
from tests.unit.vault.support import CHUNK, World, some_disk


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    handle = os.open(tmp_path / "restored", os.O_RDWR | os.O_CREAT, 0o600)
    yield handle
    os.close(handle)


def content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size + 1, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"one short chunk",
        bytes(5 * CHUNK + 3),
        some_disk(1, "TRZZTTRZRZTZ") + b"an odd end" * 50,
        some_disk(2, "Z" * 40 + "R"),
        some_disk(3, "TR" * 70),
    ],
    ids=["empty", "short", "zeros", "mixed", "end", "many"],
)
def test_what_went_in_comes_out(world: World, vault: Vault, file: int, data: bytes):
    point, _ = world.take(vault, data)
    seen: list[CopyProgress] = []
    restore(vault.open(point, 0), file, progress=seen.append)
    assert content(file) == data
    assert (seen[-1].done, seen[-1].total) == (len(data), len(data))


def test_zeros_stay_holes(world: World, vault: Vault, file: int):
    data = some_disk(4, "R" + "Z" * 300 + "R")
    point, _ = world.take(vault, data)
    restore(vault.open(point, 0), file)
    assert os.fstat(file).st_blocks * 512 < MIB
    assert os.lseek(file, CHUNK, os.SEEK_DATA) >= 300 * CHUNK


def test_a_file_that_holds_something_is_refused(world: World, vault: Vault, file: int):
    point, _ = world.take(vault, some_disk(5, "TZ"))
    os.write(file, b"x")
    with pytest.raises(Invalid, match="empty"):
        restore(vault.open(point, 0), file)
    assert content(file) == b"x"


def test_damage_is_named_and_ends_it(world: World, vault: Vault, file: int):
    """A bit of a chunk in the middle; what was written of others is right."""
    data = some_disk(6, "R" * 100)
    point, _ = world.take(vault, data)
    [pack] = world.files("packs")
    stored = bytearray(pack.read_bytes())
    at = 50 * CHUNK
    stored[at] ^= 1
    pack.write_bytes(stored)
    with pytest.raises(Integrity, match=r"instance .* disk 0, offset \d+: stored data is damaged"):
        restore(world.vault().open(point, 0), file)
    for n in range(100):
        there = os.pread(file, CHUNK, n * CHUNK)
        assert there in {data[n * CHUNK : (n + 1) * CHUNK], bytes(CHUNK)}


def test_it_stops_when_told(world: World, vault: Vault, file: int, monkeypatch: pytest.MonkeyPatch):
    """Asked at once and ever again; one batch at a time, so that there is something left."""
    monkeypatch.setattr("controlplane.vault.restoring._POLL", 0.0)
    data = random.Random(7).randbytes(600 * CHUNK)
    point, _ = world.take(vault, data)
    with pytest.raises(CopyStopped):
        restore(vault.open(point, 0), file, cancelled=lambda: True)
    assert os.fstat(file).st_size == len(data)
    assert content(file) != data
