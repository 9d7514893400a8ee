"""Stories of today decide what they decided when these histories were recorded."""

from pathlib import Path

import pytest
from temporalio.workflow import NondeterminismError

from tests.workflows.keys import codec
from tests.workflows.recorded import HISTORIES, load
from tests.workflows.running import replayed
from workflows.worker import RUNNER, STORIES, WORKFLOWS

RECORDED = sorted(HISTORIES.glob("*.json.gz"))
BY_NAME = {story.__name__: story for story in WORKFLOWS}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name.split(".")[0])
async def test_what_was_decided_is_decided_again(path: Path) -> None:
    story, history, rows = load(path)
    await replayed(BY_NAME[story], history, codec(rows), runner=RUNNER)


def test_every_kind_of_operation_has_a_recorded_success() -> None:
    assert {f"{kind}-succeeded.json.gz" for kind in STORIES} <= {p.name for p in RECORDED}


async def test_a_story_that_decides_otherwise_is_noticed() -> None:
    _, history, rows = load(HISTORIES / "move-succeeded.json.gz")
    started = history.events[0].workflow_execution_started_event_attributes
    started.workflow_type.name = "ProvisionInstance"
    with pytest.raises(NondeterminismError):
        await replayed(BY_NAME["ProvisionInstance"], history, codec(rows))
