"""Making a copy unable to run, and the proof of it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class FenceLevel(StrEnum):
    """How sure a fence is, weakest first."""

    REPORTED = "reported"
    ISOLATED = "isolated"
    CANNOT_START = "cannot-start"
    WITNESSED = "witnessed"

    def at_least(self, other: "FenceLevel") -> bool:
        order = tuple(FenceLevel)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceProof:
    """Who saw at which moment, under which epoch, that the copy cannot run."""

    level: FenceLevel
    observer: str
    epoch: int
    at: datetime
