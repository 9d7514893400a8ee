"""The vault is checked: what it finds is told and kept, and a check that broke off goes on."""

import os
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client

from controlplane.domain.errors import Busy, NotFound, Unavailable
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind, Resource, State
from controlplane.services.checks import SCHEDULED, VaultChecks
from controlplane.services.usage import VaultStats
from controlplane.services.wish import Granted, Page, Wish
from controlplane.vault.checking import Checked, CheckOrder, CheckProgress
from tests.workflows.faults import Fault, FaultAt, StepsTwice
from tests.workflows.running import Steps, counted, crossing, run, run_and_cancel
from tests.workflows.world import CALLER, TENANT, World, content, now
from workflows.activities import checks
from workflows.check_vault import CheckVault
from workflows.housekeeping import Housekeeping

CHECK: Steps = counted(["begin", "examine_vault"])
TOLD = {CheckVault: CHECK}


class Clock:
    @staticmethod
    def now():
        return now()


def wish(world: World, name: str = "now", **spec: object) -> Granted:
    key = facts(Kind.VAULT_CHECK).key(name, None, None)
    cases = VaultChecks(store=world.store, clock=Clock())
    return cases.put(CALLER, key, Wish(spec=spec or {"depth": "full"}))


def asked(world: World, name: str = "now", **spec: object) -> Operation:
    operation = wish(world, name, **spec).operation
    assert operation is not None
    return operation


def the(world: World, name: str = "now") -> Resource:
    found = world.resource(facts(Kind.VAULT_CHECK).key(name, None, None))
    assert found is not None
    return found


def packs(world: World) -> list[Path]:
    return [path for path in (world.objects._root / "packs").rglob("*") if path.is_file()]


def damage(world: World) -> None:
    """One bit of the image's data."""
    pack = max(packs(world), key=lambda path: path.stat().st_size)
    body = bytearray(pack.read_bytes())
    body[1000] ^= 1
    pack.write_bytes(body)


def found(world: World) -> list[str]:
    findings = cast("list[dict[str, str]]", the(world).status["findings"])
    return [finding["id"] for finding in findings]


async def test_a_sound_vault_is_checked_and_measured(client: Client, world: World) -> None:
    world.image(content(1))
    op = await run(client, world, asked(world), [watch := FaultAt("none", 0, None)])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert watch.calls == [name for name, _ in (*CHECK, ("finish", 1))]
    it = the(world)
    assert it.state is State.ACTIVE
    assert (it.status["damaged"], it.status["findings"]) == (False, [])
    assert it.status["packs"] == len(packs(world))
    stats = VaultStats(store=world.store)
    [whole, tenant, image] = stats.list(CALLER, Page())
    assert whole.status["measuredBy"] == "now"
    assert whole.status["packs"] == {"sealed": 0, "verified": len(packs(world))}
    assert tenant.key.name == f"tenant.{TENANT}"
    assert image.spec["workload"] == "acme image debian"
    assert image.status["logical"] == 64 << 20
    assert image.status["stored"] == whole.status["stored"]
    assert stats.get(CALLER, image.key).status == image.status
    with pytest.raises(NotFound, match="fedctl vault check"):
        stats.get(CALLER, facts(Kind.VAULT_STATS).key("tenant.other", None, None))


async def test_how_far_a_check_is_tells_what_it_has_read(client: Client, world: World) -> None:
    world.image(content(7))
    op = await run(client, world, asked(world, depth="structure"))
    with world.store.read() as tx:
        [told] = tx.operations.progress(op.id)
    assert told.what == "check"
    assert 0 < told.done == told.total < 50_000 < sum(path.stat().st_size for path in packs(world))


def test_progress_is_written_once_a_second_and_at_the_end(world: World) -> None:
    op = asked(world)
    moment = now()
    telling = checks._Telling(world.store, op, lambda: moment)
    written: list[int] = []
    for done in range(1, 31):
        telling(CheckProgress(done=done, total=30, blobs=0, after="", ended=done == 30))
        with world.store.read() as tx:
            written += [told.done for told in tx.operations.progress(op.id)]
        moment += timedelta(seconds=0.2)
    assert sorted(set(written)) == [1, 6, 11, 16, 21, 26, 30]


