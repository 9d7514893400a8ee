"""A cold move to a site whose disks can be written to: the target takes what is copied, meanwhile.

Each case is a whole story on a Temporal server; together they take a minute.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import MIB
from controlplane.domain.errors import NotFound, Unavailable
from controlplane.domain.operation import OperationKind, OperationState
from controlplane.domain.site import CreateOrder
from controlplane.planning import course
from controlplane.vault import copying, durable
from controlplane.vault.nouns import CopyStopped, Into, Written
from controlplane.vault.vault import Vault
from drivers.fake.driver import FakeDriver, FakeInstanceFirstDriver
from drivers.fake.storage import FakeWriter
from tests.workflows.faults import Fault, FaultAt, FirstTriesDie, StepsTwice
from tests.workflows.running import (
    Steps,
    counted,
    crossing,
    in_their_order,
    run,
    run_and_cancel,
)
from tests.workflows.running import cancelled as stop
from tests.workflows.test_direct_move import Order, retained, told
from tests.workflows.test_move_instance import (
    ORDERS,
    OTHER_PARTS,
    assert_home_as_before,
    assert_moved,
)
from tests.workflows.world import AWAY, DISK, HOME, World, content

PARTS = content(1)
VOLUME = ["create_volume", "wait_volume"]


def steps(order: Order) -> Steps:
    """The activities in order, to the end."""
    return counted(
        [
            *("begin", "plan_move", "take_lease", "phase"),
            *(VOLUME if order[1] is CreateOrder.DISKS_FIRST else ()),
            *("create_instance", "wait_instance", "look_again", "phase"),
            *("set_power", "wait_power", "fence", "phase", "domain_of", "prepare_export"),
            *("copy_beside", "commit_point", "prepare_export", "prove", "release_export", "phase"),
            *("release_export", "verify_fence", "set_power", "wait_power", "probe_boot"),
            *("switch_home", "connect_nics", "give_up_nics", "finish"),
        ]
    )


BESIDE: Steps = [
    *(("phase", n) for n in (3, 4)),
    *(("commit_point", 1), ("release_export", 1), ("release_export", 2), ("verify_fence", 1)),
]
OURS = [each for each in steps(ORDERS[1])[4:-4] if each[0] != "phase"]
ONCE = [("copy_beside", 1), ("commit_point", 1), ("prove", 1), ("look_again", 1)]
CANCELLED = [("create_volume", 1), *ONCE, ("set_power", 1), ("fence", 1), ("probe_boot", 1)]
# Before the first byte is sent there is nothing at the target that anybody could want.
BEFORE_A_BYTE = OURS[: OURS.index(("copy_beside", 1))]


def made(tmp_path: Path, order: Order = ORDERS[0]) -> World:
    world = World.build(tmp_path, home=order[0], away=order[1])
    world.running_instance(PARTS)
    return world


@pytest.mark.parametrize("order", ORDERS)
async def test_a_move_brings_every_byte_and_keeps_them_in_the_vault(
    client: Client, tmp_path: Path, order: Order
) -> None:
    world = made(tmp_path, order)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_moved(world)
    assert op.result["method"] == "cold"
    assert op.result["bytesRead"] == op.result["bytesWritten"]
    [point] = world.vault.points()
    copied = world.vault.open(point.point, 0)
    assert op.result["proof"] == [
        {"disk": 0, "sourceDigest": copied.digest, "targetDigest": copied.digest, "equal": True}
    ]
    [old] = retained(world, HOME)
    assert old.holds == point.point
    assert not [a for a in world.artefacts() if a.kind is ArtefactKind.IMAGE]
    world.close()


async def test_the_disks_of_an_instance_go_side_by_side(client: Client, tmp_path: Path) -> None:
    world = World.build(tmp_path)
    world.running_instance(PARTS, OTHER_PARTS)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_moved(world)
    copy = world.placement().copy
    assert copy is not None
    assert world.disk_of(world.away, copy, OTHER_PARTS, 1)
    assert [p["equal"] for p in op.result["proof"]] == [True, True]  # type: ignore[union-attr]
    world.close()


@pytest.mark.parametrize("nth", [1, 2])
async def test_a_disk_that_fails_beside_another_leaves_the_home_as_it_was(
    client: Client, tmp_path: Path, nth: int
) -> None:
    world = World.build(tmp_path)
    world.running_instance(PARTS, OTHER_PARTS)
    op = await run(client, world, world.ask_move(), [FaultAt("copy_beside", nth, Fault.AFTER)])
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)
    assert not world.away.writers
    world.close()


@pytest.mark.parametrize("order", ORDERS)
async def test_the_list_of_steps_is_complete(client: Client, tmp_path: Path, order: Order) -> None:
    world = made(tmp_path, order)
    watch = FaultAt("none", 0, None)
    await run(client, world, world.ask_move(), [watch])
    assert in_their_order(watch.calls, steps(order), BESIDE), watch.calls
    world.close()


@pytest.mark.parametrize(
    ("step", "fault"), [*product(OURS, [Fault.AFTER]), *product(ONCE, [Fault.BEFORE])]
)
async def test_a_broken_step_leaves_the_home_as_it_was(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    world = made(tmp_path, ORDERS[1])
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask_move(), [broken])
    assert broken.hit
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)
    assert not world.away.writers
    if step in BEFORE_A_BYTE:
        assert world.away.is_empty(), "what nobody wrote to is no orphan"
    world.close()


@pytest.mark.parametrize("order", ORDERS)
async def test_a_step_that_runs_twice_changes_nothing(
    client: Client, tmp_path: Path, order: Order
) -> None:
    world = made(tmp_path, order)
    twice = StepsTwice(world.standing)
    op = await run(client, world, world.ask_move(), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert sorted(counted(twice.told)) == sorted(steps(order))
    assert twice.changed == []
    assert_moved(world)
    world.close()


@crossing
@pytest.mark.parametrize("step", CANCELLED)
async def test_a_cancel_at_any_step_unwinds(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = made(tmp_path, ORDERS[1])
    op = await run_and_cancel(client, world, world.ask_move(), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    assert_home_as_before(world)
    assert not world.away.writers
    world.close()


@pytest.mark.parametrize("fault", list(Fault))
async def test_the_first_attempt_of_every_step_may_die(
    client: Client, tmp_path: Path, fault: Fault
) -> None:
    world = made(tmp_path, ORDERS[1])
    op = await run(client, world, world.ask_move(), [FirstTriesDie(fault)])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_moved(world)
    world.close()


def breaking(monkeypatch: pytest.MonkeyPatch, then: Callable[[], Exception]) -> list[Written]:
    """The first attempt's target fails in the second leaf of the disk; from where each began.

    One leaf after the other: the first is at the target then, and told to be durable.
    """
    began: list[Written] = []
    monkeypatch.setattr(durable, "EVERY", 0.0)
    monkeypatch.setattr(copying, "_LEAVES", 1)
    monkeypatch.setattr(copying, "is_forward", lambda _reader: True)
    copy, write = Vault.copy, FakeWriter.write

    def watched(self: Vault, reader: Any, *, into: Into, **more: Any) -> Any:
        began.append(into.since)
        return copy(self, reader, into=into, **more)

    def failing(self: FakeWriter, offset: int, data: bytes) -> None:
        if len(began) == 1 and offset >= 60 * MIB:
            raise then()
        write(self, offset, data)

    monkeypatch.setattr(Vault, "copy", watched)
    monkeypatch.setattr(FakeWriter, "write", failing)
    return began


async def test_a_successor_goes_on_where_everything_is_durable(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = breaking(monkeypatch, lambda: Unavailable("the link is gone"))
    world = made(tmp_path)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    first, second = began
    assert first == Written()
    assert second.ranges == ((0, 32 * MIB),)
    assert second.bytes > 0
    world.close()


async def test_an_export_that_the_site_lost_is_prepared_once_more(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its node restarts; the second try has a writer of its own, under its own name."""
    began = breaking(monkeypatch, lambda: NotFound("the export is gone"))
    world = made(tmp_path)
    op = await run(client, world, world.ask_move())
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    assert began == [Written(), Written()]
    assert {"copy 0", "copy 0 again"} <= {step.name for step in world.steps(op.id)}
    world.close()


