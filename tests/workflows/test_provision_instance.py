"""Provisioning: an instance is made whole, or nothing of it stays.

Each case is a whole story on a Temporal server; together they take a minute or so.
"""

from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import DiskFormat, ImageSource
from controlplane.domain.errors import Unsupported
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.instance import Power
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.placement import Served
from controlplane.domain.resource import Kind, State
from controlplane.domain.site import CreateOrder, QuotaSeen
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, crossing, run, run_and_cancel
from tests.workflows.world import AWAY, HOME, World, content, now
from workflows.provision_instance import ProvisionInstance

PARTS = content(2)
DISKS, INSTANCE = CreateOrder.DISKS_FIRST, CreateOrder.INSTANCE_FIRST
_BEFORE = [
    ("begin", 1),
    ("plan_provision", 1),
    ("take_lease", 1),
    ("image_domain_of", 1),
    ("publish", 1),
    ("pull_image", 1),
    ("wait_image", 1),
]
_MADE = [("create_instance", 1), ("wait_instance", 1), ("placed", 1)]
STEPS: dict[CreateOrder, Steps] = {
    DISKS: [*_BEFORE, ("create_volume", 1), ("wait_volume", 1), *_MADE],
    INSTANCE: [*_BEFORE, *_MADE],
}
AFTERWARDS: Steps = [("remove", 1), ("finish", 1)]
TOLD = {ProvisionInstance: STEPS}
CASES = [(order, step) for order, steps in STEPS.items() for step in steps]
Case = tuple[CreateOrder, tuple[str, int]]


def made(tmp_path: Path, order: CreateOrder) -> World:
    return World.build(tmp_path, home=order)


def assert_provisioned(world: World) -> None:
    placement = world.placement()
    assert placement.site == HOME
    assert placement.copy is not None
    assert world.power_at(world.home, placement.copy) is Power.OFF
    assert world.disk_of(world.home, placement.copy, PARTS)
    with world.home.lock:
        assert not world.home.images
        assert len(world.home.instances) == len(world.home.volumes) == 1
    kept = [a for a in world.artefacts() if a.state is not ArtefactState.RELEASED]
    assert {a.state for a in kept} == {ArtefactState.ATTACHED}
    assert ArtefactKind.INSTANCE in {a.kind for a in kept}
    instance = world.resource(world.key(Kind.INSTANCE, "web-1"))
    assert instance is not None
    assert instance.state is State.ACTIVE
    world.assert_nothing_strange()


def assert_never_was(world: World, op: Operation) -> None:
    """Nothing is left at the site, and the same wish may be made again."""
    assert world.home.is_empty()
    assert world.away.is_empty()
    assert all(a.state is ArtefactState.RELEASED for a in world.artefacts()), world.artefacts()
    with world.store.read() as tx:
        placement = tx.placements.find(world.instance)
    assert placement is None or placement.copy is None
    instance = world.resource(world.key(Kind.INSTANCE, "web-1"))
    assert instance is not None
    if op.started_at is not None:
        assert instance.state is State.ERROR
    world.assert_nothing_strange()


