"""How fast a recovery point comes out again: into a raw file, and through the image gateway.

Three rounds, ours and `qemu-img convert` from a zstd qcow2 taking turns, on the disk of
tests/bench/disk.py; each of our rounds begins with nothing in its caches. The gateway runs in a
process of its own, over a vault that it has not read yet; its CPU seconds include opening the image.
"""

import asyncio
import filecmp
import hashlib
import multiprocessing
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from uuid import UUID

from api.gateway.app import gateway, listening, server
from controlplane.domain.disk import KIB, DiskFormat
from controlplane.domain.ids import OperationId, PointId
from controlplane.domain.placement import Served
from controlplane.vault.restoring import restore
from drivers.disks.image import Fingerprint, fingerprint, image_file, served_as
from drivers.disks.raw import RawFile
from tests.bench import disk
from tests.bench.result import Result
from tests.unit.vault.support import World, commit, copy, new_point

ROUNDS = 3
CPU_GOAL, RANGES_GOAL = 1.2, 10.0
_TOKEN = "t" * 43
_RANGE = 64 * KIB


def measure() -> Iterator[Result]:
    with disk.folder() as folder:
        raw = folder / "disk.raw"
        disk.make(raw)
        world = World(folder / "vault")
        point = new_point()
        with closing(RawFile(raw)) as reader, world.vault() as vault:
            copy(vault, reader, point=point)
            commit(vault, point)
        yield from _to_a_file(world, point, raw)
        yield from _through_the_gateway(world, point)


# Into a file


def _to_a_file(world: World, point: PointId, raw: Path) -> Iterator[Result]:
    packed, out = raw.with_suffix(".qcow2"), raw.with_suffix(".out")
    peer: Callable[[], None] | None = None
    if shutil.which("qemu-img"):
        options = ["-c", "-o", "compression_type=zstd"]
        _qemu("convert", "-f", "raw", "-O", "qcow2", *options, raw, packed)
        peer = lambda: _qemu("convert", "-f", "qcow2", "-O", "raw", packed, out)  # noqa: E731
    rounds: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    for number in range(ROUNDS):
        for name, do in (("ours", lambda: _restore(world, point, out)), ("peer", peer)):
            if do is None:
                continue
            out.unlink(missing_ok=True)
            rounds[name].append(_timed(do))
            if not number:
                assert filecmp.cmp(raw, out, shallow=False), f"{name}: another disk came out"
    out.unlink(missing_ok=True)
    packed.unlink(missing_ok=True)
    for number, (what, unit) in enumerate((("seconds", "s"), ("what it computes", "CPU s"))):
        ours = median(each[number] for each in rounds["ours"])
        theirs = median(each[number] for each in rounds["peer"]) if rounds["peer"] else None
        yield Result(
            name=f"restore to a raw file against qemu-img convert from zstd qcow2: {what}",
            ours=round(ours, 2),
            peer=None if theirs is None else round(theirs, 2),
            unit=unit,
            # Without qemu-img there is nothing to compare with, and nothing to meet.
            goal=round(ours if theirs is None else theirs, 2),
        )


def _restore(world: World, point: PointId, out: Path) -> None:
    with world.vault() as vault, closing(vault.open(point, 0)) as reader, out.open("wb") as file:
        restore(reader, file.fileno())


