"""One whole system for the session of a process; a workspace for each test, clean at its end."""

import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.shop import Shop, start_shop
from tests.e2e.system import System, running, until

_NUMBERS = count(1)
# Each attempt that is made again would be reported with its trace: steps tell it in short.
for _noisy in ("temporalio", "asyncssh"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    with running() as made:
        yield made


@pytest.fixture
def shop(system: System, tmp_path: Path) -> Iterator[Shop]:
    """What must hold after every test is asserted here: nothing lost, nothing left, no twins."""
    made = start_shop(system, f"shop{next(_NUMBERS)}", tmp_path)
    yield made
    try:
        check(system)
    finally:
        made.clear()  # one test's failure is no other's
    check(system)
    assert held_anywhere(system) == []


def check(system: System) -> None:
    # Listings of the sites are stale for a moment after each change.
    left: list[str] = ["not looked yet"]

    def clean() -> bool:
        left[:] = system.swept()
        return not left

    until(clean, f"the sweep finds nothing but {left}", 40, every=0.2)
    assert system.troubles() == []


def held_anywhere(system: System) -> list[str]:
    """Artefacts that are recorded although no instance is left."""
    with system.parts.store.read() as tx:
        kept = [a for a in tx.artefacts.list() if a.state not in {"released", "intended"}]
    return [f"{a.kind} {a.ref} at {a.site}: {a.state}" for a in kept]
