"""A direct move: straight from source to target, broken, repeated, cancelled and killed anywhere.

Each case is a whole story on a Temporal server; together they take a minute.
"""

import asyncio
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import MIB, BlockReader, BlockWriter
from controlplane.domain.errors import NotFound, Unavailable
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.site import Capability, CreateOrder
from controlplane.planning import course
from controlplane.vault import durable, streaming
from controlplane.vault.digest import digest
from controlplane.vault.nouns import CopyStopped
from controlplane.vault.streaming import Reached, Streamed, stream
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
from tests.workflows.test_move_instance import ORDERS, assert_home_as_before, assert_moved
from tests.workflows.world import AWAY, DISK, HOME, BytesDisk, World, content
from workflows.activities import straight

PARTS = content(1)
DIRECT = {"method": "direct"}
Order = tuple[CreateOrder, CreateOrder]

VOLUME = ["create_volume", "wait_volume"]


def steps(order: Order) -> Steps:
    """The activities in order, to the end."""
    return counted(
        [
            *("begin", "plan_move", "take_lease", "phase"),
            *(VOLUME if order[1] is CreateOrder.DISKS_FIRST else ()),
            *("create_instance", "wait_instance", "phase", "set_power", "wait_power", "fence"),
            *("phase", "prepare_export", "stream_disk", "release_export", "prepare_export"),
            *("prove", "release_export", "phase", "verify_fence", "set_power", "wait_power"),
            *("probe_boot", "switch_home", "connect_nics", "give_up_nics", "finish"),
        ]
    )


BESIDE: Steps = [("phase", 3), ("release_export", 1), ("phase", 4)]
# What begins as every move does, and ends as every move does, is broken in `test_move_instance`.
OURS = [each for each in steps(ORDERS[1])[4:-4] if each[0] != "phase"]
ONCE = [("stream_disk", 1), ("prove", 1), ("create_instance", 1)]
CANCELLED = [("create_volume", 1), *ONCE, ("set_power", 1), ("fence", 1), ("probe_boot", 1)]


def made(tmp_path: Path, order: Order = ORDERS[0]) -> World:
    world = World.build(tmp_path, home=order[0], away=order[1])
    world.running_instance(PARTS)
    return world


def retained(world: World, site: str) -> list[Artefact]:
    kept = world.artefacts(site=site, states={ArtefactState.RETAINED})
    return [each for each in kept if each.kind is ArtefactKind.INSTANCE]


def told(op: Operation, id_: str) -> list[str]:
    return [each.evidence for each in op.findings if each.id == id_]


@pytest.mark.parametrize("order", ORDERS)
async def test_a_direct_move_brings_every_byte_and_keeps_none(
    client: Client, tmp_path: Path, order: Order
) -> None:
    world = made(tmp_path, order)
    op = await run(client, world, world.ask_move(**DIRECT))
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_moved(world)
    assert op.result["method"] == "direct"
    [proof] = op.result["proof"]  # type: ignore[misc]
    # The same that a copy into the vault would have given.
    wanted = digest(BytesDisk(PARTS), length=DISK)
    assert proof == {"disk": 0, "sourceDigest": wanted, "targetDigest": wanted, "equal": True}
    assert op.result["bytesRead"] == op.result["bytesWritten"] == op.result["bytesSent"]
    assert len(told(op, "PTH10")) == 1
    assert not any(list(world.objects.names(folder)) for folder in ("packs", "points", "heads"))
    [old] = retained(world, HOME)
    assert old.holds is None
    assert not [a for a in world.artefacts() if a.kind is ArtefactKind.IMAGE]
    world.close()


@pytest.mark.parametrize("order", ORDERS)
async def test_the_list_of_steps_is_complete(client: Client, tmp_path: Path, order: Order) -> None:
    world = made(tmp_path, order)
    watch = FaultAt("none", 0, None)
    await run(client, world, world.ask_move(**DIRECT), [watch])
    assert in_their_order(watch.calls, steps(order), BESIDE)
    world.close()


@pytest.mark.parametrize(
    ("step", "fault"), [*product(OURS, [Fault.AFTER]), *product(ONCE, [Fault.BEFORE])]
)
async def test_a_broken_step_leaves_the_home_as_it_was(
    client: Client, tmp_path: Path, step: tuple[str, int], fault: Fault
) -> None:
    world = made(tmp_path, ORDERS[1])
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask_move(**DIRECT), [broken])
    assert broken.hit
    assert op.state is OperationState.ROLLED_BACK, op.problem
    assert_home_as_before(world)
    # Whatever is at the target now is not called a state of the instance.
    assert [kept.holds for kept in retained(world, AWAY)] in ([], [None])
    assert not world.away.writers
    world.close()


