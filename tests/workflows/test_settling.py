"""What a site was just asked to make may be missing from its listings; what stays missing is gone."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.errors import NotFound, Unavailable
from workflows.activities.atsite import made
from workflows.failures import NotYet

SITE = cast("Any", SimpleNamespace(limits=SimpleNamespace(settle_seconds=15.0)))


def asked(waited: float, answer: Any) -> object:
    env = ActivityEnvironment()
    begun = env.info.scheduled_time
    env.info = replace(env.info, current_attempt_scheduled_time=begun + timedelta(seconds=waited))
    return env.run(lambda: made(SITE, answer, "instance at north"))


def test_what_is_not_shown_yet_is_waited_for() -> None:
    with pytest.raises(NotYet):
        asked(14.9, Absent())


def test_what_is_never_shown_is_gone() -> None:
    with pytest.raises(NotFound, match="not there any more"):
        asked(15.0, Absent())


@pytest.mark.parametrize("waited", [0.0, 99.0])
def test_what_is_seen_or_unknown_is_so_at_any_time(waited: float) -> None:
    assert asked(waited, Seen("it")) == "it"
    with pytest.raises(Unavailable):
        asked(waited, Unknown(why="no answer"))
