"""Stored frames leave the vault as they lie there: proven by their seal, or not at all."""

import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from controlplane.domain.disk import FrameReader
from controlplane.domain.errors import Integrity
from controlplane.vault.vault import Vault
from drivers.disks.qcow2_zstd import Qcow2ZstdImage
from tests.unit.vault.support import CHUNK, World, read_all, some_disk

WORD = "TTZRTTRRZZTTTRT"
DATA = some_disk(3, WORD) + b"the end is shorter than a chunk" * 90


def frame_of(stored: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(stored)


def test_what_is_stored_comes_with_its_lengths(world: World, vault: Vault):
    point, _ = world.take(vault, DATA)
    with_frames = vault.open(point, 0)
    assert isinstance(with_frames, FrameReader)
    lengths = with_frames.frames(0, len(WORD) + 1)
    assert [None if n is None else bool(n) for n in lengths] == [
        *({"T": True, "R": False, "Z": None}[letter] for letter in WORD),
        False,
    ]
    numbers = [n for n, length in enumerate(lengths) if length is not None]
    order = random.Random(1).sample(numbers, len(numbers))
    for n, body in zip(order, with_frames.read_stored(order), strict=True):
        plain = DATA[n * CHUNK : (n + 1) * CHUNK]
        if lengths[n]:
            assert len(body) == lengths[n]
            assert zstandard.frame_content_size(body) == CHUNK
            assert frame_of(body) == plain
        else:
            assert body == plain


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_a_point_is_a_qcow2_file_of_its_frames(world: World, vault: Vault, tmp_path: Path):
    """With chunks of a base, of another pack, and of a pack that holds both more than once."""
    base, _ = world.take(vault, DATA)
    data = bytearray(DATA)
    data[5 * CHUNK : 7 * CHUNK] = some_disk(8, "TR")
    data[8 * CHUNK : 9 * CHUNK] = DATA[:CHUNK]
    point, _ = world.take(vault, bytes(data), base=base)
    image = Qcow2ZstdImage(vault.open(point, 0))
    raw, file = tmp_path / "raw", tmp_path / "file"
    raw.write_bytes(bytes(data).ljust(image.disk_size, b"\0"))
    file.write_bytes(image.read(0, image.size))
    for words in (["check", file], ["compare", "-f", "raw", "-F", "qcow2", raw, file]):
        subprocess.run(["qemu-img", *words], check=True, capture_output=True)


def test_a_flipped_bit_is_named_and_nothing_of_it_is_given(world: World, vault: Vault):
    """Wherever it is in the pack: header, blobs or table."""
    point, _ = world.take(vault, DATA)
    whole = Qcow2ZstdImage(vault.open(point, 0))
    sound = whole.read(0, whole.size)
    [pack] = world.files("packs")
    content = pack.read_bytes()
    for at in random.Random(2).sample(range(len(content)), 25):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << at % 8
        pack.write_bytes(spoilt)
        other = world.vault()
        image = _tried(lambda other=other: Qcow2ZstdImage(other.open(point, 0)))
        got = [image]
        if isinstance(image, Qcow2ZstdImage):
            parts = range(0, image.size, CHUNK)
            got = [_tried(lambda at=at, image=image: image.read(at, CHUNK)) for at in parts]
        wrong = [str(each) for each in got if isinstance(each, Integrity)]
        assert wrong
        assert all("recovery point" in text and "damaged" in text for text in wrong)
        for part, seen in enumerate(got):
            assert isinstance(seen, Integrity) or seen == sound[part * CHUNK : (part + 1) * CHUNK]


def _tried(do: Callable[[], object]) -> object:
    try:
        return do()
    except Integrity as e:
        return e


def test_what_was_stored_again_is_taken_from_there(world: World, vault: Vault):
    """The later copy of a chunk is the same frame, so the file stays as it was announced."""
    point, _ = world.take(vault, DATA)
    image = Qcow2ZstdImage(vault.open(point, 0))
    sound = image.read(0, image.size)
    [pack] = world.files("packs")
    content = bytearray(pack.read_bytes())
    content[200:260] = bytes(60)
    pack.write_bytes(content)
    with pytest.raises(Integrity):
        read_all(world.vault(), point)
    again, _ = world.take(world.vault(), DATA)
    assert read_all(world.vault(), again) == DATA
    image = Qcow2ZstdImage(world.vault().open(point, 0))
    assert image.read(0, image.size) == sound


def test_threads_share_a_reader(world: World, vault: Vault):
    data = some_disk(5, "TRTZ" * 60)
    point, _ = world.take(vault, data)
    reader = vault.open(point, 0)

    def some(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            at = rng.randrange(len(data))
            length = rng.randrange(min(len(data) - at, 700_000) + 1)
            assert reader.read(at, length) == data[at : at + length]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(some, range(8)))
