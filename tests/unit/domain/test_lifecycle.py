"""The tables of lifecycles are complete, and nothing leaves them."""

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.errors import Conflict
from controlplane.domain.lifecycle import ARTEFACT, OPERATION, RESOURCE, advance
from controlplane.domain.operation import ENDED, OperationState
from controlplane.domain.resource import State

TABLES = [(RESOURCE, State), (ARTEFACT, ArtefactState), (OPERATION, OperationState)]
IDS = ["resource", "artefact", "operation"]
BEGINNINGS = [State.PENDING, ArtefactState.INTENDED, OperationState.QUEUED]

Table = Mapping[StrEnum, frozenset[StrEnum]]


@pytest.mark.parametrize(("table", "states"), TABLES, ids=IDS)
def test_every_state_has_a_line(table: Table, states: type[StrEnum]):
    assert set(table) == set(states)
    assert all(isinstance(to, states) for line in table.values() for to in line)


@pytest.mark.parametrize(
    ("table", "start"), list(zip([t for t, _ in TABLES], BEGINNINGS, strict=True))
)
def test_every_state_is_reached_from_the_first(table: Table, start: StrEnum):
    reached, new = set(), {start}
    while new:
        reached |= new
        new = {to for state in new for to in table[state]} - reached
    assert reached == set(table)


@pytest.mark.parametrize(("table", "states"), TABLES, ids=IDS)
def test_advance_allows_what_the_table_says_and_staying(table: Table, states: type[StrEnum]):
    for present in states:
        for to in states:
            if to is present or to in table[present]:
                assert advance(table, present, to) is to
            else:
                with pytest.raises(Conflict) as caught:
                    advance(table, present, to)
                assert present in str(caught.value)
                assert to in str(caught.value)


def test_operations_end_exactly_where_nothing_follows():
    assert {state for state, line in OPERATION.items() if not line} == ENDED


def test_an_artefact_ends_only_by_release_and_can_be_released_from_anywhere():
    assert [state for state, line in ARTEFACT.items() if not line] == [ArtefactState.RELEASED]
    for state in set(ArtefactState) - {ArtefactState.RELEASED}:
        assert ArtefactState.RELEASED in ARTEFACT[state]


def test_what_was_copied_is_retained_never_lost():
    # Unwinding may reach any artefact; from each state it can keep it for a retry.
    for state in set(ArtefactState) - {ArtefactState.RELEASED}:
        assert ArtefactState.RETAINED in ARTEFACT[state] | {state}


@given(st.lists(st.sampled_from(list(ArtefactState)), max_size=30))
def test_no_walk_comes_back_from_release(walk: list[ArtefactState]):
    state = ArtefactState.INTENDED
    for to in walk:
        released = state is ArtefactState.RELEASED
        with suppress(Conflict):
            state = advance(ARTEFACT, state, to)
        if released:
            assert state is ArtefactState.RELEASED
