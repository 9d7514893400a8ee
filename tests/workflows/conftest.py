"""A Temporal server for the session, and a world for each test."""

import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from api.embedded import temporal_pace
from controlplane.planning import passes, warm
from tests.workflows.keys import codec
from tests.workflows.world import World
from workflows import options
from workflows.codec import client_options

AGAIN, LATEST = timedelta(milliseconds=20), timedelta(seconds=1)
PATIENT = (
    options.RECORD,
    options.FORWARD,
    options.CALL,
    options.TOGETHER,
    options.WAIT,
    options.HELD,
    options.ASK,
    options.UNDO,
    options.CLEAN,
    options.COPY,
)


def binary(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found is not None
    return found


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary("temporal"),
        dev_server_log_level="error",
        dev_server_extra_args=temporal_pace(),
    ) as env:
        yield env


@pytest.fixture
def client(server: WorkflowEnvironment, hasty: None) -> Client:
    """A client of the server under our codec; what fails is tried again at once."""
    return Client(**{**server.client.config(), **client_options(codec())})


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds between two tries where production waits for seconds, and as many tries.

    The test server that skips time is no way to this: on a busy machine it skips the whole
    patience of a step that waits for its worker.
    """
    for patient in PATIENT:
        quick = replace(patient["retry_policy"], initial_interval=AGAIN, maximum_interval=LATEST)
        monkeypatch.setitem(patient, "retry_policy", quick)
    monkeypatch.setattr(options, "IMAGE_AGAIN", (LATEST, LATEST))
    # However long a busy machine takes for a few bytes: each story has the passes that it tells of.
    monkeypatch.setattr(warm, "BUDGET", timedelta(minutes=1))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds where production waits for hours."""
    for patient in (options.UNDO, options.CLEAN):
        monkeypatch.setitem(patient, "schedule_to_close_timeout", timedelta(seconds=6))
    # What a busy machine reaches in the end is waited for, too.
    monkeypatch.setitem(options.WAIT, "schedule_to_close_timeout", timedelta(seconds=60))
    monkeypatch.setattr(options, "BEFORE_OFFER", timedelta(seconds=6))
    monkeypatch.setattr(options, "EACH_RETURN", timedelta(seconds=1))
    monkeypatch.setattr(passes, "HELD_PASS", timedelta(seconds=1))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World.build(tmp_path)
    yield made
    made.close()
