"""An instance goes from a simulated site to a real one, home, and there again: `-m live`.

Its guest boots at the real site, and the counter that it keeps on its disk goes on all the way.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.site import ProviderKind
from drivers.contract import ConsoleLog, Driver
from drivers.disks.image import read_image
from drivers.registry import connect
from drivers.simulators.faults import FAST
from drivers.simulators.journal import Journal, lost_writes
from tests.e2e.shop import NETWORK, Shop, start_shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, until
from tests.live import guest
from tests.live.places import GUEST, Place, place, variable

pytestmark = [pytest.mark.live, pytest.mark.timeout(3000)]
KINDS = (
    ProviderKind.OPENNEBULA,
    ProviderKind.OPENSTACK,
    ProviderKind.OVHCLOUD,
    ProviderKind.PROXMOX,
    ProviderKind.XCPNG,
)
SEED, SKU = 11, "seca.d2xs"
SECONDS = 1500.0
# Each attempt that is made again would be reported with its trace: steps tell it in short.
for _noisy in ("temporalio", "asyncssh"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Trip:
    """Between a simulated home and the real site."""

    shop: Shop
    place: Place
    driver: Driver
    home: str

    @property
    def there(self) -> str:
        return str(self.place.access.site)

    def network(self, site: str) -> str:
        if site != self.there:
            return NETWORK[site]
        offered = self.driver.catalogue().networks
        return next(n.name for n in offered if self.place.network in {"", n.name})

    def move(self, name: str, site: str) -> dict[str, Any]:
        """The result of a move that went well, with every byte proven."""
        at = self.shop.home(name)
        checks = [{"kind": "powered"}]
        if site == self.there and isinstance(self.driver, ConsoleLog):
            checks.append({"kind": "booted", "pattern": guest.UP, "within": int(SECONDS)})
        networks = [{"from": self.network(at), "to": self.network(site)}]
        began = time.monotonic()
        _, path = self.shop.begin_move(name, site, networkMap=networks, checks=checks)
        status = self.shop.system.done(path, SECONDS)
        assert all(proof["equal"] for proof in status["result"]["proof"])
        assert self.shop.home(name) == site
        told = status["result"]
        sys.stdout.write(
            f"\n{at} -> {site}: {time.monotonic() - began:.0f} s,"
            f" down {told['downtimeSeconds']:.0f} s, {told['bytesRead'] >> 20} MiB read\n"
        )
        return told

    def boots_there(self, name: str) -> int | None:
        """How often the guest booted, as the real site's console says; None without a console."""
        if not isinstance(self.driver, ConsoleLog):
            return None
        _, native = self.shop.native(name)
        (owner,) = [
            found.owner
            for found in self.driver.owned()
            if found.kind is ArtefactKind.INSTANCE and found.ref == native
        ]
        return until(lambda: guest.told(self.driver.console_log(owner)), "the guest tells", SECONDS)

    def journal(self, name: str) -> Journal:
        """What the simulated guest wrote."""
        return self.shop.journal(name)

    def writes(self, name: str) -> Journal:
        """The journal once the simulated guest wrote on, and that nothing of it is lost."""
        before = self.journal(name).last
        until(lambda: self.journal(name).last > before + 3, "the simulated guest writes")
        journal = self.journal(name)
        promised = self.shop.system.sites.promised(journal.identity.hex())
        assert lost_writes(journal, promised) == ()
        return journal

    def counted(self, name: str) -> int:
        """The counter of our own guest on its disk at the simulated home."""
        _, native = self.shop.native(name)
        guests = self.shop.system.sites.guests(self.home)
        return guest.counted(guests._guests[native].disk.read(0, guest.MIB))


@pytest.fixture(params=KINDS)
def trip(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Trip]:
    kind = request.param
    found = place(kind, os.environ)
    if found is None:
        pytest.skip(f"{variable(kind, 'endpoint')} names no site")
    home = OPENSTACK if kind is ProviderKind.PROXMOX else PROXMOX
    with ExitStack() as stack:
        system = System(tmp_path, FAST, 1, (home,))
        system.settings = system.settings.model_copy(
            update={"provider_timeout": found.access.timeout}
        )
        system.start(stack)
        access = found.access
        described = {
            "provider": kind.value,
            "endpoint": access.endpoint,
            "region": "eu-fr",
            "country": "FR",
            "options": access.options,
            "pins": access.pins,
            "credentials": access.secrets,
        }
        assert system.register(access.site, described)["outcome"] == "succeeded"
        driver = connect(access)
        stack.callback(driver.close)
        shop = start_shop(system, "live", tmp_path)
        yield Trip(shop, found, driver, home)
        # What a test that failed left at the real site goes, too.
        shop.clear()
        left = [f for f in driver.owned() if f.owner.operation in made_here(system)]
        assert left == []


def made_here(system: System) -> set[object]:
    with system.parts.store.read() as tx:
        return {artefact.operation for artefact in tx.artefacts.list()}


def disk(given: str) -> bytes:
    """The guest's disk, with a journal for the simulated site; our own where no file is given."""
    if not given:
        return guest.counting(SEED)
    reader = read_image(Path(given), "", what=GUEST)
    try:
        return guest.with_journal(reader.read(0, reader.size), SEED)
    finally:
        reader.close()


def test_a_guest_boots_there_and_its_counter_goes_on(trip: Trip, tmp_path: Path):
    file = tmp_path / "guest.raw"
    # Without a console only the counter of our own guest shows that it booted.
    given = os.environ.get(GUEST, "") if isinstance(trip.driver, ConsoleLog) else ""
    file.write_bytes(disk(given))
    shop = trip.shop
    name = shop.instance(trip.home, image=shop.image(file), sku=SKU)
    before = trip.writes(name)

    trip.move(name, trip.there)
    first = trip.boots_there(name)
    assert first is None or first >= 1

    trip.move(name, trip.home)
    after = trip.writes(name)
    assert after.identity == before.identity
    assert after.boots > before.boots
    if not given:
        assert trip.counted(name) >= (first or 1)

    trip.move(name, trip.there)
    second = trip.boots_there(name)
    if first is not None:
        assert second is not None
        assert second > first
    sys.stdout.write(f"boots on its disk: {first} at first, then {second}\n")
    shop.system.done(shop.http.post(f"{shop.move_path(shop.last_move)}/finalize"), SECONDS)
    shop.system.done(shop.http.delete(shop.instance_path(name)), SECONDS)
