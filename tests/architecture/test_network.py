"""Tests reach this machine and nothing else."""

import asyncio
import socket
from pathlib import Path

import pytest
from pytest_socket import SocketConnectBlockedError


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
def test_a_test_cannot_reach_another_machine():
    with socket.socket() as line, pytest.raises(SocketConnectBlockedError):
        line.connect(("192.0.2.1", 443))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_test_reaches_this_machine(host: str):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port), timeout=5) as line:
            assert line.getpeername()[1] == port


def test_a_test_reaches_a_unix_socket(tmp_path: Path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as line:
        server.bind(path)
        server.listen()
        line.connect(path)


async def test_an_event_loop_reaches_a_unix_socket(tmp_path: Path):
    path = str(tmp_path / "s")
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    async with server:
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
