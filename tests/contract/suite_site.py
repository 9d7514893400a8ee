"""What a connection to a site must do, whatever its facets."""

import logging
import traceback
from dataclasses import replace

import pytest

from controlplane.domain.answer import Absent, Unknown
from controlplane.domain.errors import Busy, FedctlError, Invalid, Unsupported
from controlplane.domain.site import Capability, CreateOrder
from drivers.contract import FACETS, Driver, ImagePull, ImagePush, capabilities, require
from tests.contract.cards import card
from tests.contract.suite_base import NAMED, Break, Fault, Ground
from tests.contract.world import World

TRANSIENT = (Fault.UNAUTHORISED, Fault.FORBIDDEN, Fault.TOO_MANY, Fault.FAILING, Fault.GARBAGE)


class SiteContract(Ground):
    def test_check_tells_the_version_and_narrows_only_what_is_declared(self, driver: Driver):
        health = driver.check()
        assert health.version
        assert set(health.lacking) <= capabilities(driver)
        assert all(health.lacking.values())

    def test_the_catalogue_offers_something_and_names_each_thing_once(self, driver: Driver):
        catalogue = driver.catalogue()
        assert catalogue.networks or catalogue.skus or catalogue.storages
        for refs in (
            [network.ref for network in catalogue.networks],
            [sku.name for sku in catalogue.skus],
            [storage.name for storage in catalogue.storages],
        ):
            assert len(refs) == len(set(refs))
        assert all(sku.size.cpus > 0 and sku.size.memory > 0 for sku in catalogue.skus)

    def test_limits_are_plausible(self, driver: Driver):
        limits = driver.limits
        assert limits.name_length >= 15
        assert 512 <= limits.disk_step <= limits.disk_max
        assert limits.disk_step % 512 == 0
        assert limits.disks_max >= 1
        assert limits.nics_max >= 1
        assert limits.formats
        assert limits.firmware
        assert limits.settle_seconds >= 0

    def test_volumes_are_declared_exactly_where_disks_come_first(self, driver: Driver):
        first = driver.limits.create_order is CreateOrder.DISKS_FIRST
        assert (Capability.VOLUMES in capabilities(driver)) is first

    def test_declared_facets_are_given_and_all_others_refuse(self, driver: Driver):
        for capability, facet in FACETS.items():
            if capability in capabilities(driver):
                assert require(driver, facet) is driver
            else:
                with pytest.raises(Unsupported):
                    require(driver, facet)

    def test_the_card_says_done_for_what_the_class_declares(self, driver: Driver):
        facets = card(self.provider).facets
        assert set(facets) == set(Capability)
        done = {capability for capability, reason in facets.items() if not reason}
        assert capabilities(driver) <= done

    def test_exempt_rules_of_the_card_are_tests_of_the_suite(self):
        assert [r for r in card(self.provider).rules if not hasattr(self, f"test_{r}")] == []

    def test_some_way_in_exists_for_images(self, driver: Driver):
        assert isinstance(driver, ImagePull | ImagePush)

    def test_closing_twice_is_fine(self, driver: Driver):
        driver.close()
        driver.close()

    def test_no_secret_shows_in_repr_errors_or_log(
        self,
        driver: Driver,
        world: World,
        secrets: tuple[str, ...],
        caplog: pytest.LogCaptureFixture,
    ):
        assert secrets, "give a `secrets` fixture with what the driver logs in with"
        caplog.set_level(logging.DEBUG)
        driver.check()
        owner = world.tag("instance")
        spec = world.spec()
        with pytest.raises(FedctlError) as caught:
            world.create(owner, replace(spec, name="n" * (driver.limits.name_length + 1)))
        shown = [repr(driver), str(driver), *_shown(caught.value), caplog.text]
        assert [s for s in secrets if any(s in text for text in shown)] == []

    def test_no_secret_shows_when_login_is_refused(
        self,
        driver: Driver,
        broken: Break,
        secrets: tuple[str, ...],
        caplog: pytest.LogCaptureFixture,
    ):
        assert secrets, "give a `secrets` fixture with what the driver logs in with"
        caplog.set_level(logging.DEBUG)
        with broken(Fault.UNAUTHORISED), pytest.raises(FedctlError) as caught:
            driver.check()
        shown = [repr(driver), *_shown(caught.value), caplog.text]
        assert [s for s in secrets if any(s in text for text in shown)] == []

    @pytest.mark.parametrize("fault", Fault)
    def test_a_broken_provider_gives_the_right_error(
        self, world: World, broken: Break, fault: Fault
    ):
        owner, spec = world.tag("instance"), world.spec()
        world.anchors[owner.artefact] = world.driver.reserve(owner)
        expected = (NAMED[fault], Busy) if fault is Fault.IN_THE_WAY else NAMED[fault]
        with broken(fault), pytest.raises(FedctlError) as caught:
            # Not through world.create, which would wait while the site says busy.
            world.driver.create(owner, replace(spec, anchor=world.anchors[owner.artefact]))
        assert isinstance(caught.value, expected), repr(caught.value)
        assert caught.value.__cause__ is not None
        assert str(caught.value)
        world.create(owner, spec)
        world.seen(owner)

    @pytest.mark.parametrize("fault", TRANSIENT)
    def test_a_broken_provider_is_never_taken_for_absence(
        self, world: World, broken: Break, fault: Fault
    ):
        owner = world.instance()
        with broken(fault):
            try:
                answer = world.find(owner)
            except NAMED[fault]:
                pass  # a named refusal is as good an answer as Unknown
            else:
                assert isinstance(answer, Unknown), "it cannot be known while the site is broken"
            with pytest.raises(NAMED[fault]):
                list(world.driver.owned())
            with pytest.raises(NAMED[fault]):
                world.driver.check()

    def test_a_stranger_is_absent_everywhere(self, world: World):
        owner = world.tag("instance")
        for find in (
            "find",
            "find_volume",
            "find_image",
            "find_snapshot",
            "find_export",
            "find_network",
        ):
            if hasattr(world.driver, find):
                assert getattr(world.driver, find)(owner) == Absent()

    def test_a_name_that_is_too_long_is_invalid(self, world: World):
        owner = world.tag("instance")
        spec = replace(world.spec(), name="n" * (world.driver.limits.name_length + 1))
        with pytest.raises(Invalid):
            world.create(owner, spec)
        world.gone(world.find, owner)


def _shown(error: FedctlError) -> list[str]:
    return [str(error), repr(error), error.detail, *traceback.format_exception(error)]
