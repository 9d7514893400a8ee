"""What a refusal means: its status and the service's words, as an error of ours and a next move."""

import re
from typing import Final

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)

_OVER: Final = re.compile(
    r"quota|OverQuota|LimitExceeded|No more IP addresses|storage media", re.IGNORECASE
)
_TASK: Final = re.compile(r"task_state|status transition|is in progress", re.IGNORECASE)
_STATES: Final = re.compile(r"status must be|in-use|in use|is not active", re.IGNORECASE)
TOO_LARGE: Final = 413


def meaning(status: int, words: str, retry: str) -> tuple[type[FedctlError], str]:
    """What a status and its words mean for the caller, and the next move."""
    if status in {400, 403, 409, 413} and _OVER.search(words):
        return Exhausted, "free some quota or space, or choose another site"
    if status == TOO_LARGE:
        if retry not in {"", "0"}:
            return Unavailable, "ask again"
        return Exhausted, "free some space, or choose another site"
    if status in {409, 400} and _TASK.search(words):
        return Busy, "another task works on it; wait"
    if status == 400 and _STATES.search(words):  # noqa: PLR2004  # cinder and nova answer so
        return Conflict, "look at its state, then decide"
    table: dict[int, tuple[type[FedctlError], str]] = {
        400: (Invalid, "fix the wish"),
        401: (Denied, "check the credentials"),
        403: (Denied, "ask for the right, or use other credentials"),
        404: (NotFound, "it is gone, or belongs to another project"),
        406: (Unsupported, "the site speaks other versions"),
        409: (Conflict, "look at its state, then decide"),
        415: (Invalid, "the image is not what it claims to be"),
        416: (Integrity, "it is shorter than it was said to be"),
    }
    return table.get(status, (Unavailable, "ask again"))
