"""A copy that writes to a target as it reads: both hold the source, whatever breaks on the way."""

import contextlib
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import MIB, ExtentKind
from controlplane.domain.errors import FedctlError, Integrity, Invalid, Unavailable
from controlplane.domain.vault import Layout
from controlplane.vault import beside, copying, digest, durable, restoring
from controlplane.vault.nouns import CopyProgress, CopyStopped, Into, Written
from tests.unit.vault.support import CHUNK, Bytes, World, commit, copy, new_point, read_all
from tests.unit.vault.test_streaming import Target

LEAF = 4 * CHUNK
KINDS = st.sampled_from([ExtentKind.DATA, ExtentKind.ZERO, "explicit zeros"])
KIND = (ExtentKind.DATA, ExtentKind.ZERO)
PIECES = st.lists(st.tuples(KINDS, st.integers(1, 5 * CHUNK)), min_size=1, max_size=10)


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four chunks a leaf: what lies between leaves is met with a few of them."""
    for module in ("domain.vault", "vault.manifest", "vault.copying", "vault.reading"):
        monkeypatch.setattr(f"controlplane.{module}.FANOUT", 4)


@pytest.fixture
def world(tmp_path: Path):
    world = World(tmp_path / "vault")
    yield world
    world.close()


def source(pieces: list[tuple[object, int]], seed: int = 1) -> Bytes:
    """A disk of pieces, with extents as they were cut."""
    chance = random.Random(seed)
    zero = {ExtentKind.ZERO, "explicit zeros"}
    parts = [bytes(n) if kind in zero else chance.randbytes(n) for kind, n in pieces]
    told = [(n, kind if isinstance(kind, ExtentKind) else ExtentKind.DATA) for kind, n in pieces]
    return Bytes(b"".join(parts), told)


def assert_is(target: Target, data: bytes) -> None:
    assert bytes(target.durable[: len(data)]) == data
    assert not any(target.durable[len(data) :])
    assert not target.waiting


def durable_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(durable, "EVERY", 0.0)


@settings(deadline=None, max_examples=60)
@given(pieces=PIECES, beyond=st.sampled_from([0, 1, 512, 3 * LEAF + 7]))
def test_target_and_vault_hold_the_source(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[object, int]], beyond: int
) -> None:
    world = World(tmp_path_factory.mktemp("vault"))
    disk, told = source(pieces), list[Written]()
    target, vault = Target(disk.size + beyond), world.vault()
    point, _ = world.take(vault, disk, into=Into(writer=target, reached=told.append))
    assert_is(target, disk.data)
    assert read_all(vault, point) == disk.data
    assert told[-1].ranges == ((0, disk.size),)
    alone = new_point()
    assert copy(vault, replace_reads(disk), point=alone).digest == vault.open(point, 0).digest
    world.close()


@pytest.mark.parametrize("threads", [1, 5])
def test_any_number_of_threads_brings_stores_and_restores_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """As many as a machine has cores; a cancelled copy and its successor, too."""
    for module in (copying, digest, restoring):
        monkeypatch.setattr(module, "_WORKERS", threads)
    pieces = [(kind, n * CHUNK + 7) for n in range(1, 12) for kind in KIND]
    disk, point = source(pieces), new_point()
    target, vault = Target(disk.size + 512), world.vault()
    asked, into = iter([False]), Into(writer=target)
    with suppress(CopyStopped):
        copy(vault, disk, point=point, into=into, cancelled=lambda: next(asked, True))
    again = replace_reads(disk)
    copied = copy(vault, again, point=point, attempt=2, into=into)
    commit(vault, point, attempt=2)
    assert_is(target, disk.data)
    assert read_all(vault, point) == disk.data
    assert copied.digest == digest.digest(replace_reads(disk), length=disk.size)
    out = tmp_path / "restored"
    with out.open("w+b", buffering=0) as file:
        restoring.restore(vault.open(point, 0), file.fileno())
    assert out.read_bytes() == disk.data


def replace_reads(disk: Bytes) -> Bytes:
    return Bytes(disk.data, disk._extents)


@settings(deadline=None, max_examples=60)
@given(
    pieces=PIECES, fails=st.integers(1, 12), since=st.booleans(), beyond=st.sampled_from([0, 512])
)
def test_whoever_goes_on_after_the_target_crashed_ends_with_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    pieces: list[tuple[object, int]],
    fails: int,
    since: bool,
    beyond: int,
) -> None:
    """What was told to be there is durable: the crash takes the rest. Or nothing was told at all."""
    world = World(tmp_path_factory.mktemp("vault"))
    disk, told, point = source(pieces), [Written()], new_point()
    target, vault = Target(disk.size + beyond, fails=fails), world.vault()
    with pytest.MonkeyPatch.context() as patch:
        durable_at_once(patch)
        with contextlib.suppress(Unavailable):
            copy(vault, disk, point=point, into=Into(writer=target, reached=told.append))
        target.crash()
        into = Into(writer=target, since=told[-1] if since else Written())
        copy(vault, replace_reads(disk), point=point, attempt=2, into=into)
    commit(vault, point, attempt=2)
    assert_is(target, disk.data)
    assert read_all(vault, point) == disk.data
    world.close()


def test_what_is_durable_is_not_written_again(world: World) -> None:
    """An attempt that died after its last byte leaves nothing to do, nor to read."""
    disk, told, point = source([(ExtentKind.DATA, 20 * LEAF)]), list[Written](), new_point()
    target, vault = Target(disk.size), world.vault()
    copy(vault, disk, point=point, into=Into(writer=target, reached=told.append))
    target.writes = 0
    again = replace_reads(disk)
    copy(vault, again, point=point, attempt=2, into=Into(writer=target, since=told[-1]))
    assert (again.reads, target.writes) == ([], 0)


def test_what_an_earlier_attempt_read_comes_from_the_vault(world: World) -> None:
    """The target knows nothing of it; the source is not asked for it a second time."""
    disk, point = source([(ExtentKind.DATA, 20 * LEAF)]), new_point()
    vault = world.vault()
    copy(vault, disk, point=point)
    target, again, seen = Target(disk.size), replace_reads(disk), list[CopyProgress]()
    into = Into(writer=target)
    copy(vault, again, point=point, attempt=2, into=into, progress=seen.append)
    assert again.reads == []
    assert_is(target, disk.data)
    assert (seen[-1].done, seen[-1].total) == (2 * disk.size, 2 * disk.size)


def test_what_did_not_change_since_a_base_comes_from_the_vault(world: World) -> None:
    old = source([(ExtentKind.DATA, 8 * LEAF)])
    vault = world.vault()
    base, _ = world.take(vault, old)
    data = bytearray(old.data)
    data[LEAF + CHUNK : LEAF + 2 * CHUNK] = random.Random(5).randbytes(CHUNK)
    told = [
        (LEAF + CHUNK, ExtentKind.UNCHANGED),
        (CHUNK, ExtentKind.DATA),
        (len(data) - LEAF - 2 * CHUNK, ExtentKind.UNCHANGED),
    ]
    new, target = Bytes(bytes(data), told), Target(len(data))
    world.take(vault, new, base=base, into=Into(writer=target))
    assert sum(length for _, length in new.reads) == CHUNK
    assert_is(target, bytes(data))


def test_a_disk_of_holes_is_zeroed_in_a_few_strides(world: World) -> None:
    """Large holes are not given to the writer leaf by leaf."""
    disk = source([(ExtentKind.ZERO, 4000 * LEAF), (ExtentKind.DATA, CHUNK)])
    target = Target(disk.size)
    world.take(world.vault(), disk, into=Into(writer=target))
    assert_is(target, disk.data)
    assert target.writes < 4000


def test_a_shorter_target_is_refused_before_a_byte(world: World) -> None:
    disk = source([(ExtentKind.DATA, LEAF)])
    target = Target(disk.size - 1)
    with pytest.raises(Invalid, match="fewer than"):
        copy(world.vault(), disk, point=new_point(), into=Into(writer=target))
    assert (disk.reads, target.writes) == ([], 0)


def test_a_cancel_is_heeded_while_the_rest_comes_from_the_vault(world: World) -> None:
    disk, point = source([(ExtentKind.DATA, 40 * LEAF)]), new_point()
    vault, target = world.vault(), Target(40 * LEAF)
    copy(vault, disk, point=point)
    asked = iter([False, False])
    with pytest.raises(CopyStopped):
        copy(
            vault, replace_reads(disk), point=point, attempt=2, into=Into(writer=target),
            cancelled=lambda: next(asked, True),
        )  # fmt: skip
    assert target.writes < 40
    copy(vault, replace_reads(disk), point=point, attempt=3, into=Into(writer=target))
    assert_is(target, disk.data)


def test_damage_in_what_the_target_needs_is_named_and_never_written(world: World) -> None:
    disk, point = source([(ExtentKind.DATA, 8 * LEAF)]), new_point()
    vault, target = world.vault(), Target(8 * LEAF)
    copy(vault, disk, point=point)
    pack = max(world.files("packs"), key=lambda file: file.stat().st_size)  # of data, not of pages
    spoilt = bytearray(pack.read_bytes())
    spoilt[len(spoilt) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(spoilt)
    other = world.vault()
    with pytest.raises(Integrity, match="damaged"):
        copy(other, replace_reads(disk), point=point, attempt=2, into=Into(writer=target))
    target.finish()
    for at in range(0, len(disk.data), CHUNK):
        assert bytes(target.durable[at : at + CHUNK]) in {
            disk.data[at : at + CHUNK],
            b"\xa5" * CHUNK,
        }


def test_a_heartbeat_says_no_more_than_it_can_carry() -> None:
    """What it leaves out is brought again, and nothing that is not there is told."""
    layout = Layout(size=2000 * LEAF, chunk=CHUNK)
    spots = tuple((at * LEAF, (at + 1) * LEAF) for at in range(0, 2000, 2))
    it = beside.Beside(Into(writer=Target(layout.size), since=Written(ranges=spots)), layout)
    told = it._here().ranges
    assert told == spots[: len(told)]
    assert 0 < len(told) <= 256


@pytest.mark.parametrize("error", [Unavailable("away"), Invalid("refused")])
def test_a_target_that_fails_costs_no_whole_leaf_of_the_vault(
    world: World, error: FedctlError
) -> None:
    """The next attempt reads the rest only."""
    disk, point = source([(ExtentKind.DATA, 60 * LEAF)]), new_point()
    target, vault = Target(disk.size), world.vault()
    write = target.write

    def late(offset: int, data: bytes) -> None:
        if offset > 40 * LEAF:
            raise error
        write(offset, data)

    target.write = late  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        copy(vault, disk, point=point, into=Into(writer=target))
    target.write = write  # type: ignore[method-assign]
    again = replace_reads(disk)
    copy(vault, again, point=point, attempt=2, into=Into(writer=target))
    assert sum(length for _, length in again.reads) < 40 * LEAF
    assert_is(target, disk.data)


def test_progress_ends_at_its_total(world: World) -> None:
    disk, seen = source([(ExtentKind.DATA, LEAF), (ExtentKind.ZERO, 7 * LEAF)]), []
    copy(world.vault(), disk, point=new_point(), into=Into(writer=Target(disk.size)),
         progress=seen.append)  # fmt: skip
    assert seen[-1] == replace(seen[-1], done=seen[-1].total)
    assert all(each.done <= each.total for each in seen)
    assert disk.size > MIB