@pytest.mark.parametrize("order", ORDERS)
async def test_a_step_that_runs_twice_changes_nothing(
    client: Client, tmp_path: Path, order: Order
) -> None:
    world = made(tmp_path, order)
    twice = StepsTwice(world.standing)
    op = await run(client, world, world.ask_move(**DIRECT), [twice])
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
    op = await run_and_cancel(client, world, world.ask_move(**DIRECT), *step)
    assert op.state is OperationState.CANCELLED, op.problem
    assert_home_as_before(world)
    assert not world.away.writers
    world.close()


@pytest.mark.parametrize("fault", list(Fault))
async def test_the_first_attempt_of_every_step_may_die(
    client: Client, tmp_path: Path, fault: Fault
) -> None:
    world = made(tmp_path, ORDERS[1])
    op = await run(client, world, world.ask_move(**DIRECT), [FirstTriesDie(fault)])
    assert op.state is OperationState.SUCCEEDED, (op.problem, op.findings)
    assert_moved(world)
    world.close()


def breaking(
    monkeypatch: pytest.MonkeyPatch, then: Callable[[], Exception]
) -> list[tuple[Reached | None, int]]:
    """The first attempt fails once something of the disk is durable; where each began, and read."""
    began: list[tuple[Reached | None, int]] = []
    monkeypatch.setattr(durable, "EVERY", 0.0)
    monkeypatch.setattr(streaming, "SPAN", MIB)

    def broken(
        reader: BlockReader,
        writer: BlockWriter,
        *,
        since: Reached | None,
        reached: Any,
        **more: Any,
    ) -> Streamed:
        first = not began
        began.append((since, 0))

        def durable(now: Reached) -> None:
            reached(now)
            if first and now.spans:
                raise then()

        done = stream(reader, writer, since=since, reached=durable, **more)
        began[-1] = (since, done.bytes_read)
        return done

    monkeypatch.setattr(straight, "stream", broken)
    return began


