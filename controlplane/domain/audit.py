"""One line of the audit log."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what to which subject, and how it ended.

    `sequence` is the place in the log: 0 for the first entry, without gaps. `at` is aware.
    `action` and `outcome` are code words (`instance.move`, `allowed`); `operation` and `request`
    name the operation and the API request, empty where there is none. No secret in `detail`.
    """

    sequence: int
    at: datetime
    actor: str
    tenant: str
    action: str
    subject: str
    outcome: str
    operation: str = ""
    request: str = ""
    detail: dict[str, str] = field(default_factory=dict)
