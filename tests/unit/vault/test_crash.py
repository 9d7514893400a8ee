"""Whatever a crash leaves, each complete recovery point is whole and the work goes on from there.

A run of copies, commits, collections and a key rotation is written down write by write, then played
back: cut after each entry, with what was not synced there, gone or torn, over the database's state
of that moment. Each of some hundred remains is opened as after a restart, which takes seconds; `long`
plays all of them.
"""

import contextlib
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from blake3 import blake3
from sqlalchemy import event as sql_event

from controlplane.domain import vault as words
from controlplane.domain.disk import ExtentKind
from controlplane.domain.errors import Conflict, Integrity
from controlplane.domain.ids import InstanceId, PointId
from controlplane.store.engine import Store
from controlplane.store.ports import StoredVault
from controlplane.vault import copying, local, manifest, pack, sealing, stride, worker
from controlplane.vault.local import LocalObjects
from controlplane.vault.ports import DomainKeys
from controlplane.vault.vault import Vault
from tests.unit.vault.crash import Committing, CountedKeys, Machine, Remains
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    Bytes,
    Clock,
    Seal,
    commit,
    copy,
    keys,
    new_point,
    read_all,
    some_disk,
)

WEB, DB = InstanceId(UUID(int=1)), InstanceId(UUID(int=2))
NOW = timedelta(0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Leaves of four chunks and packs of three, so that little data has many seals."""
    for module in (words, manifest, copying, worker):
        if hasattr(module, "FANOUT"):
            monkeypatch.setattr(module, "FANOUT", 4)
    monkeypatch.setattr(stride, "BATCH", 2 * CHUNK)
    monkeypatch.setattr(stride, "_FIRST", 2 * CHUNK)
    monkeypatch.setattr(pack, "PACK_BYTES", 3 * CHUNK)


@pytest.fixture
def counted(monkeypatch) -> CountedKeys:
    counted = CountedKeys()
    monkeypatch.setattr(sealing, "AESGCM", counted.cipher)
    return counted


@dataclass
class Known:
    """What the caller of the vault was told, or asked, up to some moment."""

    begun: dict[PointId, tuple[InstanceId, bytes]] = field(default_factory=dict)
    complete: set[PointId] = field(default_factory=set)
    forgotten: set[PointId] = field(default_factory=set)
    rotated: bool = False

    def copy(self) -> "Known":
        return Known(dict(self.begun), set(self.complete), set(self.forgotten), self.rotated)

    def hear(self, what: str, more) -> None:
        match what:
            case "begun":
                self.begun[more[0]] = more[1:]
            case "complete":
                self.complete.add(more)
            case "forgotten":
                self.forgotten.add(more)
            case "rotated":
                self.rotated = True


def keys_of(*, rotated: bool):
    def found(domain: str) -> DomainKeys:
        first = keys(domain)
        if not rotated:
            return first
        return replace(
            first,
            data_key=bytes(range(32)),
            data_key_id="second",
            retired={first.data_key_id: first.data_key},
        )

    return found


class System:
    """A vault over a folder and an SQLite file, as one start of the control plane has it."""

    def __init__(
        self, store: Store, folder: Path, *, rotated: bool = False, machine: Machine | None = None
    ) -> None:
        self.store = store
        self.rotated = rotated
        self.records = StoredVault(store)
        if machine is not None:
            self.records = Committing(self.records, machine, self.state)
        self.objects = LocalObjects(folder)
        self.clock = Clock()
        self.opened: list[Vault] = []

    def vault(self) -> Vault:
        vault = Vault(
            records=self.records, objects=self.objects, keys=keys_of(rotated=self.rotated),
            signer=Seal(), clock=self.clock,
        )  # fmt: skip
        self.opened.append(vault)
        return vault

    def state(self) -> bytes:
        with contextlib.closing(sqlite3.connect(file_of(self.store))) as connection:
            return connection.serialize()

    def close(self) -> None:
        for vault in self.opened:
            vault.close()
        self.store.close()


def file_of(store: Store) -> str:
    return str(store._writer.url.database)


def _unsynced(connection, _) -> None:
    """Only of this test's speed: what is durable is decided by playing back."""
    connection.cursor().execute("PRAGMA synchronous = OFF")


class Killed(Exception):
    """The process is gone in the middle of a read."""


class Dies(Bytes):
    def read(self, offset, length):
        if len(self.reads) >= 2:
            raise Killed
        return super().read(offset, length)


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    """One for all moments: while it is closed its file is given the state of another."""
    store = Store(f"sqlite:///{tmp_path}/db")
    sql_event.listen(store._writer, "connect", _unsynced)
    store.migrate()
    yield store
    store.close()


class Recorded:
    """One run, written down."""

    def __init__(self, folder: Path, store: Store, monkeypatch) -> None:
        folder.mkdir()
        self.machine = Machine(folder)
        monkeypatch.setattr(local, "os", self.machine)
        self.system = System(store, folder, machine=self.machine)
        self.database = self.system.state()

    def take(
        self, vault: Vault, instance: InstanceId, data: bytes, reader: Bytes | None = None,
        base: PointId | None = None, point: PointId | None = None, attempt: int = 1,
    ) -> PointId:  # fmt: skip
        point = point or new_point()
        self.machine.note("begun", (point, instance, data))
        for _ in range(20):
            copy(vault, reader or Bytes(data), point=point, base=base, attempt=attempt)
            try:
                commit(vault, point, instance=instance, attempt=attempt)
            except Conflict as e:
                if e.reason not in {"condemned", "raced"}:
                    raise
            else:
                break
        self.machine.note("complete", point)
        return point

    def forget(self, vault: Vault, point: PointId) -> None:
        self.machine.note("forgotten", point)
        vault.forget(point)

    def rotate(self) -> None:
        self.machine.note("rotated")
        self.system.rotated = True


def short_run(run: Recorded) -> None:
    """Two instances, an increment, a killed copy that goes on, a rotation, a collection."""
    vault = run.system.vault()
    first = some_disk(1, "TRZT") + b"tail"
    web = run.take(vault, WEB, first)
    changed = first[:CHUNK] + some_disk(2, "T") + first[2 * CHUNK :]
    extents = [
        (CHUNK, ExtentKind.UNCHANGED),
        (CHUNK, ExtentKind.DATA),
        (len(first) - 2 * CHUNK, ExtentKind.UNCHANGED),
    ]
    run.take(vault, WEB, changed, Bytes(changed, extents), base=web)
    point, other = new_point(), first[: 2 * CHUNK] + some_disk(3, "TTTTTTTR")
    run.machine.note("begun", (point, DB, other))
    with contextlib.suppress(Killed):
        copy(vault, Dies(other), point=point)
    run.rotate()
    vault = run.system.vault()
    run.take(vault, DB, other, point=point, attempt=2)
    run.forget(vault, web)
    vault.collect(holding=NOW)
    vault.collect(holding=NOW)
    vault.tidy_index(DOMAIN)
    run.take(vault, WEB, some_disk(1, "TR") + b"end")


def long_run(run: Recorded, rounds: int, seed: int) -> None:
    """Two writers that share chunks, and a collector without patience, beside each other."""
    pool = [some_disk(n, "T" if n % 2 else "R") for n in range(6)]
    done = threading.Event()

    def write(instance: InstanceId, own: random.Random) -> None:
        vault, mine = run.system.vault(), []
        for number in range(rounds):
            mine.append(run.take(vault, instance, b"".join(own.choices(pool, k=5))))
            if own.random() < 0.6:
                run.forget(vault, mine.pop(own.randrange(len(mine))))
            if instance == WEB and number == rounds // 2:
                run.rotate()
                vault = run.system.vault()

    def collect() -> None:
        vault = run.system.vault()
        while not done.wait(0.02):
            vault.collect(holding=NOW)
            vault.tidy_index(DOMAIN)

    with ThreadPoolExecutor(3) as threads:
        collector = threads.submit(collect)
        try:
            writers = [
                threads.submit(write, instance, random.Random(f"{seed} {instance}"))
                for instance in (WEB, DB)
            ]
            for writer in writers:
                writer.result()
        finally:
            done.set()
        collector.result()


@dataclass(frozen=True)
class Moment:
    """What was left at one end of the machine, and what its caller knew."""

    number: int
    kind: str
    files: dict[str, bytes]
    database: bytes
    earlier: bytes
    known: Known
    seed: str


def moments(run: Recorded, losses: int) -> Iterator[Moment]:
    """For each change: all of it there, and `losses` of what a power failure leaves; no twins."""
    remains, known, database, earlier = Remains(), Known(), run.database, [run.database]
    state, seen = b"", set[bytes]()
    for number, event in enumerate(run.machine.log):
        if event.what == "note":
            known.hear(event.subject, event.more)
            state += b"."
        elif event.what == "commit":
            database = event.more
            earlier.append(database)
            state += b","
        else:
            remains.follow(event)
        for loss in range(losses + 1):
            seed = f"{number} {loss}"
            files = remains.cut(random.Random(seed)) if loss else remains.killed()
            mark = blake3(state)
            for name in sorted(files):
                # Nobody looks into an upload that has not ended.
                if not name.startswith(".coming/"):
                    mark.update(name.encode() + blake3(files[name]).digest())
            if mark.digest() not in seen:
                seen.add(mark.digest())
                kind = "cut" if loss else "killed"
                backup = random.Random(seed).choice(earlier)
                yield Moment(number, kind, files, database, backup, known.copy(), seed)


def restart(moment: Moment, store: Store, folder: Path) -> None:
    """Everything that must hold after this moment."""
    folder.mkdir(parents=True)
    for name, content in moment.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    store.close()
    Path(file_of(store)).write_bytes(moment.database)
    known = moment.known
    system = System(store, folder, rotated=known.rotated)
    try:
        vault = system.vault()
        stands = known.complete - known.forgotten
        for point in stands:
            assert read_all(vault, point) == known.begun[point][1]
        for record in system.records.points():
            with contextlib.suppress(Integrity):
                data = read_all(vault, record.point)
                assert data == known.begun[record.point][1]
        for point in known.forgotten:
            vault.forget(point)
        goes_on = random.Random(moment.seed).random() < 0.5
        for point in known.begun.keys() - known.complete:
            if goes_on:
                take_again(system, point, *known.begun[point])
                stands.add(point)
            else:
                vault.abandon(point)
        fresh = system.vault()
        for _ in range(2):
            fresh.collect(holding=NOW)
        fresh.tidy_index(DOMAIN)
        assert fresh.unknown_packs() == ()
        for instance in {instance for instance, _ in known.begun.values()}:
            point, data = new_point(), some_disk(1, "TR")
            take_again(system, point, instance, data)
        for point in stands:
            assert read_all(fresh, point) == known.begun[point][1]
        assert fresh.survey() == ()
        without_a_database(system, {p: known.begun[p][1] for p in stands})
    finally:
        system.close()
    if random.Random(f"{moment.seed} backup").random() < 0.3:
        store.close()
        with_an_earlier_database(moment, store, folder, stands)


def take_again(system: System, point: PointId, instance: InstanceId, data: bytes) -> None:
    """As a step that is done again: a copy that is committed already only needs its head."""
    vault = system.vault()
    for attempt in range(10, 15):
        try:
            if not vault.stands(point):
                copy(vault, data, point=point, attempt=attempt)
            commit(vault, point, instance=instance, attempt=attempt)
        except Conflict as e:
            if e.reason not in {"condemned", "raced"}:
                raise
        else:
            return
    raise AssertionError("it never settled")


def without_a_database(system: System, stands: dict[PointId, bytes]) -> None:
    """What the store alone shows is every point that stands."""
    from controlplane.vault.memory import MemoryRecords

    system.records = MemoryRecords()
    vault = system.vault()
    vault.recall(lambda key: DOMAIN)
    for point, data in stands.items():
        assert read_all(vault, point) == data


def with_an_earlier_database(
    moment: Moment, store: Store, folder: Path, stands: set[PointId]
) -> None:
    """A backup is restored over what the store has by now."""
    Path(file_of(store)).write_bytes(moment.earlier)
    system = System(store, folder, rotated=True)
    try:
        vault = system.vault()
        vault.recall(lambda key: DOMAIN)
        for instance in (WEB, DB):
            take_again(system, new_point(), instance, some_disk(1, "TR"))
        for _ in range(3):
            vault.collect(holding=NOW)
        for point in stands:
            assert read_all(system.vault(), point) == moment.known.begun[point][1]
        assert vault.survey() == ()
    finally:
        system.close()


def play_back(run: Recorded, folder: Path, chosen: Iterable[Moment], monkeypatch) -> int:
    """How many moments were looked at."""
    monkeypatch.setattr(local, "os", Unsynced())
    count = 0
    for count, moment in enumerate(chosen, 1):
        place = folder / str(count)
        try:
            restart(moment, run.system.store, place)
        except BaseException as e:
            last = [f"{e.what} {e.subject}" for e in run.machine.log[: moment.number + 1]][-6:]
            e.add_note(f"{moment.kind} after {moment.number}, seed {moment.seed}: {last}")
            raise
        shutil.rmtree(place)
    return count


class Unsynced:
    """`os` for the time after a restart, which nothing interrupts."""

    def __getattr__(self, name: str):
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        os.fstat(handle)


@pytest.mark.timeout(600)
def test_after_any_crash_every_complete_point_is_whole(tmp_path, store, counted, monkeypatch):
    """Every moment of a short run: some eighty restarts take ten seconds of computing."""
    run = Recorded(tmp_path / "run", store, monkeypatch)
    short_run(run)
    run.system.close()
    assert play_back(run, tmp_path / "after", moments(run, 2), monkeypatch) > 60
    assert counted.twice == []


@pytest.mark.timeout(600)
def test_after_a_crash_of_two_writers_and_a_collector(tmp_path, store, counted, monkeypatch):
    """Some moments of a longer run: a few seconds."""
    run = Recorded(tmp_path / "run", store, monkeypatch)
    long_run(run, 4, 1)
    run.system.close()
    some = random.Random(1).sample(list(moments(run, 2)), 20)
    play_back(run, tmp_path / "after", some, monkeypatch)
    assert counted.twice == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_after_any_crash_of_a_long_run(tmp_path, store, counted, monkeypatch, seed):
    """Every moment, each with a dozen losses: minutes."""
    run = Recorded(tmp_path / "run", store, monkeypatch)
    short_run(run)
    long_run(run, 6, seed)
    run.system.close()
    play_back(run, tmp_path / "after", moments(run, 12), monkeypatch)
    assert counted.twice == []
