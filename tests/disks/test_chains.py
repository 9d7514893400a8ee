"""Chains of backups: what QEMU's own tools make and see of them, and what the simulator does."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import KIB, MIB, ExtentKind
from drivers.disks.nbd import NbdConnection
from drivers.disks.nbd_disk import NbdReader
from drivers.opennebula.shell import Image
from drivers.simulators.opennebula import qcow2

CLUSTER = 64 * KIB
DEAD = "nbd+unix:///?socket=/var/lib/one/datastores/0/7/backup.socket"
WRITES = st.dictionaries(st.integers(0, 15), st.integers(0, 255), max_size=6)


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} on this machine")
    return path


def done(*words: str, **more) -> str:
    return subprocess.run(
        [tool(words[0]), *words[1:]], check=True, capture_output=True, text=True, **more
    ).stdout


@contextmanager
def served(folder: Path, *words: str) -> Iterator[Path]:
    """A real qemu-nbd."""
    socket = folder / "served.sock"
    process = subprocess.Popen(
        [tool("qemu-nbd"), "--persistent", "--read-only", f"--socket={socket}", *words]
    )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield socket
    finally:
        process.terminate()
        process.wait()


def told(folder: Path, image: Image, **changes) -> tuple[dict[int, ExtentKind], bytes]:
    """The kind of each cluster that is not unchanged, and the whole disk."""
    with (
        served(folder, "--export-name=x", *image.opened()) as socket,
        closing(NbdReader(NbdConnection.over_unix(socket, "x", timeout=10, **changes))) as reader,
    ):
        kinds: dict[int, ExtentKind] = {}
        for extent in reader.extents():
            if extent.kind is not ExtentKind.UNCHANGED:
                end = extent.offset + extent.length
                for number in range(extent.offset // CLUSTER, -(-end // CLUSTER)):
                    kinds.setdefault(number, extent.kind)
        return kinds, reader.read(0, reader.size)


def test_qemus_own_increments_and_bitmaps_tell_what_changed(tmp_path: Path):
    """Made as OpenNebula makes them: pulled through NBD by copying what was read."""
    disk, full, more = (str(tmp_path / name) for name in ("disk.0", "disk.0.0", "disk.0.1"))
    done("qemu-img", "create", "-f", "qcow2", disk, "4M")
    done("qemu-io", "-c", "write -P 1 0 1M", disk)
    done("qemu-img", "convert", "-O", "qcow2", disk, full)
    done("qemu-img", "bitmap", "--add", disk, "one-7-0")
    done("qemu-io", "-c", "write -P 2 128k 4k", "-c", "write -z 256k 64k", "-c", "write 3M 9", disk)
    with served(tmp_path, "-f", "qcow2", "-B", "one-7-0", disk) as socket:
        address = f"nbd+unix:///?socket={socket}"
        done("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", address, more)
        reads = "".join(f"read -q {at} 64k\n" for at in ("128k", "256k", "3M"))
        done("qemu-io", input=f"open -C -o driver=qcow2 {more}\n{reads}")
    changed = {2: ExtentKind.DATA, 4: ExtentKind.ZERO, 48: ExtentKind.DATA}
    chain = Image(paths=(more, full), form="qcow2", size=4 * MIB, layers=1)
    kinds, content = told(tmp_path, chain, layers=1)
    assert kinds == changed
    stopped = Image(paths=(disk,), form="qcow2", size=4 * MIB, bitmap="one-7-0")
    assert told(tmp_path, stopped, bitmap="one-7-0") == (changed, content)
    assert content[128 * KIB :][: 4 * KIB] == b"\2" * 4 * KIB


def test_qemu_takes_the_simulators_files_for_what_they_are(tmp_path: Path):
    files = [tmp_path / f"disk.0.{number}" for number in (2, 1, 0)]
    size = 16 * CLUSTER
    full = ((n, bytes([n]) * CLUSTER) for n in (1, 2, 5))
    qcow2.write(files[2], size, full)
    changes = [(2, b"B" * CLUSTER), (5, bytes(CLUSTER)), (9, b"new".ljust(CLUSTER, b"\0"))]
    qcow2.write(files[1], size, changes, backing=DEAD)
    qcow2.write(files[0], size, [(1, b"A" * CLUSTER)], backing=DEAD)
    for file in files:
        alone = Image(paths=(str(file), str(file)), form="qcow2", size=size).opened()[-1]
        done("qemu-img", "check", alone.partition(',"backing":{')[0] + ',"backing":null}')
        assert (DEAD in done("qemu-img", "info", "-U", str(file))) is (file != files[2])
    image = Image(paths=tuple(map(str, files)), form="qcow2", size=size, layers=2)
    kinds, content = told(tmp_path, image, layers=2)
    assert kinds == {n: ExtentKind.ZERO if n == 5 else ExtentKind.DATA for n in (1, 2, 5, 9)}
    with closing(qcow2.Chain(files, layered=True)) as chain:
        assert chain.read(0, size) == content
        assert [chain.depth(n) for n in (0, 1, 2, 5, 9)] == [0, 1, 2, 2, 2]


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(WRITES, min_size=1, max_size=4))
def test_a_chain_shows_the_last_of_all_writes(tmp_path_factory: pytest.TempPathFactory, steps):
    folder, size = tmp_path_factory.mktemp("chain"), 15 * CLUSTER + 512
    wanted, files = bytearray(16 * CLUSTER), list[Path]()
    for number, writes in enumerate(steps):
        clusters = [(n, bytes([value]) * CLUSTER) for n, value in sorted(writes.items())]
        for n, data in clusters:
            wanted[n * CLUSTER : (n + 1) * CLUSTER] = data
        files.insert(0, folder / str(number))
        qcow2.write(files[0], size, clusters, backing=DEAD if number else "")
    with closing(qcow2.Chain(files, layered=True)) as chain:
        assert chain.read(0, size) == wanted[:size]
        data = {n for n in range(16) if any(wanted[n * CLUSTER : (n + 1) * CLUSTER][:512])}
        shown = {
            n
            for at, count in chain.ranges(0, size)
            for n in range(at // CLUSTER, -(-(at + count) // CLUSTER))
        }
        assert shown == data
        newest = {n for n in range(16) if chain.depth(n) == 1}
        assert newest == {n for n, value in steps[-1].items() if value or len(steps) > 1}
