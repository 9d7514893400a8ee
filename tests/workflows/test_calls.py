"""A worker that dies uses up none of the few tries of a step that a person waits for."""

from collections.abc import Iterator
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    RetryState,
    TimeoutType,
)
from temporalio.exceptions import (
    TimeoutError as TemporalTimeout,
)

from workflows.activities.planning import PlanActivities
from workflows.calls import ask
from workflows.failures import problem_of


def failed(cause: FailureError) -> ActivityError:
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="verify_site",
        activity_id="3",
        retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
    )
    error.__cause__ = cause
    return error


def silent(kind: TimeoutType = TimeoutType.HEARTBEAT) -> ActivityError:
    return failed(TemporalTimeout("timed out", type=kind, last_heartbeat_details=[]))


class Engine:
    """Answers one call after the other."""

    def __init__(self, *answers: object) -> None:
        self._answers: Iterator[object] = iter(answers)
        self.asked = 0

    async def execute(self, *_: Any, **__: Any) -> object:
        self.asked += 1
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    class Here(Engine):
        def __init__(self, *answers: object) -> None:
            super().__init__(*answers)
            monkeypatch.setattr(workflow, "execute_activity_method", self.execute)

    return Here


async def test_workers_that_died_are_not_counted(engine: type[Engine]) -> None:
    here = engine(silent(), silent(), "done")
    assert await ask(PlanActivities.verify_site, "1") == "done"  # type: ignore[func-returns-value]
    assert here.asked == 3


async def test_in_the_end_it_is_said_that_no_worker_lived(engine: type[Engine]) -> None:
    here = engine(silent(), silent(), silent(), "done")
    with pytest.raises(ActivityError) as caught:
        await ask(PlanActivities.verify_site, "1")
    assert here.asked == 3
    assert "every worker that began to verify site fell silent" in problem_of(caught.value).message


@pytest.mark.parametrize(
    "answer",
    [failed(ApplicationError("refused", type="denied")), silent(TimeoutType.SCHEDULE_TO_CLOSE)],
)
async def test_what_a_worker_could_say_is_not_asked_again(
    engine: type[Engine], answer: ActivityError
) -> None:
    here = engine(answer, "done")
    with pytest.raises(ActivityError):
        await ask(PlanActivities.verify_site, "1")
    assert here.asked == 1


def test_a_step_without_an_answer_is_named() -> None:
    problem = problem_of(silent(TimeoutType.START_TO_CLOSE))
    assert problem.code == "unavailable"
    assert "the step to verify site gave no answer" in problem.message
