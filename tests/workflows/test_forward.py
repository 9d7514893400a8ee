"""A move fails, its source cannot return, and its target is proven: a person may send it forward.

Each case is a whole story on the real server with seconds of patience: two to six seconds each.
"""

import asyncio
from collections.abc import Callable

import pytest
from temporalio.client import Client
from temporalio.worker import Interceptor

from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.errors import Unsupported
from controlplane.domain.instance import Power
from controlplane.domain.kinds import facts
from controlplane.domain.operation import DECIDING, Decision, Operation, OperationState, StepState
from controlplane.domain.resource import Kind
from controlplane.services.freezing import freeze, thaw
from controlplane.services.record import decide as note_decision
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, cancelled, counted, run
from tests.workflows.test_move_instance import assert_home_as_before, assert_moved
from tests.workflows.world import AWAY, CALLER, HOME, World, content, now
from workflows.activities.control import DECISION
from workflows.move_instance import MoveInstance

pytestmark = pytest.mark.usefixtures("impatient")
PARTS = content(1)
CHECKS = [{"kind": "booted", "pattern": "never", "within": 1}]
FORWARD: Steps = counted(["phase", "isolate_nics", "set_power", "wait_power", "switch_home"])


class OnTheWayForward(FaultAt):
    """Counts calls from the first offer on: those before have tests of their own."""

    def is_due(self, name: str, id: str) -> bool:
        offered = name == "offer" or "offer" in self.calls
        return offered and super().is_due(name, id)


class Stranded:
    """A move that fails its acceptance while the site of its source is away."""

    def __init__(self, client: Client, world: World, **order: object) -> None:
        self.client, self.world = client, world
        self.loop = asyncio.get_running_loop()
        world.running_instance(PARTS)
        self.op = world.ask_move(checks=CHECKS, **order)
        self.offers: list[str] = []

    def goes_away(self) -> None:
        self.world.home.down = True

    def comes_back(self) -> None:
        self.world.home.down = False

    def decides(self) -> None:
        """What the service and the starter do."""
        self.offers.append(str(self.now.result["waitsFor"]))
        assert self.now.phase == DECIDING
        with self.world.store.begin() as tx:
            note_decision(tx, CALLER, self.now, Decision.FORWARD, now())
        handle = self.client.get_workflow_handle(str(self.op.id))
        asyncio.run_coroutine_threadsafe(handle.signal(MoveInstance.nudge), self.loop)

    def cancels(self) -> None:
        asyncio.run_coroutine_threadsafe(cancelled(self.client, self.world, self.op), self.loop)

    @property
    def now(self) -> Operation:
        return self.world.operation(self.op.id)

    async def ends(self, *then: Callable[[], None], also: Interceptor | None = None) -> Operation:
        """The operation at its end; the nth of `then` runs when the nth offer was made.

        Its source's site is back after the switch, so that nobody waits for it in vain.
        """
        away = FaultAt("wait_power", 2, None, then=self.goes_away)
        back = FaultAt("switch_home", 1, None, then=self.comes_back)
        offers = [
            FaultAt("offer", number, None, then=each) for number, each in enumerate(then, start=1)
        ]
        return await run(
            self.client, self.world, self.op, [away, back, *offers, *([also] if also else [])]
        )


def assert_forward(world: World, op: Operation) -> None:
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert not op.result.get("waitsFor")
    assert_moved(world)
    [home] = [
        a
        for a in world.artefacts(site=AWAY)
        if a.kind is ArtefactKind.INSTANCE and a.state is not ArtefactState.RELEASED
    ]
    assert home.state is ArtefactState.ATTACHED
    assert home.expires_at is None
    kept = [a for a in world.artefacts(site=HOME) if a.kind is ArtefactKind.INSTANCE]
    assert [a.state for a in kept] == [ArtefactState.RETAINED]


@pytest.mark.parametrize("method", ["cold", "direct"])
async def test_a_move_whose_source_cannot_return_is_sent_forward(
    client: Client, world: World, method: str
) -> None:
    """Its site stays away: what is left there to do is given up, and written down."""
    move = Stranded(client, world, method=method)
    away = FaultAt("wait_power", 2, None, then=move.goes_away)
    decided = FaultAt("offer", 1, None, then=move.decides)
    op = await run(client, world, move.op, [away, decided])
    move.comes_back()
    assert_forward(world, op)
    [offer] = move.offers
    for told in (HOME, AWAY, "is proven", "fedctl moves forward"):
        assert told in offer
    [waited] = [step for step in world.steps(op.id) if step.name == DECISION]
    assert waited.state is StepState.OK
    with world.store.read() as tx:
        assert tx.leases.find(world.instance) is None


async def test_nobody_decides_and_the_source_returns(client: Client, world: World) -> None:
    move = Stranded(client, world)
    op = await move.ends(lambda: None, move.comes_back)
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)


