"""Operations with their steps and progress, and the outbox that starts them."""

from dataclasses import replace
from uuid import uuid4

import pytest

from controlplane.domain.errors import SUPERSEDED, Conflict, Invalid, NotFound
from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import (
    NAME_MAX,
    OperationId,
    ResourceId,
    TenantName,
    WorkspaceName,
    checked_name,
)
from controlplane.domain.operation import (
    OperationKind,
    OperationState,
    Problem,
    Progress,
    StepState,
)
from tests.store.nouns import SECOND, T0, added, at_once, fresh, in_time, operation

ACME, SHOP = TenantName("acme"), WorkspaceName("shop")


def test_an_operation_comes_back_as_it_was_written(store):
    finding = Finding(id="TGT01", severity=Severity.WARNING, subject="disk 0", evidence="x")
    op = added(
        store, findings=(finding,), order={"to": "par-pve"}, plan={"disks": [1]}, plan_digest="ab",
        problem=Problem(code="busy", message="wait"), deadline=T0 + SECOND,
    )  # fmt: skip
    site_work = replace(operation(), tenant=None, workspace=None)
    with store.begin() as tx:
        tx.operations.add(site_work)
    with store.read() as tx:
        assert tx.operations.get(op.id) == op
        assert tx.operations.by_name(ACME, SHOP, op.name) == op
        assert tx.operations.by_name(None, None, site_work.name) == site_work
        with pytest.raises(NotFound):
            tx.operations.by_name(None, None, op.name)
        with pytest.raises(NotFound):
            tx.operations.get(OperationId(uuid4()))


def test_a_name_is_taken_once_a_workspace(store):
    op = added(store)
    with pytest.raises(Conflict, match=op.name):
        added(store, name=op.name)
    added(store, name=op.name, workspace="other")


def test_names_count_what_was_done_to_a_subject(store):
    workspace = WorkspaceName(fresh("w"))

    def named(kind, subject):
        with store.begin() as tx:
            name = tx.operations.next_name(kind, subject, tenant=ACME, workspace=workspace)
            tx.operations.add(operation(name=name, workspace=workspace))
        return name

    move = OperationKind.MOVE
    names = [named(move, s) for s in ("shop/web-1", "shop/web", "shop/web-1", "web", "w/web-1-1")]
    assert names == ["move-web-1-1", "move-web-1", "move-web-1-2", "move-web-2", "move-web-1-1-1"]
    for n in range(8):
        assert named(OperationKind.START, "web") == f"start-web-{n + 1}"
    long = named(OperationKind.DELETE_INSTANCE, "x" * NAME_MAX)
    assert checked_name(long) == long


def test_two_operations_named_at_once_have_two_names(store):
    workspace = WorkspaceName(fresh("w"))

    def name_one():
        with store.begin() as tx:
            name = tx.operations.next_name(
                OperationKind.STOP, "web", tenant=ACME, workspace=workspace
            )
            tx.operations.add(operation(name=name, workspace=workspace))
        return name

    assert sorted(at_once(*[name_one] * 4)) == [f"stop-web-{n}" for n in range(1, 5)]


def test_operations_are_listed_newest_first(store):
    tenant = TenantName(fresh("t"))
    subject = ResourceId(uuid4())
    ops = [added(store, tenant=tenant, workspace=w) for w in ("a", "b", "a", "b")]
    ops.append(added(store, tenant=tenant, workspace="a", subject=subject))
    with store.begin() as tx:
        tx.operations.update(ops[2].id, state=OperationState.RUNNING)
    with store.read() as tx:

        def names(*args, **filters):
            return [op.name for op in tx.operations.list(*args, **filters)]

        newest = [op.name for op in reversed(ops)]
        a = WorkspaceName("a")
        assert names(tenant) == newest
        assert names(tenant, limit=2) == newest[:2]
        assert names(tenant, after=str(ops[3].id)) == newest[2:]
        assert names(tenant, a) == [newest[0], newest[2], newest[4]]
        assert names(tenant, a, after=newest[2]) == [newest[4]]
        assert names(tenant, states={OperationState.RUNNING}) == [ops[2].name]
        assert names(tenant, subject=subject) == [ops[4].name]
        assert names(limit=1) == newest[:1]
        for nowhere in ("nobody", str(uuid4())):
            with pytest.raises(Invalid):
                names(tenant, a, after=nowhere)


