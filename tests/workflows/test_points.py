"""Recovery points: read back as a whole, deleted where nothing needs them, kept by retention."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import uuid4

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.ids import (
    ArtefactId,
    OperationId,
    PointId,
    ResourceId,
    derived,
)
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind
from controlplane.services.points import RETENTION_KEY, RecoveryPoints
from controlplane.services.wish import Page
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, run, run_and_cancel
from tests.workflows.world import AWAY, CALLER, SHOP, TENANT, BytesDisk, World, content, now
from workflows.housekeeping import RETAIN_EVERY, Housekeeping
from workflows.points import DeletePoint, VerifyPoint
from workflows.retaining import forget_by_retention

VERIFY: Steps = counted(["begin", "verify_point"])
DELETE: Steps = counted(["begin", "delete_point"])
TOLD = {VerifyPoint: VERIFY, DeletePoint: DELETE}
DOMAIN = f"{TENANT}/{SHOP}"
SIZE = 1 << 20
MONDAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Clock:
    @staticmethod
    def now():
        return now()


@pytest.fixture
def kept(world: World) -> Iterator[World]:
    """The world with the vault's records in its database, and an instance without copies."""
    made = world.restored(world.store)
    made.wished_instance(active=True, image=False)
    yield made
    made.connections.close()
    made.vault.close()


def taken(world: World, at: datetime = MONDAY, seed: int = 1) -> PointId:
    """A recovery point of the instance."""
    point = PointId(uuid4())
    world.vault._clock = lambda: at
    disk = BytesDisk({0: random.Random(seed).randbytes(256 << 10)}, size=SIZE)
    world.vault.copy(disk, point=point, disk=0, domain=DOMAIN, subject="web-1", attempt=1)
    world.vault.commit(
        point, disks=(0,), domain=DOMAIN, tenant=TENANT, instance=world.instance, mark=None,
        attempt=1,
    )  # fmt: skip
    world.vault._clock = now
    return point


def retain(world: World, policy: str | None) -> None:
    key = facts(Kind.WORKSPACE).key(SHOP, TENANT, None)
    extensions = {} if policy is None else {RETENTION_KEY: policy}
    with world.store.begin() as tx:
        tx.resources.put(key, id=ResourceId(uuid4()), spec={}, extensions=extensions, now=now())


def forgotten(world: World) -> int:
    return forget_by_retention(world.store, world.vault, CALLER, now)


def points(world: World) -> RecoveryPoints:
    return RecoveryPoints(store=world.store, clock=Clock())


def asked(world: World, what: str, number: int = 1) -> Operation:
    key = world.key(Kind.RECOVERY_POINT, f"web-1.{number}")
    cases = points(world)
    if what == "delete":
        operation = cases.delete(CALLER, key, None)
    else:
        operation = cases.act(CALLER, key, what, None, {})
    assert operation is not None
    return operation


def hold(world: World, point: PointId, **more: object) -> ArtefactId:
    """A retained copy at a site that equals the point."""
    copy = ArtefactId(uuid4())
    artefact = Artefact(
        id=copy, kind=ArtefactKind.INSTANCE, site=AWAY, instance=world.instance,
        operation=OperationId(uuid4()), epoch=1, state=ArtefactState.INTENDED, created_at=now(),
    )  # fmt: skip
    with world.store.begin() as tx:
        tx.artefacts.intend(artefact)
        tx.artefacts.set_state(copy, ArtefactState.RETAINED, ref="vm-9", holds=point, **more)
    return copy


def damage(world: World) -> None:
    pack = max((world.objects._root / "packs").rglob("*"), key=lambda path: path.stat().st_size)
    body = bytearray(pack.read_bytes())
    body[1000] ^= 1
    pack.write_bytes(body)


# Seen by its owner