async def test_a_successor_goes_on_where_everything_is_durable(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = breaking(monkeypatch, lambda: Unavailable("the link is gone"))
    world = made(tmp_path)
    op = await run(client, world, world.ask_move(**DIRECT))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    (first, _), (second, _) = began
    assert first == Reached()
    assert second is not None
    assert 1 <= second.spans <= DISK // MIB
    world.close()


@crossing
async def test_a_cancel_in_the_middle_of_the_stream_ends_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = made(tmp_path)
    op, loop = world.ask_move(**DIRECT), asyncio.get_running_loop()
    ended: list[type[BaseException]] = []

    def told_to_stop(
        reader: BlockReader, writer: BlockWriter, *, cancelled: Callable[[], bool], **more: Any
    ) -> Streamed:
        asyncio.run_coroutine_threadsafe(stop(client, world, op), loop)
        write, now = writer.write, threading.Event()

        def late(offset: int, data: bytes) -> None:
            now.wait()
            write(offset, data)

        def asked() -> bool:
            if cancelled():
                now.set()
            return now.is_set()

        monkeypatch.setattr(writer, "write", late)
        try:
            return stream(reader, writer, cancelled=asked, **more)
        except BaseException as stopped:
            ended.append(type(stopped))
            raise

    monkeypatch.setattr(straight, "stream", told_to_stop)
    op = await run(client, world, op)
    assert op.state is OperationState.CANCELLED, op.problem
    assert ended == [CopyStopped]
    assert_home_as_before(world)
    assert not world.away.writers
    world.close()


async def test_an_export_that_the_site_lost_is_prepared_once_more(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its node restarts; what was written before is written over, from the beginning."""
    began = breaking(monkeypatch, lambda: NotFound("the export is gone"))
    world = made(tmp_path)
    op = await run(client, world, world.ask_move(**DIRECT))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    assert [since for since, _ in began] == [Reached(), Reached()]
    names = [step.name for step in world.steps(op.id)]
    assert {"stream 0", "stream 0 again"} <= set(names)
    world.close()


async def test_a_flipped_byte_at_the_target_fails_the_move(client: Client, tmp_path: Path) -> None:
    world = made(tmp_path)

    def flip() -> None:
        with world.away.lock:
            volume = next(iter(world.away.volumes.values()))
            byte = volume.disk.read(21 * MIB, 1)
            volume.disk.write(21 * MIB, bytes([byte[0] ^ 1]))

    fault = FaultAt("stream_disk", 1, None, then=flip)
    op = await run(client, world, world.ask_move(**DIRECT), [fault])
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code == "integrity"
    assert_home_as_before(world)
    world.close()


async def test_what_an_empty_disk_came_with_is_written_over(client: Client, tmp_path: Path) -> None:
    """Some storages give out blocks with what somebody had there before; also beyond our end."""
    world = made(tmp_path)

    def dirty() -> None:
        with world.away.lock:
            volume = next(iter(world.away.volumes.values()))
            for at in (5 * MIB, 50 * MIB, volume.disk.size - 512):
                volume.disk.write(at, b"of somebody else"[:16])

    fault = FaultAt("wait_instance", 1, None, then=dirty)
    op = await run(client, world, world.ask_move(**DIRECT), [fault])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_moved(world)
    world.close()


@pytest.mark.parametrize(
    ("order", "subject"),
    [({}, AWAY), ({"cutover": {"mode": "manual"}}, "cutover")],
    ids=["no random write", "a cutover that would wait"],
)
async def test_what_cannot_go_straight_is_blocked_and_says_why(
    client: Client, tmp_path: Path, order: dict[str, object], subject: str
) -> None:
    world = made(tmp_path)
    if subject == AWAY:
        world.away.lacking = {Capability.DISK_IMPORT: "not here"}
    op = await run(client, world, world.ask_move(**DIRECT, **order))
    assert op.state is OperationState.BLOCKED
    [blocker] = [each for each in op.findings if each.severity == "blocker"]
    assert (blocker.id, blocker.subject) == ("PTH09", subject)
    assert "--method cold" in blocker.remedy
    assert world.away.is_empty()
    assert_home_as_before(world)
    world.close()


async def test_the_way_back_and_a_retry_build_on_no_copy_of_it(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path)
    broken = await run(client, world, world.ask_move(**DIRECT), [FaultAt("prove", 1, Fault.BEFORE)])
    assert broken.state is OperationState.ROLLED_BACK
    gone = await run(client, world, world.ask_move(**DIRECT))
    assert gone.state is OperationState.SUCCEEDED, (gone.problem, gone.findings)
    assert "makes no recovery point" in told(gone, "RET06")[0]
    assert_moved(world)
    back = await run(client, world, world.ask_move(to=HOME, method="cold"))
    assert back.state is OperationState.SUCCEEDED, (back.problem, back.findings)
    assert "not known" in told(back, "RET06")[0]
    assert world.placement().site == HOME
    # What the next plan expects is what this one took: twice over the bytes, not three times.
    plan = await run(client, world, world.ask_move(OperationKind.PLAN_MOVE, **DIRECT))
    took = sum(step.copy_seconds + step.provider_seconds for step in world.steps(gone.id))
    estimate = cast("dict[str, float]", (plan.plan or {})["estimate"])
    each_byte = took / cast("int", gone.result["bytesRead"])
    expected = DISK * each_byte + course.PROVIDER_CALLS_SECONDS
    assert estimate["seconds"] == pytest.approx(expected, abs=0.1)
    world.close()


async def test_a_copy_that_holds_a_point_goes_on_holding_it(client: Client, tmp_path: Path) -> None:
    """There by way of the vault and straight back: the old home is what it was, and is used again."""
    world = made(tmp_path)
    there = await run(client, world, world.ask_move())
    assert there.state is OperationState.SUCCEEDED, there.problem
    [old] = retained(world, HOME)
    back = await run(client, world, world.ask_move(to=HOME, **DIRECT))
    assert back.state is OperationState.SUCCEEDED, (back.problem, back.findings)
    assert world.placement().copy != old.id
    assert [kept.holds for kept in retained(world, HOME)] == [old.holds]
    assert old.holds is not None
    with world.home.lock:
        volume = world.home.instances[old.id].volumes[0].ref
    assert world.home.read_disk(volume, 0, DISK) == world.vault.open(old.holds, 0).read(0, DISK)
    assert [kept.holds for kept in retained(world, AWAY)] == [None]
    world.close()
