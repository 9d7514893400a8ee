"""A store that fails in any of its ways: a clear error, nothing complete that is not, and on again."""

import contextlib
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from controlplane.domain import vault as words
from controlplane.domain.disk import ExtentKind
from controlplane.domain.errors import Exhausted, FedctlError, Integrity, Unavailable
from controlplane.vault import copying, manifest, pack, stride, worker
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    INSTANCE,
    Bytes,
    World,
    commit,
    copy,
    keys,
    new_point,
    read_all,
    some_disk,
)

NOW = timedelta(0)
FIRST = some_disk(1, "TTRT")
SECOND = FIRST[: 2 * CHUNK] + some_disk(2, "RTTTT")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Leaves of four chunks and packs of three, so that little data makes many calls."""
    for module in (words, manifest, copying, worker):
        if hasattr(module, "FANOUT"):
            monkeypatch.setattr(module, "FANOUT", 4)
    monkeypatch.setattr(stride, "BATCH", 2 * CHUNK)
    monkeypatch.setattr(stride, "_FIRST", 2 * CHUNK)
    monkeypatch.setattr(pack, "PACK_BYTES", 3 * CHUNK)


class Faulty:
    """A store whose calls fail from the nth on until it is mended.

    Its answers are lost, too, where `after`: the call had its effect.
    """

    WRITES = frozenset({"upload", "write", "finish", "put"})

    def __init__(self, real, nth: int, error: Callable[[], FedctlError], *, after: bool) -> None:
        self._real, self._left, self._error, self._after = real, nth, error, after
        self._only_writes = isinstance(error(), Exhausted)
        self._lock = threading.Lock()
        self.failed = False

    def upload(self, name):
        upload, store = self._call("upload", self._real.upload, name), self

        class Upload:
            def write(self, *parts):
                store._call("write", upload.write, *parts)

            def finish(self):
                store._call("finish", upload.finish)

            def abort(self):
                upload.abort()

        return Upload()

    def put(self, *given):
        return self._call("put", self._real.put, *given)

    def get(self, *given):
        return self._call("get", self._real.get, *given)

    def size(self, *given):
        return self._call("size", self._real.size, *given)

    def names(self, *given):
        return iter(self._call("names", lambda: list(self._real.names(*given))))

    def delete(self, *given):
        return self._call("delete", self._real.delete, *given)

    def _call(self, what: str, act, *given):
        with self._lock:
            if not self._only_writes or what in self.WRITES:
                self._left -= 1
            fails = self._left < 0 and (not self._only_writes or what in self.WRITES)
            self.failed |= fails
        if fails and not (self._after and what not in {"upload", "write"}):
            raise self._error()
        answer = act(*given)
        if fails:
            raise self._error()
        return answer


def away() -> FedctlError:
    return Unavailable("the store does not answer")


def full() -> FedctlError:
    return Exhausted("the store is full: free some room")


@contextlib.contextmanager
def a_world(folder) -> Iterator[World]:
    """One with a point that was forgotten, so that a collection has something to delete."""
    world = World(folder)
    try:
        vault = world.vault()
        gone, _ = world.take(vault, some_disk(9, "RT"))
        world.take(vault, FIRST)
        vault.forget(gone)
        yield world
    finally:
        world.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize("error", [away, full])
@pytest.mark.parametrize("after", [False, True])
def test_whatever_call_fails_first_the_error_is_ours_and_the_work_goes_on(tmp_path, error, after):
    """Every call of a copy, a commit and a collection in turn; some forty runs take seconds."""
    for nth in range(200):
        with a_world(tmp_path / "store") as world:
            (earlier,) = (record.point for record in world.records.points())
            store = Faulty(world.objects, nth, error, after=after)
            point, complete, vault = new_point(), False, world.vault(objects=store)
            with contextlib.suppress(type(error())):
                copy(vault, SECOND, point=point)
                commit(vault, point)
                complete = True
                vault.collect(holding=NOW)
                vault.collect(holding=NOW)
            fresh = world.vault()
            if complete:
                assert read_all(fresh, point) == SECOND
            else:
                assert store.failed
                if not fresh.stands(point):
                    copy(fresh, SECOND, point=point, attempt=2)
                commit(fresh, point, attempt=2)
            for _ in range(2):
                fresh.collect(holding=NOW)
            again = world.vault()
            assert again.unknown_packs() == ()
            assert again.survey() == ()
            assert read_all(again, point) == SECOND
            assert read_all(again, earlier) == FIRST
        if not store.failed:
            return
    raise AssertionError("the failures never ended")


def test_a_store_that_is_away_for_a_minute_costs_a_reader_an_error_and_no_record(world, vault):
    point, _ = world.take(vault, FIRST)
    for nth in range(20):
        store = Faulty(world.objects, nth, away, after=False)
        with contextlib.suppress(Unavailable):
            read_all(world.vault(objects=store), point)
    assert world.records.damaged(DOMAIN) == frozenset()
    assert read_all(vault, point) == FIRST


@pytest.mark.parametrize("room", [10, 500, CHUNK])
def test_a_disk_that_takes_no_more_bytes_is_exhausted(world, room):
    """The kernel itself refuses, in the middle of a write."""
    point, vault = new_point(), world.vault()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(Exhausted, match="free some room"):
            copy(vault, SECOND, point=point)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((world.root / ".coming").iterdir()) == []
    copy(vault, SECOND, point=point)
    commit(vault, point)
    assert read_all(world.vault(), point) == SECOND


@pytest.mark.parametrize("harm", ["lost", "cut", "empty"])
@pytest.mark.parametrize("way", ["whole", "increment"])
def test_packs_that_are_harmed_while_a_process_runs_do_not_make_a_point(world, vault, harm, way):
    """The process still has their tables in memory; each attempt may meet another lack."""
    base, _ = world.take(vault, FIRST)
    for file in world.files("packs"):
        if harm == "lost":
            file.unlink()
        else:
            os.truncate(file, 0 if harm == "empty" else file.stat().st_size // 2)
    point = new_point()

    def attempt() -> None:
        source = Bytes(FIRST, [(len(FIRST), ExtentKind.UNCHANGED)] if way == "increment" else None)
        if not vault.stands(point):
            copy(vault, source, point=point, base=base if way == "increment" else None)
        commit(vault, point)

    for _ in range(3):
        with contextlib.suppress(Integrity):
            attempt()
    attempt()
    for reader in (vault, world.vault()):
        assert read_all(reader, point) == FIRST


def test_a_store_of_yesterday_is_told_and_what_is_copied_into_it_is_whole(world, vault, tmp_path):
    kept, _ = world.take(vault, FIRST)
    shutil.copytree(world.root, tmp_path / "yesterday")
    newer, _ = world.take(vault, SECOND)
    shutil.rmtree(world.root)
    shutil.copytree(tmp_path / "yesterday", world.root)
    for process in (vault, world.vault()):
        assert [point for point, _ in process.survey()] == [newer]
        with pytest.raises(Integrity, match="the store has lost or hides it"):
            process.open(newer, 0)
    with pytest.raises(Integrity, match="serves an older state"):
        world.vault().recall(lambda _: DOMAIN)
    assert world.vault().stands(newer)
    assert read_all(vault, kept) == FIRST
    point = new_point()
    for _ in range(2):
        with contextlib.suppress(Integrity):
            copy(vault, SECOND, point=point)
            commit(vault, point)
    assert read_all(world.vault(), point) == SECOND


def test_a_wrong_key_neither_dedups_nor_breaks_what_is_there(world, vault):
    point, _ = world.take(vault, FIRST)
    wrong = world.vault(keys=lambda domain: replace(keys(domain), data_key=bytes(32)))
    with pytest.raises(Integrity):
        wrong.open(point, 0)
    with pytest.raises(Integrity):
        wrong.copy(
            Bytes(FIRST, [(len(FIRST), ExtentKind.UNCHANGED)]), point=new_point(), disk=0,
            domain=DOMAIN, subject=f"instance {INSTANCE}", attempt=1, base=point,
        )  # fmt: skip
    assert read_all(world.vault(), point) == FIRST
