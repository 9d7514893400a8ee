"""AES-256-GCM around bytes, bound to the key and the purpose they were sealed for.

Layout, version 1: one byte 0x01, sixteen bytes key id, twelve bytes nonce, ciphertext with tag.
The nonce is random: a key seals at most 2**32 envelopes, far beyond what its purposes need.
"""

import secrets
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controlplane.domain.errors import Integrity
from controlplane.keys.port import KeyId, KeyName, OpenKey

VERSION = 1
KEY_BYTES = 32
_NONCE = 12
_TAG = 16
_HEAD = 1 + 16
OVERHEAD = _HEAD + _NONCE + _TAG
_DOMAIN = b"fedctl envelope 1"


def new_material() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def seal(key: OpenKey, plain: bytes, *, bound: bytes = b"") -> bytes:
    """`plain` under `key`; `bound` is not stored and must be given again to open it."""
    return seal_raw(key.material, key.name, plain, bound=bound)


def open_sealed(key: OpenKey, sealed: bytes, *, bound: bytes = b"") -> bytes:
    """What `seal` was given; `Integrity` when key, purpose, owner, `bound` or a byte differs."""
    return open_raw(key.material, key.name, sealed, bound=bound)


def seal_raw(material: bytes, name: KeyName, plain: bytes, *, bound: bytes = b"") -> bytes:
    nonce = secrets.token_bytes(_NONCE)
    head = bytes([VERSION]) + name.id.bytes
    return head + nonce + AESGCM(material).encrypt(nonce, plain, _associated(name, bound))


def open_raw(material: bytes, name: KeyName, sealed: bytes, *, bound: bytes = b"") -> bytes:
    if key_id(sealed) != name.id:
        raise Integrity(f"{_what(name)}: sealed under another key; restore the row from a backup")
    nonce = sealed[_HEAD : _HEAD + _NONCE]
    try:
        return AESGCM(material).decrypt(nonce, sealed[_HEAD + _NONCE :], _associated(name, bound))
    except InvalidTag:
        raise Integrity(
            f"{_what(name)}: the sealed bytes were changed or belong elsewhere;"
            " restore the row from a backup"
        ) from None


def key_id(sealed: bytes) -> KeyId:
    """Which key opens it; `Integrity` for what is no envelope."""
    if len(sealed) < OVERHEAD or sealed[0] != VERSION:
        raise Integrity("not a sealed envelope of a version known here; restore the row")
    return KeyId(UUID(bytes=sealed[1:_HEAD]))


def _associated(name: KeyName, bound: bytes) -> bytes:
    parts = (
        _DOMAIN,
        name.purpose.encode(),
        name.owner.encode(),
        name.id.bytes,
        str(name.version).encode(),
        bound,
    )
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _what(name: KeyName) -> str:
    return f"{name.purpose} key {name.id} of {name.owner}"
