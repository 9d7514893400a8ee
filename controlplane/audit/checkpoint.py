"""A signed head of the log, in the text that C2SP calls a checkpoint in a signed note.

Any witness or tool that reads such notes can check ours:

    fedctl.example/audit
    3
    rrbywn8nS3Ch+2fqWleCZNsPqVuvW6KZu1c8AAAAAAA=

    — fedctl.example/audit x7R2qw...
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.audit.merkle import HASH_BYTES
from controlplane.domain.errors import Integrity, Invalid

_ALGORITHM = b"\x01"  # Ed25519 in the signed-note format
_KEY_BYTES = 32
_HINT = 4
_DASH = "\u2014"
_ORIGIN = re.compile(r"[^\s+]{1,200}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The log named `origin` had this `root` when it held `size` entries."""

    origin: str
    size: int
    root: bytes

    def body(self) -> bytes:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n".encode()


def checked_origin(origin: str) -> str:
    """`origin` if it can name a log: no space, no plus sign; else `Invalid`."""
    if not _ORIGIN.fullmatch(origin):
        raise Invalid(f"{origin[:80]!r} cannot name a log: use no space and no '+'")
    return origin


def signed_note(checkpoint: Checkpoint, *, public_key: bytes, sign: Sign) -> str:
    """`checkpoint` with the signature that `sign` (Ed25519, of `public_key`) makes."""
    origin = checked_origin(checkpoint.origin)
    body = checkpoint.body()
    signature = _hint(origin, public_key) + sign(body)
    return f"{body.decode()}\n{_DASH} {origin} {_b64(signature)}\n"


def open_note(note: str, *, public_key: bytes, origin: str | None = None) -> Checkpoint:
    """The checkpoint in `note` if `public_key` signed it; signatures of others are ignored."""
    checkpoint, lines = _parsed(note)
    if origin is not None and checkpoint.origin != origin:
        raise Integrity(
            f"the checkpoint is of the log {checkpoint.origin}, not of {origin}: take its own key",
            reason="other-log",
        )
    key = Ed25519PublicKey.from_public_bytes(public_key)
    hint = _hint(checkpoint.origin, public_key)
    for line in lines:
        name, signature = _signature(line)
        if name != checkpoint.origin or signature[:_HINT] != hint:
            continue
        try:
            key.verify(signature[_HINT:], checkpoint.body())
        except InvalidSignature:
            break
        return checkpoint
    raise Integrity(
        f"the checkpoint of {checkpoint.size} entries is not signed by the key given:"
        " it was altered, or the key is another log's",
        reason="forged",
    )


def verifier_key(origin: str, public_key: bytes) -> str:
    """The public key as one line of text, in the form that witnesses take."""
    hint = _hint(checked_origin(origin), public_key).hex()
    return f"{origin}+{hint}+{_b64(_ALGORITHM + public_key)}"


def parse_verifier_key(text: str) -> tuple[str, bytes]:
    """Origin and public key of a line that `verifier_key` made; else `Invalid`."""
    try:
        origin, hint, encoded = text.strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise Invalid("not a verifier key: expected origin+hash+key on one line") from None
    public_key = raw[1:]
    if raw[:1] != _ALGORITHM or len(public_key) != _KEY_BYTES or not _ORIGIN.fullmatch(origin):
        raise Invalid("not a verifier key of Ed25519: expected origin+hash+key on one line")
    if _hint(origin, public_key).hex() != hint:
        raise Invalid("the verifier key's hash does not fit it: copy the whole line again")
    return origin, public_key


def _parsed(note: str) -> tuple[Checkpoint, list[str]]:
    malformed = Integrity("a checkpoint is not a signed note: it was altered", reason="malformed")
    body, between, signatures = note.partition("\n\n")
    parts = body.split("\n")
    if not between or len(parts) != 3 or not signatures.endswith("\n"):  # noqa: PLR2004  # the three lines of a checkpoint
        raise malformed
    origin, size, encoded = parts
    if not _ORIGIN.fullmatch(origin) or not _SIZE.fullmatch(size):
        raise malformed
    try:
        root = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise malformed from None
    if len(root) != HASH_BYTES or _b64(root) != encoded:
        raise malformed
    return Checkpoint(origin=origin, size=int(size), root=root), signatures[:-1].split("\n")


def _signature(line: str) -> tuple[str, bytes]:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != _DASH:
        return "", b""
    try:
        return name, base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return "", b""


def _hint(origin: str, public_key: bytes) -> bytes:
    return hashlib.sha256(origin.encode() + b"\n" + _ALGORITHM + public_key).digest()[:_HINT]


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
