"""Moves take turns: the starter tells the engine of those that may run, and of no other."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

from temporalio.client import Client
from temporalio.service import RPCError

from controlplane.domain.admission import Bounds
from controlplane.domain.errors import Exhausted
from controlplane.domain.ids import OperationId
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState, Problem
from controlplane.domain.resource import Kind
from controlplane.services import admission
from controlplane.services.record import cancel, queue
from tests.workflows.test_mend_operation import PARTS
from tests.workflows.world import AWAY, CALLER, HOME, World, now
from workflows.activities.endings import Outcome
from workflows.starter import Starter
from workflows.worker import build_worker

ONE = Bounds(at_once=1)


def ask(world: World, bounds: Bounds = ONE) -> Operation:
    """A move as the service writes it down."""
    planned = world.ask_move(OperationKind.PLAN_MOVE)
    order = {"move": planned.order["move"], "to": AWAY, "deadlineSeconds": 3600.0}
    with world.store.begin() as tx:
        for item in tx.outbox.pending():
            if item.operation == planned.id:
                tx.outbox.done(item.seq)
        instance = tx.resources.get(world.key(Kind.INSTANCE, "web-1"))
        op = queue(
            tx, CALLER, OperationKind.MOVE, instance, now=now(), order=order,
            deadline=timedelta(hours=1),
        )  # fmt: skip
        move = tx.resources.by_id(UUID(str(order["move"])))
        admission.ask(tx, move, op, (HOME, AWAY), bounds)
    return op


def starter(client: Client, world: World, bounds: Bounds = ONE, queue: str = "") -> Starter:
    return Starter(world.store, client, now, bounds=bounds, queue=queue or str(uuid4()))


def end(world: World, op: Operation, state: OperationState = OperationState.SUCCEEDED) -> None:
    world.hands.endings.finish(Outcome(operation=str(op.id), state=state))


async def begun(client: Client, *ops: Operation) -> list[OperationId]:
    """Those that the engine has a story of."""
    found = []
    for op in ops:
        try:
            await client.get_workflow_handle(str(op.id)).describe()
        except RPCError:
            continue
        found.append(op.id)
    return found


async def test_the_next_begins_when_one_ends(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    first, second, third = ask(world), ask(world), ask(world)
    tells = starter(client, world)
    await tells.tell()
    await tells.tell()
    assert await begun(client, first, second, third) == [first.id]
    end(world, first)
    await tells.tell()
    assert await begun(client, second, third) == [second.id]
    end(world, second, OperationState.NEEDS_ATTENTION)
    await tells.tell()
    assert await begun(client, third) == [third.id], "who needs attention is not waited for"


async def test_another_starter_goes_on_where_one_died(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    first, second = ask(world), ask(world)
    await starter(client, world).tell()
    after = starter(client, world)
    await after.tell()
    assert await begun(client, first, second) == [first.id]
    end(world, first)
    await after.tell()
    assert await begun(client, second) == [second.id]


async def test_a_database_that_has_no_room_for_a_moment_does_not_end_a_starter(
    client: Client, world: World
) -> None:
    stop = asyncio.Event()

    class Full(Starter):
        told = 0

        async def tell(self) -> int:
            self.told += 1
            if self.told == 1:
                raise Exhausted("the database's disk is full")
            stop.set()
            return 1

    full = Full(world.store, client, now)
    await full.run(stop)
    assert full.told == 2


async def test_what_is_no_move_waits_for_none(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    moving, waits = ask(world), ask(world)
    planning = world.ask_move(OperationKind.PLAN_MOVE)
    look = world.ask_site(OperationKind.VERIFY_SITE)
    await starter(client, world).tell()
    assert await begun(client, moving, waits, planning, look) == [moving.id, planning.id, look.id]


async def test_a_deadline_counts_from_the_beginning(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    first, second = ask(world), ask(world)
    tells = starter(client, world)
    await tells.tell()
    end(world, first)
    ended = now()
    await tells.tell()
    deadline = world.operation(second.id).deadline
    assert deadline is not None
    assert deadline >= ended + timedelta(hours=1)


async def test_a_site_that_is_opened_again_is_noticed(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    limit(world, 0)
    op = ask(world)
    tells = starter(client, world)
    await tells.tell()
    assert await begun(client, op) == []
    limit(world, 1)
    tells._look_again = 0.0
    await tells.tell()
    assert await begun(client, op) == [op.id]


def limit(world: World, moves: int) -> None:
    with world.store.begin() as tx:
        site = tx.resources.get(facts(Kind.SITE).key(AWAY, None, None))
        tx.resources.set_spec(site.id, {**site.spec, "maxMoves": moves}, now=now())


async def test_a_move_that_waits_is_cancelled_at_once(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    limit(world, 0)
    waits = ask(world)
    name = str(uuid4())
    tells = starter(client, world, queue=name)
    await tells.tell()
    assert await begun(client, waits) == []
    with world.store.begin() as tx:
        cancel(tx, CALLER, tx.operations.get(waits.id), now())
    await tells.tell()
    async with build_worker(client, world.hands, queue=name):
        await client.get_workflow_handle(str(waits.id)).result()
    op = world.operation(waits.id)
    assert op.state is OperationState.CANCELLED
    assert op.started_at is None
    assert world.steps(op.id) == (), "nothing was touched"
    with world.store.read() as tx:
        move = tx.resources.by_id(UUID(str(op.order["move"])))
        assert move.status["phase"] == "cancelled"
        assert tx.admissions.counted() == (0, 0)


async def test_an_operation_that_ended_does_not_begin(client: Client, world: World) -> None:
    world.running_instance(PARTS)
    op = ask(world)
    world.hands.endings.finish(
        Outcome(
            operation=str(op.id),
            state=OperationState.FAILED,
            problem=Problem(code="unavailable", message="gone"),
        )
    )
    name = str(uuid4())
    with world.store.begin() as tx:
        tx.outbox.add(op.id, "start", now())
    await starter(client, world, queue=name).tell()
    async with build_worker(client, world.hands, queue=name):
        await client.get_workflow_handle(str(op.id)).result()
    after = world.operation(op.id)
    assert after.state is OperationState.FAILED
    assert after.problem is not None
    assert after.problem.message == "gone"
    assert world.steps(op.id) == ()