async def test_what_its_site_refuses_to_start_is_fenced_again(client: Client, world: World) -> None:
    move = Stranded(client, world)

    def broken() -> None:
        refused = Unsupported("north has no host left for it")
        world.home.fail_next("set_power", refused, times=9)

    op = await run(
        client,
        world,
        move.op,
        [FaultAt("wait_power", 2, None, then=broken), FaultAt("offer", 1, None, then=move.decides)],
    )
    assert_forward(world, op)
    assert "no host left" in move.offers[0]


async def test_a_site_that_was_frozen_meanwhile_is_left_to_its_survey(
    client: Client, world: World
) -> None:
    """So is each that does not answer for ten minutes."""
    move = Stranded(client, world)
    site = facts(Kind.SITE).key(HOME, None, None)

    def frozen() -> None:
        move.goes_away()
        with world.store.begin() as tx:
            freeze(tx, tx.resources.get(site), "it was away", now())

    away = FaultAt("wait_power", 2, None, then=frozen)
    decided = FaultAt("offer", 1, None, then=move.decides)
    op = await run(client, world, move.op, [away, decided])
    move.comes_back()
    with world.store.begin() as tx:
        thaw(tx, tx.resources.get(site), now())
    assert_forward(world, op)


async def test_what_may_have_been_started_is_never_left_behind(
    client: Client, world: World
) -> None:
    """Its disks may be newer than the copy: both stay off until its site is seen again."""
    move = Stranded(client, world)
    op = await run(client, world, move.op, [FaultAt("unfence", 1, None, then=move.goes_away)])
    assert op.state is OperationState.NEEDS_ATTENTION
    assert all(step.name != DECISION for step in world.steps(op.id))
    with world.away.lock:
        assert all(each.power is Power.OFF for each in world.away.instances.values())


async def test_an_unproven_target_is_no_way_forward(client: Client, world: World) -> None:
    move = Stranded(client, world)
    watch = FaultAt("copy_beside", 1, Fault.AFTER, then=move.goes_away)
    op = await run(client, world, move.op, [watch])
    assert op.state is OperationState.NEEDS_ATTENTION
    assert all(step.name != DECISION for step in world.steps(op.id))


async def test_a_target_that_goes_away_meanwhile_is_offered_again(
    client: Client, world: World
) -> None:
    move = Stranded(client, world)

    def both_away() -> None:
        move.decides()
        world.away.fail_next("isolate_nics", Unsupported("south is being repaired"))

    op = await move.ends(both_away, lambda: move.offers.append(str(move.now.result["waitsFor"])))
    assert_forward(world, op)


async def test_a_cancel_while_it_waits_changes_nothing(client: Client, world: World) -> None:
    """It is on its way back already; it can still be sent forward."""
    move = Stranded(client, world)
    op = await move.ends(move.cancels, move.decides)
    assert_forward(world, op)


async def test_a_cancelled_move_can_be_sent_forward(client: Client, world: World) -> None:
    move = Stranded(client, world)

    def stranded() -> None:
        move.goes_away()
        move.cancels()

    op = await run(
        client,
        world,
        move.op,
        [
            FaultAt("wait_power", 2, None, then=stranded),
            FaultAt("offer", 1, None, then=move.decides),
            FaultAt("switch_home", 1, None, then=move.comes_back),
        ],
    )
    assert_forward(world, op)


async def test_the_steps_forward_are_all_listed(client: Client, world: World) -> None:
    move = Stranded(client, world)
    watch = FaultAt("none", 1, None)
    await move.ends(move.decides, also=watch)
    after = watch.calls[watch.calls.index("offer") + 2 :]
    assert counted(after[: len(FORWARD)]) == FORWARD


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (FORWARD[0], Fault.AFTER),
        (FORWARD[1], Fault.BEFORE),
        (FORWARD[2], Fault.AFTER),
        (FORWARD[3], Fault.BEFORE),
    ],
)
async def test_a_broken_step_forward_is_tried_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    move = Stranded(client, world)
    name, nth = step
    # The source is told to stay off first, at a site that does not answer.
    watch = OnTheWayForward(name, nth + (name == "set_power"), fault)
    op = await move.ends(move.decides, also=watch)
    assert watch.hit
    assert_forward(world, op)


async def test_a_step_forward_that_runs_twice_changes_nothing(client: Client, world: World) -> None:
    move = Stranded(client, world)
    twice = StepsTwice(world.standing)
    op = await move.ends(move.decides, also=twice)
    assert {name for name, _ in FORWARD} <= set(twice.told)
    assert twice.changed == []
    assert_forward(world, op)


async def test_a_source_that_is_gone_stays_gone(client: Client, world: World) -> None:
    move = Stranded(client, world)

    def burns() -> None:
        with world.home.lock:
            world.home.instances.clear()
            world.home.volumes.clear()

    op = await run(
        client,
        world,
        move.op,
        [FaultAt("wait_power", 2, None, then=burns), FaultAt("offer", 1, None, then=move.decides)],
    )
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert world.placement().site == AWAY
