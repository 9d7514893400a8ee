"""A killed copy continues where it was sealed, and its ghost cannot write any more."""

import contextlib
import threading
from datetime import timedelta

import pytest

from controlplane.domain import vault as words
from controlplane.domain.errors import Conflict, Exhausted, Integrity, Unavailable
from controlplane.vault import copying, manifest, pack, stride, worker
from controlplane.vault.nouns import (
    CopyStopped,
)
from tests.unit.vault.support import (
    CHUNK,
    Bytes,
    World,
    commit,
    copy,
    new_point,
    read_all,
    some_disk,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Leaves of four chunks and packs of six, so that little data has many seals."""
    for module in (words, manifest, copying, worker):
        if hasattr(module, "FANOUT"):
            monkeypatch.setattr(module, "FANOUT", 4)
    monkeypatch.setattr(stride, "BATCH", 2 * CHUNK)
    monkeypatch.setattr(stride, "_FIRST", 2 * CHUNK)
    monkeypatch.setattr(pack, "PACK_BYTES", 6 * CHUNK)


class Killed(Exception):
    """The process is gone: nothing after this point of it happens."""


class DiesAtSeal:
    """Records of a process that is killed before or after its nth seal."""

    def __init__(self, real, nth: int, *, after: bool) -> None:
        self._real, self._left, self._after = real, nth, after
        self._lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(self._real, name)

    def seal(self, *args):
        with self._lock:
            self._left -= 1
            if self._left > 0 or (self._left == 0 and self._after):
                self._real.seal(*args)
            if self._left <= 0:
                raise Killed


DATA = some_disk(1, "RRTZRRRRZZZZRTRRRRRRRRRRZRRRRRRRRRRR") + b"tail"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", range(1, 8))
def test_a_copy_killed_at_any_seal_is_continued(world, nth, after):
    point = new_point()
    dying = world.vault(records=DiesAtSeal(world.records, nth, after=after))
    source = Bytes(DATA)
    with contextlib.suppress(Killed):
        copy(dying, source, point=point)
    again = Bytes(DATA)
    vault = world.vault()
    copied = copy(vault, again, point=point, attempt=2)
    if nth > 2 or (nth == 2 and after):
        assert sum(n for _, n in again.reads) < len(DATA)
    commit(vault, point, attempt=2)
    assert read_all(vault, point) == DATA
    whole = new_point()
    assert copy(vault, DATA, point=whole).digest == copied.digest


def test_a_finished_copy_is_not_read_again(world, vault):
    point = new_point()
    first = copy(vault, DATA, point=point)
    source = Bytes(DATA)
    assert copy(world.vault(), source, point=point, attempt=2) == first
    assert source.reads == []


def test_a_cancelled_copy_keeps_what_was_sealed(world, vault):
    point = new_point()
    source = Bytes(DATA)

    class Slow(Bytes):
        """Tells the copy to stop at its eighth read."""

        def read(self, offset, length):
            if len(self.reads) == 8:
                stop.set()
                assert stopped.wait(10)
            return super().read(offset, length)

    stop, stopped = threading.Event(), threading.Event()

    def cancelled():
        if stop.is_set():
            stopped.set()
        return stop.is_set()

    with pytest.raises(CopyStopped):
        copy(vault, Slow(DATA), point=point, cancelled=cancelled)
    copy(vault, source, point=point)
    assert 0 < sum(n for _, n in source.reads) < len(DATA)
    commit(vault, point)
    assert read_all(vault, point) == DATA


def test_a_successor_fences_the_attempt_that_still_runs(world, vault):
    point = new_point()
    begun, go = threading.Event(), threading.Event()

    class Stuck(Bytes):
        def read(self, offset, length):
            if len(self.reads) == 1:
                begun.set()
                assert go.wait(10)
            return super().read(offset, length)

    failures = []

    def ghost():
        try:
            copy(world.vault(), Stuck(DATA), point=point, attempt=1)
        except Conflict as e:
            failures.append(e.reason)

    thread = threading.Thread(target=ghost)
    thread.start()
    assert begun.wait(10)
    copy(vault, DATA, point=point, attempt=2)
    go.set()
    thread.join(10)
    assert failures == ["superseded"]
    commit(vault, point, attempt=2)
    assert read_all(vault, point) == DATA


def test_an_old_attempt_neither_begins_nor_commits(world, vault):
    point = new_point()
    copy(vault, DATA, point=point, attempt=3)
    for old in (
        lambda: copy(vault, DATA, point=point, attempt=2),
        lambda: commit(vault, point, attempt=2),
    ):
        with pytest.raises(Conflict) as caught:
            old()
        assert caught.value.reason == "superseded"
    commit(vault, point, attempt=3)
    with pytest.raises(Conflict) as caught:
        copy(vault, DATA, point=point, attempt=4)
    assert caught.value.reason == "superseded"


def test_the_same_attempt_twice_leaves_one_writer(world, vault):
    """An attempt that lost its process may be repeated under its own number."""
    point = new_point()
    former = world.records.begin(
        point=point, disk=0, domain="acme/shop", attempt=1, layout=words.Layout.of(len(DATA))
    )
    copy(vault, DATA, point=point, attempt=1)
    with pytest.raises(Conflict) as caught:
        world.records.finish(former, copy(vault, DATA, point=point, attempt=1))
    assert caught.value.reason == "superseded"


def test_another_size_or_domain_under_the_same_point_is_refused(world, vault):
    point = new_point()
    copy(vault, DATA, point=point)
    with pytest.raises(Conflict, match="begin a new point"):
        copy(vault, DATA + b"x", point=point)
    with pytest.raises(Conflict, match="begin a new point"):
        copy(vault, DATA, point=point, domain="other/shop")
    with pytest.raises(Conflict, match="complete"):
        commit(vault, point, disks=(0, 1))


def test_a_source_that_breaks_off_keeps_what_was_whole(world, vault):
    point = new_point()

    class Breaks(Bytes):
        def read(self, offset, length):
            if len(self.reads) >= 12:
                raise Unavailable("site fra: the export does not answer")
            return super().read(offset, length)

    with pytest.raises(Unavailable, match="site fra"):
        copy(vault, Breaks(DATA), point=point)
    source = Bytes(DATA)
    copy(vault, source, point=point)
    assert sum(n for _, n in source.reads) < len(DATA)
    commit(vault, point)
    assert read_all(vault, point) == DATA


def test_a_source_that_gives_too_little_is_refused(world, vault):
    class Short(Bytes):
        def read(self, offset, length):
            return super().read(offset, length)[:-1]

    with pytest.raises(Integrity, match="instead of"):
        copy(vault, Short(DATA), point=new_point())


class Full:
    """An object store whose disk has room for some bytes only."""

    def __init__(self, real, room: int) -> None:
        self._real, self.room = real, room

    def __getattr__(self, name):
        return getattr(self._real, name)

    def upload(self, name):
        upload, full = self._real.upload(name), self

        class Metered:
            def write(self, *parts):
                data = b"".join(parts)
                full.room -= len(data)
                if full.room < 0:
                    upload.write(data[: len(data) // 2])
                    raise Exhausted("the store's disk is full: free some room")
                upload.write(data)

            def finish(self):
                upload.finish()

            def abort(self):
                upload.abort()

        return Metered()


@pytest.mark.parametrize("room", [10, 100, 3 * CHUNK, 9 * CHUNK, 17 * CHUNK])
def test_a_full_store_is_said_and_the_copy_continues_with_room(world, room):
    point = new_point()
    full = world.vault(objects=Full(world.objects, room))
    with pytest.raises(Exhausted, match="full"):
        copy(full, DATA, point=point)
    assert not list((world.root / ".coming").iterdir())
    vault = world.vault()
    copy(vault, DATA, point=point)
    commit(vault, point)
    assert read_all(world.vault(), point) == DATA
    vault.collect(holding=timedelta(0))
    world.clock.pass_by(timedelta(1))
    vault.collect(holding=timedelta(0))
    assert read_all(world.vault(), point) == DATA


def test_a_pack_is_sealed_after_thirty_seconds(world: World, vault):
    """The clock moves on with each read of a slow source."""

    class Late(Bytes):
        def read(self, offset, length):
            world.clock.pass_by(timedelta(seconds=20))
            return super().read(offset, length)

    copy(vault, Late(some_disk(3, "R" * 12)), point=new_point())
    assert len(world.files("packs")) >= 4
