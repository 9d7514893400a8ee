"""Site credentials as they lie in a row: sealed under the tenant's key, bound to their site."""

import json

import rfc8785

from controlplane.domain.errors import Integrity
from controlplane.keys.keyring import Keyring
from controlplane.keys.port import Purpose


def seal_credentials(
    keyring: Keyring, *, tenant: str, site: str, credentials: dict[str, str]
) -> bytes:
    """Bytes for the row of `site`; in another row they do not open."""
    plain = rfc8785.dumps({**credentials})
    return keyring.seal(Purpose.CREDENTIALS, tenant, plain, bound=site.encode())


def open_credentials(keyring: Keyring, *, tenant: str, site: str, sealed: bytes) -> dict[str, str]:
    """What `seal_credentials` was given."""
    plain = keyring.open(Purpose.CREDENTIALS, tenant, sealed, bound=site.encode())
    opened = json.loads(plain)
    if not isinstance(opened, dict):
        raise Integrity(f"the credentials of site {site} are not a table: enter them again")
    return {str(name): str(value) for name, value in opened.items()}
