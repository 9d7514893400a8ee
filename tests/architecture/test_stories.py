"""Every kind of operation has a story that the worker can tell."""

import importlib
import inspect
import pkgutil

import workflows.activities
from controlplane.domain.operation import OperationKind
from workflows.worker import STORIES, WORKFLOWS


def test_every_kind_of_operation_has_a_story():
    assert set(STORIES) == set(OperationKind)
    assert set(STORIES.values()) <= set(WORKFLOWS)


def test_no_step_is_broken_off_inside_of_a_provider_call():
    """Told to stop, a step settles first; the SDK would raise into its thread instead."""
    definitions = [
        method.__temporal_activity_definition
        for module in pkgutil.iter_modules(workflows.activities.__path__)
        for _, group in inspect.getmembers(
            importlib.import_module(f"workflows.activities.{module.name}"), inspect.isclass
        )
        for _, method in inspect.getmembers(group, inspect.isfunction)
        if hasattr(method, "__temporal_activity_definition")
    ]
    assert len(definitions) > 40
    assert [d.name for d in definitions if not d.no_thread_cancel_exception] == []