async def test_damage_is_told_kept_and_audited(client: Client, world: World) -> None:
    world.image(content(2))
    damage(world)
    op = await run(client, world, asked(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert op.result["damaged"] is True
    assert [f.id for f in op.findings] == ["VLT05", "VLT07"]
    assert op.findings[1].subject == "acme image debian, disk 0"
    assert found(world) == ["VLT05", "VLT07"]
    with world.store.read() as tx:
        told = [e.outcome for e in tx.audit.entries() if e.operation == str(op.id)]
    assert told[-3:] == ["damaged", "ok", "succeeded"]


@pytest.mark.parametrize(("step", "fault"), list(product(CHECK, list(Fault))))
async def test_a_broken_check_is_asked_for_again(
    client: Client, world: World, step: tuple[str, int], fault: Fault
) -> None:
    world.image(content(3))
    broken = FaultAt(*step, fault)
    op = await run(client, world, asked(world), [broken])
    assert broken.hit
    assert op.state is OperationState.FAILED
    assert the(world).state is State.ERROR
    op = await run(client, world, asked(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert the(world).state is State.ACTIVE
    assert wish(world).operation is None  # it ended well: the same wish again asks for nothing


async def test_a_check_that_runs_twice_changes_nothing(client: Client, world: World) -> None:
    world.image(content(4))

    def look() -> object:
        with world.store.read() as tx:
            usage = tx.settings.vault_usage
            sampled = tx.settings.sampled(100)
        status = {k: v for k, v in the(world).status.items() if k != "checkedAt"}
        return usage and usage["items"], sampled, status, the(world).state

    twice = StepsTwice(look)
    op = await run(client, world, asked(world, depth="sample"), [twice])
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert twice.told == [name for name, _ in (*CHECK, ("finish", 1))]
    assert twice.changed == []


@crossing
@pytest.mark.parametrize("step", CHECK)
async def test_a_cancelled_check_goes_on_when_it_is_asked_for_again(
    client: Client, world: World, step: tuple[str, int]
) -> None:
    world.image(content(5))
    op = await run_and_cancel(client, world, asked(world), *step)
    assert op.state in {OperationState.CANCELLED, OperationState.SUCCEEDED}
    if op.state is OperationState.CANCELLED:
        place = "acme/@images " + "f" * 64
        with world.store.begin() as tx:
            tx.resources.patch_status(the(world).id, {"after": place}, now=now())
        op = await run(client, world, asked(world))
        assert op.order["after"] == place
        assert op.result["blobs"] == 0
    assert the(world).state is State.ACTIVE
    other = await run(client, world, asked(world, "other"))
    assert other.result["blobs"] != 0


async def test_after_a_worker_that_died_no_blob_is_read_again(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.image(content(6))
    place = "acme/@images " + "f" * 64
    orders: list[CheckOrder] = []
    really = world.vault.check

    def check(order: CheckOrder, **more: Any) -> Checked:
        orders.append(order)
        if len(orders) == 1:
            seen = CheckProgress(done=8, total=9, blobs=0, after=place)
            more["progress"](seen)
            raise Unavailable("the store is away")
        return really(order, **more)

    monkeypatch.setattr(world.vault, "check", check)
    monkeypatch.setattr(checks, "_REMEMBERED", timedelta(0))
    op = await run(client, world, asked(world))
    assert op.state is OperationState.SUCCEEDED, op.problem
    assert [order.after for order in orders] == ["", place]
    assert op.result["blobs"] == 0
    assert the(world).status["after"] == ""


async def test_one_check_at_a_time(client: Client, world: World) -> None:
    first = asked(world)
    assert wish(world).operation == first
    with pytest.raises(Busy, match=first.name):
        wish(world, "other")
    await run(client, world, first)
    asked(world, "other")


async def test_samples_take_turns_and_a_failed_one_is_not_skipped(
    client: Client, world: World
) -> None:
    world.image({0: os.urandom(8 << 20)})
    blobs = 0
    for turn in range(3):
        broken = await run(
            client, world, asked(world, f"a{turn}", depth="sample", share=0.34),
            [FaultAt("examine_vault", 1, Fault.BEFORE)],
        )  # fmt: skip
        op = await run(client, world, asked(world, f"b{turn}", depth="sample", share=0.34))
        assert (broken.order["turn"], op.order["turn"]) == (turn, turn)
        blobs += cast("int", op.result["blobs"])
    full = await run(client, world, asked(world, "all", depth="full"))
    assert blobs == full.result["blobs"]


async def test_housekeeping_reads_a_sample_back_every_day(client: Client, world: World) -> None:
    moment = [now()]
    keeper = Housekeeping(
        world.store, world.vault, lambda: moment[0],
        check_every=timedelta(days=1), check_share=0.5,
    )  # fmt: skip

    def begun() -> Operation | None:
        keeper.look()
        check = world.resource(facts(Kind.VAULT_CHECK).key(SCHEDULED, None, None))
        if check is None:
            return None
        with world.store.read() as tx:
            return tx.operations.open_for(check.id)

    assert begun() is None
    moment[0] += timedelta(hours=1)
    first = begun()
    assert first is not None
    assert first.kind is OperationKind.CHECK_VAULT
    moment[0] += timedelta(days=2)
    assert begun() == first
    assert (await run(client, world, first)).state is OperationState.SUCCEEDED
    second = begun()
    assert second is not None
    assert (first.order["turn"], second.order["turn"]) == (0, 1)
    assert (await run(client, world, second)).state is OperationState.SUCCEEDED
    assert begun() is None
    assert the(world, SCHEDULED).status["parts"] == 2


def test_nothing_is_checked_where_that_is_switched_off(world: World) -> None:
    moment = [now()]
    keeper = Housekeeping(world.store, world.vault, lambda: moment[0])
    moment[0] += timedelta(days=9)
    keeper.look()
    assert world.resource(facts(Kind.VAULT_CHECK).key(SCHEDULED, None, None)) is None
