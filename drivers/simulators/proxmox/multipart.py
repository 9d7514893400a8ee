"""Multipart uploads as the real daemon reads them: fields in one order, the file streamed."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drivers.simulators.proxmox.params import invalid
from drivers.simulators.proxmox.routes import Upload

_ORDER = ("content", "checksum-algorithm", "checksum")


class Broken(OSError):
    """The connection ends without an answer."""


def received(
    body: "Body", *, kind: str, target: Path, passed: Callable[[bytes], bytes]
) -> tuple[dict[str, str], Upload]:
    """The fields and the file; another order than Proxmox VE's breaks the connection."""
    match = re.search(r'boundary="?([^";]+)', kind)
    if match is None:
        raise invalid(content="no boundary")
    boundary = b"--" + match[1].encode()
    if body.line() != boundary:
        raise Broken
    fields, filename = _fields_before_file(body, boundary)
    try:
        with target.open("wb") as file:
            for data in body.chunks_until(b"\r\n" + boundary):
                file.write(passed(data))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    body.drain()
    return fields, Upload(filename=filename, file=target)


def _fields_before_file(body: "Body", boundary: bytes) -> tuple[dict[str, str], str]:
    fields: dict[str, str] = {}
    while True:
        part = _disposition(body)
        name = part.get("name", "")
        if name == "filename" and "filename" in part and "content" in fields:
            return fields, part["filename"]
        late = any(_ORDER.index(seen) > _ORDER.index(name) for seen in fields if name in _ORDER)
        if name not in _ORDER or late:
            raise Broken
        fields[name] = body.until(b"\r\n" + boundary).decode()
        if body.line():
            raise invalid(filename="property is missing and it is not optional")


def _disposition(body: "Body") -> dict[str, str]:
    found: dict[str, str] = {}
    while line := body.line():
        if line.lower().startswith(b"content-disposition:"):
            found |= dict(re.findall(r'(\w+)="([^"]*)"', line.decode()))
    return found


class Body:
    """A request body of known length, read by lines and up to marks."""

    def __init__(self, file: Any, length: int) -> None:
        self._file, self._left, self._buffer = file, length, b""

    def _more(self) -> None:
        data = self._file.read1(min(self._left, 1 << 20)) if self._left else b""
        if not data:
            raise Broken
        self._left -= len(data)
        self._buffer += data

    def line(self) -> bytes:
        return self.until(b"\r\n")

    def until(self, mark: bytes) -> bytes:
        return b"".join(self.chunks_until(mark))

    def chunks_until(self, mark: bytes) -> Iterator[bytes]:
        while (at := self._buffer.find(mark)) < 0:
            safe = len(self._buffer) - len(mark) + 1
            if safe > 0:
                yield self._buffer[:safe]
                self._buffer = self._buffer[safe:]
            self._more()
        if at:
            yield self._buffer[:at]
        self._buffer = self._buffer[at + len(mark) :]

    def drain(self) -> None:
        self._buffer = b""
        while self._left:
            self._more()
            self._buffer = b""
