"""The control plane's state as one encrypted file, and back.

The file, version 1: a line `fedctl-backup-1`, four bytes of length and a JSON header, then frames
of four bytes of length and AES-256-GCM ciphertext. Their key is drawn from the root key and 32
random bytes in the header; the nonce is the frame's number; the associated data is a hash of all
before the frames and whether the frame is the last one. So no frame can be changed, left out, moved
or taken from another file without being noticed, nor the end cut off. Inside, a frame is zstd over
JSON.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, cast

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from controlplane.domain.errors import (
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
)
from controlplane.keys.port import KeyAgent
from controlplane.store.engine import NEWEST, Store

_MAGIC = b"fedctl-backup-1\n"
_LABEL = "backup/1"
_HEADER_MAX = 64 * 1024
_FRAME_MAX = 256 * 1024 * 1024
_WRITING: dict[int, tuple[type[FedctlError], str]] = {
    errno.ENOENT: (NotFound, "make its folder"),
    errno.EACCES: (Denied, "choose a folder of your own"),
    errno.ENOSPC: (Exhausted, "free space"),
    errno.EDQUOT: (Exhausted, "free space"),
}
_LAST, _MORE = b"\1", b"\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What can be read of a backup without a key. `root` names the root key that opens it."""

    id: str
    created_at: datetime
    schema: str
    root: str
    salt: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A backup that is whole and durable; `rows` counts each table's."""

    header: Header
    size: int
    rows: dict[str, int]


def create(store: Store, agent: KeyAgent, path: Path, now: datetime) -> Written:
    """Writes `path`, readable by its owner alone, once all of it is on disk.

    Other processes go on meanwhile; the backup is of the moment at which it began. Conflict when
    there is such a file already, Exhausted when the disk is full, NotFound or Denied for its place.
    """
    if path.exists():
        raise Conflict(f"{path} exists already and is not written over: choose another name")
    header = Header(
        id=secrets.token_hex(16),
        created_at=now,
        schema=NEWEST,
        root=agent.status().root or "",
        salt=secrets.token_bytes(32),
    )
    coming = path.with_name(f".{path.name}.{header.id[:8]}")
    try:
        with os.fdopen(os.open(coming, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            rows = _write(store, agent, header, file)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        os.link(coming, path)
        _sync(path.parent)
    except FileExistsError as e:
        raise Conflict(f"{path} appeared meanwhile and is not written over: look at it") from e
    except OSError as e:
        kind, remedy = _WRITING.get(e.errno or 0, (Unavailable, "look at that disk"))
        raise kind(f"the backup {path} cannot be written ({e.strerror}): {remedy}") from e
    finally:
        with suppress(OSError):
            coming.unlink()
    return Written(header=header, size=size, rows=rows)


def read_header(path: Path) -> Header:
    """NotFound, Denied; Invalid for what is no backup, or one of a version not known here."""
    with _opened(path) as file:
        return _read_header(file, path)[0]


def read(agent: KeyAgent, path: Path) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """The rows as they were dumped.

    What was given before the iterator ends may be of a file that is cut off: only its end proves
    that all of it is there. Integrity when it was changed or cut, Denied under another root key.
    """
    with _opened(path) as file:
        header, bound = _read_header(file, path)
        root = agent.status().root
        if root != header.root:
            raise Denied(
                f"{path} was made under root key {header.root}, the key agent holds {root}: start"
                " it with the sealed root key that belongs to the backup"
            )
        counted: dict[str, int] = {}
        for frame, last in _frames(file, _key(agent, header), bound, path):
            if last:
                if frame != counted:
                    raise Integrity(f"{path} does not hold the rows that it says it does")
                return
            table, rows = cast("tuple[str, list[dict[str, object]]]", frame)
            counted[table] = counted.get(table, 0) + len(rows)
            yield table, rows


def verify(agent: KeyAgent, path: Path) -> Written:
    """Reads all of it and keeps nothing."""
    rows: dict[str, int] = {}
    for table, some in read(agent, path):
        rows[table] = rows.get(table, 0) + len(some)
    return Written(header=read_header(path), size=path.stat().st_size, rows=rows)


def _write(store: Store, agent: KeyAgent, header: Header, file: BinaryIO) -> dict[str, int]:
    head = json.dumps(
        {
            "id": header.id,
            "createdAt": header.created_at.isoformat(),
            "schema": header.schema,
            "root": header.root,
            "salt": header.salt.hex(),
        }
    ).encode()
    before = _MAGIC + len(head).to_bytes(4, "big") + head
    file.write(before)
    bound = sha256(before).digest()
    key = _key(agent, header)
    counted: dict[str, int] = {}
    number = 0
    with store.read() as tx:
        for table, rows in tx.dump():
            counted[table] = counted.get(table, 0) + len(rows)
            _frame(file, key, number, bound + _MORE, [table, rows])
            number += 1
    _frame(file, key, number, bound + _LAST, counted)
    return counted


def _frame(file: BinaryIO, key: AESGCM, number: int, bound: bytes, content: object) -> None:
    plain = zstandard.compress(json.dumps(content, allow_nan=False).encode())
    sealed = key.encrypt(number.to_bytes(12, "big"), plain, bound)
    file.write(len(sealed).to_bytes(4, "big") + sealed)


def _frames(file: BinaryIO, key: AESGCM, bound: bytes, path: Path) -> Iterator[tuple[object, bool]]:
    damaged = f"{path} was changed or is cut off: take another backup"
    number = 0
    while True:
        length = int.from_bytes(_exactly(file, 4, damaged), "big")
        if length > _FRAME_MAX:
            raise Integrity(damaged)
        sealed = _exactly(file, length, damaged)
        nonce = number.to_bytes(12, "big")
        last = False
        try:
            plain = key.decrypt(nonce, sealed, bound + _MORE)
        except InvalidTag:
            last = True
            try:
                plain = key.decrypt(nonce, sealed, bound + _LAST)
            except InvalidTag as e:
                raise Integrity(damaged) from e
        if last and file.read(1):
            raise Integrity(f"{path} goes on behind its end: something was added to it")
        yield json.loads(zstandard.decompress(plain)), last
        if last:
            return
        number += 1


def _read_header(file: BinaryIO, path: Path) -> tuple[Header, bytes]:
    strange = f"{path} is not a fedctl backup, or not one of a version that this fedctl reads"
    if file.read(len(_MAGIC)) != _MAGIC:
        raise Invalid(strange)
    length = file.read(4)
    head = file.read(min(int.from_bytes(length, "big"), _HEADER_MAX))
    try:
        body = json.loads(head)
        header = Header(
            id=str(body["id"]),
            created_at=datetime.fromisoformat(body["createdAt"]),
            schema=str(body["schema"]),
            root=str(body["root"]),
            salt=bytes.fromhex(body["salt"]),
        )
    except (ValueError, KeyError, TypeError) as e:
        raise Invalid(strange) from e
    return header, sha256(_MAGIC + length + head).digest()


def _key(agent: KeyAgent, header: Header) -> AESGCM:
    hkdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=header.salt, info=_MAGIC)
    return AESGCM(hkdf.derive(agent.derive(_LABEL)))


def _exactly(file: BinaryIO, length: int, damaged: str) -> bytes:
    found = file.read(length)
    if len(found) != length:
        raise Integrity(damaged)
    return found


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as e:
        raise NotFound(f"there is no backup {path}: check the name") from e
    except OSError as e:
        raise Denied(f"{path} cannot be read: {e.strerror}") from e


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
