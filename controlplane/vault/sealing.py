"""Turning plain chunks into sealed blobs and back, and sealing small whole objects.

A chunk's id is BLAKE3 keyed with the domain's id key over (kind, length, content digest): one pass
over the bytes gives both the comparable digest and an id that no other domain can relate to.
"""

import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controlplane.domain.errors import Integrity
from controlplane.vault.digest import content_digest
from controlplane.vault.ports import (
    DomainKeys,
)

ID = 32
TAG = 16
PLAIN_MAX = 1 << 24
_SUBKEY = "fedctl 2026-11 vault: subkey of one pack or object"
_OBJECT = b"fedctl-sealed-1\n"
_WORTH = 0.97
_ABOUT = struct.Struct(">BI")
_BINDING = struct.Struct(">I32sBII")
_NONCE = 12
_TABLE_NONCE = b"\x01" + bytes(_NONCE - 1)

RAW, ZSTD, CODEC, PAGE = 0, 1, 0x0F, 0x10


class Unsealable(Exception):
    """Stored bytes do not open under their key and place; the caller knows what to call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What a pack's table says of one blob. `codec` has the PAGE bit for manifest pages."""

    id: bytes
    codec: int
    plain: int
    offset: int
    stored: int


class _Zstd(threading.local):
    """zstd contexts serve one thread each."""

    def __init__(self) -> None:
        self.pack = zstandard.ZstdCompressor(level=1, write_content_size=True)
        self.unpack = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def blob_id(id_key: bytes, kind: int, length: int, digest: bytes) -> bytes:
    return blake3(_ABOUT.pack(kind, length) + digest, key=id_key).digest()


About = tuple[bytes, int, int, int]
"""(id, codec, plain, stored): what a pack's table says of a blob."""


def compress(contents: Sequence[bytes | memoryview]) -> list[tuple[int, bytes | memoryview]]:
    """Each as (codec, bytes): one zstd frame with its size, or raw when that saves under 3 %.

    All in one call: between calls a thread waits for the interpreter, which another may hold.
    """
    frames = _frames(contents)
    return [
        (ZSTD, frame) if len(frame) < len(data) * _WORTH else (RAW, data)
        for data, frame in zip(contents, frames, strict=True)
    ]


def _frames(contents: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    if len(contents) == 1:
        return [_zstd.pack.compress(contents[0])]
    made = _zstd.pack.multi_compress_to_buffer([*contents])
    return [memoryview(cast("bytes", made[n])) for n in range(len(made))]


class BlobCipher:
    """Seals and opens the blobs of one pack under the pack's own key; `header` is bound in."""

    def __init__(self, data_key: bytes, pack: bytes, header: bytes) -> None:
        self._gcm = _gcm(data_key, pack)
        self._header = header

    def seal(
        self, first: int, about: Sequence[About], bodies: Sequence[bytes | memoryview]
    ) -> list[bytes]:
        """Bodies of neighbouring blobs from position `first` on."""
        header, binding = self._header, _BINDING.pack
        positions = range(first, first + len(bodies))
        nonces = [position.to_bytes(_NONCE, "big") for position in positions]
        bounds = [
            header + binding(position, *told)
            for position, told in zip(positions, about, strict=True)
        ]
        return [*map(self._gcm.encrypt, nonces, bodies, bounds)]

    def seal_table(self, table: bytes, footer: bytes) -> bytes:
        return self._gcm.encrypt(_TABLE_NONCE, table, self._header + footer)

    def open_table(self, sealed: bytes, footer: bytes) -> bytes:
        try:
            return self._gcm.decrypt(_TABLE_NONCE, sealed, self._header + footer)
        except InvalidTag as e:
            raise Unsealable from e

    def body(self, position: int, blob: Blob, sealed: bytes | memoryview) -> bytes:
        """What was sealed: a zstd frame, or plain bytes, as the codec says.

        Neither decompressed nor rehashed. That it is what was written under this id, codec and
        length is proven by the tag, which binds all three with pack and position; that it was right
        when it was written, by the reading back of its pack before any point could refer to it.
        """
        bound = self._header + _BINDING.pack(position, blob.id, blob.codec, blob.plain, blob.stored)
        try:
            return self._gcm.decrypt(position.to_bytes(_NONCE, "big"), sealed, bound)
        except InvalidTag as e:
            raise Unsealable from e

    def open(
        self, position: int, blob: Blob, sealed: bytes | memoryview, id_key: bytes
    ) -> bytes:  # fmt: skip
        """The plain bytes, decrypted, decompressed and rehashed to their id."""
        body = self.body(position, blob, sealed)
        if blob.codec & CODEC == ZSTD:
            try:
                body = _zstd.unpack.decompress(body, max_output_size=blob.plain)
            except zstandard.ZstdError as e:
                raise Unsealable from e
        kind = blob.codec & PAGE
        if (
            len(body) != blob.plain
            or blob_id(id_key, kind, len(body), content_digest(body)) != blob.id
        ):
            raise Unsealable
        return body


def seal_object(keys: DomainKeys, name: str, data: bytes) -> bytes:
    """A whole small object under a key of its own; its name is bound in."""
    salt = os.urandom(ID)
    key_id = keys.data_key_id.encode()
    header = _OBJECT + bytes([len(key_id)]) + key_id + salt
    body = _gcm(keys.data_key, salt).encrypt(bytes(_NONCE), data, header + name.encode())
    return header + body


def open_object(keys: DomainKeys, name: str, sealed: bytes) -> bytes:
    start = len(_OBJECT) + 1
    if len(sealed) < start + ID + TAG or not sealed.startswith(_OBJECT):
        raise Integrity(f"stored object {name} is damaged: it does not begin as it should")
    end = start + sealed[start - 1]
    key_id = sealed[start:end].decode(errors="replace")
    key = keys.data_key_named(key_id)
    if key is None:
        raise Integrity(
            f"stored object {name} wants data key {key_id!r}, which the keyring does not have"
        )
    header, salt = sealed[: end + ID], sealed[end : end + ID]
    try:
        return _gcm(key, salt).decrypt(bytes(_NONCE), sealed[end + ID :], header + name.encode())
    except (InvalidTag, ValueError) as e:
        raise Integrity(f"stored object {name} is damaged: it does not open with its key") from e


def _gcm(data_key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(blake3(data_key + salt, derive_key_context=_SUBKEY).digest())
