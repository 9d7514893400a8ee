"""Every kind of operation has a story that the worker can tell."""

from controlplane.domain.operation import OperationKind
from workflows.worker import STORIES, WORKFLOWS


def test_every_kind_of_operation_has_a_story():
    assert set(STORIES) == set(OperationKind)
    assert set(STORIES.values()) <= set(WORKFLOWS)
