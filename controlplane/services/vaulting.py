"""Lends the vault its keys and its signature from the keyring and the key agent."""

from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.keys.keyring import Keyring
from controlplane.keys.port import KeyAgent, Purpose, SigningPurpose, WrappedKeys
from controlplane.vault.ports import DomainKeys, Keys


def domain_keys(keyring: Keyring, rows: WrappedKeys) -> Keys:
    """The keys of a dedup domain (`tenant/workspace`), made when they are first needed."""

    def of(domain: str) -> DomainKeys:
        data = keyring.current(Purpose.VAULT_DATA, domain)
        return DomainKeys(
            id_key=keyring.current(Purpose.VAULT_ID, domain).material,
            data_key=data.material,
            data_key_id=str(data.name.id),
            retired={
                str(row.name.id): keyring.by_id(row.name.id).material
                for row in rows.list(Purpose.VAULT_DATA, domain)
                if row.name.id != data.name.id
            },
        )

    return of


class VaultSigner:
    """Signs heads of recovery points with the agent's key, which never leaves the agent."""

    def __init__(self, agent: KeyAgent) -> None:
        self._agent = agent

    @property
    def key_id(self) -> str:
        return sha256(self._agent.public_key(SigningPurpose.VAULT_HEAD)).hexdigest()[:32]

    def sign(self, data: bytes) -> bytes:
        return self._agent.sign(SigningPurpose.VAULT_HEAD, data)

    def verify(self, data: bytes, signature: bytes, key_id: str) -> bool:
        public = self._agent.public_key(SigningPurpose.VAULT_HEAD)
        if key_id != self.key_id:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
        except InvalidSignature:
            return False
        return True
