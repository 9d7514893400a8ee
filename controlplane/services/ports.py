"""What the use cases need of the outside, and what they are told once."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from controlplane.domain.admission import Bounds
from controlplane.domain.ids import RegionName, ResourceId


class Clock(Protocol):
    def now(self) -> datetime:
        """The present moment, in UTC."""
        ...


class Secrets(Protocol):
    """Seals site credentials, so that only a worker with the keyring can open them."""

    def seal(self, site: ResourceId, credentials: dict[str, str]) -> bytes: ...


class Signer(Protocol):
    """Signs heads of the audit log."""

    @property
    def origin(self) -> str:
        """The name of the log in its checkpoints."""
        ...

    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """`region` is the one that resources without a site belong to.

    `public_url` is where clients reach the API, without a slash at its end. `uploads` is a folder
    for files on their way to become images; the workers read it. `bounds` are those on moves.
    """

    public_url: str
    uploads: Path
    region: RegionName = field(default=RegionName("eu-fr"))
    login_lasts: timedelta = timedelta(days=30)
    upload_max: int = 64 * 1024**4
    bounds: Bounds = field(default_factory=Bounds)
