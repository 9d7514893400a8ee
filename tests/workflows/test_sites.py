"""Sites: a first look that says what it saw, and a sweep that reports and never deletes."""

from dataclasses import replace
from datetime import timedelta
from itertools import product
from uuid import uuid4

import pytest
from temporalio.client import Client

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import VolumeSpec
from controlplane.domain.errors import Busy, Denied, Unavailable
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, ResourceId
from controlplane.domain.kinds import facts
from controlplane.domain.operation import OperationKind, OperationState
from controlplane.domain.owner import OwnerTag
from controlplane.domain.resource import Kind, Resource, State
from controlplane.domain.site import Capability, CreateOrder
from controlplane.services.record import start_bare
from drivers.contract import Volumes, require
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, run, run_and_cancel
from tests.workflows.world import AWAY, CALLER, HOME, World, content, now
from workflows.activities.sweep import compare
from workflows.sites import SweepSites, VerifySite

VERIFY: Steps = counted(["begin", "verify_site"])
SWEEP: Steps = counted(["begin", "sites_to_sweep", "sweep_site"])
TOLD = {VerifySite: VERIFY, SweepSites: SWEEP}


def site(world: World) -> Resource:
    found = world.resource(facts(Kind.SITE).key(AWAY, None, None))
    assert found is not None
    return found


async def test_a_site_shows_what_it_can_and_offers(client: Client, world: World) -> None:
    world.away.lacking = {Capability.FENCING: "the role lacks lock"}
    watch = FaultAt("none", 0, None)
    op = await run(client, world, world.ask_site(OperationKind.VERIFY_SITE), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert watch.calls == [name for name, _ in (*VERIFY, ("finish", 1))]
    it = site(world)
    assert it.state is State.ACTIVE
    assert it.status["health"] == "healthy"
    capabilities = it.status["capabilities"]
    assert isinstance(capabilities, list)
    assert "instances" in capabilities
    assert "fencing" not in capabilities
    assert "the role lacks lock" in str(it.status["warnings"])
    assert "production" in str(it.status["networks"])
    assert world.away.is_empty()


@pytest.mark.parametrize(
    ("refusal", "code", "health"),
    [
        (Denied("south refused the token"), "denied", "refused"),
        (Unavailable("no answer in 5 s"), "unavailable", "unreachable"),
        (Busy("too many sessions"), "busy", "unreachable"),
    ],
)
async def test_a_site_that_refuses_or_is_away_says_which(
    client: Client, world: World, refusal: Exception, code: str, health: str
) -> None:
    world.away.refusing = refusal  # type: ignore[assignment]
    op = await run(client, world, world.ask_site(OperationKind.VERIFY_SITE))
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == code
    it = site(world)
    assert it.state is State.ERROR
    assert it.status["health"] == health
    assert it.status["problem"] == {"code": code, "message": str(refusal)}
    world.away.refusing = None
    op = await run(client, world, world.ask_site(OperationKind.VERIFY_SITE))
    assert op.state is OperationState.SUCCEEDED
    assert site(world).status["problem"] is None
    assert site(world).status["health"] == "healthy"


@pytest.mark.parametrize(("step", "fault"), list(product(VERIFY, list(Fault))))
async def test_a_broken_look_can_be_taken_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask_site(OperationKind.VERIFY_SITE), [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    op = await run(client, world, world.ask_site(OperationKind.VERIFY_SITE))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert site(world).state is State.ACTIVE


async def test_a_step_of_a_look_that_runs_twice_changes_nothing(
    client: Client, world: World
) -> None:
    twice = StepsTwice(lambda: (world.standing(), site(world).state))
    op = await run(client, world, world.ask_site(OperationKind.VERIFY_SITE), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*VERIFY, ("finish", 1))]
    assert twice.changed == []
    assert site(world).state is State.ACTIVE


@crossing
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *((OperationKind.VERIFY_SITE, step) for step in VERIFY),
        *((OperationKind.SWEEP, step) for step in SWEEP),
    ],
)
async def test_a_cancelled_look_changes_nothing_at_the_site(
    client: Client, world: World, kind: OperationKind, step: tuple[str, int]
) -> None:
    op = await run_and_cancel(client, world, world.ask_site(kind), *step)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}
    assert world.away.is_empty()


