"""Where each fact that a simulator models comes from."""

from dataclasses import dataclass
from enum import StrEnum


class Provenance(StrEnum):
    OBSERVED = "observed"  # seen on the real thing
    SCHEMA = "schema"  # in the provider's published API schema or reference
    DOCS = "docs"  # in the provider's documentation, source, or public clients
    ASSUMED = "assumed"  # nobody looked yet
    ABSENT = "not modelled"


@dataclass(frozen=True, slots=True)
class Fact:
    id: str
    provenance: Provenance
    text: str
