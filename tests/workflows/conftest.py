"""A time-skipping Temporal server for the session, and a world for each test."""

import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.root import LocalAgent, RootKey
from tests.workflows.world import TENANT, World
from workflows.codec import SealedPayloads, client_options

_ROOT = UUID(int=7)
_ROWS = MemoryKeys()


def codec() -> SealedPayloads:
    """Payloads sealed as in production, under keys that live as long as the test session."""
    agent = LocalAgent(RootKey(root=_ROOT, material=bytes(range(32))))
    return SealedPayloads(Keyring(agent=agent, rows=_ROWS), lambda _workflow: TENANT)


def _binary(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found is not None
    return found


@pytest.fixture(scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=_binary("temporal-test-server")
    ) as env:
        yield env


@pytest.fixture(scope="session")
async def real() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=_binary("temporal"), dev_server_log_level="error"
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
def world(tmp_path: Path) -> Iterator[World]:
    made = World.build(tmp_path)
    yield made
    made.close()
