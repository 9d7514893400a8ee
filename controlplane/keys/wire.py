"""Frames between the key agent and its clients: four bytes of length, then one JSON object."""

import base64
import binascii
import json
import socket
from typing import TypeAlias
from uuid import UUID

from controlplane.domain.errors import Invalid
from controlplane.keys.port import KeyId, KeyName, Purpose

Frame: TypeAlias = dict[str, str | int | bool | None]

FRAME_MAX = 64 * 1024
_LENGTH = 4


class Closed(ConnectionError):
    """The other side went away, between frames or within one."""


def send(connection: socket.socket, frame: Frame) -> None:
    body = json.dumps(frame, separators=(",", ":")).encode()
    if len(body) > FRAME_MAX:
        raise Invalid(f"a request of {len(body)} bytes is too long for the key agent")
    connection.sendall(len(body).to_bytes(_LENGTH, "big") + body)


def receive(connection: socket.socket) -> Frame:
    length = int.from_bytes(_exactly(connection, _LENGTH), "big")
    if length > FRAME_MAX:
        raise Invalid(f"a frame of {length} bytes is longer than the key agent speaks")
    try:
        frame = json.loads(_exactly(connection, length))
    except ValueError:
        raise Invalid("a frame to or from the key agent is not JSON") from None
    if not isinstance(frame, dict):
        raise Invalid("a frame to or from the key agent is not a JSON object")
    return frame


def text_of(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def word(frame: Frame, field: str) -> str:
    value = frame.get(field)
    if not isinstance(value, str):
        raise Invalid(f"the key agent's frame lacks the text {field!r}")
    return value


def raw_of(frame: Frame, field: str) -> bytes:
    try:
        return base64.b64decode(word(frame, field), validate=True)
    except binascii.Error:
        raise Invalid(f"{field!r} in the key agent's frame is not base64") from None


def frame_of(name: KeyName) -> Frame:
    return {
        "id": str(name.id),
        "purpose": str(name.purpose),
        "owner": name.owner,
        "version": name.version,
    }


def name_of(frame: Frame) -> KeyName:
    version = frame.get("version")
    if not isinstance(version, int):
        raise Invalid("the key agent's frame lacks the number 'version'")
    try:
        return KeyName(
            id=KeyId(UUID(word(frame, "id"))),
            purpose=Purpose(word(frame, "purpose")),
            owner=word(frame, "owner"),
            version=version,
        )
    except ValueError:
        raise Invalid("the key agent's frame names no key") from None


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:
            raise Closed("the key agent's connection was closed")
        parts += part
    return bytes(parts)
