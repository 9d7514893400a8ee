"""Drivers are kept for the steps that follow, and for nothing that must not have them."""

from collections.abc import Iterator
from datetime import timedelta
from threading import Event
from typing import cast

import pytest

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Integrity,
    NotFound,
    Unavailable,
)
from controlplane.domain.ids import SiteName
from controlplane.domain.site import ProviderKind, SiteAccess
from drivers.contract import Driver
from tests.workflows.world import HOME, World
from workflows import connections, kept
from workflows.failures import NotYet
from workflows.kept import KeptDrivers

ACCESS = SiteAccess(
    site=SiteName("par-pve"), provider=ProviderKind.PROXMOX, endpoint="https://par",
    secrets={"token": "first"},
)  # fmt: skip


class Told:
    """A driver that tells when it is closed."""

    def __init__(self, access: SiteAccess) -> None:
        self.access = access
        self.closed = Event()

    def close(self) -> None:
        self.closed.set()


class Broken(Told):
    def close(self) -> None:
        super().close()
        raise Unavailable("the site is away")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Told]]:
    """Every driver that was opened."""
    made: list[Told] = []

    def connect(access: SiteAccess) -> Told:
        made.append(Told(access))
        return made[-1]

    monkeypatch.setattr(kept, "connect", connect)
    monkeypatch.setattr(connections, "connect", connect)
    yield made
    assert all(each.closed.is_set() for each in made)


def test_steps_that_follow_each_other_use_one_driver(world: World, opened: list[Told]) -> None:
    with world.connections.connect(HOME) as first:
        pass
    with world.connections.connect(HOME) as second:
        assert second is first
        with world.connections.connect(HOME) as beside:
            assert beside is not first  # one caller at a time
    assert len(opened) == 2
    world.connections.close()


@pytest.mark.parametrize("error", [Busy, Conflict, NotFound])
def test_a_refusal_breaks_no_connection(
    world: World, opened: list[Told], error: type[Exception]
) -> None:
    with pytest.raises(error), world.connections.connect(HOME):
        raise error("not now")
    with pytest.raises(NotYet), world.connections.connect(HOME):
        raise NotYet
    with world.connections.connect(HOME):
        assert len(opened) == 1
    world.connections.close()


@pytest.mark.parametrize("error", [Denied, Integrity, Unavailable, OSError, KeyboardInterrupt])
def test_what_failed_otherwise_is_not_used_again(
    world: World, opened: list[Told], error: type[BaseException]
) -> None:
    with pytest.raises(error), world.connections.connect(HOME):
        raise error("gone")
    assert opened[0].closed.is_set()
    with world.connections.connect(HOME):
        assert len(opened) == 2
    world.connections.close()


def test_a_look_logs_in_anew(world: World, opened: list[Told]) -> None:
    with world.connections.connect(HOME):
        pass
    with world.connections.look(HOME):
        assert len(opened) == 2
    assert opened[1].closed.is_set()
    world.connections.close()


def test_other_credentials_get_another_driver(opened: list[Told]) -> None:
    drivers = KeptDrivers()
    drivers.keep(ACCESS, drivers.take(ACCESS))
    other = SiteAccess(
        site=ACCESS.site, provider=ACCESS.provider, endpoint=ACCESS.endpoint,
        secrets={"token": "second"},
    )  # fmt: skip
    second = drivers.take(other)
    assert len(opened) == 2
    drivers.keep(ACCESS, drivers.take(ACCESS))
    drivers.keep(other, second)
    assert len(opened) == 2
    drivers.close()


def test_what_nobody_needs_is_closed_soon(opened: list[Told]) -> None:
    drivers = KeptDrivers(timedelta(milliseconds=20))
    for _ in range(2):  # whoever closes ends with the last, and comes again
        drivers.keep(ACCESS, drivers.take(ACCESS))
        assert opened[-1].closed.wait(10)
    assert len(opened) == 2


def test_one_that_does_not_close_keeps_no_other_open() -> None:
    drivers = KeptDrivers(timedelta(milliseconds=20))
    broken, sound = cast("Driver", Broken(ACCESS)), Told(ACCESS)
    drivers.keep(ACCESS, broken)
    drivers.keep(ACCESS, cast("Driver", sound))
    assert sound.closed.wait(10)
    drivers.keep(ACCESS, broken)
    drivers.close()  # says so in the log
