"""What a site holds under our tags and no record accounts for."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.artefact import Found
from controlplane.domain.ids import SiteName


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """One such object as the last sweep of its site found it; `first_seen` is of the first one."""

    site: SiteName
    found: Found
    first_seen: datetime
    last_seen: datetime

    def __str__(self) -> str:
        return f"{self.found.kind} {self.found.ref} at {self.site}"
