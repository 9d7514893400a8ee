"""The log: one event a line, with what it is about, and nothing secret in it."""

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from structlog.contextvars import bound_contextvars

from controlplane.logs import LogFormat, write_log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(level)


def written(form: LogFormat, level: str = "info") -> str:
    """What a fault and a plain event leave in the log."""
    to = StringIO()
    write_log(level, form, to=to)
    log = logging.getLogger("some.place")
    with bound_contextvars(request="r-1", operation="op-1", step="fence", attempt=2):
        log.info("fence of %s", "web-1", extra={"site": "par-pve"})
        log.debug("not told")
        try:
            password = "h4rd-to-gu3ss"  # looked for below
            int("x" + password[:0])
        except ValueError:
            log.exception("it broke")
    log.info("about nothing")
    return to.getvalue()


def test_a_json_line_is_one_object_with_what_it_is_about() -> None:
    first, broke, plain = (json.loads(line) for line in written("json").splitlines())
    time = first.pop("time")
    assert time.endswith("Z")
    assert first == {
        "event": "fence of web-1",
        "level": "info",
        "logger": "some.place",
        "request": "r-1",
        "operation": "op-1",
        "step": "fence",
        "attempt": 2,
        "site": "par-pve",
    }
    assert "ValueError" in broke["exception"]
    assert "request" not in plain


def test_a_line_of_text_says_the_same() -> None:
    first = written("text").splitlines()[0]
    for part in ("fence of web-1", "info", "some.place", "request=r-1", "operation=op-1",
                 "step=fence", "attempt=2", "site=par-pve"):  # fmt: skip
        assert part in first
    assert "\x1b" not in first


@pytest.mark.parametrize("form", ["json", "text"])
def test_local_variables_of_a_fault_are_not_written(form: LogFormat) -> None:
    text = written(form)
    assert "it broke" in text
    assert "h4rd-to-gu3ss" not in text


def test_what_is_below_the_level_is_not_written() -> None:
    assert "not told" not in written("json")
    assert "not told" in written("json", "debug")
