"""A warm move: passes while the source runs, a target that follows, decisions, hard times.

Each case is a whole story on a Temporal server; together they take a minute or two.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count, product
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Interceptor

from controlplane.domain.answer import Answer, Seen
from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import MIB, SnapshotSeen
from controlplane.domain.errors import Unavailable
from controlplane.domain.finding import Severity
from controlplane.domain.ids import ArtefactId
from controlplane.domain.instance import Trait, TraitSeen
from controlplane.domain.operation import Decision, Operation, OperationKind, OperationState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability, CreateOrder
from controlplane.planning import passes
from controlplane.vault.nouns import CopyStopped
from controlplane.vault.vault import Vault
from drivers.fake.storage import FakeSnapshots
from tests.workflows.faults import Fault, FaultAt, FirstTriesDie, StepsTwice
from tests.workflows.running import (
    Steps,
    counted,
    crossing,
    in_their_order,
    run,
    run_and_cancel,
)
from tests.workflows.running import cancelled as cancelled_by_somebody
from tests.workflows.test_mend_operation import mend
from tests.workflows.test_move_instance import assert_home_as_before, assert_moved
from tests.workflows.world import HOME, World, content, now
from workflows import options
from workflows.activities import atsite, changes
from workflows.activities.control import WAITING
from workflows.move_instance import MoveInstance

PARTS = content(1)
FIRST, LAST = CreateOrder.DISKS_FIRST, CreateOrder.INSTANCE_FIRST

# The activities of a warm move up to its cutover; a pass after the first is one of changes.
STEPS: Steps = counted(
    [
        *("begin", "plan_move", "take_lease", "phase", "create_instance", "wait_instance"),
        *("phase", "create_snapshot", "wait_snapshot"),
        *("domain_of", "prepare_export", "copy_beside", "commit_point", "release_export"),
        *("prepare_export", "prove", "release_export", "phase", "gate"),
        *("create_snapshot", "wait_snapshot"),
        *("prepare_export", "copy_disk", "commit_point", "release_export"),
        *("remove", "write_changes", "prepare_export", "prove_changes", "release_export"),
        *("forget_point", "gate", "look_again"),
    ]
)
# What a cold move does as well, `test_beside_move` breaks before its effect and repeats.
OURS: Steps = [
    step
    for step in STEPS[3:]
    if step[0] not in {"create_instance", "wait_instance", "copy_beside"}
    and step not in {("prepare_export", 2), ("prove", 1), ("release_export", 2)}
]
BROKEN = [*product(STEPS, [Fault.AFTER]), *product(OURS, [Fault.BEFORE])]
AFTERWARDS: Steps = counted(
    [
        *("phase", "set_power", "wait_power", "fence", "phase"),
        *("prepare_export", "copy_disk", "commit_point", "release_export"),
        *("phase", "write_changes", "prepare_export", "prove_changes", "release_export"),
        *("phase", "verify_fence", "set_power", "wait_power", "probe_boot"),
        *("switch_home", "connect_nics", "give_up_nics", "remove", "forget_point"),
        "finish",
    ]
)
WARM: dict[str, Any] = {"method": "warm"}
# Instead of the first of these, where change lists die with the process; then two side by side.
PAUSED: Steps = [
    ("phase", 4),
    ("pause", 1),
    ("create_snapshot", 3),
    ("wait_snapshot", 3),
    ("prepare_export", 5),
    ("copy_disk", 2),
    ("commit_point", 3),
]
STOPPED: Steps = [("keep_paused", 1), ("set_power", 1), ("wait_power", 1), ("fence", 1)]
WRITTEN: Steps = [("write_changes", 2), ("prepare_export", 6), ("prove_changes", 2)]
BESIDE: Steps = [("phase", 5), *STOPPED, *WRITTEN, ("release_export", 5)]
ACCEPTED: Steps = [("verify_fence", 1), ("set_power", 2)]


class Guest:
    """Writes to the running source whenever a named step has ended, and knows what it wrote."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(7)
        self.parts = dict(PARTS)

    def write(self, *, at: int | None = None, data: bytes | None = None) -> None:
        copy = self._world.placement().copy
        assert copy is not None
        with self._world.home.lock:
            volume = self._world.home.instances[copy].volumes[0].ref
        at = self._chance.randrange(2 * MIB, 18 * MIB) if at is None else at
        data = data or self._chance.randbytes(3000)
        self.parts[at] = data
        self._world.home.write_disk(volume, at, data)

    def after(self, activity: str, nth: int = 1) -> FaultAt:
        return FaultAt(activity, nth, None, then=self.write)


