"""Which bytes of a file a request wants (RFC 9110, one range at a time)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`length` bytes from `start` on; `status` is how to answer."""

    status: int
    start: int
    length: int


def wanted(headers: Mapping[str, str], *, size: int, etag: str) -> Wanted:
    """The answer to a GET; a range that we do not understand or offer is answered in full."""
    if "if-match" in headers and not _named(headers["if-match"], etag):
        return Wanted(status=412, start=0, length=0)
    if "if-none-match" in headers and _named(headers["if-none-match"], etag):
        return Wanted(status=304, start=0, length=0)
    whole = Wanted(status=200, start=0, length=size)
    if headers.get("if-range", etag).strip() != etag:
        return whole
    bounds = _bounds(headers.get("range", ""), size)
    if bounds is None:
        return whole
    start, end = bounds
    if start >= end:
        return Wanted(status=416, start=0, length=0)
    return Wanted(status=206, start=start, length=end - start)


def _bounds(field: str, size: int) -> tuple[int, int] | None:
    """(start, end) within the file; None for what is no single range."""
    found = _RANGE.fullmatch(field)
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1 if last else size, size)


def _named(field: str, etag: str) -> bool:
    return field.strip() == "*" or etag in (part.strip() for part in field.split(","))
