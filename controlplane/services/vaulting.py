"""Lends the store its keys and signatures from keyring and key agent, and keeps keys there, too."""

import json
from base64 import b64decode, b64encode
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.domain.errors import Conflict, Integrity, NotFound
from controlplane.keys.keyring import Keyring
from controlplane.keys.port import (
    KeyAgent,
    KeyId,
    KeyName,
    Purpose,
    SigningPurpose,
    WrappedKey,
    WrappedKeys,
)
from controlplane.vault.pack import KEY_MISSING
from controlplane.vault.ports import DomainKeys, Keys, ObjectStore

_KEYS = "keys"


def domain_keys(keyring: Keyring, rows: WrappedKeys) -> Keys:
    """The keys of a dedup domain (`tenant/workspace`), made when they are first needed.

    A former data key that does not open is left out: what was sealed with it says which it wants.
    """

    def of(domain: str) -> DomainKeys:
        try:
            data = keyring.current(Purpose.VAULT_DATA, domain)
            id_key = keyring.current(Purpose.VAULT_ID, domain).material
        except (Integrity, NotFound) as e:
            raise Integrity(f"the keys of {domain} do not open: {e}", reason=KEY_MISSING) from e
        retired: dict[str, bytes] = {}
        for row in rows.list(Purpose.VAULT_DATA, domain):
            if row.name.id != data.name.id:
                with suppress(Integrity, NotFound):
                    retired[str(row.name.id)] = keyring.by_id(row.name.id).material
        return DomainKeys(
            id_key=id_key,
            data_key=data.material,
            data_key_id=str(data.name.id),
            retired=retired,
        )

    return of


class StoreSigner:
    """Signs what lies in the store with a key of the agent, which never leaves it."""

    def __init__(self, agent: KeyAgent, purpose: SigningPurpose) -> None:
        self._agent = agent
        self._purpose = purpose

    @property
    def key_id(self) -> str:
        return sha256(self._agent.public_key(self._purpose)).hexdigest()[:32]

    def sign(self, data: bytes) -> bytes:
        return self._agent.sign(self._purpose, data)

    def verify(self, data: bytes, signature: bytes, key_id: str) -> bool:
        public = self._agent.public_key(self._purpose)
        if key_id != self.key_id:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
        except InvalidSignature:
            return False
        return True


class KeptKeys:
    """Wrapped keys in the database and in the store, where a restored database finds newer ones.

    The store decides which key is the one of its purpose, owner and version.
    """

    def __init__(self, rows: WrappedKeys, objects: ObjectStore) -> None:
        self._rows = rows
        self._objects = objects

    def get(self, key: KeyId) -> WrappedKey | None:
        return self._rows.get(key)

    def put_if_absent(self, row: WrappedKey) -> WrappedKey:
        name = _object_name(row.name)
        try:
            self._objects.put(name, _document(row))
        except Conflict:
            row = _wrapped(self._objects.get(name), name)
        return self._rows.put_if_absent(row)

    def list(self, purpose: Purpose, owner: str) -> tuple[WrappedKey, ...]:
        return self._rows.list(purpose, owner)

    def every(self) -> tuple[WrappedKey, ...]:
        return self._rows.every()

    def recall(self) -> int:
        """Takes every key of the store that the database lacks; how many those were.

        Integrity for a document that is none of ours.
        """
        found = [_wrapped(self._objects.get(name), name) for name in self._objects.names(_KEYS)]
        missing = [row for row in found if self._rows.get(row.name.id) is None]
        for row in missing:
            self._rows.put_if_absent(row)
        return len(missing)


class CheckedKeys:
    """Tells the vault which documents of its stores are our wrapped keys."""

    def __init__(self, rows: WrappedKeys, keyring: Keyring) -> None:
        self._rows = rows
        self._keyring = keyring

    def names(self) -> frozenset[str]:
        return frozenset(_object_name(row.name) for row in self._rows.every())

    def check(self, name: str, document: bytes) -> None:
        row = _wrapped(document, name)
        if _object_name(row.name) != name:
            raise Integrity(f"{name} in the store holds another key: somebody moved it")
        standing = self._standing(row)
        if standing is None:
            try:
                self._keyring.check(row)
            except (Integrity, NotFound) as e:
                raise Integrity(
                    f"{name} in the store is on no record and does not open: {e}"
                ) from e
        elif _essence(standing) != _essence(row):
            raise Integrity(f"{name} in the store is not the wrapped key that is on record")

    def _standing(self, row: WrappedKey) -> WrappedKey | None:
        versions = self._rows.list(row.name.purpose, row.name.owner)
        return next((each for each in versions if each.name.version == row.name.version), None)


def _essence(row: WrappedKey) -> tuple[KeyName, bytes, str]:
    return row.name, row.wrapped, row.wrapped_by


def _object_name(name: KeyName) -> str:
    owner = name.owner.replace("@", "_")  # no tenant and no workspace has such a letter
    return f"{_KEYS}/{name.purpose}/{owner}/{name.version:06d}"


def _document(row: WrappedKey) -> bytes:
    name = row.name
    return json.dumps(
        {
            "id": str(name.id),
            "purpose": name.purpose.value,
            "owner": name.owner,
            "version": name.version,
            "wrapped": b64encode(row.wrapped).decode(),
            "wrapped_by": row.wrapped_by,
            "created_at": row.created_at.isoformat(),
        }
    ).encode()


def _wrapped(document: bytes, what: str) -> WrappedKey:
    try:
        body = json.loads(document)
        name = KeyName(
            id=KeyId(UUID(str(body["id"]))),
            purpose=Purpose(body["purpose"]),
            owner=str(body["owner"]),
            version=int(body["version"]),
        )
        return WrappedKey(
            name=name,
            wrapped=b64decode(body["wrapped"], validate=True),
            wrapped_by=str(body["wrapped_by"]),
            created_at=datetime.fromisoformat(body["created_at"]),
        )
    except (ValueError, KeyError, TypeError) as e:
        raise Integrity(f"{what} in the store is not a wrapped key of ours") from e