def test_an_operation_changes_only_as_its_lifecycle_allows(store):
    op = added(store)
    with store.begin() as tx:
        running = tx.operations.update(
            op.id, state=OperationState.RUNNING, phase="copy", started_at=T0, plan={"passes": (1,)},
            findings=(Finding(id="A", severity=Severity.INFO, subject="s", evidence="e"),),
        )  # fmt: skip
        assert tx.operations.open_for(op.subject) == running
        ended = tx.operations.update(
            op.id, state=OperationState.FAILED, ended_at=T0 + SECOND, result={"copied": 1},
            problem=Problem(code="unavailable", message="m", step="copy"),
        )  # fmt: skip
        assert tx.operations.open_for(op.subject) is None
        with pytest.raises(Conflict, match="failed cannot become running"):
            tx.operations.update(op.id, state=OperationState.RUNNING)
        with pytest.raises(Invalid, match="actor"):
            tx.operations.update(op.id, actor="eve")
        with pytest.raises(Conflict, match="has ended"):
            tx.operations.request_cancel(op.id)
    with store.read() as tx:
        assert tx.operations.get(op.id) == ended
    assert (running.phase, running.plan, ended.problem.step) == ("copy", {"passes": [1]}, "copy")
    assert replace(ended, state=op.state, phase="", started_at=None, plan=None, findings=(),
                   ended_at=None, result={}, problem=None) == op  # fmt: skip


def test_a_cancel_is_noted_once(store):
    op = added(store)
    with store.begin() as tx:
        first = tx.operations.request_cancel(op.id)
        before = tx.events.last()
        assert tx.operations.request_cancel(op.id) == first
        assert tx.events.last() == before
    assert first.cancel_requested


def test_a_step_repeated_counts_attempts_and_adds_seconds(store):
    op = added(store)
    with store.begin() as tx:
        tx.operations.begin_step(op.id, "stop", T0)
        again = tx.operations.begin_step(op.id, "create", T0)
        tx.operations.end_step(
            op.id, "create", StepState.FAILED, T0 + SECOND, 1.5, 0.25, "no answer"
        )
        again = tx.operations.begin_step(op.id, "create", T0 + 2 * SECOND)
        assert (again.attempts, again.started_at, again.ended_at) == (2, T0, None)
        done = tx.operations.end_step(op.id, "create", StepState.OK, T0 + 3 * SECOND, 1.0, 0.25)
    assert (done.attempts, done.provider_seconds, done.copy_seconds, done.message) == (
        2,
        2.5,
        0.5,
        "",
    )
    with store.begin() as tx:
        steps = tx.operations.steps(op.id)
        assert [step.name for step in steps] == ["stop", "create"]
        assert steps[1] == done
        with pytest.raises(NotFound):
            tx.operations.end_step(op.id, "never", StepState.OK, T0)
        with pytest.raises(NotFound):
            tx.operations.begin_step(OperationId(uuid4()), "create", T0)


