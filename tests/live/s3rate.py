"""How fast a disk goes into the vault in a folder, on moto, and at the server of `LIVE_S3`.

    LIVE_S3=ceph python -m tests.live.s3rate

The disk is the benchmarks' in small, 1 GiB; told are the seconds of a copy until all is in sealed
packs, of the read-back that makes a recovery point of it, and of reading it all again.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import httpx
import pytest

from controlplane.domain.disk import GIB, MIB
from controlplane.vault.local import LocalObjects
from controlplane.vault.ports import ObjectStore
from controlplane.vault.s3 import S3Objects
from drivers.disks.raw import RawFile
from tests.bench import disk as bench_disk
from tests.live.s3servers import given
from tests.unit.vault import s3server
from tests.unit.vault.support import World, commit, copy, new_point

PATIENT = {"patience": timedelta(seconds=60), "timeout": timedelta(seconds=60)}


def main() -> None:
    with bench_disk.folder() as root:
        disk = root / "disk.raw"
        held = bench_disk.make(disk, size=GIB)
        sys.stdout.write(f"disk: {GIB // MIB} MiB, {held // MIB} MiB of it data\n")
        for name, store in (("folder", folder), ("moto", moto), ("LIVE_S3", live)):
            try:
                with TemporaryDirectory(dir=root) as own, store(Path(own)) as objects:
                    measure(name, disk, objects, Path(own))
            except pytest.skip.Exception as e:
                sys.stdout.write(f"{name}: {e.msg}\n")


def measure(name: str, disk: Path, objects: ObjectStore, folder: Path) -> None:
    world = World(folder / "world", objects)
    vault, point, reader = world.vault(), new_point(), RawFile(disk)
    times = [monotonic()]
    copied = copy(vault, reader, point=point)
    times.append(monotonic())
    commit(vault, point)
    times.append(monotonic())
    restored = vault.open(point, 0)
    for at in range(0, restored.size, MIB):
        restored.read(at, min(MIB, restored.size - at))
    times.append(monotonic())
    restored.close()
    reader.close()
    world.close()
    took = [after - before for before, after in pairwise(times)]
    stored = copied.bytes_stored // MIB
    sys.stdout.write(
        f"{name}: copied in {took[0]:.1f} s ({stored} MiB stored), committed in {took[1]:.1f} s,"
        f" read in {took[2]:.1f} s\n"
    )
    sys.stdout.flush()


@contextmanager
def folder(own: Path) -> Iterator[ObjectStore]:
    yield LocalObjects(own / "store")


@contextmanager
def moto(own: Path) -> Iterator[ObjectStore]:
    with s3server.serving(own) as url:
        httpx.put(f"{url}/vault").raise_for_status()
        yield S3Objects(s3server.place(url, "vault", **PATIENT))


@contextmanager
def live(own: Path) -> Iterator[ObjectStore]:
    with given(own) as site:
        yield S3Objects(site.place(site.new_bucket(), **PATIENT))


if __name__ == "__main__":
    main()