def made(tmp_path: Path, *, home: CreateOrder = FIRST, changes: str = "told") -> World:
    world = World.build(tmp_path, home=home, away=LAST if home is FIRST else FIRST)
    world.running_instance(PARTS)
    world.describe(HOME, changes=changes)
    return world


def assert_followed(world: World, guest: Guest) -> None:
    """Everything the guest wrote is at the target, and nothing of the way is left."""
    placement = world.placement()
    assert placement.copy is not None
    assert world.disk_of(world.away, placement.copy, guest.parts)
    assert_moved(world)
    kinds = {a.kind for a in world.artefacts() if a.state is not ArtefactState.RELEASED}
    assert kinds <= {ArtefactKind.INSTANCE, ArtefactKind.VOLUME}


@pytest.mark.parametrize("home", [FIRST, LAST])
@pytest.mark.parametrize("changes", ["told", "untold", "while-alive"])
async def test_what_is_written_on_the_way_arrives(
    client: Client, tmp_path: Path, home: CreateOrder, changes: str
) -> None:
    world = made(tmp_path, home=home, changes=changes)
    guest = Guest(world)
    writes = [guest.after("copy_beside"), guest.after("prove"), guest.after("gate")]
    op = await run(client, world, world.ask_move(**WARM), writes)
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert len(guest.parts) == len(PARTS) + 3
    assert_followed(world, guest)
    assert op.result["method"] == "warm"
    passes = cast("list[dict[str, Any]]", op.result["passes"])
    # A machine that copies more slowly than the guest is allowed to wait makes a pass more.
    assert (len(passes) == 1) == (changes == "untold")
    # The last pass read what changed, or everything again.
    assert (cast("int", op.result["bytesRead"]) < 2 * passes[0]["read"]) == (changes != "untold")
    world.close()


@pytest.mark.parametrize(("site", "nth"), [("home", 1), ("away", 2), ("home", 3), ("away", 4)])
async def test_an_export_that_its_site_lost_is_prepared_again(
    client: Client, tmp_path: Path, site: str, nth: int
) -> None:
    """As when a node restarts: of the running source's snapshot, of the whole target, of the
    source that was stopped, and of what a later pass changed."""
    world = made(tmp_path)
    guest = Guest(world)

    def lose() -> None:
        losing = world.home if site == "home" else world.away
        with losing.lock:
            assert losing.exports
            losing.exports.clear()

    lost = FaultAt("prepare_export", nth, None, then=lose)
    op = await run(client, world, world.ask_move(**WARM), [lost, guest.after("prove")])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert lost.hit
    assert_followed(world, guest)
    world.close()