def test_a_point_says_when_how_much_and_why_it_is_kept(kept: World) -> None:
    first, second = taken(kept), taken(kept, MONDAY + timedelta(days=1), seed=2)
    until = now() + timedelta(days=7)
    hold(kept, first, expires_at=until)
    one, two = points(kept).list(CALLER, Page(tenant=TENANT, workspace=SHOP))
    assert (one.key.name, two.key.name) == ("web-1.1", "web-1.2")
    assert one.spec["takenAt"] == "2026-03-02T12:00:00.000000Z"
    assert one.status["bytes"] == SIZE
    assert one.status["point"] == str(first)
    assert "the copy at south equals it" in one.status["kept"]
    assert datetime.fromisoformat(str(one.status["expiresAt"])) == until
    assert two.status["kept"] == [
        "no retention is set: kept until the old copies of its move are released"
    ]
    retain(kept, "daily:2")
    shown = points(kept).get(CALLER, two.key)
    assert shown.status["kept"] == ["the newest", "daily 1 of 2"]
    assert shown.id == second
    for name in ("web-1.3", "web-1", "db-1.1"):
        with pytest.raises(NotFound, match="fedctl recovery-points list"):
            points(kept).get(CALLER, kept.key(Kind.RECOVERY_POINT, name))


# Stories


