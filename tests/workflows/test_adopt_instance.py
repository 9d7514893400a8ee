"""Adoption: a machine comes under management untouched, or nothing tells that it was asked for.

Each case is a whole story on a Temporal server; together they take a minute or so.
"""

from itertools import product
from pathlib import Path

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import ArtefactState
from controlplane.domain.disk import MIB
from controlplane.domain.errors import Busy, Conflict
from controlplane.domain.finding import Severity
from controlplane.domain.instance import Power, Trait, TraitSeen
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind, State
from controlplane.domain.site import CreateOrder
from controlplane.services.adoption import Adoptions
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, crossing, replayed, run, run_and_cancel
from tests.workflows.world import CALLER, HOME, SHOP, TENANT, World, now
from workflows.adopt_instance import AdoptInstance, ScanSite
from workflows.calls import OperationOrder
from workflows.mend_operation import MendOperation
from workflows.worker import build_worker

DISKS, INSTANCE = CreateOrder.DISKS_FIRST, CreateOrder.INSTANCE_FIRST
CONTENTS = (b"boot" * MIB, b"data" * 1000)
_BEGIN = [("begin", 1), ("look_at_stranger", 1), ("reserve_record", 1), ("take_lease", 1)]
_END = [("read_back", 1), ("power_seen", 1), ("placed", 1)]
STEPS: dict[CreateOrder, Steps] = {
    DISKS: [*_BEGIN, ("adopt", 1), ("adopt", 2), ("adopt", 3), *_END],
    INSTANCE: [*_BEGIN, ("adopt", 1), *_END],
}
SCAN: Steps = [("begin", 1), ("scan_site", 1)]
TOLD = {AdoptInstance: STEPS, ScanSite: SCAN}
CASES = [*((DISKS, step) for step in STEPS[DISKS]), (INSTANCE, ("adopt", 1))]
Case = tuple[CreateOrder, tuple[str, int]]


class Clock:
    now = staticmethod(now)


class Stranger:
    """A running machine with two disks that is nobody's, and how it was at first."""

    def __init__(self, world: World, **more) -> None:
        self.world = world
        self.ref = world.home.appear("legacy", *CONTENTS, **more)
        self.before = self.state()

    def state(self) -> object:
        it = self.world.home.strangers.get(self.ref) or self.world.home.instance_of(self.ref)
        disks = [(v.ref, v.disk.digest()) for v in it.volumes]
        return it.spec, it.power, it.boots, tuple(it.nics), it.fenced, it.paused, disks

    def ask(self, name: str = "web-1") -> Operation:
        adoptions = Adoptions(store=self.world.store, clock=Clock())
        key = facts(Kind.INSTANCE).key(name, TENANT, SHOP)
        return adoptions.adopt(CALLER, HOME, self.ref, key)


def built(tmp_path: Path, order: CreateOrder) -> World:
    return World.build(tmp_path, home=order)


@pytest.fixture
def stranger(tmp_path: Path):
    world = built(tmp_path, DISKS)
    yield Stranger(world)
    world.close()


def assert_adopted(stranger: Stranger, op: Operation, name: str = "web-1") -> None:
    world = stranger.world
    world.instance = op.subject
    placement = world.placement()
    assert placement.site == HOME
    assert placement.copy is not None
    assert world.power_at(world.home, placement.copy) is Power.ON
    assert stranger.state() == stranger.before
    assert stranger.ref not in world.home.strangers
    assert not world.home.strange_volumes
    assert {a.state for a in world.artefacts()} == {ArtefactState.ATTACHED}
    instance = world.resource(world.key(Kind.INSTANCE, name))
    assert instance is not None
    assert instance.state is State.ACTIVE
    assert instance.status["powerState"] == "on"
    for disk in (f"{name}-boot", f"{name}-data-1"):
        volume = world.resource(world.key(Kind.BLOCK_STORAGE, disk))
        assert volume is not None
        assert volume.state is State.ACTIVE
    world.assert_nothing_strange()


