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


@pytest.fixture(scope="session")
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    server = Path(sys.executable).parent / "temporal-test-server"
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(server) if server.exists() else shutil.which(server.name),
    ) as env:
        yield env


@pytest.fixture
def client(environment: WorkflowEnvironment) -> Client:
    """The environment's own client, which skips time, under our codec."""
    return Client(**{**environment.client.config(), **client_options(codec())})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World.build(tmp_path)
    yield made
    made.close()