async def test_a_sound_point_is_verified(client: Client, kept: World) -> None:
    taken(kept)
    op = await run(client, kept, asked(kept, "verify"), [watch := FaultAt("none", 0, None)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert watch.calls == [name for name, _ in (*VERIFY, ("finish", 1))]
    assert op.result["equal"] is True
    it = points(kept).get(CALLER, kept.key(Kind.RECOVERY_POINT, "web-1.1"))
    assert it.status["verifiedAt"] is not None


async def test_a_damaged_point_is_not(client: Client, kept: World) -> None:
    taken(kept)
    damage(kept)
    op = await run(client, kept, asked(kept, "verify"))
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == "integrity"
    assert "offset" in op.problem.message
    it = points(kept).get(CALLER, kept.key(Kind.RECOVERY_POINT, "web-1.1"))
    assert it.status["verifiedAt"] is None


async def test_a_deleted_point_is_gone_from_vault_and_store(client: Client, kept: World) -> None:
    point = taken(kept)
    op = await run(client, kept, asked(kept, "delete"), [watch := FaultAt("none", 0, None)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert watch.calls == [name for name, _ in (*DELETE, ("finish", 1))]
    assert not kept.vault.stands(point)
    assert list(kept.objects.names(f"points/{point.hex}")) == []
    assert points(kept).list(CALLER, Page(tenant=TENANT, workspace=SHOP)) == []


def test_a_point_that_a_copy_equals_is_not_deleted(kept: World) -> None:
    hold(kept, taken(kept))
    with pytest.raises(Conflict, match="the copy at south equals it"):
        asked(kept, "delete")


@pytest.mark.parametrize(
    ("what", "step", "fault"),
    [
        *(("verify", *more) for more in product(VERIFY, list(Fault))),
        *(("delete", *more) for more in product(DELETE, list(Fault))),
    ],
)
async def test_a_broken_step_can_be_asked_for_again(
    client: Client, kept: World, what: str, step: tuple[str, int], fault: Fault
) -> None:
    point = taken(kept)
    broken = FaultAt(*step, fault)
    op = await run(client, kept, asked(kept, what), [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    if kept.vault.stands(point):
        op = await run(client, kept, asked(kept, what))
        assert op.state is OperationState.SUCCEEDED, op.problem
    assert kept.vault.stands(point) is (what == "verify")


@pytest.mark.parametrize("what", ["verify", "delete"])
async def test_a_step_that_runs_twice_changes_nothing(
    client: Client, kept: World, what: str
) -> None:
    point = taken(kept)
    twice = StepsTwice(lambda: (kept.vault.stands(point), sorted(kept.objects.names("points"))))
    op = await run(client, kept, asked(kept, what), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.changed == []


@crossing
@pytest.mark.parametrize(
    ("what", "step"), [*(("verify", step) for step in VERIFY), *(("delete", s) for s in DELETE)]
)
async def test_a_cancelled_one_leaves_the_point_whole_or_gone(
    client: Client, kept: World, what: str, step: tuple[str, int]
) -> None:
    point = taken(kept)
    op = await run_and_cancel(client, kept, asked(kept, what), *step)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}
    roots = list(kept.objects.names(f"points/{point.hex}"))
    assert bool(roots) is kept.vault.stands(point)


# Retention


def test_retention_forgets_what_no_rule_keeps_and_says_so(kept: World) -> None:
    made = [taken(kept, MONDAY + timedelta(hours=5 * n), seed=n) for n in range(6)]
    assert forgotten(kept) == 0  # nothing was asked for
    retain(kept, "last:1,daily:2")
    assert forgotten(kept) == 4
    assert forgotten(kept) == 0
    stands = [kept.vault.stands(point) for point in made]
    assert stands == [False, False, True, False, False, True]
    with kept.store.read() as tx:
        told = [e for e in tx.audit.entries() if e.action == "recovery-point.forget"]
    assert [e.detail["point"] for e in told] == [str(made[n]) for n in (0, 1, 3, 4)]
    assert told[0].detail["retention"] == "last:1,daily:2"
    assert told[0].subject.endswith("/workspaces/shop/recovery-points/web-1.1")


def test_retention_forgets_nothing_that_is_needed(kept: World) -> None:
    held, tried, old, newest = (taken(kept, MONDAY + timedelta(minutes=n)) for n in range(4))
    retain(kept, "last:1")
    copy = hold(kept, held)
    move = kept.ask_move()
    assert forgotten(kept) == 0  # a move is under way
    with kept.store.begin() as tx:
        tx.operations.update(move.id, state=OperationState.RUNNING)
        tx.operations.update(move.id, state=OperationState.FAILED, ended_at=now())
        mine = tx.vault.point(tried)
        assert mine is not None
        tx.vault.forget(tried)
        again = replace(mine, point=PointId(derived(move.id, "point")), sequence=5)
        tx.vault.adopt(again, packs=(), retained=True)
    reading = asked(kept, "verify", 3)
    assert forgotten(kept) == 0  # one for a retry, one is being read
    with kept.store.begin() as tx:
        tx.operations.update(reading.id, state=OperationState.CANCELLED, ended_at=now())
    assert forgotten(kept) == 1
    assert not kept.vault.stands(old)
    assert kept.vault.stands(newest)
    assert kept.vault.stands(held)
    assert kept.vault.stands(PointId(derived(move.id, "point")))
    with kept.store.begin() as tx:
        tx.artefacts.set_state(copy, ArtefactState.RELEASED)
    assert forgotten(kept) == 1
    assert not kept.vault.stands(held)


def test_retention_is_applied_by_housekeeping_and_never_to_images(kept: World) -> None:
    image = kept.image(content(9))
    first, second = taken(kept), taken(kept, MONDAY + timedelta(days=1))
    retain(kept, "last:1")
    moment = [now()]
    keeper = Housekeeping(kept.store, kept.vault, lambda: moment[0])
    keeper.look()
    assert kept.vault.stands(first)
    moment[0] += RETAIN_EVERY
    keeper.look()
    assert not kept.vault.stands(first)
    assert kept.vault.stands(second)
    assert kept.vault.stands(PointId(image))


async def test_finalizing_leaves_points_to_retention_where_there_is_one(
    client: Client, world: World
) -> None:
    """A whole move takes seconds; without retention `test_kept_copies.py` tells the same."""
    world.running_instance(content(1))
    retain(world, "last:3")
    moved = await run(client, world, world.ask_move())
    assert moved.state is OperationState.SUCCEEDED
    point = PointId(derived(moved.id, "point"))
    assert world.vault.stands(point)
    done = await run(client, world, world.ask(OperationKind.FINALIZE))
    assert done.state is OperationState.SUCCEEDED, done.problem
    assert world.home.is_empty()
    assert world.vault.stands(point)
    gone = await run(client, world, world.ask(OperationKind.DELETE_INSTANCE))
    assert gone.state is OperationState.SUCCEEDED, gone.problem
    assert not world.vault.stands(point)
