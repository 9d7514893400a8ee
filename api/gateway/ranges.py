"""Which bytes of a file a request wants (RFC 9110): conditions first, then one range.

Several ranges in one request are answered with the whole file, as the standard allows: nobody who
fetches images asks so, and whoever wants many parts asks for each, which costs little. There is no
date of change, so only the ETag decides, and a date in If-Range is of another version.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,99})\s*-\s*([0-9]{0,99})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`length` bytes from `start` on; `status` is how to answer."""

    status: int
    start: int
    length: int


def wanted(
    headers: Mapping[str, str], *, size: int, etag: str, ranged: bool = True
) -> Wanted:  # fmt: skip
    """The answer to a GET, or to a HEAD when not `ranged`: ranges are of GET alone.

    A range that we do not understand or offer is answered in full. Keys in lower case; a field that
    came several times is joined by commas.
    """
    if "if-match" in headers and not _named(headers["if-match"], etag, weak=False):
        return Wanted(status=412, start=0, length=0)
    if "if-none-match" in headers and _named(headers["if-none-match"], etag, weak=True):
        return Wanted(status=304, start=0, length=0)
    whole = Wanted(status=200, start=0, length=size)
    if not ranged or headers.get("if-range", etag).strip() != etag:
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


def _named(field: str, etag: str, *, weak: bool) -> bool:
    """Whether the list names the tag; a weak tag names it only where weak comparison is asked."""
    tags = (part.strip() for part in field.split(","))
    return any(tag in {"*", etag} or (weak and tag == f"W/{etag}") for tag in tags)