@pytest.mark.parametrize("order", list(CreateOrder))
async def test_an_image_becomes_an_instance(
    client: Client, tmp_path: Path, order: CreateOrder
) -> None:
    world = made(tmp_path, order)
    watch = FaultAt("none", 0, None)
    op = await run(client, world, world.ask_provision(PARTS), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert op.plan_digest
    assert_provisioned(world)
    assert watch.calls == [name for name, _ in (*STEPS[order], *AFTERWARDS)]
    world.close()


@pytest.mark.parametrize(("case", "fault"), list(product(CASES, [Fault.BEFORE, Fault.AFTER])))
async def test_a_broken_step_leaves_nothing_behind(
    client: Client, tmp_path: Path, case: Case, fault: Fault
) -> None:
    order, (activity, nth) = case
    world = made(tmp_path, order)
    broken = FaultAt(activity, nth, fault)
    op = await run(client, world, world.ask_provision(PARTS), [broken])
    assert broken.hit
    assert op.state in {OperationState.ROLLED_BACK, OperationState.FAILED}, op.problem
    assert op.problem is not None
    assert_never_was(world, op)
    world.close()


@pytest.mark.parametrize("order", list(CreateOrder))
async def test_a_step_that_runs_twice_makes_one_instance(
    client: Client, tmp_path: Path, order: CreateOrder
) -> None:
    world = made(tmp_path, order)
    twice = StepsTwice(world.standing)
    op = await run(client, world, world.ask_provision(PARTS), [twice])
    assert twice.told == [name for name, _ in (*STEPS[order], *AFTERWARDS)]
    assert twice.changed == []
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_provisioned(world)
    world.close()


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_an_image_that_stays_behind_is_written_down(
    client: Client, world: World, fault: Fault
) -> None:
    op = await run(client, world, world.ask_provision(PARTS), [FaultAt("remove", 1, fault)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    placement = world.placement()
    assert placement.copy is not None
    assert world.disk_of(world.home, placement.copy, PARTS)
    images = [a for a in world.artefacts() if a.kind is ArtefactKind.IMAGE]
    assert [a.state for a in images] == [
        ArtefactState.RETAINED if fault is Fault.BEFORE else ArtefactState.RELEASED
    ]
    world.assert_nothing_strange()


@crossing
@pytest.mark.parametrize("step", STEPS[DISKS])
async def test_a_cancel_at_any_step_leaves_nothing_behind(
    client: Client, tmp_path: Path, step: tuple[str, int]
) -> None:
    world = made(tmp_path, DISKS)
    op = await run_and_cancel(client, world, world.ask_provision(PARTS), *step)
    if op.state is OperationState.SUCCEEDED:
        assert step == STEPS[DISKS][-1]  # the cancel and the record of the home crossed
        assert_provisioned(world)
    else:
        assert op.state is OperationState.CANCELLED, op.problem
        assert_never_was(world, op)
    world.close()


async def test_a_cancel_after_the_record_of_the_home_is_too_late(
    client: Client, world: World
) -> None:
    op = await run_and_cancel(client, world, world.ask_provision(PARTS), "remove", 1)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_provisioned(world)


async def test_what_failed_can_be_asked_for_again(client: Client, world: World) -> None:
    first = await run(
        client, world, world.ask_provision(PARTS), [FaultAt("placed", 1, Fault.AFTER)]
    )
    assert_never_was(world, first)
    op = await run(client, world, world.ask(OperationKind.PROVISION))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert_provisioned(world)
    assert world.placement().epoch > 1


async def test_what_another_operation_means_to_create_under_is_left_to_it(
    client: Client, tmp_path: Path
) -> None:
    world = made(tmp_path, INSTANCE)
    op = world.ask_provision(PARTS)
    other = Artefact(
        id=ArtefactId(uuid4()), kind=ArtefactKind.INSTANCE, site=HOME,
        instance=InstanceId(uuid4()), operation=OperationId(uuid4()), epoch=1, state=ArtefactState.INTENDED,
        anchor="100", created_at=now(),
    )  # fmt: skip
    with world.store.begin() as tx:
        tx.artefacts.intend(other)
    op = await run(client, world, op)
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert [a.anchor for a in world.artefacts() if a.state is ArtefactState.ATTACHED] == ["101"]
    assert all(step.attempts == 1 for step in world.steps(op.id) if step.name == "instance"), (
        "it was given the next one at once"
    )
    world.close()


async def test_an_empty_disk_needs_no_image(client: Client, world: World) -> None:
    key = world.wished_instance(active=False, image=False)
    op = await run(client, world, world.ask(OperationKind.PROVISION, key=key))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert world.artefacts(site=AWAY) == []
    assert {a.kind for a in world.artefacts(site=HOME)} == {
        ArtefactKind.INSTANCE,
        ArtefactKind.VOLUME,
    }
    world.assert_nothing_strange()


async def test_a_quota_that_is_too_small_is_said_before_anything_is_made(
    client: Client, world: World
) -> None:
    world.home.bounds = QuotaSeen(instances=0)
    op = await run(client, world, world.ask_provision(PARTS))
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == "exhausted"
    assert "raise the quota" in op.problem.message
    assert_never_was(world, op)


async def test_a_site_that_does_not_answer_is_named(client: Client, world: World) -> None:
    world.home.down = True
    op = await run(client, world, world.ask_provision(PARTS))
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == "unavailable"
    assert HOME in op.problem.message
    world.home.down = False
    assert_never_was(world, op)


async def test_a_site_that_refuses_to_fetch_is_sent_the_bytes(client: Client, world: World) -> None:
    refused = Unsupported("north fetches from nobody", reason="pull-refused")
    world.home.fail_next("pull_image", refused)
    op = await run(client, world, world.ask_provision(PARTS))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert "push_image" in {name for name, _ in world.home.calls}
    assert_provisioned(world)


async def test_an_image_is_served_for_a_while_to_whom_the_site_names(
    client: Client, world: World
) -> None:
    """As qcow2 of stored frames, which a driver knows as qcow2; revoked once the operation ended."""
    site = facts(Kind.SITE).key(HOME, None, None)
    with world.store.begin() as tx:
        kept = tx.resources.get(site)
        tx.resources.set_spec(kept.id, {**kept.spec, "imageClients": ["192.0.2.0/24"]}, now=now())
    offered: list[tuple[ImageSource, Served | None]] = []

    def fetch(source: ImageSource) -> Iterable[bytes]:
        token = source.url.rsplit("/", 1)[1].rsplit(".", 1)[0]
        with world.store.read() as tx:
            offered.append((source, tx.served.by_token(sha256(token.encode()).hexdigest())))
        return world.fetch(source)

    world.home.fetch = fetch
    op = await run(client, world, world.ask_provision(PARTS))
    assert op.state is OperationState.SUCCEEDED, op.problem
    [(source, served)] = offered
    assert served is not None
    assert (source.format, served.format) == (DiskFormat.QCOW2, DiskFormat.QCOW2_ZSTD)
    assert source.url.endswith(".qcow2")
    assert served.clients == ("192.0.2.0/24",)
    assert served.expires_at is not None
    assert timedelta(days=6.9) < served.expires_at - now() < timedelta(days=7)
    with world.store.read() as tx:
        after = tx.served.by_token(served.token_sha256)
    assert after is not None
    assert after.revoked


async def test_an_instance_is_held_while_it_is_made(client: Client, world: World) -> None:
    """A second operation about it is refused with the first one's name."""
    held: list[str] = []

    def look() -> None:
        with world.store.read() as tx:
            lease = tx.leases.find(InstanceId(world.instance))
            assert lease is not None
            held.append(tx.operations.get(lease.operation).name)

    watch = FaultAt("create_instance", 1, None, then=look)
    op = await run(client, world, world.ask_provision(PARTS), [watch])
    assert held == [op.name]