def test_an_attempt_that_was_given_up_may_not_act_any_more(store):
    op = added(store)

    def claims(attempt: int) -> bool:
        try:
            with store.begin() as tx:
                tx.operations.claim_step(op.id, "write", attempt)
        except Conflict as refused:
            return refused.reason != SUPERSEDED
        return True

    with store.begin() as tx:
        tx.operations.begin_step(op.id, "write", T0)
    assert claims(1)
    assert claims(1)
    assert claims(2)
    assert not claims(1), "its successor has begun"
    with store.begin() as tx:
        tx.operations.end_step(op.id, "write", StepState.OK, T0 + SECOND)
    assert not claims(1)
    assert not claims(2), "its step has ended"
    assert claims(3), "the answer of the one before was lost"
    with store.begin() as tx:
        tx.operations.undo_step(op.id, "write", T0 + SECOND)
    assert not claims(3), "its story unwinds"
    assert not claims(4), "nobody comes later either"


def test_a_step_that_is_undone_keeps_its_end_and_may_be_unheard_of(store):
    op = added(store)
    with store.begin() as tx:
        tx.operations.begin_step(op.id, "on", T0)
        tx.operations.end_step(op.id, "on", StepState.OK, T0 + SECOND)
        for name in ("on", "never"):
            tx.operations.undo_step(op.id, name, T0 + 2 * SECOND)
            tx.operations.undo_step(op.id, name, T0 + 3 * SECOND)
        on, never = tx.operations.steps(op.id)
        with pytest.raises(Conflict):
            tx.operations.claim_step(op.id, "never", 1)
    assert (on.state, on.ended_at) == (StepState.UNDONE, T0 + SECOND)
    assert (never.state, never.ended_at) == (StepState.UNDONE, T0 + 2 * SECOND)


def test_progress_is_written_at_most_once_a_second_and_always_at_its_end(store):
    op = added(store)

    def say(done, at):
        with store.begin() as tx:
            tx.operations.set_progress(
                Progress(
                    operation=op.id, what="disk 0", done=done, total=100, sent=done // 2, at=at
                )
            )
        with store.read() as tx:
            (seen,) = tx.operations.progress(op.id)
        return seen.done, seen.at

    assert say(10, T0) == (10, T0)
    assert say(20, T0 + SECOND / 2) == (10, T0)
    assert say(30, T0 + SECOND) == (30, T0 + SECOND)
    assert say(20, T0) == (30, T0 + SECOND)
    assert say(100, T0 + SECOND * 1.1) == (100, T0 + SECOND * 1.1)


def test_the_outbox_is_told_in_order_until_it_is_crossed_out(store):
    ops = [OperationId(uuid4()) for _ in range(3)]
    with store.begin() as tx:
        for op in ops:
            tx.outbox.add(op, "start", T0)
        tx.outbox.add(ops[0], "cancel", T0)
    with store.begin() as tx:
        mine = [item for item in tx.outbox.pending(10_000) if item.operation in ops]
        assert [(i.operation, i.what) for i in mine] == [
            *((op, "start") for op in ops),
            (ops[0], "cancel"),
        ]
        for item in mine:
            tx.outbox.done(item.seq)
            tx.outbox.done(item.seq)
    with store.read() as tx:
        assert tx.outbox.pending(10_000) == []


def test_a_number_of_the_outbox_is_never_used_again(store):
    def one():
        with store.begin() as tx:
            tx.outbox.add(OperationId(uuid4()), "mend", T0)
            (item,) = tx.outbox.pending()
            tx.outbox.done(item.seq)
        return item.seq

    first, second = one(), one()
    assert second > first


def test_a_wish_and_its_outbox_row_appear_together(store):
    """While wishes commit in one thread, a dispatcher never sees a row without its operation."""
    ops = [operation() for _ in range(12)]

    def wish():
        for op in ops:
            with store.begin() as tx:
                tx.outbox.add(op.id, "start", T0)
                tx.operations.add(op)

    def dispatch():
        told, going = [], in_time()
        while len(told) < len(ops) and going():
            with store.read() as tx:
                items = tx.outbox.pending(5)
                told += [tx.operations.get(item.operation).id for item in items]
            with store.begin() as tx:
                for item in items:
                    tx.outbox.done(item.seq)
        return told

    _, told = at_once(wish, dispatch)
    assert told == [op.id for op in ops]