async def test_changes_that_its_site_cannot_tell_any_more_are_read_whole_and_told(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    guest = Guest(world)

    def forget() -> None:
        with world.home.lock:
            assert world.home.snapshots
            world.home.snapshots.clear()

    lost = FaultAt("fence", 1, None, then=forget)
    op = await run(client, world, world.ask_move(**WARM), [lost, guest.after("prove")])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert lost.hit
    (told,) = (f for f in op.findings if f.id == "SRC05" and f.severity is Severity.WARNING)
    assert told.subject == HOME
    assert_followed(world, guest)
    world.close()


async def test_what_is_left_of_a_snapshot_that_vanished_is_removed(
    client: Client, tmp_path: Path
) -> None:
    """A site may find none any more, as when its process died, and still keep a trace of it."""
    world = made(tmp_path)
    lost: list[ArtefactId] = []

    def forget() -> None:
        with world.home.lock:
            lost.extend(world.home.snapshots)
            world.home.snapshots.clear()

    broken = FaultAt("create_snapshot", 1, None, then=forget)
    op = await run(client, world, world.ask_move(**WARM), [broken])
    assert op.state is OperationState.ROLLED_BACK
    assert ("delete_snapshot", lost[0]) in world.home.calls
    assert_home_as_before(world)
    world.close()


@pytest.mark.timeout(180)  # every step is tried twice
@pytest.mark.parametrize(("home", "changes"), [(FIRST, "told"), (LAST, "while-alive")])
@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_the_first_attempt_of_every_step_may_die(
    client: Client, tmp_path: Path, home: CreateOrder, changes: str, fault: Fault
) -> None:
    world = made(tmp_path, home=home, changes=changes)
    guest = Guest(world)
    dying = FirstTriesDie(fault)
    op = await run(client, world, world.ask_move(**WARM), [dying, guest.after("copy_beside")])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert len(dying.died) >= len(STEPS)
    assert_followed(world, guest)
    world.close()


def away_for(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """A site that answers no copy so many times, of which three use up the tries; what is left."""
    left, copy = [times], Vault.copy
    hasty = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3)
    monkeypatch.setitem(options.COPY, "retry_policy", hasty)
    monkeypatch.setattr(options, "AWAY_PAUSE", timedelta(milliseconds=100))

    def breaking(self: Vault, *what: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise Unavailable("the site is away")
        return copy(self, *what, **more)

    monkeypatch.setattr(Vault, "copy", breaking)
    return left


@pytest.mark.parametrize("whole_images", [True, False])
async def test_a_site_that_is_away_is_waited_for_while_the_source_runs(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, whole_images: bool
) -> None:
    """Longer than a copy has tries; into the vault alone, and to a target at the same time."""
    world = made(tmp_path)
    if whole_images:
        world.away.lacking = {Capability.DISK_IMPORT: "not here"}
    guest, left = Guest(world), away_for(monkeypatch, 10)
    op = await run(client, world, world.ask_move(**WARM), [guest.after("commit_point")])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert left == [0]
    assert_followed(world, guest)
    world.close()


async def test_nobody_waits_for_it_longer_than_was_said(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, left = made(tmp_path), away_for(monkeypatch, 1_000_000)
    monkeypatch.setattr(options, "AWAY_FOR", timedelta(seconds=1))
    op = await run(client, world, world.ask_move(**WARM))
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert op.problem is not None
    assert op.problem.code == "unavailable"
    assert left[0] < 1_000_000 - 3
    assert_home_as_before(world)
    world.close()


async def test_a_source_that_stands_still_waits_for_no_site(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, left = made(tmp_path), away_for(monkeypatch, 10)
    op = await run(client, world, world.ask_move(method="cold"))
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert left == [7]
    assert_home_as_before(world)
    world.close()


async def test_a_snapshot_for_which_its_site_copies_disks_is_waited_for(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is seen to: each wait ends while it does, and is followed by another."""
    world = made(tmp_path)
    guest, find, looks = Guest(world), FakeSnapshots.find_snapshot, count()

    def slow(self: FakeSnapshots, owner: OwnerTag) -> Answer[SnapshotSeen]:
        answer = find(self, owner)
        if isinstance(answer, Seen) and next(looks) < 6:
            return Seen(replace(answer.it, ready=False, copying=True))
        return answer

    monkeypatch.setattr(FakeSnapshots, "find_snapshot", slow)
    monkeypatch.setattr(atsite, "COPYING_FOR", timedelta())
    waits = FaultAt("wait_snapshot", 1000, None)
    op = await run(client, world, world.ask_move(**WARM), [guest.after("commit_point"), waits])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert len(waits.calls) > 6
    assert_followed(world, guest)
    world.close()


async def test_a_target_that_takes_only_images_gets_the_last_point(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    world.away.lacking = {Capability.DISK_IMPORT: "not here"}
    guest = Guest(world)
    op = await run(client, world, world.ask_move(**WARM), [guest.after("commit_point", 1)])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert "PTH08" in {f.id for f in op.findings}
    assert_followed(world, guest)
    world.close()


async def test_the_list_of_steps_is_complete(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path)
    watch = FaultAt("none", 0, None)
    await run(client, world, world.ask_move(**WARM), [watch])
    expected = counted([name for name, _ in (*STEPS, *AFTERWARDS)])
    # In the cutover phases are written down, and exports released, beside what follows.
    beside = [("phase", 5), ("phase", 6), ("release_export", 4), ("phase", 7), ("verify_fence", 1)]
    assert in_their_order(watch.calls, expected, [*beside, ("release_export", 5)])
    world.close()


@pytest.mark.parametrize(("step", "fault"), BROKEN)
async def test_a_broken_step_leaves_the_source_running(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    world = made(tmp_path)
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask_move(**WARM), [broken])
    assert broken.hit
    assert op.state in {OperationState.ROLLED_BACK, OperationState.FAILED}, op.problem
    assert_home_as_before(world)
    assert_no_snapshot(world)
    world.close()


def assert_no_snapshot(world: World) -> None:
    with world.home.lock:
        assert world.home.snapshots == {}
        assert world.home.exports == {}


@pytest.mark.parametrize(("home", "changes"), [(FIRST, "told"), (LAST, "while-alive")])
async def test_a_step_that_runs_twice_changes_nothing(
    client: Client, tmp_path: Path, home: CreateOrder, changes: str
) -> None:
    world = made(tmp_path, home=home, changes=changes)
    guest = Guest(world)
    twice = StepsTwice(world.standing)
    op = await run(client, world, world.ask_move(**WARM), [guest.after("prove"), twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert len(twice.told) >= len(STEPS) + len(AFTERWARDS)
    assert twice.changed == []
    assert_followed(world, guest)
    world.close()


@crossing
@pytest.mark.parametrize("step", OURS)
async def test_a_cancel_at_any_step_leaves_the_source_running(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = made(tmp_path)
    op = await run_and_cancel(client, world, world.ask_move(**WARM), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    assert_home_as_before(world)
    assert_no_snapshot(world)
    world.close()


@crossing
async def test_a_cancel_in_the_middle_of_writing_changes_ends_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = made(tmp_path)
    guest, op, loop = Guest(world), world.ask_move(**WARM), asyncio.get_running_loop()
    ended: list[type[BaseException]] = []
    write = changes.bring

    def long(*brought: Any, cancelled: Callable[[], bool], **more: Any) -> None:
        asyncio.run_coroutine_threadsafe(cancelled_by_somebody(client, world, op), loop)
        for _ in range(400):  # twenty seconds, when nobody tells it to stop
            if cancelled():
                break
            time.sleep(0.05)
        try:
            write(*brought, cancelled=cancelled, **more)
        except BaseException as stopped:
            ended.append(type(stopped))
            raise

    monkeypatch.setattr(changes, "bring", long)
    op = await run(client, world, op, [guest.after("prove")])
    assert op.state is OperationState.CANCELLED, op.problem
    assert ended == [CopyStopped]
    assert_home_as_before(world)
    assert_no_snapshot(world)
    assert not world.away.writers
    world.close()


async def test_a_byte_that_changes_on_its_way_to_the_target_fails_the_move(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    guest = Guest(world)

    def flip() -> None:
        """One bit of what the guest wrote last, at the target."""
        at = next(reversed(guest.parts))
        with world.away.lock:
            [copy] = world.away.instances.values()
            disk = copy.volumes[0].disk
            disk.write(at, bytes([disk.read(at, 1)[0] ^ 1]))

    broken = FaultAt("write_changes", 1, None, then=flip)
    op = await run(client, world, world.ask_move(**WARM), [guest.after("prove"), broken])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code == "integrity"
    assert_home_as_before(world)
    world.close()


# Preflight again


def hold(world: World, trait: Trait) -> Callable[[], None]:
    def then() -> None:
        with world.home.lock:
            [copy] = world.home.instances.values()
            copy.traits = (TraitSeen(trait=trait, words="somebody's doing"),)

    return then


def powered(world: World) -> int:
    """How often power was asked for at the source's site."""
    return sum(method == "set_power" for method, _ in world.home.calls)


async def test_a_new_blocker_before_the_cutover_stops_nothing_but_the_move(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    locked = FaultAt("copy_beside", 1, None, then=hold(world, Trait.LOCKED))
    before = powered(world)
    op = await run(client, world, world.ask_move(**WARM), [locked])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "SRC02 became a blocker" in op.problem.message
    assert "somebody's doing" in op.problem.message
    assert powered(world) == before, "the source was stopped"
    assert_home_as_before(world)
    assert_no_snapshot(world)
    world.close()


async def test_a_warning_that_is_new_does_not_stop_the_cutover(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    guest = Guest(world)
    placed = FaultAt("copy_beside", 1, None, then=hold(world, Trait.PLACEMENT))
    op = await run(client, world, world.ask_move(**WARM), [placed, guest.after("prove")])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_followed(world, guest)
    world.close()


# Paused for the last pass

HELD = [
    s
    for s in (*PAUSED, *STOPPED, *WRITTEN)
    if s[0] not in {"phase", "create_snapshot", "prepare_export", "commit_point", "wait_power"}
]


async def test_the_steps_of_a_paused_source_are_all_listed(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path, changes="while-alive")
    watch = FaultAt("none", 0, None)
    op = await run(client, world, world.ask_move(**WARM), [watch])
    assert op.result["quiesced"] is True
    before, calls = len(STEPS), counted(watch.calls)
    last = before + len(PAUSED)
    assert calls[before:last] == PAUSED
    beside, after = calls[last : last + len(BESIDE)], calls[last + len(BESIDE) :]
    assert sorted(beside) == sorted(BESIDE)
    for one in (STOPPED, WRITTEN):
        assert [step for step in beside if step in one] == one
    assert [step for step in after if step in ACCEPTED] == ACCEPTED
    assert after.index(("release_export", 6)) < after.index(("set_power", 2))
    world.close()


@pytest.mark.parametrize(
    ("guest", "words"),
    [
        ("up", "its agent answers"),
        ("hanging", "no agent answers"),
        ("out of sight", "could not be seen"),
    ],
)
async def test_a_plan_asks_the_agent_of_the_guest_that_it_would_pause(
    client: Client, tmp_path: Path, guest: str, words: str
) -> None:
    world = made(tmp_path, changes="while-alive")
    world.home.guests_boot = guest != "hanging"
    if guest == "out of sight":
        world.home.fail_next("agent_answers", Unavailable("the site is busy"))
    op = await run(client, world, world.ask_move(OperationKind.PLAN_MOVE, **WARM))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert [words in f.evidence for f in op.findings if f.id == "GST10"] == [True]
    world.close()


@pytest.mark.parametrize(("step", "fault"), list(product(HELD, list(Fault))))
async def test_a_broken_step_of_a_paused_source_lets_it_go_on(
    client: Client, impatient: None, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    world = made(tmp_path, changes="while-alive")
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask_move(**WARM), [broken])
    assert broken.hit
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)
    assert_no_snapshot(world)
    world.close()


@crossing
@pytest.mark.parametrize("step", HELD)
async def test_a_cancel_lets_a_paused_source_go_on(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = made(tmp_path, changes="while-alive")
    op = await run_and_cancel(client, world, world.ask_move(**WARM), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    assert_home_as_before(world)
    assert_no_snapshot(world)
    world.close()


@pytest.mark.usefixtures("impatient")
async def test_a_source_that_went_on_behind_our_back_keeps_its_home_and_every_write(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path, changes="while-alive")
    guest = Guest(world)

    def resumed() -> None:
        copy = world.placement().copy
        assert copy is not None
        world.home.instances[copy].paused = False
        guest.write()

    op = await run(
        client, world, world.ask_move(**WARM), [FaultAt("commit_point", 3, None, then=resumed)]
    )
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "went on since it was paused" in op.problem.message
    assert_home_as_before(world)
    world.close()


@pytest.mark.usefixtures("impatient")
async def test_a_source_that_stayed_paused_goes_on_when_the_move_is_mended(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path, changes="while-alive")
    faults = [FaultAt("copy_disk", 2, Fault.BEFORE), FaultAt("resume", 1, Fault.BEFORE)]
    op = await run(client, world, world.ask_move(**WARM), faults)
    assert op.state is OperationState.NEEDS_ATTENTION
    mended = await mend(client, world, op)
    assert mended.state is OperationState.ROLLED_BACK, mended.problem
    assert_home_as_before(world)
    world.close()


@pytest.mark.usefixtures("impatient")
async def test_a_snapshot_that_does_not_go_keeps_no_source_paused(
    client: Client, tmp_path: Path
) -> None:
    """It is written down instead, and goes with the instance."""
    world = made(tmp_path, changes="while-alive")
    faults = [FaultAt("commit_point", 3, Fault.BEFORE), FaultAt("remove", 2, Fault.BEFORE)]
    op = await run(client, world, world.ask_move(**WARM), faults)
    assert all(fault.hit for fault in faults)
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)
    kept = [a for a in world.artefacts(site=HOME) if a.kind is ArtefactKind.SNAPSHOT]
    assert ArtefactState.RETAINED in {a.state for a in kept}
    world.close()


# Decisions


def deciding(world: World, op: Operation, decision: Decision, client: Client) -> Any:
    """What the service and the starter do when somebody decides."""
    loop = asyncio.get_running_loop()

    def decide() -> None:
        with world.store.begin() as tx:
            tx.operations.update(op.id, decision=decision)
        handle = client.get_workflow_handle(str(op.id))
        asyncio.run_coroutine_threadsafe(handle.signal(MoveInstance.nudge), loop)

    return decide


def moved(op: Operation) -> bool:
    return op.state is OperationState.SUCCEEDED


@pytest.mark.usefixtures("impatient")
async def test_a_manual_cutover_waits_for_it_and_copies_on(client: Client, tmp_path: Path) -> None:
    """What is written meanwhile is copied."""
    world = made(tmp_path)
    guest = Guest(world)
    op = world.ask_move(**WARM, cutover={"mode": "manual"})
    decide = deciding(world, op, Decision.CUTOVER, client)
    hooks: list[Interceptor] = [guest.after("gate", n) for n in range(2, 5)]
    ended = await run(client, world, op, [*hooks, FaultAt("gate", 5, None, then=decide)])
    assert moved(ended), ended.problem
    assert len(cast("list[object]", ended.result["passes"])) >= 4
    assert_followed(world, guest)
    world.close()


async def test_a_cutover_waits_until_fewer_others_are_in_theirs(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "TURN", timedelta(seconds=0.2))
    world = made(tmp_path)
    others = [world.ask_move(**WARM) for _ in range(4)]
    warm = {"passes": {"warm": True}}
    with world.store.begin() as tx:
        for other in others:
            tx.operations.update(
                other.id, state=OperationState.RUNNING, phase="acceptance", plan=warm
            )
            tx.operations.begin_step(other.id, "pause source", now())
    op = world.ask_move(**WARM)
    waited: list[object] = []

    def one_has_switched() -> None:
        waited.append(world.operation(op.id).result["waitsFor"])
        with world.store.begin() as tx:
            tx.operations.update(others[0].id, phase="switched")

    ended = await run(client, world, op, [FaultAt("gate", 4, None, then=one_has_switched)])
    assert moved(ended), ended.problem
    assert str(waited[0]).startswith("4 other moves are being cut over")
    assert [s.provider_seconds > 0 for s in world.steps(op.id) if s.name == WAITING] == [True]
    world.close()


@pytest.mark.usefixtures("impatient")
async def test_what_is_on_hold_goes_on_when_it_is_resumed(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path)
    guest = Guest(world)
    op = world.ask_move(**WARM)
    hold = deciding(world, op, Decision.HOLD, client)
    resume = deciding(world, op, Decision.NONE, client)
    hooks = [FaultAt("prove", 1, None, then=hold), FaultAt("gate", 4, None, then=resume)]
    ended = await run(client, world, op, hooks)
    assert moved(ended), ended.problem
    assert_followed(world, guest)
    world.close()


@crossing
async def test_a_cancel_while_it_waits_leaves_the_source_running(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    op = world.ask_move(**WARM, cutover={"mode": "manual"})
    ended = await run_and_cancel(client, world, op, "phase", 4)
    assert ended.state is OperationState.CANCELLED
    assert_home_as_before(world)
    assert_no_snapshot(world)
    world.close()


async def test_a_cutover_is_not_before_its_time(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path)
    wished = now() + timedelta(seconds=3)
    op = await run(client, world, world.ask_move(**WARM, cutover={"notBefore": wished.isoformat()}))
    assert moved(op), op.problem
    stopped = next(s for s in world.steps(op.id) if s.name == "stop source")
    assert stopped.started_at >= wished
    world.close()


async def test_a_window_that_passed_is_told_before_anything_is_copied(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    past = {"notAfter": (now() - timedelta(seconds=1)).isoformat()}
    op = await run(client, world, world.ask_move(**WARM, cutover=past))
    assert op.state is OperationState.BLOCKED
    assert [f.id for f in op.findings if f.subject == "window"] == ["PTH03"]
    assert_home_as_before(world)
    world.close()


async def test_a_missed_window_leaves_the_source_running(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path)

    def later() -> None:
        world.hands.control._clock = lambda: now() + timedelta(hours=1)

    window = {"notAfter": (now() + timedelta(minutes=10)).isoformat()}
    slow = FaultAt("prove", 1, None, then=later)
    op = await run(client, world, world.ask_move(**WARM, cutover=window), [slow])
    assert slow.hit
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert "window for the cutover has passed" in op.problem.message
    assert_home_as_before(world)
    assert_no_snapshot(world)
    world.close()
