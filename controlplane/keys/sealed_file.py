"""The root key in a file that a passphrase opens.

JSON with the argon2id parameters in clear, authenticated with the key: a changed parameter, id or
byte does not open. The file is written whole or not at all, readable by its owner only.
"""

import base64
import json
import os
import secrets
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import rfc8785
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controlplane.domain.errors import Conflict, Denied, Integrity, Invalid, NotFound
from controlplane.keys.envelope import KEY_BYTES, new_material
from controlplane.keys.root import RootKey

FORMAT = "fedctl-root-1"
_SALT = 16
_NONCE = 12
_PASSPHRASE_MIN = 12
_FILE_MAX = 16 * 1024
_MEMORY_MAX_KIB = 4 * 1024 * 1024
_TIME_MAX = 64
_LANES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a guess costs: passes, memory in KiB, lanes (RFC 9106, second recommended option)."""

    time: int = 3
    memory_kib: int = 64 * 1024
    lanes: int = 4

    def __post_init__(self) -> None:
        if not (
            1 <= self.time <= _TIME_MAX
            and 1 <= self.lanes <= _LANES_MAX
            and 8 * self.lanes <= self.memory_kib <= _MEMORY_MAX_KIB
        ):
            raise Invalid("argon2id parameters of a sealed root key are outside sane bounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    root: UUID
    cost: Cost
    salt: bytes
    nonce: bytes
    sealed: bytes

    def associated(self) -> bytes:
        return rfc8785.dumps(self._open_part())

    def text(self) -> str:
        whole = self._open_part() | {"nonce": _b64(self.nonce), "sealed": _b64(self.sealed)}
        return json.dumps(whole, indent=2, sort_keys=True) + "\n"

    def _open_part(self) -> dict[str, str | dict[str, str | int]]:
        kdf: dict[str, str | int] = {"name": "argon2id", "salt": _b64(self.salt)}
        return {"format": FORMAT, "root": str(self.root), "kdf": kdf | asdict(self.cost)}


def create(path: Path, passphrase: str, *, cost: Cost | None = None) -> RootKey:
    """A new root key, sealed into `path`, which must not exist."""
    root = RootKey(root=uuid4(), material=new_material())
    _write(path, _seal(root, passphrase, cost or Cost()), replacing=False)
    return root


def unlock(path: Path, passphrase: str) -> RootKey:
    """The root key of `path`; `Denied` when the passphrase is wrong or the file was changed."""
    found = _read(path)
    key = _stretched(passphrase, found.salt, found.cost)
    try:
        material = AESGCM(key).decrypt(found.nonce, found.sealed, found.associated())
    except InvalidTag:
        raise Denied(
            f"the passphrase does not open the root key in {path}, or the file was changed:"
            " try the passphrase again, then restore the file from its backup"
        ) from None
    return RootKey(root=found.root, material=material)


def change_passphrase(path: Path, old: str, new: str, *, cost: Cost | None = None) -> None:
    """Seal the same root key under `new`. Copies of the old file still open with `old`."""
    _write(path, _seal(unlock(path, old), new, cost or Cost()), replacing=True)


def _seal(root: RootKey, passphrase: str, cost: Cost) -> _Sealed:
    if len(passphrase) < _PASSPHRASE_MIN:
        raise Invalid(
            f"the passphrase of the root key is shorter than {_PASSPHRASE_MIN} characters:"
            " choose a longer one"
        )
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    empty = _Sealed(root=root.id, cost=cost, salt=salt, nonce=nonce, sealed=b"")
    key = _stretched(passphrase, salt, cost)
    return _Sealed(
        root=root.id,
        cost=cost,
        salt=salt,
        nonce=nonce,
        sealed=AESGCM(key).encrypt(nonce, root.secret(), empty.associated()),
    )


def _stretched(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    return hash_secret_raw(
        passphrase.encode(),
        salt,
        time_cost=cost.time,
        memory_cost=cost.memory_kib,
        parallelism=cost.lanes,
        hash_len=KEY_BYTES,
        type=Type.ID,
    )


def _read(path: Path) -> _Sealed:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_FILE_MAX)
    except FileNotFoundError:
        raise NotFound(f"no sealed root key at {path}: create one, or give its path") from None
    except OSError as e:
        raise Denied(f"the sealed root key {path} cannot be read: {e.strerror}") from e
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Denied(f"the sealed root key {path} is open to other users: chmod 600 it first")
    try:
        return _parsed(json.loads(raw))
    except (ValueError, KeyError, TypeError, AttributeError, Invalid):
        raise Integrity(
            f"{path} is no sealed root key of a form known here: restore it from its backup"
        ) from None


def _parsed(whole: dict[str, Any]) -> _Sealed:
    kdf = whole["kdf"]
    if whole["format"] != FORMAT or kdf["name"] != "argon2id":
        raise ValueError("format")
    return _Sealed(
        root=UUID(whole["root"]),
        cost=Cost(
            time=int(kdf["time"]), memory_kib=int(kdf["memory_kib"]), lanes=int(kdf["lanes"])
        ),
        salt=_unb64(kdf["salt"]),
        nonce=_unb64(whole["nonce"]),
        sealed=_unb64(whole["sealed"]),
    )


def _write(path: Path, sealed: _Sealed, *, replacing: bool) -> None:
    # mkstemp creates with 0600; the name appears only once the bytes are durable
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(sealed.text())
            file.flush()
            os.fsync(file.fileno())
        if replacing:
            part.replace(path)
        else:
            path.hardlink_to(part)
    except FileExistsError:
        raise Conflict(
            f"{path} exists already: a root key is never written over, choose another path"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
