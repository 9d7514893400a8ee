"""How stored objects may be named."""

import re

from controlplane.domain.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def checked(name: str) -> str:
    """The name; Invalid when it could lead out of the store or hide in it."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name[:200]!r} cannot name a stored object")
    return name
