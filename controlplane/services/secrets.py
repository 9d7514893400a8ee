"""The ports that need keys, fulfilled by the keyring and its agent."""

from controlplane.audit.checkpoint import checked_origin
from controlplane.domain.ids import ResourceId
from controlplane.keys.credentials import open_credentials, seal_credentials
from controlplane.keys.keyring import Keyring
from controlplane.keys.port import SYSTEM_OWNER, KeyAgent, SigningPurpose


class SiteSecrets:
    """Credentials sealed under the control plane's own key and bound to their site.

    `open` is for whoever connects to the site.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(self, site: ResourceId, credentials: dict[str, str]) -> bytes:
        return seal_credentials(
            self._keyring, tenant=SYSTEM_OWNER, site=str(site), credentials=credentials
        )

    def open(self, site: ResourceId, sealed: bytes) -> dict[str, str]:
        return open_credentials(self._keyring, tenant=SYSTEM_OWNER, site=str(site), sealed=sealed)


class AuditSigner:
    """The agent's audit key, under the name of the log."""

    def __init__(self, agent: KeyAgent, *, origin: str) -> None:
        self._agent = agent
        self._origin = checked_origin(origin)

    @property
    def origin(self) -> str:
        return self._origin

    def public_key(self) -> bytes:
        return self._agent.public_key(SigningPurpose.AUDIT)

    def sign(self, message: bytes) -> bytes:
        return self._agent.sign(SigningPurpose.AUDIT, message)
