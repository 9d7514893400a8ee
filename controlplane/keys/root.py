"""The root key while it is open, and the agent's work done with it."""

import hashlib
from typing import NoReturn
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from controlplane.domain.errors import Invalid, Unavailable
from controlplane.keys import envelope
from controlplane.keys.port import SEALED, AgentStatus, KeyId, KeyName, Purpose, SigningPurpose

MESSAGE_MAX = 32 * 1024


class RootKey:
    """32 secret bytes with a public name; nothing prints or pickles the bytes."""

    __slots__ = ("_material", "id")

    def __init__(self, *, root: UUID, material: bytes) -> None:
        if len(material) != envelope.KEY_BYTES:
            raise Invalid(f"root key {root} is not {envelope.KEY_BYTES} bytes long")
        self.id = root
        self._material = material

    def __repr__(self) -> str:
        return f"RootKey({self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a root key does not leave its process")

    def derive(self, label: str) -> bytes:
        """32 bytes that only this root key gives to `label`."""
        hkdf = HKDF(
            algorithm=hashes.SHA256(),
            length=envelope.KEY_BYTES,
            salt=self.id.bytes,
            info=b"fedctl root 1\x00" + label.encode(),
        )
        return hkdf.derive(self._material)

    def secret(self) -> bytes:
        """For the one who writes the sealed file, and nobody else."""
        return self._material


class LocalAgent:
    """A `KeyAgent` in this very process: what the agent process serves, and what tests use."""

    def __init__(self, root: RootKey | None = None) -> None:
        self._root = root

    def unseal(self, root: RootKey) -> None:
        self._root = root

    def seal(self) -> None:
        self._root = None

    def status(self) -> AgentStatus:
        root = self._root
        return AgentStatus(root=None if root is None else str(root.id))

    def wrap(self, name: KeyName, material: bytes) -> bytes:
        key, named = self._wrapping(name)
        return envelope.seal_raw(key, named, material, bound=name.id.bytes)

    def unwrap(self, name: KeyName, wrapped: bytes) -> bytes:
        key, named = self._wrapping(name)
        return envelope.open_raw(key, named, wrapped, bound=name.id.bytes)

    def derive(self, label: str) -> bytes:
        # the prefix keeps a caller from deriving the wrapping or a signing key
        return self._opened().derive(f"derive/{label}")

    def sign(self, purpose: SigningPurpose, message: bytes) -> bytes:
        if len(message) > MESSAGE_MAX:
            raise Invalid(f"a message of {len(message)} bytes is too long to sign: sign its digest")
        return self._signing(purpose).sign(message)

    def public_key(self, purpose: SigningPurpose) -> bytes:
        return self._signing(purpose).public_key().public_bytes_raw()

    def _opened(self) -> RootKey:
        root = self._root
        if root is None:
            raise Unavailable(
                "the key agent of this machine is sealed: unseal it with the passphrase of the"
                " root key, then try again",
                reason=SEALED,
            )
        return root

    def _wrapping(self, name: KeyName) -> tuple[bytes, KeyName]:
        """The wrapping key, and the envelope's name: bound to tenant key and root at once."""
        if name.purpose is not Purpose.TENANT:
            raise Invalid(
                f"the root key wraps tenant keys only, not a {name.purpose} key of {name.owner}"
            )
        root = self._opened()
        head = hashlib.sha256(root.id.bytes + name.id.bytes).digest()[:16]
        return root.derive("wrap"), KeyName(
            id=KeyId(UUID(bytes=head)),
            purpose=name.purpose,
            owner=name.owner,
            version=name.version,
        )

    def _signing(self, purpose: SigningPurpose) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._opened().derive(f"sign/{purpose}"))
