"""What a preflight check found."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """UNSEEN: the check could not look, which says nothing for or against the move."""

    BLOCKER = "blocker"
    WARNING = "warning"
    INFO = "info"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result with a stable id such as `TGT01`; `remedy` says what would make it go away."""

    id: str
    severity: Severity
    subject: str
    evidence: str
    remedy: str = ""


def blocking(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(f for f in findings if f.severity is Severity.BLOCKER)
