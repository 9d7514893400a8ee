"""Images: a file becomes a recovery point, or nothing; a forgotten one is gone."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from threading import Event

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from controlplane.domain.disk import MIB, SECTOR, DiskFormat, Extent
from controlplane.domain.errors import NotFound
from controlplane.domain.ids import PointId
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind, Resource, State
from controlplane.vault.reading import PointReader
from drivers.disks.image import image_file
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, run, run_and_cancel
from tests.workflows.world import DISK, TENANT, BytesDisk, World, content, now
from workflows.activities.steps import Work
from workflows.activities.transfer import Publish
from workflows.images import DeleteImage, ImportImage

PARTS = {**content(5), 510: b"\x55\xaa"}
IMPORT: Steps = counted(["begin", "subject_of", "import_image"])
AFTERWARDS: Steps = counted(["discard_upload", "finish"])
DELETE: Steps = counted(["begin", "subject_of", "forget_point"])
TOLD = {ImportImage: IMPORT, DeleteImage: DELETE}
KEY = facts(Kind.IMAGE).key("debian", TENANT, None)


def uploaded(world: World, *, format: DiskFormat = DiskFormat.RAW) -> Path:
    path = world.uploads / "upload-1"
    image = image_file(BytesDisk(PARTS), format)
    with path.open("wb") as file:
        for offset in range(0, image.size, 8 * MIB):
            file.write(image.read(offset, min(8 * MIB, image.size - offset)))
    image.close()
    return path


def asked(world: World, *, format: str = "") -> Operation:
    if world.resource(KEY) is None:
        world.put(KEY, {"cpuArchitecture": "amd64"}, active=False)
    return world.ask(OperationKind.IMPORT_IMAGE, {"file": "upload-1", "format": format}, key=KEY)


def image(world: World) -> Resource:
    found = world.resource(KEY)
    assert found is not None
    return found


def assert_imported(world: World) -> None:
    it = image(world)
    assert it.state is State.ACTIVE
    assert it.status["sizeMB"] == DISK // MIB
    with closing(world.vault.open(PointId(it.id), 0)) as disk:
        assert disk.size == DISK
        assert all(disk.read(at, len(part)) == part for at, part in content(5).items() if at)
    assert list(world.uploads.iterdir()) == []


def assert_no_image(world: World, state: State = State.ERROR) -> None:
    it = image(world)
    assert it.state is state
    with pytest.raises(NotFound):
        world.vault.open(PointId(it.id), 0)


# What an upload may call itself.
@pytest.mark.parametrize("format", [DiskFormat.RAW, DiskFormat.QCOW2])
async def test_a_file_becomes_an_image(client: Client, world: World, format: DiskFormat) -> None:
    uploaded(world, format=format)
    watch = FaultAt("none", 0, None)
    op = await run(client, world, asked(world, format=format), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert op.result["sizeBytes"] == DISK
    assert watch.calls == [name for name, _ in (*IMPORT, *AFTERWARDS)]
    assert_imported(world)


@pytest.mark.parametrize(
    ("data", "format", "words"),
    [
        (b"", "", "no whole number of 512-byte sectors"),
        (b"just words, no disk " * 100, "", "no whole number of 512-byte sectors"),
        (bytes(4 * SECTOR), "", "neither a boot signature nor a file system"),
        (b"\x1f\x8b" + bytes(SECTOR - 2), "", "gzip archive"),
        (b"KDMV" + bytes(SECTOR - 4), "raw", "VMDK"),
        (bytes(4 * SECTOR), "qcow2", "not a qcow2 image"),
        (b"QFI\xfb" + bytes(600), "", ""),
    ],
)
async def test_what_is_no_image_is_refused_with_its_reason(
    client: Client, world: World, data: bytes, format: str, words: str
) -> None:
    (world.uploads / "upload-1").write_bytes(data)
    op = await run(client, world, asked(world, format=format))
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code in {"invalid", "integrity", "unsupported"}
    assert words in op.problem.message
    assert_no_image(world)
    assert list(world.uploads.iterdir()) == []


async def test_a_truncated_qcow2_is_refused(client: Client, world: World) -> None:
    path = uploaded(world, format=DiskFormat.QCOW2)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    op = await run(client, world, asked(world, format="qcow2"))
    assert op.state is OperationState.ROLLED_BACK
    assert op.problem is not None
    assert op.problem.code in {"invalid", "integrity"}
    assert_no_image(world)


async def test_an_upload_that_is_gone_says_so(client: Client, world: World) -> None:
    op = await run(client, world, asked(world))
    assert op.problem is not None
    assert op.problem.code == "not-found"
    assert "upload it again" in op.problem.message
    assert_no_image(world)


@pytest.mark.parametrize(("step", "fault"), list(product(IMPORT, [Fault.BEFORE, Fault.AFTER])))
async def test_a_broken_step_leaves_no_image(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    uploaded(world)
    broken = FaultAt(*step, fault)
    op = await run(client, world, asked(world), [broken])
    assert broken.hit
    assert op.state in {OperationState.FAILED, OperationState.ROLLED_BACK}
    assert op.problem is not None
    assert_no_image(world)


async def test_a_step_that_runs_twice_makes_one_image(client: Client, world: World) -> None:
    uploaded(world)
    twice = StepsTwice(world.standing)
    op = await run(client, world, asked(world), [twice])
    assert twice.told == [name for name, _ in (*IMPORT, *AFTERWARDS)]
    assert twice.changed == []
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_imported(world)


@crossing
@pytest.mark.parametrize("step", [*IMPORT, AFTERWARDS[0]])
async def test_a_cancel_leaves_no_image_or_comes_too_late(
    client: Client, world: World, step: tuple[str, int]
) -> None:
    uploaded(world)
    op = await run_and_cancel(client, world, asked(world), *step)
    if op.state is OperationState.SUCCEEDED:
        assert step in (IMPORT[-1], *AFTERWARDS)
        assert_imported(world)
    else:
        assert step not in AFTERWARDS
        assert op.state is OperationState.CANCELLED, op.problem
        assert_no_image(world)
        assert list(world.uploads.iterdir()) == [] or step[0] != "import_image"


async def test_an_import_that_broke_off_goes_on_where_it_was(client: Client, world: World) -> None:
    """What an earlier attempt sealed is not stored again."""
    uploaded(world)
    op = asked(world)
    point = PointId(image(world).id)
    whole = BytesDisk(PARTS)
    world.vault.copy(
        whole, point=point, disk=0, domain=f"{TENANT}/@images", subject="image", attempt=0
    )
    done = await run(client, world, op)
    assert done.state is OperationState.SUCCEEDED, done.problem
    assert done.result["sizeBytes"] == DISK
    assert_imported(world)


def asked_to_delete(world: World) -> Operation:
    if world.resource(KEY) is None:
        world.image(content(5))
    with world.store.begin() as tx:
        tx.resources.mark_deleting(tx.resources.get(KEY).id, now())
    return world.ask(OperationKind.DELETE_IMAGE, key=KEY)


async def test_a_deleted_image_is_forgotten(client: Client, world: World) -> None:
    op = asked_to_delete(world)
    point = PointId(op.subject)
    watch = FaultAt("none", 0, None)
    op = await run(client, world, op, [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert watch.calls == [name for name, _ in (*DELETE, ("finish", 1))]
    assert world.resource(KEY) is None
    with pytest.raises(NotFound):
        world.vault.open(point, 0)


@pytest.mark.parametrize(("step", "fault"), list(product(DELETE, list(Fault))))
async def test_a_broken_deletion_is_finished_by_asking_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    op = asked_to_delete(world)
    broken = FaultAt(*step, fault)
    op = await run(client, world, op, [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    assert image(world).state is State.ERROR
    op = await run(client, world, asked_to_delete(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert world.resource(KEY) is None


async def test_a_step_of_a_deletion_that_runs_twice_changes_nothing(
    client: Client, world: World
) -> None:
    twice = StepsTwice(world.standing)
    op = await run(client, world, asked_to_delete(world), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*DELETE, ("finish", 1))]
    assert twice.changed == []
    assert world.resource(KEY) is None


@crossing
@pytest.mark.parametrize("step", DELETE)
async def test_a_cancelled_deletion_can_be_asked_for_again(
    client: Client, world: World, step: tuple[str, int]
) -> None:
    op = await run_and_cancel(client, world, asked_to_delete(world), *step)
    if op.state is OperationState.CANCELLED:
        op = await run(client, world, asked_to_delete(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert world.resource(KEY) is None


async def test_instances_made_of_an_image_outlive_it(client: Client, world: World) -> None:
    op = await run(client, world, world.ask_provision(content(5)))
    assert op.state is OperationState.SUCCEEDED, op.problem
    op = await run(client, world, asked_to_delete(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    copy = world.placement().copy
    assert copy is not None
    assert world.disk_of(world.home, copy, content(5))


async def test_publishing_beats_while_its_image_is_mapped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a large disk that takes minutes; a copy that is silent for five seconds is dead."""
    point = world.image(content(4))
    beaten = Event()
    env = ActivityEnvironment()
    env.on_heartbeat = lambda *_: beaten.set()
    extents = PointReader.extents

    def slow(self: PointReader) -> Iterator[Extent]:
        assert beaten.wait(20), "no heartbeat"
        return extents(self)

    monkeypatch.setattr(PointReader, "extents", slow)
    world.running_instance(content(4))
    op = world.ask_move()
    order = Publish(
        work=Work(operation=op.id, instance=world.instance, epoch=1),
        step="publish 0",
        point=point,
        disk=0,
        domain=f"{TENANT}/@images",
        format=DiskFormat.QCOW2,
        bootable=True,
    )
    served = await asyncio.to_thread(env.run, world.hands.transfer.publish, order)
    assert served.length > 0
    assert beaten.is_set()
