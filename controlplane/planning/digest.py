"""The digest that binds a plan to its run."""

import dataclasses
import hashlib
import json
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID


def as_json(value: object) -> object:  # noqa: PLR0911  # one line a type
    """A noun as plain JSON values: durations in seconds, sets sorted, ids as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(str(as_json(item)) for item in value)
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def digest(plan: object) -> str:
    """SHA-256 (hex) of the plan as canonical JSON: equal plans, equal digests."""
    text = json.dumps(as_json(plan), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
