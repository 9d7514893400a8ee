"""What the HTTP side is told once."""

import secrets
from dataclasses import dataclass, field

from api.schemas.errors import PROVIDER_STATUS, SECA_STATUS, STATUS
from controlplane.domain.errors import FedctlError

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """`page_key` signs the tokens of listings; processes behind one address share it.

    The three tables give each failure its status: on our own paths, below `/providers/fedctl.*`,
    and below `/providers/seca.*`.
    """

    page_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    body_max: int = 2 * MIB
    statuses: dict[type[FedctlError], int] = field(default_factory=lambda: dict(STATUS))
    provider_statuses: dict[type[FedctlError], int] = field(
        default_factory=lambda: dict(PROVIDER_STATUS)
    )
    seca_statuses: dict[type[FedctlError], int] = field(default_factory=lambda: dict(SECA_STATUS))

    def table(self, path: str) -> dict[type[FedctlError], int]:
        """The table for the paths that `path` is among."""
        if path.startswith("/providers/seca."):
            return self.seca_statuses
        return self.provider_statuses if path.startswith("/providers/") else self.statuses
