"""The replica's own round: it tells how far it is, and bothers nobody when it is away."""

import logging
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from controlplane.domain.errors import Unavailable
from controlplane.domain.operation import OperationState
from controlplane.store.engine import Store
from controlplane.store.ports import StoredVault
from controlplane.vault.local import LocalObjects
from controlplane.vault.vault import Vault
from tests.workflows.running import run
from tests.workflows.world import World, content, now
from workflows.housekeeping import Housekeeping
from workflows.replica import Replica


class Sometimes(LocalObjects):
    away = False
    listed = 0

    def names(self, folder):
        self.listed += 1
        if self.away:
            raise Unavailable("the replica is away")
        return super().names(folder)


def vault_with(world: World, replica: LocalObjects) -> Vault:
    own = world.vault
    return Vault(
        records=own._records, objects=world.objects, keys=own._keys, signer=own._signer, clock=now,
        replica=replica,
    )  # fmt: skip


async def test_the_lag_is_told_and_a_replica_that_is_away_is_a_warning(
    client: Client, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Sometimes(tmp_path / "replica")
    moment = [now()]
    with vault_with(world, copy) as vault:
        rounds = Replica(world.store, vault, lambda: moment[0])
        rounds.look()
        with world.store.read() as tx:
            first = tx.settings.lag
        assert first is not None
        assert (first.points, first.oldest, first.at) == (0, None, moment[0])
        world.running_instance(content(1))
        assert (await run(client, world, world.ask_move())).state is OperationState.SUCCEEDED
        points = world.vault._records.points()
        assert points
        copy.away = True
        moment[0] += timedelta(hours=1)
        with caplog.at_level(logging.WARNING):
            rounds.look()
            Housekeeping(world.store, vault, lambda: moment[0]).look()
        told = [r.getMessage() for r in caplog.records if not r.name.startswith("temporalio")]
        assert told == ["the vault's replica waits: the replica is away"]
        with world.store.read() as tx:
            assert tx.settings.lag == first
            assert tx.figures().replica == first
        copy.away = False
        rounds.look()
        with world.store.read() as tx:
            last = tx.settings.lag
        assert last is not None
        assert (last.points, last.at) == (0, moment[0])
        names = set(copy.names("points"))
        assert {name.split("/")[1] for name in names} == {record.point.hex for record in points}


async def test_stores_are_listed_when_there_is_another_point_or_some_time_went_by(
    client: Client, world: World, tmp_path: Path
) -> None:
    copy = Sometimes(tmp_path / "replica")
    moment = [now()]
    with vault_with(world, copy) as vault:
        rounds = Replica(world.store, vault, lambda: moment[0])

        def looked(later: timedelta) -> bool:
            before = copy.listed
            moment[0] += later
            rounds.look()
            return copy.listed > before

        assert looked(timedelta())
        assert not looked(timedelta(minutes=9))
        assert looked(timedelta(minutes=1))
        world.running_instance(content(1))
        assert (await run(client, world, world.ask_move())).state is OperationState.SUCCEEDED
        assert looked(timedelta())
        assert not looked(timedelta(minutes=1))
        (name,) = copy.names("heads")
        whole = copy.get(name)
        (copy._root / name).write_bytes(whole[:-1])
        assert looked(timedelta(minutes=20))
        assert copy.get(name) != whole
        assert looked(timedelta(minutes=40))
        assert copy.get(name) == whole


async def test_a_long_round_tells_how_far_it_is_and_goes_on_in_the_next(
    client: Client, world: World, tmp_path: Path
) -> None:
    world.running_instance(content(1))
    assert (await run(client, world, world.ask_move())).state is OperationState.SUCCEEDED
    copy = LocalObjects(tmp_path / "replica")
    moment = [now()]

    def slow() -> datetime:
        moment[0] += timedelta(minutes=5)
        return moment[0]

    with vault_with(world, copy) as vault:
        rounds = Replica(world.store, vault, slow)
        told = []
        while not told or told[-1].points:
            rounds.look()
            with world.store.read() as tx:
                told.append(tx.settings.lag)
            assert len(told) < 30
    assert len(told) > 2
    assert told[0].points == 1
    assert list(copy.names("points"))


async def test_a_round_that_was_stopped_tells_nothing(world: World, tmp_path: Path) -> None:
    with vault_with(world, LocalObjects(tmp_path / "replica")) as vault:
        Replica(world.store, vault, now).look(lambda: True)
    with world.store.read() as tx:
        assert tx.settings.lag is None
        assert tx.figures().replica is None


@pytest.mark.parametrize("step", ["committed", "lag"])
async def test_a_database_that_is_away_for_a_moment_ends_no_rounds(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'empty.db'}")  # no table of it is there
    with vault_with(world, LocalObjects(tmp_path / "replica")) as vault:
        rounds = Replica(store if step == "lag" else world.store, vault, now)
        if step == "committed":
            vault._records = StoredVault(store)
        with caplog.at_level(logging.WARNING):
            rounds.look()
        assert "the vault's replica waits: the database does not answer" in caplog.text
        rounds._store, vault._records = world.store, world.vault._records
        rounds.look()
    store.close()
    with world.store.read() as tx:
        assert tx.settings.lag is not None


async def test_a_vault_without_a_replica_has_no_lag(world: World) -> None:
    Replica(world.store, world.vault, now).look()
    with world.store.read() as tx:
        assert tx.settings.lag is None
