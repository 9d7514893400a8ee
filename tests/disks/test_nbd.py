"""The NBD client against qemu-nbd where there is one, and against a simulator's server."""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import Extent, ExtentKind
from controlplane.domain.errors import Denied, Exhausted, Invalid, NotFound, Unavailable
from drivers.disks.nbd import NbdConnection
from drivers.disks.nbd_disk import NbdReader, NbdWriter
from drivers.simulators.faults import STEADY, Faults
from drivers.simulators.nbd import Export, serve

SIZE = 6 << 20


@contextmanager
def simulated(disk: Path, *, readonly: bool = False) -> Iterator[Path]:
    """The simulator's own server on a unix socket."""
    path = disk.with_suffix(".sock")
    loop = asyncio.new_event_loop()
    export = Export(
        pid=1,
        arguments=[],
        socket=str(path),
        name="disk",
        description="",
        file=disk,
        readonly=readonly,
    )

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await serve(export, reader, writer, faults=Faults(STEADY, seed=1))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = loop.run_until_complete(asyncio.start_unix_server(client, path, limit=1 << 26))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def ended() -> None:
        server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    try:
        yield path
    finally:
        asyncio.run_coroutine_threadsafe(ended(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def qemu(disk: Path, *, readonly: bool = False) -> Iterator[Path]:
    """A real qemu-nbd."""
    path = disk.with_suffix(".qemu.sock")
    program = shutil.which("qemu-nbd")
    if program is None:
        pytest.skip("there is no qemu-nbd on this machine: only the simulator's server is tried")
    words = [program, "-t", "-e", "4", "-f", "raw", "-x", "disk", "-k", str(path)]
    process = subprocess.Popen([*words, *(["-r"] if readonly else []), str(disk)])
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield path
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=[simulated, qemu], ids=["simulator", "qemu-nbd"])
def server(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "d.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def opened(path: Path, name: str = "disk") -> NbdConnection:
    return NbdConnection.over_unix(path, name, timeout=10)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero", "read"]),
        st.integers(0, SIZE - 1),
        st.one_of(st.integers(0, 70_000), st.integers(1 << 20, 5 << 20)),
        st.integers(0, 255),
    ),
    max_size=12,
)


def play(path: Path, steps) -> bytes:
    """Do the steps on the disk and on a model; each read must agree. The model's end."""
    model = bytearray(SIZE)
    writer, reader = NbdWriter(opened(path)), NbdReader(opened(path))
    try:
        writer.zero(0, SIZE)
        for what, offset, wish, byte in steps:
            length = min(wish, SIZE - offset)
            match what:
                case "write":
                    data = bytes([byte]) * length
                    writer.write(offset, data)
                    model[offset : offset + length] = data
                case "zero":
                    writer.zero(offset, length)
                    model[offset : offset + length] = bytes(length)
                case _:
                    writer.finish()
                    same = reader.read(offset, length) == model[offset : offset + length]
                    assert same
        writer.finish()
        told = list(reader.extents())
        assert [e.offset for e in told] == [0, *(e.offset + e.length for e in told)][:-1]
        assert sum(e.length for e in told) == SIZE
        for extent in told:
            part = model[extent.offset : extent.offset + extent.length]
            assert extent.kind is ExtentKind.DATA or not any(part), extent
        same = reader.read(0, SIZE) == bytes(model)
        assert same
    finally:
        writer.close()
        reader.close()
    return bytes(model)


@settings(max_examples=15)
@given(steps=STEPS)
def test_what_is_written_and_zeroed_reads_back_from_the_simulators_server(steps, nbd_path):
    """Takes some seconds: fifteen disks of 6 MiB are written and read whole."""
    play(nbd_path, steps)


@pytest.fixture(scope="module")
def nbd_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    disk = tmp_path_factory.mktemp("nbd") / "d.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    with simulated(disk) as path:
        yield path


def test_a_disk_keeps_what_a_server_was_told(server, disk):
    steps = [
        ("write", 5, 70_000, 1),
        ("zero", 30_000, 10_000, 0),
        ("write", SIZE - 3, 3, 9),
        ("read", 0, SIZE, 0),
        ("zero", 1 << 20, 4 << 20, 0),
    ]
    with server(disk) as path:
        model = play(path, steps)
    same = disk.read_bytes() == model
    assert same


def test_a_holey_disk_tells_its_data_and_a_read_only_one_refuses_writes(server, disk):
    with disk.open("r+b") as file:
        file.seek(2 << 20)
        file.write(os.urandom(1 << 20))
    with server(disk, readonly=True) as path:
        connection = opened(path)
        reader = NbdReader(connection)
        assert connection.read_only
        assert list(reader.extents()) == [
            Extent(offset=0, length=2 << 20, kind=ExtentKind.ZERO),
            Extent(offset=2 << 20, length=1 << 20, kind=ExtentKind.DATA),
            Extent(offset=3 << 20, length=3 << 20, kind=ExtentKind.ZERO),
        ]
        with pytest.raises(Denied):
            connection.write(0, b"x")
        assert connection.read_each([(0, 512)])[0] == bytes(512), (
            "the connection outlives a refusal"
        )
        reader.close()
        reader.close()


def test_other_names_and_places_are_named(server, disk):
    with server(disk) as path:
        with pytest.raises(NotFound):
            opened(path, "another")
        connection = opened(path)
        for offset, length in ((SIZE - 1, 2), (-1, 2), (0, -1)):
            with pytest.raises(Invalid):
                connection.read_each([(offset, length)])[0]
        connection.close()
    with pytest.raises(Unavailable):
        opened(disk.with_suffix(".nowhere"))


def test_a_tcp_port_nobody_listens_on_is_unavailable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable):
        NbdConnection.over_tcp("127.0.0.1", port, "disk", timeout=1)


GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
REPLY = 0x3E889045565A9


@contextmanager
def scripted(answer: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """A client's socket whose far end is played by `answer` in a thread."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    failed: list[Exception] = []

    def played() -> None:
        try:
            answer(theirs)
        except OSError:
            pass  # the client hung up, as it should
        except (struct.error, AssertionError) as error:
            failed.append(error)
        finally:
            theirs.close()

    thread = threading.Thread(target=played)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()
    assert not failed


def take(stream: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = stream.recv(length - len(data))
        if not part:
            raise OSError("gone")
        data += part
    return data


def negotiated(stream: socket.socket, *, size: int = 1024, structured: bool = False) -> None:
    """Greet, know no options but GO (and structured replies where wished), let transmission begin."""
    stream.sendall(GREETING)
    take(stream, 4)
    while True:
        _, option, length = struct.unpack(">8sII", take(stream, 16))
        take(stream, length)
        if option == 7:
            info = struct.pack(">HQH", 0, size, 1 | 4)
            stream.sendall(struct.pack(">QIII", REPLY, option, 3, len(info)) + info)
            stream.sendall(struct.pack(">QIII", REPLY, option, 1, 0))
            return
        known = structured and option == 8
        stream.sendall(struct.pack(">QIII", REPLY, option, 1 if known else 0x80000001, 0))


def asked(stream: socket.socket) -> tuple[int, int, int, int]:
    """kind, cookie, offset, length of the next request."""
    _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", take(stream, 28))
    return kind, cookie, offset, length


def test_parts_are_all_asked_for_before_the_first_answer():
    content = bytes(range(256)) * 4

    def answer(stream: socket.socket) -> None:
        negotiated(stream)
        asks = [asked(stream) for _ in range(3)]
        for _, cookie, offset, length in reversed(asks):
            data = content[offset : offset + length]
            stream.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + data)

    with scripted(answer) as stream:
        reader = NbdReader(NbdConnection(stream, "disk", where="here"))
        parts = [(0, 10), (500, 20), (1000, 24)]
        assert reader.read_each(parts) == [content[o : o + n] for o, n in parts]


def test_a_write_that_failed_is_told_by_what_follows_it_and_never_by_a_flush_that_succeeds():
    def answer(stream: socket.socket) -> None:
        negotiated(stream)
        for error in (0, 28, 0):
            kind, cookie, _, length = asked(stream)
            assert kind == 1
            take(stream, length)
            stream.sendall(struct.pack(">IIQ", 0x67446698, error, cookie))

    with scripted(answer) as stream:
        writer = NbdWriter(NbdConnection(stream, "disk", where="here"))
        for offset in (0, 256, 512):
            writer.write(offset, bytes(256))
        with pytest.raises(Exhausted):
            writer.finish()


def test_a_server_with_simple_replies_is_read_and_all_of_it_is_data():
    content = bytes(range(256)) * 4

    def answer(stream: socket.socket) -> None:
        negotiated(stream)
        while True:
            kind, cookie, offset, length = asked(stream)
            if kind == 2:
                return
            data = content[offset : offset + length] if kind == 0 else b""
            if kind == 1:
                take(stream, length)
            stream.sendall(struct.pack(">IIQ", 0x67446698, 28 if kind == 1 else 0, cookie) + data)

    with scripted(answer) as stream:
        connection = NbdConnection(stream, "disk", where="here")
        reader = NbdReader(connection)
        assert list(reader.extents()) == [Extent(offset=0, length=1024, kind=ExtentKind.DATA)]
        assert reader.read(100, 500) == content[100:600]
        connection.flush()
        connection.write_zeroes(0, 512)
        with pytest.raises(Exhausted):
            connection.flush()
        reader.close()


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 200 OK\r\n\r\n", b"NBDMAGIC" + bytes(10), b"NBD", b""]
)
def test_what_is_no_nbd_is_unavailable(greeting):
    with (
        scripted(lambda stream: stream.sendall(greeting)) as stream,
        pytest.raises(Unavailable),
    ):
        NbdConnection(stream, "disk", where="here")


def reply(flags: int, kind: int, cookie: int, body: bytes) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, cookie, len(body)) + body


@pytest.mark.parametrize(
    "wrong",
    [
        lambda cookie: b"\0" * 40,
        lambda cookie: reply(1, 1, cookie + 1, struct.pack(">Q", 0) + bytes(512)),
        lambda cookie: reply(1, 1, cookie, struct.pack(">Q", 400) + bytes(512)),
        lambda cookie: reply(1, 2, cookie, struct.pack(">QI", 0, 5000)),
        lambda cookie: reply(1, 0x8001, cookie, struct.pack(">IH", 5, 0)),
        lambda cookie: struct.pack(">IHHQI", 0x668E33EF, 1, 1, cookie, 1 << 30),
    ],
    ids=["no magic", "another cookie", "beyond", "hole beyond", "I/O error", "too long"],
)
def test_a_wrong_reply_is_unavailable_and_never_bytes(wrong):
    def answer(stream: socket.socket) -> None:
        negotiated(stream, structured=True)
        _, cookie, _, _ = asked(stream)
        stream.sendall(wrong(cookie))
        take(stream, 1)

    with scripted(answer) as stream:
        connection = NbdConnection(stream, "disk", where="here")
        with pytest.raises(Unavailable):
            connection.read_each([(0, 512)])[0]
        connection.close()


def test_a_silent_server_is_given_up():
    def answer(stream: socket.socket) -> None:
        negotiated(stream)
        take(stream, 10_000)

    with scripted(answer) as stream:
        stream.settimeout(0.1)
        connection = NbdConnection(stream, "disk", where="here")
        with pytest.raises(Unavailable):
            connection.read_each([(0, 512)])[0]
        connection.close()