def planted(world: World, name: str = HOME) -> str:
    """A volume under our tag that no record knows; its ref."""
    tag = OwnerTag(
        artefact=ArtefactId(uuid4()),
        instance=InstanceId(uuid4()),
        operation=OperationId(uuid4()),
        epoch=1,
    )
    with world.connections.connect(HOME) as driver:
        return require(driver, Volumes).create_volume(tag, VolumeSpec(name=name, size=1 << 20))


async def test_a_sweep_reports_what_nobody_accounts_for_and_leaves_it(
    client: Client, world: World
) -> None:
    assert world.orders[HOME] is CreateOrder.DISKS_FIRST
    world.running_instance(content(6))
    ref = planted(world)
    watch = FaultAt("none", 0, None)
    op = await run(client, world, world.ask_site(OperationKind.SWEEP, HOME), [watch])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert watch.calls == [name for name, _ in (*SWEEP, ("finish", 1))]
    assert op.result["sites"] == [
        {"site": HOME, "accounted": 2, "unaccounted": [f"volume {ref}"], "missing": []}
    ]
    assert ref in {v.ref for v in world.home.volumes.values()}
    copy = world.placement().copy
    assert copy in world.home.instances
    assert not [name for name, _ in world.home.calls if name.startswith("delete")]


async def test_a_sweep_reports_what_went_behind_our_back(client: Client, world: World) -> None:
    world.running_instance(content(6))
    copy = world.placement().copy
    assert copy is not None
    with world.home.lock:
        gone = world.home.instances.pop(copy)
    op = await run(client, world, world.ask_site(OperationKind.SWEEP, HOME))
    reports = op.result["sites"]
    assert isinstance(reports, list)
    assert reports[0]["missing"] == [f"instance {gone.ref}"]


def test_what_was_never_seen_is_not_missing() -> None:
    """A creation that failed was unwound: it is kept on record, and nothing went behind our back."""
    kept = Artefact(
        id=ArtefactId(uuid4()), kind=ArtefactKind.INSTANCE, site=HOME,
        instance=InstanceId(uuid4()), operation=OperationId(uuid4()), epoch=1,
        state=ArtefactState.RETAINED,
    )  # fmt: skip
    assert compare((), (kept,), now(), timedelta()) == (0, [], [])
    seen = replace(kept, ref="100")
    assert compare((), (seen,), now(), timedelta()) == (0, [], ["instance 100"])


async def test_a_sweep_of_a_partial_listing_draws_no_conclusion(
    client: Client, world: World
) -> None:
    world.running_instance(content(6))
    world.home.stale_for(99)
    op = await run(client, world, world.ask_site(OperationKind.SWEEP, HOME))
    assert op.state is OperationState.FAILED
    assert op.problem is not None
    assert op.problem.code == "unavailable"
    assert "sites" not in op.result


@pytest.mark.parametrize(("step", "fault"), list(product(SWEEP, list(Fault))))
async def test_a_broken_sweep_can_be_made_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    ref = planted(world)
    broken = FaultAt(*step, fault)
    op = await run(client, world, world.ask_site(OperationKind.SWEEP, HOME), [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    op = await run(client, world, world.ask_site(OperationKind.SWEEP, HOME))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert f"volume {ref}" in str(op.result["sites"])
    assert ref in {v.ref for v in world.home.volumes.values()}


async def test_a_step_of_a_sweep_that_runs_twice_changes_nothing(
    client: Client, world: World
) -> None:
    ref = planted(world)
    twice = StepsTwice(world.standing)
    op = await run(client, world, world.ask_site(OperationKind.SWEEP, HOME), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*SWEEP, ("finish", 1))]
    assert twice.changed == []
    assert str(op.result["sites"]).count(f"volume {ref}") == 1


async def test_one_sweep_visits_every_site(client: Client, world: World) -> None:
    with world.store.begin() as tx:
        op = start_bare(
            tx,
            CALLER,
            OperationKind.SWEEP,
            ResourceId(uuid4()),
            facts(Kind.SITE).key(HOME, None, None),
            now=now(),
        )
    op = await run(client, world, op)
    assert op.state is OperationState.SUCCEEDED, op.problem
    reports = op.result["sites"]
    assert isinstance(reports, list)
    assert {report["site"] for report in reports} == {HOME, AWAY}