@crossing
async def test_a_cancel_in_the_middle_of_the_copy_ends_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = made(tmp_path)
    op, loop = world.ask_move(), asyncio.get_running_loop()
    ended: list[type[BaseException]] = []
    copy, write, now = Vault.copy, FakeWriter.write, threading.Event()

    def told_to_stop(self: Vault, *a: Any, cancelled: Callable[[], bool], **more: Any) -> Any:
        asyncio.run_coroutine_threadsafe(stop(client, world, op), loop)

        def asked() -> bool:
            if cancelled():
                now.set()
            return now.is_set()

        try:
            return copy(self, *a, cancelled=asked, **more)
        except BaseException as stopped:
            ended.append(type(stopped))
            raise

    def late(self: FakeWriter, offset: int, data: bytes) -> None:
        now.wait()
        write(self, offset, data)

    monkeypatch.setattr(Vault, "copy", told_to_stop)
    monkeypatch.setattr(FakeWriter, "write", late)
    op = await run(client, world, op)
    assert op.state is OperationState.CANCELLED, op.problem
    assert ended == [CopyStopped]
    assert_home_as_before(world)
    assert not world.away.writers
    world.close()


async def test_a_flipped_byte_at_the_target_fails_the_move(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path)

    def flip() -> None:
        with world.away.lock:
            volume = next(iter(world.away.volumes.values()))
            byte = volume.disk.read(21 * MIB, 1)
            volume.disk.write(21 * MIB, bytes([byte[0] ^ 1]))

    op = await run(client, world, world.ask_move(), [FaultAt("copy_beside", 1, None, then=flip)])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code == "integrity"
    assert_home_as_before(world)
    assert [kept.holds for kept in retained(world, AWAY)] == [None]
    world.close()


