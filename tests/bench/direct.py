"""A disk from one NBD server to another: as a stream, and on its way into the vault.

4 GiB raw of which 1.5 GiB are data (real files, random, explicit zeros), both ends on tmpfs behind
qemu-nbd. The stream, digest included, against plain nbdcopy (libnbd), which only copies. The copy
that goes into the vault and to the target at once against qemu-img, which keeps a compressed qcow2
and then fills the target from that. Runs alternate, so that what else the machine does meets all.
`ROUNDS` other than five.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from uuid import uuid4

from controlplane.domain.ids import PointId
from controlplane.vault.digest import digest
from controlplane.vault.nouns import Into
from controlplane.vault.streaming import stream
from drivers.disks.nbd import NbdConnection
from drivers.disks.nbd_disk import NbdReader, NbdWriter
from drivers.disks.raw import RawFile
from tests.bench.copying import own
from tests.bench.result import Result

MIB = 1 << 20
SIZE = 4096 * MIB
GOAL, FASTER = 0.6, 1.8
_TOOLS = {"qemu-nbd": "qemu-utils", "nbdcopy": "libnbd-bin"}


def measure() -> Iterator[Result]:
    missing = [f"{tool} ({package})" for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if missing:
        sys.stdout.write(f"direct: skipped, {' and '.join(missing)} not installed\n")
        return
    rounds = int(os.environ.get("ROUNDS", "5"))
    memory = Path("/dev/shm")  # a folder of our own in it
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        disk = make_disk(Path(folder) / "source.raw")
        with closing(RawFile(disk)) as whole:
            wanted = digest(whole, length=SIZE)
        ours, theirs, beside, kept = [], [], [], []
        for _ in range(rounds):
            ours.append(_ours(disk, wanted))
            theirs.append(_theirs(disk, wanted))
            beside.append(_beside(disk, wanted))
            kept.append(_kept(disk, wanted))
    yield Result(
        name="the same disk, into the vault and the target at once, beside qemu-img's zstd and then"
        " the target",
        ours=round(median(beside), 3),
        peer=round(median(kept), 3),
        unit="s",
        goal=round(median(kept) / FASTER, 3),
    )
    yield Result(
        name="1.5 GiB of data in a disk of 4 GiB, from NBD to NBD with its digest",
        ours=round(median(ours), 3),
        peer=round(median(theirs), 3),
        unit="s",
        goal=round(median(theirs) / GOAL, 3),
    )


def make_disk(path: Path) -> Path:
    """Three eighths of it are data: real files, random bytes and explicit zeros, in equal parts."""
    part, chance = SIZE // 8, random.Random(5)
    with path.open("wb") as disk:
        disk.truncate(SIZE)
        disk.seek(MIB)
        left = part
        for file in _files():
            data = file.read_bytes()[:left]
            disk.write(data)
            left -= len(data)
            if not left:
                break
        for at in range(0, part, 8 * MIB):
            disk.seek(SIZE // 4 + 2 * at)
            disk.write(chance.randbytes(min(8 * MIB, part - at)))
        for at in range(0, part, 16 * MIB):
            disk.seek(3 * SIZE // 4 + at)
            disk.write(bytes(min(16 * MIB, part - at)))
    return path


def _files() -> Iterator[Path]:
    """Real files, over again where there are too few."""
    while True:
        for folder in (Path(sys.prefix), Path("/usr/lib")):
            for file in sorted(folder.rglob("*")):
                if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
                    yield file


@contextmanager
def _servers(disk: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Sockets of the source and of an empty target, and the target's file."""
    copy = disk.with_name("target.raw")
    with copy.open("wb") as made:
        made.truncate(SIZE)
    sockets = disk.with_name("source.sock"), disk.with_name("target.sock")
    serve = ["qemu-nbd", "--format=raw", "--persistent", "--shared=8"]
    servers = [
        subprocess.Popen([*serve, f"--socket={sockets[0]}", "--read-only", str(disk)]),
        subprocess.Popen([*serve, f"--socket={sockets[1]}", "--discard=unmap", str(copy)]),
    ]
    try:
        while not all(socket.exists() for socket in sockets):
            sleep(0.01)
        yield *sockets, copy
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        for socket in sockets:
            socket.unlink(missing_ok=True)
        copy.unlink()


def _ours(disk: Path, wanted: str) -> float:
    with _servers(disk) as (source, target, copy):
        began = monotonic()
        with (
            closing(NbdReader(NbdConnection.over_unix(source, "", timeout=30))) as reader,
            closing(NbdWriter(NbdConnection.over_unix(target, "", timeout=30))) as writer,
        ):
            found = stream(reader, writer).digest
        took = monotonic() - began
        if found != wanted:
            raise AssertionError("the stream's digest is not the disk's")
        _check(copy, wanted)
    return took


def _theirs(disk: Path, wanted: str) -> float:
    with _servers(disk) as (source, target, copy):
        ends = [f"nbd+unix:///?socket={each}" for each in (source, target)]
        began = monotonic()
        subprocess.run(["nbdcopy", "--flush", *ends], check=True)
        took = monotonic() - began
        _check(copy, wanted)
    return took


def _beside(disk: Path, wanted: str) -> float:
    with own(disk.parent) as vault, _servers(disk) as (source, target, copy):
        began = monotonic()
        with (
            closing(NbdReader(NbdConnection.over_unix(source, "", timeout=30))) as reader,
            closing(NbdWriter(NbdConnection.over_unix(target, "", timeout=30))) as writer,
        ):
            found = vault.copied(PointId(uuid4()), reader, None, Into(writer=writer)).digest
        took = monotonic() - began
        if found != wanted:
            raise AssertionError("the copy's digest is not the disk's")
        _check(copy, wanted)
    return took


def _kept(disk: Path, wanted: str) -> float:
    image = disk.with_name("kept.qcow2")
    with _servers(disk) as (source, target, copy):
        ends = [f"nbd+unix:///?socket={each}" for each in (source, target)]
        packed = ["-c", "-O", "qcow2", "-o", "compression_type=zstd", ends[0], str(image)]
        filled = ["-n", "-f", "qcow2", "-O", "raw", str(image), ends[1]]
        began = monotonic()
        for how in (["-f", "raw", *packed], filled):
            subprocess.run(["qemu-img", "convert", *how], check=True)
        took = monotonic() - began
        _check(copy, wanted)
    image.unlink()
    return took


def _check(copy: Path, wanted: str) -> None:
    with closing(RawFile(copy)) as whole:
        if digest(whole, length=SIZE) != wanted:
            raise AssertionError("the copy is not the disk")
