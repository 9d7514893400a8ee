"""What a real S3 server does when it is killed, full, locked, or asked by the wrong one.

These start the server themselves: `LIVE_S3=ceph` or `LIVE_S3=seaweedfs` (docs/live.md).
"""

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane.domain.disk import MIB
from controlplane.domain.errors import (
    Conflict,
    Denied,
    Exhausted,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.vault import pack
from controlplane.vault.s3 import S3Key, S3Objects
from tests.children import child
from tests.e2e.system import free_port, until
from tests.live.s3servers import KEY, Given, command
from tests.live.s3world import bucket, served, site  # noqa: F401  # fixtures
from tests.unit.vault.objects_contract import MANY_PARTS, sent
from tests.unit.vault.support import Bytes, World, commit, copy, new_point, read_all, some_disk

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def own(site):  # noqa: F811
    if site.own is None:
        pytest.skip("the server is not ours to break: LIVE_S3=ceph or LIVE_S3=seaweedfs")
    return site.own


class Broken(Bytes):
    """Something breaks once, as soon as it is time."""

    def __init__(self, data: bytes, when: Callable[[int], bool], breaks: Callable[[], None]):
        super().__init__(data)
        self._when = when
        self._breaks = breaks
        self._once = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        with self._once:
            if self._when(offset):
                self._when = lambda _: False
                self._breaks()
        return super().read(offset, length)


def asked(objects: S3Objects) -> dict[str, object]:
    """Every kind of request there is."""
    return {
        "put": lambda: objects.put("heads/b", b"x"),
        "get": lambda: objects.get("heads/a"),
        "size": lambda: objects.size("heads/a"),
        "names": lambda: list(objects.names("heads")),
        "delete": lambda: objects.delete("heads/zz"),
        "sweep": lambda: objects.sweep(datetime.now(UTC) - timedelta(days=2)),
        "long": lambda: sent(objects, "packs/a", bytes(MANY_PARTS)),
    }


# Killed


@pytest.mark.parametrize("seconds", [0, 4])
def test_a_server_that_is_killed_in_the_middle_of_a_copy_is_waited_for(
    site: Given,  # noqa: F811
    own,
    bucket,  # noqa: F811
    tmp_path,
    seconds,
):
    """200 MB; the copy takes as long as the server is away and starts."""
    world = World(tmp_path, S3Objects(site.place(bucket, patience=timedelta(seconds=60))))
    back = threading.Timer(seconds, own.start)

    def kill() -> None:
        own.kill()
        back.start()

    data = random.Random(1).randbytes(200_000_000)
    point = new_point()
    half = Broken(data, lambda offset: offset > len(data) // 2, kill)
    copied = copy(world.vault(), half, point=point)
    back.join()
    assert copied.bytes_new == len(data)
    commit(world.vault(), point)
    assert read_all(world.vault(), point) == data
    assert len(list(world.objects.names("packs"))) == len(world.records.known_packs())
    world.close()


def test_a_server_that_stays_away_ends_the_copy_and_the_next_attempt_goes_on(
    site: Given,  # noqa: F811
    own,
    bucket,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """With a patience of 3 seconds, and packs of 8 MiB; what was sealed is not sent again."""
    monkeypatch.setattr(pack, "PACK_BYTES", 8 * MIB)
    world = World(tmp_path, S3Objects(site.place(bucket, patience=timedelta(seconds=3))))
    data, point = random.Random(2).randbytes(250_000_000), new_point()

    def some_are_done(_offset: int) -> bool:
        return any(held.covered for held in world.records._open.values())

    try:
        with pytest.raises(Unavailable, match=f"packs/.* in bucket {bucket} at {site.url}"):
            copy(world.vault(), Broken(data, some_are_done, own.kill), point=point)
    finally:
        own.start()
    again = Bytes(data)
    copy(world.vault(), again, point=point, attempt=2)
    assert sum(length for _, length in again.reads) < len(data)
    commit(world.vault(), point, attempt=2)
    assert read_all(world.vault(), point) == data
    world.close()


# Refused


def test_whoever_has_the_wrong_key_is_told_so(site: Given, bucket):  # noqa: F811
    wrong_secret = S3Key(id=site.key.id, secret="another-secret")
    for key, code in ((wrong_secret, "SignatureDoesNotMatch"), (UNKNOWN, "InvalidAccessKeyId")):
        objects = S3Objects(site.place(bucket, key=lambda key=key: key))
        for ask in asked(objects).values():
            with pytest.raises(Denied, match=rf"refuses us \({code}\): .*set the right one"):
                ask()


UNKNOWN = S3Key(id="AKIDNOBODY", secret="another-secret")


def test_a_key_that_may_only_read_reads_and_is_refused_the_rest(
    site: Given,  # noqa: F811
    own,
    bucket,  # noqa: F811
):
    S3Objects(site.place(bucket)).put("heads/a", b"a head")
    reader = S3Objects(site.place(bucket, key=lambda: own.reader))
    assert (reader.get("heads/a"), reader.size("heads/a")) == (b"a head", 6)
    assert list(reader.names("heads")) == ["heads/a"]
    for what in ("put", "delete", "long"):
        with pytest.raises(Denied, match=r"refuses us \(AccessDenied\): check the key"):
            asked(reader)[what]()


def test_a_bucket_that_is_not_there_is_named_and_not_made(site: Given, own):  # noqa: F811
    """SeaweedFS says to a key that may not make buckets that it is refused where it writes."""
    objects = S3Objects(site.place("no-such-bucket"))
    for what, ask in asked(objects).items():
        if what in {"get", "names"} or own.version.startswith("Ceph"):
            with pytest.raises(Unavailable, match="no bucket 'no-such-bucket'"):
                ask()
        elif what in {"put", "long"}:
            with pytest.raises((Unavailable, Denied), match="in bucket no-such-bucket at "):
                ask()


def test_a_bucket_that_is_full_is_told_and_what_is_there_is_read_and_deleted(
    site: Given,  # noqa: F811
    own,
    bucket,  # noqa: F811
    tmp_path,
):
    objects = S3Objects(site.place(bucket))
    world = World(tmp_path, objects)
    data = some_disk(1, "RT" * 40)
    point, _ = world.take(world.vault(), data)
    own.limit(1_000_000)
    try:
        for name, length in (("heads/b", 1), ("packs/a", MANY_PARTS)):
            with pytest.raises(Exhausted, match=f"{name} in bucket .* free some room"):
                sent(objects, name, bytes(length))
        with pytest.raises(Exhausted, match="free some room"):
            copy(world.vault(), some_disk(2, "R" * 40), point=new_point())
        assert read_all(world.vault(), point) == data
        objects.delete("first/x")
    finally:
        own.limit(None)
    objects.put("heads/b", b"x")
    world.close()


def test_a_clock_that_is_wrong_is_named(site: Given, bucket):  # noqa: F811
    """Asked by a process whose clock is an hour ahead."""
    if shutil.which("faketime") is None:
        pytest.skip("there is no command faketime, which sets the clock of a process")
    code = """
import sys
from tests.live.s3servers import Given
from tests.live.test_s3_server import asked
from controlplane.vault import pack
from controlplane.vault.s3 import S3Key, S3Objects
url, id, secret, bucket = sys.argv[1:]
objects = S3Objects(Given(url=url, key=S3Key(id=id, secret=secret)).place(bucket))
for what, ask in asked(objects).items():
    try:
        ask()
    except Exception as e:
        print(what, type(e).__name__, e)
"""
    told = subprocess.run(
        [
            "faketime", "-f", "+1h", sys.executable, "-c", code,
            site.url, site.key.id, site.key.secret, bucket,
        ],
        env={**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [line.split()[0] for line in told] == list(asked(S3Objects(site.place(bucket))))
    for line in told:
        assert " Denied " in line, line
        assert "its clock and this machine's are minutes apart" in line, line


# Conditions


def test_of_many_who_create_one_name_at_once_one_does(site: Given, bucket):  # noqa: F811
    objects = [S3Objects(site.place(bucket)) for _ in range(8)]
    for number in range(20):
        start = threading.Barrier(len(objects))
        won = []

        def create(which: int, number: int = number, start=start, won=won) -> None:
            start.wait()
            try:
                objects[which].put(f"incarnations/{number:06d}", b"%d" % which)
            except Conflict:
                return
            won.append(which)

        threads = [threading.Thread(target=create, args=(i,)) for i in range(len(objects))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert objects[0].get(f"incarnations/{number:06d}") == b"%d" % won[0]


def test_a_bucket_that_locks_objects_serves_the_vault_or_is_refused_untouched(
    site: Given,  # noqa: F811
    own,
    tmp_path,
):
    """Ceph 16 and 18 ignore conditions in a bucket that keeps versions, as one that locks does."""
    locked = site.new_bucket(locked=True)
    objects = S3Objects(site.place(locked))
    if own.version.startswith(("Ceph 16.", "Ceph 18.")):
        for name, length in (("incarnations/000002", 1), ("packs/a", MANY_PARTS)):
            with pytest.raises(Unsupported, match=f"{name} .* If-None-Match.*keeps versions"):
                sent(objects, name, bytes(length))
            assert list(objects.names(name.partition("/")[0])) == []
        return
    objects.put("heads/a", b"a head")
    with pytest.raises(Conflict):
        objects.put("heads/a", b"another")
    objects.delete("heads/a")
    with pytest.raises(NotFound):
        objects.get("heads/a")
    assert list(objects.names("heads")) == []
    assert len(site.versions(locked, f"{site.prefix}/heads/a")) == 1
    objects.put("heads/a", b"it comes again")
    assert objects.get("heads/a") == b"it comes again"
    world = World(tmp_path, objects)
    vault = world.vault()
    data = some_disk(1, "RT" * 90)
    gone, _ = world.take(vault, data)
    [stored] = objects.names("packs")
    vault.forget(gone)
    vault.collect(holding=timedelta(hours=1))
    world.clock.pass_by(timedelta(hours=1))
    assert vault.collect(holding=timedelta(hours=1)).deleted == 1
    assert list(objects.names("packs")) == []
    assert len(site.versions(locked, f"{site.prefix}/{stored}")) == 1
    point, _ = world.take(vault, data)
    assert read_all(world.vault(), point) == data
    world.close()


def test_rclone_which_knows_no_conditions_is_refused(tmp_path):
    rclone = command("rclone") or pytest.skip("there is no command rclone: see s3servers.py")
    (tmp_path / "files" / "vault").mkdir(parents=True)
    port = free_port()
    serve = [
        rclone, "--config", "/dev/null", "serve", "s3", "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{KEY.id},{KEY.secret}", "--vfs-cache-mode", "off", str(tmp_path / "files"),
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, child(serve, stdout=log, stderr=log):
        until(lambda: b"Starting s3 server" in (tmp_path / "log").read_bytes(), "rclone serves", 20)
        objects = S3Objects(Given(url=f"http://127.0.0.1:{port}", key=KEY).place("vault"))
        with pytest.raises(Unsupported, match="ignores If-None-Match"):
            objects.put("heads/a", b"a head")
        assert list(objects.names("heads")) == []
