"""No story without its hard times: each is broken, repeated and cancelled at its steps.

A module of tests claims a story in `TOLD`, beside the list of steps that its own test holds true.
"""

import importlib
from pathlib import Path

import pytest

from workflows.mend_operation import MendOperation
from workflows.worker import WORKFLOWS

HERE = Path(__file__).parent
MODULES = [
    importlib.import_module(f"tests.workflows.{path.stem}")
    for path in sorted(HERE.glob("test_*.py"))
    if path.stem != Path(__file__).stem
]
UNTOLD = {
    # Nobody can cancel it: a cancel goes to the operation that needs attention, which has ended.
    (MendOperation, "cancel"),
}


@pytest.mark.parametrize("story", WORKFLOWS, ids=lambda story: story.__name__)
def test_every_story_is_broken_repeated_and_cancelled(story: type) -> None:
    telling = [module for module in MODULES if story in getattr(module, "TOLD", {})]
    assert len(telling) == 1
    [module] = telling
    assert module.TOLD[story]
    tests = [name for name in vars(module) if name.startswith("test_")]
    for what, words in {
        "broken": ("broken",),
        "twice": ("twice", "repeated"),
        "cancel": ("cancel",),
    }.items():
        if (story, what) not in UNTOLD:
            assert [name for name in tests if any(word in name for word in words)], what
