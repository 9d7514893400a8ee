"""What a worker logs names its operation and the request that asked for it.

Each case is a story on a Temporal server: about a second.
"""

import pytest
from temporalio.client import Client

from controlplane.domain.operation import OperationKind, OperationState
from tests.logged import told
from tests.workflows.faults import Fault, FaultAt
from tests.workflows.running import run
from tests.workflows.world import AWAY, World, content
from workflows.telling import TellsOfSteps

PARTS = content(3)


def errors(world: World) -> dict[tuple[str, str], int]:
    with world.store.read() as tx:
        return tx.figures().site_errors


async def test_a_failed_step_is_told_with_what_it_was_about(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    op = world.ask(OperationKind.STOP)
    by = [TellsOfSteps(world.store), FaultAt("set_power", 1, Fault.BEFORE)]
    with told() as lines:
        ended = await run(client, world, op, by)
    assert ended.state is not OperationState.SUCCEEDED
    about = {"operation": str(op.id), "request": op.request}
    assert about["request"]
    failed = next((r, a) for r, a in lines if r.getMessage() == "step failed: injected")
    assert failed[1] == {**about, "step": "set_power", "attempt": 1}
    ends = next((r, a) for r, a in lines if r.getMessage() == "operation ends: injected")
    assert ends[1] == {**about, "step": "finish", "attempt": 1}
    assert ends[0].state == ended.state.value  # type: ignore[attr-defined]


async def test_what_a_site_failed_is_counted_and_told(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    assert errors(world) == {}
    world.away.down = True
    with told() as lines:
        ended = await run(client, world, world.ask_site(OperationKind.VERIFY_SITE))
    assert ended.state is OperationState.FAILED
    [(key, count)] = errors(world).items()
    assert key == (str(AWAY), "unavailable")
    assert count >= 1
    record = next(r for r, _ in lines if r.name == "workflows.connections")
    assert record.site == AWAY  # type: ignore[attr-defined]
    assert record.code == "unavailable"  # type: ignore[attr-defined]


@pytest.mark.parametrize("story", ["no-operation", "7d9de6fd-2fc6-4d60-9e2c-1c1ac7f5b3a1.3"])
def test_a_story_that_nobody_asked_for_has_no_request(world: World, story: str) -> None:
    assert TellsOfSteps(world.store)._request_of(story) == ""
