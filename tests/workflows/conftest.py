"""A time-skipping Temporal server for the session, and a world for each test."""

import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from controlplane.planning import passes
from tests.workflows.keys import codec
from tests.workflows.world import World
from workflows import options
from workflows.codec import client_options


def binary(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found is not None
    return found


@pytest.fixture(scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=binary("temporal-test-server")
    ) as env:
        yield env


@pytest.fixture(scope="session")
async def real() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary("temporal"),
        dev_server_log_level="error",
        # Without it a step that waits for a site is tried again after a second at the soonest.
        dev_server_extra_args=[
            "--dynamic-config-value",
            'history.timerProcessorMaxTimeShift="20ms"',
        ],
    ) as env:
        yield env


@pytest.fixture
def client(skipping: WorkflowEnvironment) -> Client:
    """The time-skipping server's own client under our codec: waits cost nothing."""
    return Client(**{**skipping.client.config(), **client_options(codec())})


@pytest.fixture
def real_client(real: WorkflowEnvironment) -> Client:
    """A client of the real server, which alone cancels activities faithfully."""
    return Client(**{**real.client.config(), **client_options(codec())})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds where production waits for hours.

    For the real server: the one that skips time now and then waits for ever over many tries.
    """
    for patient in (options.UNDO, options.WAIT, options.CLEAN):
        monkeypatch.setitem(patient, "schedule_to_close_timeout", timedelta(seconds=6))
    monkeypatch.setattr(options, "BEFORE_OFFER", timedelta(seconds=6))
    monkeypatch.setattr(options, "EACH_RETURN", timedelta(seconds=1))
    monkeypatch.setattr(passes, "HELD_PASS", timedelta(seconds=1))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World.build(tmp_path)
    yield made
    made.close()
