"""Which state may follow which, as tables."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from controlplane.domain.artefact import ArtefactState as A
from controlplane.domain.errors import Conflict
from controlplane.domain.operation import OperationState as O
from controlplane.domain.resource import State as S  # noqa: N817  # the tables read as tables

T = TypeVar("T", bound=StrEnum)

RESOURCE: Mapping[S, frozenset[S]] = {
    S.PENDING: frozenset({S.CREATING, S.DELETING}),
    S.CREATING: frozenset({S.ACTIVE, S.ERROR, S.DELETING}),
    S.ACTIVE: frozenset({S.UPDATING, S.DELETING, S.ERROR}),
    S.UPDATING: frozenset({S.ACTIVE, S.ERROR, S.DELETING}),
    S.ERROR: frozenset({S.CREATING, S.UPDATING, S.DELETING, S.ACTIVE}),
    S.DELETING: frozenset({S.ERROR}),
}

ARTEFACT: Mapping[A, frozenset[A]] = {
    A.INTENDED: frozenset({A.ALLOCATED, A.RETAINED, A.RELEASED}),
    A.ALLOCATED: frozenset({A.COPYING, A.COPIED, A.ATTACHED, A.RETAINED, A.RELEASED}),
    A.COPYING: frozenset({A.COPIED, A.RETAINED, A.RELEASED}),
    A.COPIED: frozenset({A.ATTACHED, A.RETAINED, A.RELEASED}),
    A.ATTACHED: frozenset({A.RETAINED, A.RELEASED}),
    A.RETAINED: frozenset({A.ALLOCATED, A.COPYING, A.COPIED, A.ATTACHED, A.RELEASED}),
    A.RELEASED: frozenset(),
}

OPERATION: Mapping[O, frozenset[O]] = {
    O.QUEUED: frozenset({O.RUNNING, O.CANCELLED, O.FAILED}),
    O.RUNNING: frozenset(
        {O.SUCCEEDED, O.FAILED, O.BLOCKED, O.ROLLED_BACK, O.CANCELLED, O.NEEDS_ATTENTION}
    ),
    O.NEEDS_ATTENTION: frozenset({O.RUNNING, O.SUCCEEDED, O.FAILED, O.ROLLED_BACK}),
    O.SUCCEEDED: frozenset(),
    O.FAILED: frozenset(),
    O.BLOCKED: frozenset(),
    O.ROLLED_BACK: frozenset(),
    O.CANCELLED: frozenset(),
}


def advance(table: Mapping[T, frozenset[T]], present: T, to: T) -> T:
    """`to`, when the table lets it follow `present` (staying is allowed); else Conflict."""
    if to is present or to in table[present]:
        return to
    raise Conflict(f"what is {present} cannot become {to}: look at its history, then decide")
