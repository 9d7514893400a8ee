"""Whatever happens to stored bytes, a reader gets the right ones or Integrity."""

import random
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.domain.errors import Integrity
from controlplane.domain.vault import (
    PackState,
)
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    INSTANCE,
    World,
    commit,
    copy,
    new_point,
    read_all,
    some_disk,
)


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def outcome(world: World, point, data: bytes) -> bool:
    """Whether a fresh process noticed the damage; it must never return other bytes."""
    vault = world.vault()
    try:
        assert read_all(vault, point) == data
    except Integrity:
        return True
    finally:
        vault.close()
        world.opened.remove(vault)
    return False


def test_a_flipped_bit_anywhere_in_the_store_is_noticed(world, vault):
    """A sample of every object's bytes, and its edges: some hundred restores take seconds."""
    data = some_disk(1, "TZT") + b"the tail"
    point, _ = world.take(vault, data)
    needed = [path for path in world.files() if "index" not in path.parts]
    kinds = {path.relative_to(world.root).parts[0] for path in needed}
    assert kinds == {"packs", "points", "heads"}
    rng = random.Random(5)
    for path in needed:
        size = path.stat().st_size
        edges = [*range(20), *range(size - 20, size)]
        for at in [*edges, *rng.sample(range(size), 130)]:
            bit = rng.randrange(8)
            flip(path, at, bit)
            assert outcome(world, point, data), (path, at, bit)
            flip(path, at, bit)
    assert not outcome(world, point, data)