def _qemu(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def _timed(do: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process and its children."""
    before, began = os.times(), monotonic()
    do()
    wall, after = monotonic() - began, os.times()
    return wall, sum(after[:4]) - sum(before[:4])


# Through the gateway


def _through_the_gateway(world: World, point: PointId) -> Iterator[Result]:
    frames, made = _fingerprint(world, point, DiskFormat.QCOW2_ZSTD)
    pulls = [_pulled(world, point, DiskFormat.QCOW2_ZSTD, frames) for _ in range(ROUNDS)]
    others = {}
    for form in (DiskFormat.RAW, DiskFormat.QCOW2, DiskFormat.VHD):
        others[form] = _pulled(world, point, form, _fingerprint(world, point, form)[0])[1]
    yield Result(
        name="gateway: all of the image as qcow2 from stored zstd frames",
        ours=round(median(cpu for _, cpu in pulls), 2),
        unit="CPU s",
        goal=CPU_GOAL,
        breakdown={
            "wall (s)": round(median(wall for wall, _ in pulls), 2),
            "MiB served": round(frames.length / disk.MIB, 1),
            "both digests beforehand (s)": round(made, 2),
            **{f"as {form} (CPU s)": round(cpu, 2) for form, cpu in others.items()},
        },
    )
    with _serving(world, point, DiskFormat.QCOW2_ZSTD, frames) as (port, pid):
        before = _cpu(pid)
        wall, _ = _timed(lambda: _small_ranges(port, frames.length))
        spent = _cpu(pid) - before
    count = -(-frames.length // _RANGE)
    yield Result(
        name="gateway: the same image in ranges of 64 KiB, one after the other",
        ours=round(wall, 2),
        unit="s",
        goal=RANGES_GOAL,
        breakdown={
            "ranges": count,
            "each (ms)": round(wall / count * 1000, 3),
            "CPU of the gateway (s)": round(spent, 2),
        },
    )


def _fingerprint(world: World, point: PointId, form: DiskFormat) -> tuple[Fingerprint, float]:
    with (
        world.vault() as vault,
        closing(image_file(vault.open(point, 0), form, of=served_as("it", 0))) as image,
    ):
        began = monotonic()
        return fingerprint(image), monotonic() - began


def _pulled(
    world: World, point: PointId, form: DiskFormat, told: Fingerprint
) -> tuple[float, float]:
    """Seconds of one client that takes all of it, and CPU seconds of the gateway."""
    with _serving(world, point, form, told) as (port, pid):
        before, began = _cpu(pid), monotonic()
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            client.sendall(_request(form, ""))
            length, got = _head(client)
            assert length == told.length
            buffer = bytearray(1 << 20)
            while got < length and (some := client.recv_into(buffer)):
                got += some
        assert got == told.length
        return monotonic() - began, _cpu(pid) - before


def _small_ranges(port: int, length: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(1 << 20)
        for at in range(0, length, _RANGE):
            last = min(at + _RANGE, length) - 1
            client.sendall(_request(DiskFormat.QCOW2_ZSTD, f"Range: bytes={at}-{last}\r\n"))
            wanted, got = _head(client)
            while got < wanted and (some := client.recv_into(buffer)):
                got += some
            assert got == min(_RANGE, length - at)


def _request(form: DiskFormat, more: str) -> bytes:
    return f"GET /images/{_TOKEN}.{form.called} HTTP/1.1\r\nHost: gateway\r\n{more}\r\n".encode()


def _head(client: socket.socket) -> tuple[int, int]:
    """(the body's length, how much of it came with the head)."""
    data = b""
    while b"\r\n\r\n" not in data:
        some = client.recv(1 << 18)
        assert some, "the gateway hung up"
        data += some
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return int(fields[b"content-length"]), len(body)


@contextmanager
def _serving(
    world: World, point: PointId, form: DiskFormat, told: Fingerprint
) -> Iterator[tuple[int, int]]:
    """(port, process id) of a gateway that has not opened anything yet."""
    port = listening("127.0.0.1", 0)
    serving = multiprocessing.get_context("fork").Process(
        target=_serve, args=(world, point, form, told, port), daemon=True
    )
    serving.start()
    try:
        yield port.getsockname()[1], int(serving.pid or 0)
    finally:
        serving.terminate()
        serving.join(10)
        port.close()


def _serve(
    world: World, point: PointId, form: DiskFormat, told: Fingerprint, port: socket.socket
) -> None:
    vault = world.vault()
    served = Served(
        token_sha256=hashlib.sha256(_TOKEN.encode()).hexdigest(), operation=OperationId(UUID(int=1)),
        point="it", disk=0, format=form, length=told.length, size=disk.SIZE, sha256=told.sha256,
        sha512=told.sha512, domain="",
    )  # fmt: skip
    app = gateway(find=lambda _: served, open_disk=lambda _: vault.open(point, 0))
    asyncio.run(server(app, host="127.0.0.1", port=0).serve(sockets=[port]))


def _cpu(pid: int) -> float:
    text = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(text[11]) + int(text[12])) / os.sysconf("SC_CLK_TCK")
