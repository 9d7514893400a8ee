"""Every named failure has a line in each table that tells the outside what to do."""

import re
from collections.abc import Iterator

import pytest

from api.schemas.errors import EXIT, STATUS
from controlplane.domain import errors
from controlplane.domain.errors import FedctlError
from tests.architecture.sources import PACKAGES, modules


def named(base: type[FedctlError] = FedctlError) -> Iterator[type[FedctlError]]:
    for cls in base.__subclasses__():
        if cls.__module__.partition(".")[0] in PACKAGES:
            yield cls
            yield from named(cls)


def test_there_are_nine_and_all_are_in_one_module():
    assert len(list(named())) == 9
    assert {cls.__module__ for cls in named()} == {errors.__name__}


@pytest.mark.parametrize("table", [STATUS, EXIT], ids=["status", "exit"])
def test_every_failure_has_a_line(table: dict[type[FedctlError], int]):
    assert set(table) == set(named())


def test_exit_codes_are_distinct_and_none_means_success():
    assert len(set(EXIT.values())) == len(EXIT)
    assert 0 not in EXIT.values()
    assert 1 not in EXIT.values(), "1 is for what nobody foresaw"


def test_every_status_is_an_error():
    assert all(400 <= status <= 599 for status in STATUS.values())


def test_codes_are_distinct():
    codes = [cls.code for cls in named()]
    assert len(set(codes)) == len(codes)


def test_only_busy_and_unavailable_are_asked_again():
    assert {cls.code for cls in named() if cls.retryable} == {"busy", "unavailable"}


def test_no_other_module_makes_failures_of_its_own():
    own = [
        m.name
        for m in modules(*PACKAGES)
        if re.search(r"^class \w+\(FedctlError\):", m.text, re.MULTILINE)
        and m.name != errors.__name__
    ]
    assert own == []
