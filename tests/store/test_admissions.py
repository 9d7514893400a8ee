"""Moves in their line: who waits in which order, and who has their turn."""

from uuid import uuid4

from controlplane.domain.admission import Admission
from controlplane.domain.ids import OperationId, ResourceId, SiteName, TenantName
from controlplane.domain.operation import Operation, OperationState
from controlplane.store.engine import Store
from tests.store.nouns import T0, added


def waiting(store: Store, turn: int) -> Operation:
    op = added(store)
    with store.begin() as tx:
        tx.admissions.add(
            Admission(
                operation=op.id,
                move=ResourceId(uuid4()),
                tenant=TenantName("acme"),
                sites=(SiteName("gra"), SiteName("par")),
                turn=turn,
            )
        )
    return op


def line(store: Store, *ops: Operation) -> list[tuple[OperationId, bool]]:
    ids = {op.id for op in ops}
    with store.read() as tx:
        return [(a.operation, a.admitted) for a in tx.admissions.list() if a.operation in ids]


def test_they_stand_by_turn_and_then_by_age(store: Store):
    late, first, second = waiting(store, 8), waiting(store, 7), waiting(store, 7)
    assert [each for each, _ in line(store, late, first, second)] == [first.id, second.id, late.id]


def test_who_is_admitted_waits_no_more_and_the_turn_is_remembered(store: Store):
    one, two = waiting(store, 3), waiting(store, 40)
    with store.begin() as tx:
        tx.admissions.admit([two.id], T0)
    assert line(store, one, two) == [(one.id, False), (two.id, True)]
    with store.begin() as tx:
        assert tx.admissions.waits(one.id)
        assert not tx.admissions.waits(two.id)
        tx.admissions.forget(two.id)
        tx.admissions.forget(two.id)
        tx.admissions.admit([one.id], T0)
        assert tx.admissions.reached == 40, "it never falls, also when the highest has ended"
    assert line(store, two) == []


def test_what_ended_or_needs_attention_takes_no_place(store: Store):
    ended, stuck, runs = waiting(store, 50), waiting(store, 50), waiting(store, 50)
    with store.begin() as tx:
        tx.operations.update(ended.id, state=OperationState.CANCELLED)
        tx.operations.update(stuck.id, state=OperationState.RUNNING)
        tx.operations.update(stuck.id, state=OperationState.NEEDS_ATTENTION)
        tx.operations.update(runs.id, state=OperationState.RUNNING)
    assert line(store, ended, stuck, runs) == [(runs.id, False)]


def test_they_are_counted(store: Store):
    with store.read() as tx:
        there, admitted = tx.admissions.counted()
    op = waiting(store, 60)
    with store.begin() as tx:
        assert tx.admissions.counted() == (there + 1, admitted)
        tx.admissions.admit([op.id], T0)
        assert tx.admissions.counted() == (there + 1, admitted + 1)
