"""What a driver must do about machines that were not made through it."""

from dataclasses import replace
from uuid import uuid4

import pytest

from controlplane.domain.answer import Absent
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.discovery import Discovered
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.finding import blocking
from controlplane.domain.instance import InstanceSeen, InstanceState, Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability
from controlplane.planning.adoption import standing
from drivers.contract import TAKEN, Adoption, Driver, require
from tests.contract.suite_base import Ground, Stranger
from tests.contract.world import World

INSTANCE, VOLUME = ArtefactKind.INSTANCE, ArtefactKind.VOLUME


def listed(driver: Driver, ref: str) -> Discovered | None:
    found = [d for d in require(driver, Adoption).discovered() if d.seen.ref == ref]
    assert len(found) <= 1
    return found[0] if found else None


def adopt(world: World, ref: str) -> list[tuple[OwnerTag, ArtefactKind]]:
    """Tags its volumes, where they are made by themselves, and then the machine."""
    driver = require(world.driver, Adoption)
    found = listed(world.driver, ref)
    assert found is not None
    tags = []
    if world.disks_first:
        for disk in found.seen.disks:
            owner = world.tag("volume")
            world.do(lambda owner=owner, disk=disk: driver.adopt(owner, VOLUME, disk.volume))
            tags.append((owner, VOLUME))
    owner = world.tag("instance")
    world.do(lambda: driver.adopt(owner, INSTANCE, ref))
    return [*tags, (owner, INSTANCE)]


def as_found(seen: InstanceSeen) -> InstanceSeen:
    return replace(seen, epoch=0)


class AdoptionContract(Ground):
    facet = Capability.ADOPTION

    def test_a_stranger_is_described_and_stays_as_it_is(
        self, world: World, stranger: Stranger, guest: bytes
    ):
        before = stranger.state()
        found = listed(world.driver, stranger.ref)
        assert found is not None
        against = blocking(standing(found, "there"))
        assert not against, against
        assert not found.held
        assert found.seen.power is Power.ON
        assert found.seen.state is InstanceState.READY
        assert found.seen.size.cpus >= 1
        assert found.seen.size.memory >= 1
        assert [disk.size >= len(guest) for disk in found.seen.disks] == [True]
        assert [bool(nic.mac) for nic in found.seen.nics] == [True]
        assert stranger.ref not in [f.ref for f in world.listing()]
        assert stranger.state() == before

    def test_an_adopted_machine_is_found_as_it_was_and_given_back_as_it_was(
        self, world: World, stranger: Stranger
    ):
        driver = require(world.driver, Adoption)
        before = stranger.state()
        found = listed(world.driver, stranger.ref)
        tags = adopt(world, stranger.ref)
        refs = [*([d.volume for d in found.seen.disks] if world.disks_first else []), stranger.ref]
        for (owner, kind), ref in zip(tags, refs, strict=True):
            driver.adopt(owner, kind, ref)  # a second time changes nothing
        owner = tags[-1][0]
        seen = world.seen(owner, lambda it: it.power is not None)
        assert as_found(seen) == found.seen
        assert seen.epoch == owner.epoch
        assert listed(world.driver, stranger.ref) is None
        assert {world.owned_kinds(owner)[0] for owner, _ in tags} == {kind for _, kind in tags}
        for (owner, kind), ref in reversed(list(zip(tags, refs, strict=True))):
            driver.disown(world.tag(kind), kind, ref)  # of another: its tag stays
            world.do(lambda it=(owner, kind, ref): driver.disown(*it))
            driver.disown(owner, kind, ref)
        world.until(
            lambda: isinstance(world.find(tags[-1][0]), Absent), "its tag does not show any more"
        )
        assert stranger.state() == before
        assert listed(world.driver, stranger.ref) == found

    def test_a_machine_is_adopted_once_and_can_then_be_stopped_and_deleted(
        self, world: World, stranger: Stranger
    ):
        driver = require(world.driver, Adoption)
        tags = adopt(world, stranger.ref)
        owner = tags[-1][0]
        state = stranger.state()
        with pytest.raises(Conflict) as refused:
            world.do(lambda: driver.adopt(world.tag("instance"), INSTANCE, stranger.ref))
        assert refused.value.reason == TAKEN
        assert stranger.state() == state
        driver.adopt(replace(owner, epoch=7), INSTANCE, stranger.ref)
        with pytest.raises(Conflict) as late:
            driver.adopt(owner, INSTANCE, stranger.ref)
        assert late.value.reason == "superseded"
        raised = replace(owner, epoch=7)
        assert world.power(raised, Power.OFF).epoch == raised.epoch
        assert listed(world.driver, stranger.ref) is None

    def test_what_is_gone_is_not_adopted(self, world: World, stranger: Stranger):
        gone = "999999" if stranger.ref.isdecimal() else str(uuid4())
        with pytest.raises(NotFound):
            require(world.driver, Adoption).adopt(world.tag("instance"), INSTANCE, gone)
