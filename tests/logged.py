"""What our own loggers say, with what it was about when they said it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from structlog.contextvars import get_contextvars

Lines = list[tuple[logging.LogRecord, Mapping[str, Any]]]
_OURS = ("fedctl.api", "workflows")


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: Lines = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record, dict(get_contextvars())))


@contextmanager
def told() -> Iterator[Lines]:
    """The lines of the block, from the level info up."""
    kept = _Kept()
    loggers = [logging.getLogger(name) for name in _OURS]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.addHandler(kept)
        each.setLevel(logging.INFO)
    try:
        yield kept.lines
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.removeHandler(kept)
            each.setLevel(level)