def test_cut_longer_missing_and_swapped_objects_are_noticed(world, vault):
    data = some_disk(2, "RTR")
    point, _ = world.take(vault, data)
    other, _ = world.take(vault, some_disk(3, "RTR"))
    assert other != point
    mine = [p for p in world.files() if "index" not in p.parts]
    kept = {path: path.read_bytes() for path in mine}
    noticed = 0
    for path, body in kept.items():
        siblings = [p for p in mine if p.parts[-3:-2] == path.parts[-3:-2] and p != path]
        changes = [body[:-1], body[: len(body) // 2], b"", body + b"\0"]
        changes += [kept[sibling] for sibling in siblings]
        for changed in changes:
            path.write_bytes(changed)
            noticed += outcome(world, point, data)
            path.write_bytes(body)
        path.unlink()
        noticed += outcome(world, point, data)
        path.write_bytes(body)
    # One pack, one root and one head each of two points; a change of the other's is no concern.
    assert noticed >= 15
    assert not outcome(world, point, data)


def test_damage_names_instance_disk_and_offset_and_leaves_the_index(world, vault):
    data = some_disk(4, "RRRR")
    point, _ = world.take(vault, data)
    (pack,) = world.files("packs")
    flip(pack, CHUNK * 2)
    fresh = world.vault()
    reader = fresh.open(point, 0)
    with pytest.raises(Integrity) as caught:
        reader.read(0, len(data))
    assert f"instance {INSTANCE}, disk 0, offset " in str(caught.value)
    named = int(str(caught.value).split("offset ")[1].split(":")[0])
    good = [n for n in range(4) if n * CHUNK != named]
    for n in good:
        assert reader.read(n * CHUNK, CHUNK) == data[n * CHUNK : (n + 1) * CHUNK]
    # The next pass stores that one chunk again, and that heals the earlier point too.
    second, copied = world.take(world.vault(), data)
    assert copied.bytes_new == CHUNK
    assert read_all(world.vault(), second) == data
    assert read_all(world.vault(), point) == data


def test_an_incremental_pass_does_not_lean_on_a_damaged_base(world, vault):
    from controlplane.domain.disk import ExtentKind
    from tests.unit.vault.support import Bytes

    data = some_disk(5, "RRRR")
    base, _ = world.take(vault, data)
    (pack,) = world.files("packs")
    flip(pack, CHUNK * 2)
    with pytest.raises(Integrity):
        read_all(world.vault(), base)
    source = Bytes(data, [(len(data), ExtentKind.UNCHANGED)])
    point, copied = world.take(world.vault(), source, base=base)
    assert copied.bytes_new == CHUNK
    assert read_all(world.vault(), point) == data


def test_a_pack_that_does_not_read_back_stops_the_commit_and_is_made_again(world, vault):
    data = some_disk(6, "RRRR")
    point = new_point()
    copy(vault, data, point=point)
    (pack,) = world.files("packs")
    flip(pack, CHUNK * 2)
    with pytest.raises(Integrity, match="disk 0 from offset"):
        commit(vault, point)
    with pytest.raises(Integrity):
        commit(world.vault(), point)
    again = copy(vault, data, point=point)
    assert again.digest
    commit(vault, point)
    assert read_all(world.vault(), point) == data


def test_a_lost_pack_is_integrity_for_its_readers_and_no_trouble_for_new_points(world, vault):
    data = some_disk(7, "RR")
    point, _ = world.take(vault, data)
    (pack,) = world.files("packs")
    pack.unlink()
    fresh = world.vault()
    with pytest.raises(Integrity, match="missing"):
        read_all(fresh, point)
    second, copied = world.take(world.vault(), data)
    assert copied.bytes_new == len(data)
    assert read_all(world.vault(), second) == data


def test_a_second_place_that_is_damaged_too_is_stored_again_by_the_next_pass(world, vault):
    data = some_disk(9, "RRRR")
    point, _ = world.take(vault, data)
    spoilt: list[Path] = []
    for _ in range(2):
        [pack] = [path for path in world.files("packs") if path not in spoilt]
        flip(pack, CHUNK * 2 if not spoilt else 2000)
        spoilt.append(pack)
        with pytest.raises(Integrity):
            read_all(world.vault(), point)
        _, copied = world.take(world.vault(), data)
        assert copied.bytes_new == CHUNK
        assert read_all(world.vault(), point) == data


def test_a_reader_of_a_point_that_was_collected_leaves_no_damage_on_record(world, vault):
    point, _ = world.take(vault, some_disk(10, "RR"))
    reader = world.vault().open(point, 0)
    vault.forget(point)
    for _ in range(2):
        vault.collect(holding=timedelta(0))
    assert world.files("packs") == []
    with pytest.raises(Integrity, match="missing"):
        reader.read(0, CHUNK)
    assert world.records.damaged(DOMAIN) == frozenset()


def test_what_was_stored_again_stays_with_the_older_point_that_needs_it(world, vault):
    """It is read from the newer one's pack, also after that one was forgotten."""
    data = some_disk(7, "RRRR")
    older, _ = world.take(vault, data)
    (pack,) = world.files("packs")
    flip(pack, CHUNK * 2)
    with pytest.raises(Integrity):
        read_all(world.vault(), older)
    newer, _ = world.take(world.vault(), data)
    assert len(world.files("packs")) == 2
    keeper = world.vault()
    keeper.forget(newer)
    for _ in range(2):
        keeper.collect(holding=timedelta(0))
    assert len(world.files("packs")) == 2
    assert read_all(world.vault(), older) == data
    keeper.forget(older)
    for _ in range(2):
        keeper.collect(holding=timedelta(0))
    assert world.files("packs") == []


def test_a_store_cannot_hide_a_point_unnoticed(world, vault):
    kept, _ = world.take(vault, b"one")
    hidden, _ = world.take(vault, b"two")
    older, _ = world.take(vault, b"three")
    assert vault.survey() == ()
    heads = world.files("heads")
    heads[1].unlink()
    heads[2].write_bytes(heads[0].read_bytes())
    assert {point for point, _ in vault.survey()} == {hidden, older}
    assert all("store" in why for _, why in vault.survey())
    assert read_all(vault, kept) == b"one"


def test_a_wrong_id_key_or_data_key_opens_nothing(world, vault):
    from dataclasses import replace

    from tests.unit.vault.support import keys

    point, _ = world.take(vault, some_disk(8, "R"))
    for change in ({"id_key": bytes(32)}, {"data_key": bytes(32)}, {"data_key_id": "other"}):
        wrong = world.vault(keys=lambda d, change=change: replace(keys(d), **change))
        with pytest.raises(Integrity):
            read_all(wrong, point)


def test_the_store_holds_no_plain_bytes(world, vault):
    data = (b"A SECRET SENTENCE THAT IS EASY TO FIND. " * 4096)[: 2 * CHUNK]
    world.take(vault, data)
    assert not any(b"SECRET" in path.read_bytes() for path in world.files())
    assert all(
        s is PackState.VERIFIED for s in world.records.states(world.records.known_packs()).values()
    )