def dirty(world: World) -> FaultAt:
    def write() -> None:
        with world.away.lock:
            volume = next(iter(world.away.volumes.values()))
            for at in (5 * MIB, 50 * MIB, volume.disk.size - 512):
                volume.disk.write(at, b"of somebody else"[:16])

    return FaultAt("wait_instance", 1, None, then=write)


async def test_what_an_empty_disk_came_with_is_written_over(client: Client, tmp_path: Path) -> None:
    """Some storages give out blocks with what somebody had there before; also beyond our end."""
    world = made(tmp_path)
    op = await run(client, world, world.ask_move(), [dirty(world)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    world.close()


@pytest.mark.parametrize("method", ["cold", "direct"])
async def test_a_site_whose_new_disks_are_blank_is_sent_no_zeros_and_still_proven(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Where they are not, against the site's word, the proof finds it."""
    for driver in (FakeDriver, FakeInstanceFirstDriver):
        monkeypatch.setattr(driver, "limits", replace(driver.limits, blank=True))
    zeroed: list[int] = []
    monkeypatch.setattr(FakeWriter, "zero", lambda _self, at, _length: zeroed.append(at))
    world = made(tmp_path)
    op = await run(client, world, world.ask_move(method=method), [dirty(world)])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code == "integrity"
    op = await run(client, world, world.ask_move(method=method))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    assert zeroed == []
    world.close()


async def test_the_way_back_builds_on_the_copy_that_stayed(client: Client, tmp_path: Path) -> None:
    """And a retry on what a failed acceptance left: both are proven to be a recovery point."""
    world = made(tmp_path)
    broken = FaultAt("probe_boot", 1, Fault.BEFORE)
    first = await run(client, world, world.ask_move(), [broken])
    assert first.state is OperationState.ROLLED_BACK
    [kept] = retained(world, AWAY)
    assert kept.holds is not None
    again = await run(client, world, world.ask_move())
    assert again.state is OperationState.SUCCEEDED, (again.problem, again.findings)
    assert told(again, "RET05")
    assert_moved(world)
    back = await run(client, world, world.ask_move(to=HOME))
    assert back.state is OperationState.SUCCEEDED, (back.problem, back.findings)
    assert told(back, "RET05")
    assert world.placement().site == HOME
    world.close()


async def test_the_next_plan_expects_what_this_one_took(client: Client, tmp_path: Path) -> None:
    """Twice over the bytes, not three times: reading and writing are one."""
    world = made(tmp_path)
    gone = await run(client, world, world.ask_move())
    home = await run(client, world, world.ask_move(to=HOME))
    assert home.state is OperationState.SUCCEEDED
    with world.store.begin() as tx:  # no copy to go on from
        for kept in retained(world, AWAY):
            tx.artefacts.set_state(kept.id, ArtefactState.RELEASED)
    plan = await run(client, world, world.ask_move(OperationKind.PLAN_MOVE))
    took = sum(step.copy_seconds + step.provider_seconds for step in world.steps(gone.id))
    estimate = cast("dict[str, float]", (plan.plan or {})["estimate"])
    each_byte = took / cast("int", gone.result["bytesRead"])
    expected = DISK * each_byte + course.PROVIDER_CALLS_SECONDS
    assert estimate["seconds"] == pytest.approx(expected, abs=0.1)
    assert estimate["downtime_seconds"] < estimate["seconds"]
    world.close()