def assert_never_asked(stranger: Stranger) -> None:
    """The machine is as it was and nobody's, and no name is taken."""
    world = stranger.world
    assert stranger.ref in world.home.strangers
    assert len(world.home.strange_volumes) == len(CONTENTS)
    assert stranger.state() == stranger.before
    assert world.home.is_empty()
    assert all(a.state is ArtefactState.RELEASED for a in world.artefacts()), world.artefacts()
    assert world.resource(world.key(Kind.INSTANCE, "web-1")) is None
    assert world.resource(world.key(Kind.BLOCK_STORAGE, "web-1-boot")) is None
    world.assert_nothing_strange()


@pytest.mark.parametrize("order", list(CreateOrder))
async def test_a_running_machine_is_adopted_untouched(
    client: Client, tmp_path: Path, order: CreateOrder
) -> None:
    stranger = Stranger(built(tmp_path, order))
    watch = FaultAt("none", 0, None)
    op = await run(client, stranger.world, stranger.ask(), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert op.result["ref"] == stranger.ref
    assert watch.calls == [*(name for name, _ in STEPS[order]), "finish"]
    assert_adopted(stranger, op)
    stranger.world.close()


@pytest.mark.parametrize(("case", "fault"), list(product(CASES, [Fault.BEFORE, Fault.AFTER])))
async def test_a_broken_step_leaves_no_tag_and_no_record(
    client: Client, tmp_path: Path, case: Case, fault: Fault
) -> None:
    order, (activity, nth) = case
    stranger = Stranger(built(tmp_path, order))
    broken = FaultAt(activity, nth, fault)
    op = await run(client, stranger.world, stranger.ask(), [broken])
    assert broken.hit
    assert op.state in {OperationState.ROLLED_BACK, OperationState.FAILED}, op.problem
    assert_never_asked(stranger)
    stranger.world.close()


@pytest.mark.parametrize("order", list(CreateOrder))
async def test_a_step_that_runs_twice_adopts_once(
    client: Client, tmp_path: Path, order: CreateOrder
) -> None:
    stranger = Stranger(built(tmp_path, order))
    twice = StepsTwice(stranger.world.standing)
    op = await run(client, stranger.world, stranger.ask(), [twice])
    assert twice.told == [*(name for name, _ in STEPS[order]), "finish"]
    assert twice.changed == []
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_adopted(stranger, op)
    stranger.world.close()


@crossing
@pytest.mark.parametrize("step", STEPS[DISKS])
async def test_a_cancel_at_any_step_leaves_no_tag_and_no_record(
    client: Client, stranger: Stranger, step: tuple[str, int]
) -> None:
    op = await run_and_cancel(client, stranger.world, stranger.ask(), *step)
    if op.state is OperationState.SUCCEEDED:
        assert step == STEPS[DISKS][-1]  # the cancel and the record of the home crossed
        assert_adopted(stranger, op)
    else:
        assert op.state is OperationState.CANCELLED, op.problem
        assert_never_asked(stranger)


async def test_a_tag_that_could_not_be_taken_off_is_taken_off_by_a_cancel_later(
    client: Client, stranger: Stranger
) -> None:
    """Nothing of it is stopped or deleted meanwhile: it was there before."""
    world = stranger.world
    world.home.fail_next("disown", Conflict("north refuses"))
    op = await run(client, world, stranger.ask(), [FaultAt("placed", 1, Fault.AFTER)])
    assert op.state is OperationState.NEEDS_ATTENTION
    lines = op.result["lookAt"]
    assert any("goes on as it is" in line and stranger.ref in line for line in lines), lines
    async with build_worker(client, world.hands, queue="mending", stories=[MendOperation]):
        handle = await client.start_workflow(
            MendOperation.run,
            OperationOrder(operation=str(op.id)),
            id=f"{op.id}.mend",
            task_queue="mending",
        )
        await handle.result()
        await replayed(MendOperation, await handle.fetch_history())
    assert world.operation(op.id).state is OperationState.ROLLED_BACK
    assert_never_asked(stranger)


async def test_two_who_adopt_one_machine_are_told_apart(client: Client, stranger: Stranger) -> None:
    first = stranger.ask()
    with pytest.raises(Busy, match=first.name):
        stranger.ask("db-1")
    op = await run(client, stranger.world, first)
    assert_adopted(stranger, op)
    with pytest.raises(Conflict, match="belongs to instance shop/web-1"):
        stranger.ask("db-1")


async def test_the_first_of_two_records_wins(client: Client, stranger: Stranger) -> None:
    """Where the second was let in beside the first, its record meets the other's."""
    world = stranger.world
    first = stranger.ask()
    with world.store.begin() as tx:
        tx.operations.update(first.id, order={**first.order, "ref": "somewhere else"})
    second = stranger.ask("db-1")
    with world.store.begin() as tx:
        tx.operations.update(first.id, order=first.order)
    op = await run(client, world, first)
    late = await run(client, world, second)
    assert late.state is OperationState.FAILED
    assert late.problem is not None
    assert late.problem.code == "conflict"
    assert_adopted(stranger, op)


async def test_a_machine_that_cannot_be_carried_is_refused_by_name(
    client: Client, tmp_path: Path
) -> None:
    told = (
        TraitSeen(trait=Trait.RAW_DISK, words="/dev/sdb"),
        TraitSeen(trait=Trait.DEVICE, words="a GPU"),
    )
    stranger = Stranger(built(tmp_path, DISKS), traits=told)
    op = await run(client, stranger.world, stranger.ask())
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == "unsupported"
    assert "SRC07 machine" in op.problem.message
    assert "/dev/sdb" in op.problem.message
    assert [(f.id, f.severity) for f in op.findings] == [
        ("SRC07", Severity.BLOCKER),
        ("SRC08", Severity.WARNING),
    ]
    assert_never_asked(stranger)
    stranger.world.close()


async def test_a_machine_that_changes_meanwhile_is_given_back(
    client: Client, stranger: Stranger
) -> None:
    def unplugged() -> None:
        [it] = stranger.world.home.instances.values()
        it.nics.clear()
        stranger.before = stranger.state()

    change = FaultAt("adopt", 3, None, then=unplugged)
    op = await run(client, stranger.world, stranger.ask(), [change])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "changed while it was adopted" in op.problem.message
    assert_never_asked(stranger)


async def test_what_is_not_there_is_not_adopted(client: Client, stranger: Stranger) -> None:
    op = stranger.ask()
    del stranger.world.home.strangers[stranger.ref]
    ended = await run(client, stranger.world, op)
    assert ended.problem is not None
    assert ended.problem.code == "not-found"
    assert f"fedctl site scan {HOME}" in ended.problem.message


def ask_scan(world: World) -> Operation:
    return world.ask(OperationKind.SCAN, key=facts(Kind.SITE).key(HOME, None, None))


async def test_a_scan_lists_what_is_not_ours(client: Client, stranger: Stranger) -> None:
    op = await run(client, stranger.world, ask_scan(stranger.world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    scan = op.result["scan"]
    [machine] = scan["machines"]
    assert (machine["ref"], machine["name"], machine["power"]) == (stranger.ref, "legacy", "on")
    assert machine["adoptable"] is True
    assert [disk["size"] for disk in machine["disks"]] == [4 * MIB, MIB]
    assert [nic["network"] for nic in machine["nics"]] == ["production"]
    assert_never_asked(stranger)


@pytest.mark.parametrize(("step", "fault"), list(product(SCAN, Fault)))
async def test_a_scan_that_is_broken_changes_nothing(
    client: Client, stranger: Stranger, step: tuple[str, int], fault: Fault
) -> None:
    broken = FaultAt(*step, fault)
    op = await run(client, stranger.world, ask_scan(stranger.world), [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    assert_never_asked(stranger)


async def test_a_step_of_a_scan_that_runs_twice_changes_nothing(
    client: Client, stranger: Stranger
) -> None:
    twice = StepsTwice(stranger.world.standing)
    op = await run(client, stranger.world, ask_scan(stranger.world), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*SCAN, ("finish", 1))]
    assert twice.changed == []
    assert_never_asked(stranger)


@crossing
async def test_a_scan_can_be_cancelled(client: Client, stranger: Stranger) -> None:
    op = await run_and_cancel(client, stranger.world, ask_scan(stranger.world), "scan_site", 1)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}
    assert_never_asked(stranger)
