"""What a driver must do with instances: make, power, isolate, fence and hear them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.errors import SUPERSEDED, Conflict, NotFound, Unsupported
from controlplane.domain.instance import InstanceState, Manner, Power, Trait
from controlplane.domain.network import NicSpec
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability
from drivers.contract import ConsoleLog, Fencing, GuestAgent, Instances
from tests.contract.suite_base import Ground
from tests.contract.world import World


def refused_as_superseded(call) -> None:
    with pytest.raises(Conflict) as caught:
        call()
    assert caught.value.reason == SUPERSEDED


class InstancesContract(Ground):
    facet = Capability.INSTANCES

    def test_create_twice_makes_one(self, world: World):
        owner, spec = world.tag("instance"), world.spec()
        ref = world.create(owner, spec)
        assert world.create(owner, spec) == ref
        seen = world.seen(owner)
        assert world.create(owner, spec) == ref == seen.ref
        assert world.owned_kinds(owner) == [ArtefactKind.INSTANCE]

    def test_create_with_another_name_conflicts(self, world: World):
        owner, spec = world.tag("instance"), world.spec()
        world.create(owner, spec)
        with pytest.raises(Conflict):
            world.create(owner, replace(spec, name=world.name()))
        assert world.seen(owner).name == spec.name

    def test_create_with_another_size_conflicts(self, world: World):
        owner, spec = world.tag("instance"), world.spec()
        sku, size = world.sizes()[-1]
        if size == spec.size:
            pytest.skip("the site has a single sku")
        world.create(owner, spec)
        with pytest.raises(Conflict):
            world.create(owner, replace(spec, sku=sku, size=size))
        assert world.seen(owner).size == spec.size

    def test_a_new_instance_is_off_and_as_wished(self, world: World):
        spec = world.spec(disks=2 if world.driver.limits.disks_max > 1 else 1)
        seen = world.seen(world.instance(spec))
        assert seen.state is InstanceState.READY
        assert seen.power is Power.OFF
        assert seen.name == spec.name
        assert seen.size == spec.size
        assert seen.epoch == 1
        assert not seen.fenced
        assert all(d.size >= p.size for d, p in zip(seen.disks, spec.disks, strict=True))
        assert all(d.size % world.driver.limits.disk_step == 0 for d in seen.disks)
        if world.disks_first:
            assert [d.volume for d in seen.disks] == [p.volume for p in spec.disks]

    def test_the_longest_name_is_kept(self, world: World):
        name = "n" * world.driver.limits.name_length
        assert world.seen(world.instance(replace(world.spec(), name=name))).name == name

    def test_a_new_instance_has_nothing_that_holds_it(self, world: World):
        owner = world.instance()
        told = world.do(lambda: world.driver.traits(owner))
        assert told.found == ()
        assert Trait.LOCKED in told.looked

    def test_our_own_fence_is_no_trait(self, world: World):
        owner = world.instance()
        if not isinstance(world.driver, Fencing):
            pytest.skip("the site has no fence")
        world.do(lambda: world.driver.fence(owner))
        assert world.do(lambda: world.driver.traits(owner)).found == ()

    def test_the_traits_of_what_never_was_are_not_found(self, world: World):
        with pytest.raises(NotFound):
            world.driver.traits(world.tag("instance"))

    def test_delete_what_never_was(self, world: World):
        owner = world.tag("instance")
        world.driver.delete(owner)
        assert world.find(owner) == Absent()

    def test_delete_twice_and_it_is_gone(self, world: World):
        owner = world.instance()
        world.do(lambda: world.driver.delete(owner))
        world.do(lambda: world.driver.delete(owner))
        world.gone(world.find, owner)
        world.until(lambda: world.owned_kinds(owner) == [], "owned hides the deleted")
        world.driver.delete(owner)

    def test_find_never_says_absent_between_ready_and_delete(self, world: World):
        owner = world.instance()
        assert all(isinstance(world.find(owner), Seen | Unknown) for _ in range(5))

    def test_owned_shows_the_instance_with_its_tag_and_ref(self, world: World):
        owner = world.instance(epoch=3)
        seen = world.seen(owner)
        found = [f for f in world.listing() if f.owner.artefact == owner.artefact]
        assert [(f.owner, f.kind, f.ref) for f in found] == [
            (owner, ArtefactKind.INSTANCE, seen.ref)
        ]

    def test_reserving_changes_nothing(self, world: World):
        owner = world.tag("instance")
        world.driver.reserve(owner)
        assert world.find(owner) == Absent()
        assert world.owned_kinds(owner) == []

    def test_no_anchor_is_reserved_that_is_promised_already(self, world: World):
        one = world.driver.reserve(world.tag("instance"))
        if one is None:
            pytest.skip("the site has no anchors")
        two = world.driver.reserve(world.tag("instance"), {one})
        assert two not in {one, None}
        three = world.driver.reserve(world.tag("instance"), {one, two})
        assert three not in {one, two, None}
        owner = world.tag("instance")
        world.anchors[owner.artefact] = three
        world.create(owner, world.spec())
        assert world.driver.reserve(world.tag("instance"), {one, two}) not in {one, two, three}

    def test_an_anchor_that_is_taken_makes_no_second_instance(self, world: World):
        first = world.instance()
        anchor = world.anchors[first.artefact]
        if anchor is None:
            pytest.skip("the site has no anchors")
        second, spec = world.tag("instance"), world.spec()
        world.anchors[second.artefact] = anchor
        with pytest.raises(Conflict) as caught:
            world.create(second, spec)
        assert caught.value.reason == "anchor-taken"
        del world.anchors[second.artefact]
        world.create(second, spec)
        assert world.seen(second).ref != world.seen(first).ref

    @pytest.mark.parametrize("manner", Manner)
    def test_power_goes_on_and_off_and_asking_twice_is_fine(self, world: World, manner: Manner):
        owner = world.loaded()
        assert world.power(owner, Power.ON).power is Power.ON
        assert world.power(owner, Power.ON).power is Power.ON
        if isinstance(world.driver, ConsoleLog | GuestAgent):
            # A guest that is not up yet does not hear a polite request.
            world.wait(lambda: world.driver.probe_boot(owner) or None, "the guest booted")
        running = [f.power_on for f in world.listing() if f.owner.artefact == owner.artefact]
        assert running in ([True], [None])
        assert world.power(owner, Power.OFF, manner).power is Power.OFF
        assert world.power(owner, Power.OFF, manner).power is Power.OFF

    def test_powering_what_is_absent_is_not_found(self, world: World):
        with pytest.raises(NotFound):
            world.driver.set_power(world.tag("instance"), Power.ON)

    def test_deleting_a_running_instance_conflicts(self, world: World):
        owner = world.instance()
        world.power(owner, Power.ON)
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.delete(owner))
        assert world.seen(owner).power is Power.ON

    def test_a_higher_epoch_raises_the_stamp(self, world: World):
        owner, spec = world.tag("instance"), world.spec()
        ref = world.create(owner, spec)
        world.seen(owner)
        assert world.create(replace(owner, epoch=2), spec) == ref
        world.seen(owner, lambda it: it.epoch == 2)
        world.power(replace(owner, epoch=3), Power.ON)
        world.seen(owner, lambda it: it.epoch == 3)
        world.power(replace(owner, epoch=4), Power.OFF)
        seen = world.seen(owner, lambda it: it.epoch == 4)
        assert seen.ref == ref

    def test_a_lower_epoch_is_superseded_in_every_effect(self, world: World):
        owner, spec = world.tag("instance", epoch=5), world.spec()
        world.create(owner, spec)
        before = world.seen(owner)
        late, driver = replace(owner, epoch=4), world.driver
        refused_as_superseded(lambda: world.create(late, spec))
        refused_as_superseded(lambda: driver.set_power(late, Power.ON))
        refused_as_superseded(lambda: driver.isolate_nics(late))
        refused_as_superseded(lambda: driver.connect_nics(late))
        refused_as_superseded(lambda: driver.delete(late))
        if isinstance(driver, Fencing):
            refused_as_superseded(lambda: driver.fence(late))
            refused_as_superseded(lambda: driver.unfence(late))
        assert world.seen(owner) == before

    def test_another_connection_knows_what_this_one_made(self, world: World, second: Instances):
        owner, spec = world.tag("instance", epoch=2), world.spec()
        ref = world.create(owner, spec)
        seen = world.seen(owner)
        anchor = world.anchors[owner.artefact]
        assert second.find(owner, anchor) == Seen(seen)
        anchored = replace(spec, anchor=anchor)
        assert second.create(owner, anchored) == ref
        with pytest.raises(Conflict):
            second.create(owner, replace(anchored, name=world.name()))
        refused_as_superseded(lambda: second.delete(replace(owner, epoch=1)))
        world.do(lambda: second.delete(owner))
        world.gone(world.find, owner)

    def _nic(self, world: World, **wish: object) -> NicSpec:
        if world.network is None:
            pytest.skip("the site has no network")
        return NicSpec(network=world.network, **wish)

    def test_nics_are_isolated_and_connected(self, world: World):
        spec = world.spec(nics=(self._nic(world, isolated=True),))
        owner = world.instance(spec)
        assert [nic.isolated for nic in world.seen(owner).nics] == [True]
        for _ in range(2):
            world.do(lambda: world.driver.connect_nics(owner))
            world.seen(owner, lambda it: [n.isolated for n in it.nics] == [False])
        world.power(owner, Power.ON)
        for _ in range(2):
            world.do(lambda: world.driver.isolate_nics(owner))
            world.seen(owner, lambda it: [n.isolated for n in it.nics] == [True])

    def test_a_nic_is_connected_at_once_when_that_was_wished(self, world: World):
        owner = world.instance(world.spec(nics=(self._nic(world),)))
        (nic,) = world.seen(owner).nics
        assert not nic.isolated
        assert nic.network == world.network
        assert nic.mac

    def test_nics_given_up_are_free_for_another_copy(self, world: World):
        """What a move home needs while the old home is still retained there."""
        spec = world.spec(nics=(self._nic(world, mac="02:fe:00:65:43:21"),))
        old = world.instance(spec)
        world.power(old, Power.ON)
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.give_up_nics(old))
        world.power(old, Power.OFF)
        world.do(lambda: world.driver.fence(old))
        for _ in range(2):
            world.until(
                lambda: world.do(lambda: world.driver.give_up_nics(old)), "its nics are given up"
            )
        world.driver.verify_fence(old)
        kept = world.seen(old)
        assert kept.fenced or all(nic.isolated for nic in kept.nics)
        new = world.instance(world.spec(nics=spec.nics))
        assert [nic.mac.lower() for nic in world.seen(new).nics] == ["02:fe:00:65:43:21"]

    def test_a_nic_has_the_mac_and_address_that_were_wished(self, world: World):
        """Both are among those that the catalogue says a nic may have there."""
        networks = [n for n in world.driver.catalogue().networks if n.ref == world.network]
        cidrs = [n.cidr for n in networks]
        address = str(ip_network(cidrs[0])[42]) if cidrs and cidrs[0] else None
        mac = "02:fe:00:12:34:56"
        for network in networks:
            assert network.macs is None or any(span.holds(mac) for span in network.macs)
            assert (
                address is None
                or network.addresses is None
                or any(span.holds(address) for span in network.addresses)
            )
        owner = world.instance(world.spec(nics=(self._nic(world, mac=mac, address=address),)))
        (nic,) = world.seen(owner).nics
        assert nic.mac.lower() == mac
        assert nic.address in {None, address}

    def test_isolating_what_is_absent_is_fine(self, world: World):
        world.driver.isolate_nics(world.tag("instance"))

    def test_a_boot_is_proven_or_the_question_unsupported(self, world: World):
        owner = world.loaded()
        if not isinstance(world.driver, ConsoleLog | GuestAgent):
            with pytest.raises(Unsupported):
                world.driver.probe_boot(owner)
            return
        world.power(owner, Power.ON)
        assert world.wait(lambda: world.driver.probe_boot(owner) or None, "the guest booted")


class FencingContract(Ground):
    facet = Capability.FENCING

    def _fenced(self, world: World) -> OwnerTag:
        owner = world.instance()
        world.do(lambda: world.driver.fence(owner))
        world.seen(owner, lambda it: it.fenced)
        return owner

    def test_a_fence_is_proven_at_the_level_of_the_limits(self, world: World):
        owner = world.instance(epoch=7)
        for proof in (
            world.do(lambda: world.driver.fence(owner)),
            world.do(lambda: world.driver.fence(owner)),
            world.do(lambda: world.driver.verify_fence(owner)),
        ):
            assert proof.level is world.driver.limits.fence_level
            assert proof.epoch == 7
            assert proof.observer
            assert abs((datetime.now(UTC) - proof.at).total_seconds()) < 60
        world.seen(owner, lambda it: it.fenced)

    def test_starting_a_fenced_instance_conflicts(self, world: World):
        owner = self._fenced(world)
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.set_power(owner, Power.ON))
        assert world.seen(owner).power is Power.OFF

    def test_an_unfenced_instance_starts_again(self, world: World):
        owner = self._fenced(world)
        world.do(lambda: world.driver.unfence(owner))
        world.do(lambda: world.driver.unfence(owner))
        world.seen(owner, lambda it: not it.fenced)
        assert world.power(owner, Power.ON).power is Power.ON

    def test_fencing_a_running_instance_conflicts(self, world: World):
        owner = world.instance()
        world.power(owner, Power.ON)
        with pytest.raises(Conflict):
            world.do(lambda: world.driver.fence(owner))
        assert world.seen(owner).power is Power.ON

    def test_an_instance_without_fence_is_told_so(self, world: World):
        owner = world.instance()
        with pytest.raises(Conflict) as caught:
            world.do(lambda: world.driver.verify_fence(owner))
        assert caught.value.reason == "not-fenced"

    def test_a_fence_does_not_stand_in_the_way_of_delete(self, world: World):
        owner = self._fenced(world)
        world.do(lambda: world.driver.delete(owner))
        world.gone(world.find, owner)

    def test_stopping_a_fenced_instance_is_fine(self, world: World):
        owner = self._fenced(world)
        world.do(lambda: world.driver.set_power(owner, Power.OFF, Manner.HARD))
        assert world.seen(owner).fenced


class ConsoleLogContract(Ground):
    facet = Capability.CONSOLE_LOG

    def test_the_console_speaks_after_power_on(self, world: World):
        owner = world.loaded()
        assert world.driver.console_log(owner) == ""
        world.power(owner, Power.ON)
        text = world.wait(lambda: world.driver.console_log(owner) or None, "a line on the console")
        assert len(text.encode()) <= 64 * 1024


class GuestAgentContract(Ground):
    facet = Capability.GUEST_AGENT

    def test_the_agent_answers_only_while_the_guest_runs(self, world: World):
        owner = world.loaded()
        assert world.driver.agent_answers(owner) is False
        world.power(owner, Power.ON)
        world.until(lambda: world.driver.agent_answers(owner), "the agent answers")
        world.power(owner, Power.OFF)
        world.until(lambda: not world.driver.agent_answers(owner), "the agent is silent")


LONG = timedelta(minutes=5)


class PausingContract(Ground):
    facet = Capability.PAUSING

    def test_what_stayed_paused_is_kept_so_and_what_went_on_is_told(self, world: World):
        owner = world.loaded()
        world.power(owner, Power.ON)
        world.driver.pause(owner, LONG)
        for _ in range(2):
            world.driver.keep_paused(owner)
        world.driver.resume(owner)
        with pytest.raises(Conflict, match="went on"):
            world.driver.keep_paused(owner)

    def test_a_paused_instance_counts_as_on_and_goes_on_when_resumed(self, world: World):
        owner = world.loaded()
        world.power(owner, Power.ON)
        for _ in range(2):
            world.driver.pause(owner, LONG)
            assert world.seen(owner).power is Power.ON
        for _ in range(2):
            world.driver.resume(owner)
        assert world.seen(owner).power is Power.ON

    def test_a_paused_instance_can_be_cut(self, world: World):
        owner = world.loaded()
        world.power(owner, Power.ON)
        world.driver.pause(owner, LONG)
        world.do(lambda: world.driver.set_power(owner, Power.OFF, Manner.HARD))
        world.until(lambda: world.seen(owner).power is Power.OFF, "it is off")
        world.driver.resume(owner)
        assert world.seen(owner).power is Power.OFF

    def test_what_is_off_cannot_be_paused(self, world: World):
        owner = world.instance()
        with pytest.raises(Conflict):
            world.driver.pause(owner, LONG)

    def test_epochs_guard_a_pause(self, world: World):
        owner = world.loaded()
        world.power(owner, Power.ON)
        world.driver.pause(replace(owner, epoch=owner.epoch + 1), LONG)
        refused_as_superseded(lambda: world.driver.resume(owner))
        world.driver.resume(replace(owner, epoch=owner.epoch + 1))


class QuotaContract(Ground):
    facet = Capability.QUOTA

    def test_quota_gives_numbers_that_do_not_grow_by_using_them(self, world: World):
        before = world.driver.quota()
        numbers = ("instances", "cpus", "memory", "volumes", "disk")
        assert all((getattr(before, n) or 0) >= 0 for n in numbers)
        world.instance()
        after = world.driver.quota()
        for number in numbers:
            was, now = getattr(before, number), getattr(after, number)
            assert (was is None) is (now is None)
            assert was is None or now <= was
