"""Limits of sites and operations: kept by all copies of a process together."""

import threading
from types import SimpleNamespace
from uuid import UUID

import pytest

from controlplane.domain.disk import MIB
from controlplane.domain.ids import OperationId, SiteName
from controlplane.services.bandwidth import Bandwidth, Pace, PacedReader, PacedWriter
from tests.unit.vault.support import Bytes

A, B = SiteName("a"), SiteName("b")
ONE, TWO = OperationId(UUID(int=1)), OperationId(UUID(int=2))


class Rows:
    """A store whose rows hold these limits."""

    def __init__(self) -> None:
        self.sites: dict[str, float] = {A: 10.0 * MIB}
        self.operations: dict[OperationId, float] = {TWO: 1.0 * MIB}
        self.resources = SimpleNamespace(find=self._site)
        self.operation = SimpleNamespace(get=self._operation)

    def read(self):
        return self

    def __enter__(self):
        return SimpleNamespace(resources=self.resources, operations=self.operation)

    def __exit__(self, *_):
        return None

    def _site(self, key):
        limit = self.sites.get(key.name)
        return None if limit is None else SimpleNamespace(spec={"maxBandwidth": limit})

    def _operation(self, operation):
        limit = self.operations.get(operation)
        return SimpleNamespace(order={"maxBandwidth": limit}, plan={"target": {"site": A}})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bandwidth(rows, clock) -> Bandwidth:
    return Bandwidth(rows, clock)


def test_copies_of_one_site_share_its_limit(bandwidth):
    waits = [bandwidth.owed(A, ONE, 5 * MIB) for _ in range(2)]
    waits.append(bandwidth.to_target_of(ONE, 5 * MIB))
    assert waits == pytest.approx([0.25, 0.75, 1.25])
    assert bandwidth.owed(B, ONE, 5 * MIB) == 0


def test_the_narrower_limit_of_site_and_operation_holds(bandwidth):
    assert bandwidth.owed(A, TWO, 5 * MIB) == pytest.approx(4.75)
    assert bandwidth.owed(B, TWO, MIB) == pytest.approx(5.75)


def test_bytes_that_went_in_and_out_count_once_for_the_operation(bandwidth):
    """At both sites, each with its own limit; what goes straight through is one copy."""
    assert bandwidth.owed(B, TWO, MIB) == pytest.approx(0.75)
    assert bandwidth.owed(A, None, 5 * MIB) == pytest.approx(0.25)
    assert bandwidth.owed(B, TWO, MIB) == pytest.approx(1.75)


def test_idleness_saves_up_a_quarter_of_a_second_and_no_more(bandwidth, clock):
    bandwidth.owed(A, ONE, 10 * MIB)
    clock.now += 3600
    assert bandwidth.owed(A, ONE, 10 * MIB) == pytest.approx(0.75)


def test_a_changed_limit_meets_what_runs(bandwidth, rows, clock):
    bandwidth.owed(A, ONE, MIB)
    rows.sites[A] = 1.0 * MIB
    clock.now += 2
    assert bandwidth.owed(A, ONE, MIB) == pytest.approx(0.75)
    del rows.sites[A]
    clock.now += 2
    assert bandwidth.owed(A, ONE, 100 * MIB) == 0


def test_a_copy_that_is_told_to_stop_waits_no_longer(bandwidth):
    told = threading.Event()
    told.set()
    disk = Bytes(bytes(4096))
    pace = Pace(bandwidth, A, TWO, told)
    bandwidth.owed(A, TWO, 1000 * MIB)
    assert PacedReader(disk, pace).read(0, 4096) == bytes(4096)
    written = []
    writer = SimpleNamespace(size=1, write=lambda at, data: written.append((at, data)))
    PacedWriter(writer, pace).write(7, b"x")
    assert written == [(7, b"x")]
