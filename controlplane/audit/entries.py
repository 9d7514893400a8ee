"""An audit entry as bytes: canonical JSON (RFC 8785), and back."""

from datetime import UTC, datetime
from typing import TypeAlias

import rfc8785

from controlplane.domain.audit import AuditEntry
from controlplane.domain.errors import Invalid

Json: TypeAlias = dict[str, str | int | dict[str, str]]

_TEXTS = ("actor", "tenant", "action", "subject", "outcome", "operation", "request")


def leaf(entry: AuditEntry) -> bytes:
    """The bytes that `merkle.leaf_hash` takes; the same for the same entry, for ever."""
    try:
        return rfc8785.dumps({**as_json(entry)})
    except ValueError as e:
        raise Invalid(
            f"audit entry {entry.sequence} holds what JSON cannot: {type(e).__name__}"
        ) from None


def as_json(entry: AuditEntry) -> Json:
    if entry.at.tzinfo is None:
        raise Invalid(f"audit entry {entry.sequence} has a time without a zone")
    texts: Json = {name: getattr(entry, name) for name in _TEXTS}
    at = entry.at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    return texts | {"sequence": entry.sequence, "at": at, "detail": dict(entry.detail)}


def from_json(found: object) -> AuditEntry:
    """The entry whose `as_json` is exactly `found`; `Invalid` for everything else."""
    if not isinstance(found, dict):
        raise Invalid("an audit entry is a JSON object")
    try:
        entry = AuditEntry(
            sequence=found["sequence"],
            at=datetime.fromisoformat(found["at"]),
            detail=dict(found["detail"]),
            **{name: found[name] for name in _TEXTS},
        )
        same = as_json(entry) == found
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Invalid("an audit entry lacks a field or has one of another kind") from None
    if not same or not _typed(entry):
        raise Invalid("an audit entry has a field too many or one of another kind")
    return entry


def _typed(entry: AuditEntry) -> bool:
    texts = [getattr(entry, name) for name in _TEXTS]
    pairs = [part for pair in entry.detail.items() for part in pair]
    return type(entry.sequence) is int and all(isinstance(text, str) for text in texts + pairs)
