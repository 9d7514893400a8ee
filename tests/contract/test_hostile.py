"""No call of any driver waits for ever, whatever the far side does with its connection.

Each wire of a simulated site leads through a relay. All is made and opened while the relay is
well; then it turns hostile, and every call of the contract is made.
"""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain.answer import Unknown
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import KIB, DiskSource, VolumeSpec
from controlplane.domain.errors import Busy, FedctlError, Unavailable
from controlplane.domain.instance import InstanceSpec, Power
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability, ProviderKind
from drivers.contract import FACETS, Driver, capabilities
from tests.contract.images import Gateway, Published
from tests.contract.relay import Manner, Relay
from tests.contract.sites import SITES, Site
from tests.contract.world import World

# What is answered without the API: of nothing, or over ssh.
QUIET: dict[ProviderKind, set[str]] = {
    ProviderKind.OPENNEBULA: {
        "reserve", "probe_boot", "find_export", "open_export", "release_export"
    },
    ProviderKind.OPENSTACK: {"reserve"},
    ProviderKind.OVHCLOUD: {"probe_boot"},
    ProviderKind.PROXMOX: {"find_export", "open_export", "release_export"},
    ProviderKind.XCPNG: {"reserve", "probe_boot"},
}  # fmt: skip
API, SIDE = 0.5, 1.5  # how long a call to the provider may take, in seconds; a login over ssh more
PATIENCE = 15.0  # of every call of the contract, which may make some calls to the provider
WORKERS = {False: 8, True: 5}
HOSTILE = [Manner.DEAF, Manner.DRIPPING, Manner.HALTING]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What there is at the site before it turns hostile."""

    instance: OwnerTag
    spec: InstanceSpec
    ref: str
    source: DiskSource
    export: OwnerTag
    file: Published
    new: Callable[[], OwnerTag]


Call = Callable[[Any, Made], object]
CALLS: dict[str, Call] = {
    "check": lambda d, _: d.check(),
    "catalogue": lambda d, _: d.catalogue(),
    "owned": lambda d, _: list(d.owned()),
    "close": lambda d, _: d.close(),
    "reserve": lambda d, m: d.reserve(m.new()),
    "find": lambda d, m: d.find(m.instance, m.spec.anchor),
    "create": lambda d, m: d.create(m.new(), m.spec),
    "set_power": lambda d, m: d.set_power(m.instance, Power.OFF),
    "delete": lambda d, m: d.delete(m.new()),
    "isolate_nics": lambda d, m: d.isolate_nics(m.instance),
    "connect_nics": lambda d, m: d.connect_nics(m.instance),
    "give_up_nics": lambda d, m: d.give_up_nics(m.new()),
    "probe_boot": lambda d, m: d.probe_boot(m.instance),
    "find_volume": lambda d, m: d.find_volume(m.new()),
    "create_volume": lambda d, m: d.create_volume(
        m.new(), VolumeSpec(name="v", size=m.spec.disks[0].size, image=None)
    ),
    "delete_volume": lambda d, m: d.delete_volume(m.new()),
    "pull_image": lambda d, m: d.pull_image(m.new(), "image", m.file.source),
    "push_image": lambda d, m: d.push_image(m.new(), "image", m.file.source, [m.file.data]),
    "find_image": lambda d, m: d.find_image(m.new()),
    "delete_image": lambda d, m: d.delete_image(m.new()),
    "create_snapshot": lambda d, m: d.create_snapshot(m.new(), m.ref),
    "find_snapshot": lambda d, m: d.find_snapshot(m.new()),
    "delete_snapshot": lambda d, m: d.delete_snapshot(m.new()),
    "prepare_export": lambda d, m: d.prepare_export(m.new(), m.source),
    "find_export": lambda d, m: d.find_export(m.export),
    "open_export": lambda d, m: d.open_export(m.export),
    "release_export": lambda d, m: d.release_export(m.new()),
    "open_import": lambda d, m: d.open_import(m.instance, m.source.volume),
    "close_import": lambda d, m: d.close_import(m.instance, m.source.volume),
    "fence": lambda d, m: d.fence(m.instance),
    "verify_fence": lambda d, m: d.verify_fence(m.instance),
    "unfence": lambda d, m: d.unfence(m.instance),
    "quota": lambda d, _: d.quota(),
    "create_network": lambda d, m: d.create_network(m.new(), "net", "10.77.0.0/24"),
    "find_network": lambda d, m: d.find_network(m.new()),
    "delete_network": lambda d, m: d.delete_network(m.new()),
    "traits": lambda d, m: d.traits(m.instance),
    "discovered": lambda d, _: list(d.discovered()),
    "adopt": lambda d, m: d.adopt(m.new(), ArtefactKind.INSTANCE, m.ref),
    "disown": lambda d, m: d.disown(m.new(), ArtefactKind.INSTANCE, m.ref),
    "console_log": lambda d, m: d.console_log(m.instance),
    "agent_answers": lambda d, m: d.agent_answers(m.instance),
    "pause": lambda d, m: d.pause(m.instance, timedelta(seconds=9)),
    "keep_paused": lambda d, m: d.keep_paused(m.instance),
    "resume": lambda d, m: d.resume(m.instance),
}


def calls_of(driver: type[Driver]) -> list[str]:
    facets = [Driver, *(FACETS[each] for each in capabilities(driver))]
    names = [
        name for name in CALLS if name != "close" and any(name in vars(facet) for facet in facets)
    ]
    return sorted(names, key=lambda name: (not name.startswith(("open", "prepare")), name))


def test_every_call_of_the_contract_is_tried():
    known = {name for facet in (Driver, *FACETS.values()) for name in facet.__abstractmethods__}
    assert known == set(CALLS)


class Trial:
    """A site behind relays, with everything made that the calls need."""

    def __init__(self, site: Site, relays: list[Relay], world: World) -> None:
        self.site, self.relays = site, relays
        ports = {wire: relay.port for wire, relay in zip(site.wires, relays, strict=True)}
        self._access = site.through(ports)
        self._world = world
        self._drivers: dict[bool, list[Driver]] = {False: [], True: []}
        image = world.image()
        spec = world.spec(image=image)
        instance = world.instance(spec)
        seen = world.seen(instance)
        source = DiskSource(volume=seen.disks[0].volume, instance=seen.ref)
        self.made = Made(
            instance=instance,
            spec=replace(spec, anchor=world.anchors[instance.artefact]),
            ref=seen.ref,
            source=source,
            export=world.prepare(source),
            file=world.published(),
            new=lambda: world.tag("nothing"),
        )

    def exported(self) -> None:
        """The export is there, whatever a call did to the instance."""
        self._world.prepare(self.made.source, owner=self.made.export)

    def opened(self, *, side: bool) -> Driver:
        """A driver that has logged in, with the wire open that will turn hostile."""
        end = time.monotonic() + 20
        while True:
            driver: Any = self.site.driver(replace(self._access, timeout=SIDE if side else API))
            try:
                if not side:
                    driver.catalogue()
                elif isinstance(driver.find_export(self.made.export), Unknown):
                    raise Unavailable("not yet")
            except Unavailable:
                driver.close()
                assert time.monotonic() < end
            else:
                return driver

    def turn(self, manner: Manner, *, side: bool) -> None:
        for relay in self.relays[1:] if side else self.relays[:1]:
            relay.manner = manner

    def heal(self) -> None:
        for relay in self.relays:
            relay.manner = Manner.WELL

    def outcomes(self, manner: Manner, *, side: bool) -> dict[str, tuple[object, float]]:
        """What each call came to, and how long that took: many at once, as most of it is waiting."""
        names = calls_of(self.site.driver)
        workers = WORKERS[side]
        self.exported()
        drivers = self._drivers[side]
        drivers += [self.opened(side=side) for _ in range(workers - len(drivers))]
        self.turn(manner, side=side)
        try:
            with ThreadPoolExecutor(workers) as pool:
                shares = [
                    pool.submit(self._each, driver, names[at::workers])
                    for at, driver in enumerate(drivers)
                ]
                return {name: told for share in shares for name, told in share.result().items()}
        finally:
            self.heal()

    def close(self) -> None:
        for driver in (*self._drivers[False], *self._drivers[True]):
            driver.close()

    def _each(self, driver: Driver, names: list[str]) -> dict[str, tuple[object, float]]:
        return {name: timed(lambda name=name: CALLS[name](driver, self.made)) for name in names}


def timed(call: Callable[[], object]) -> tuple[object, float]:
    began = time.monotonic()
    try:
        told: object = call()
    except FedctlError as e:
        told = e
    seconds = time.monotonic() - began
    if hasattr(told, "close"):  # a reader or writer that was opened nevertheless
        told.close()
    return told, seconds


@pytest.fixture(scope="module", params=SITES)
def trial(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    gateway: Gateway,
) -> Iterator[Trial]:
    kind: ProviderKind = request.param
    with ExitStack() as stack:
        site: Site = stack.enter_context(SITES[kind](tmp_path_factory.mktemp(kind)))
        # OpenStack's catalogue names its own port.
        renaming = kind is ProviderKind.OPENSTACK
        relays = [stack.enter_context(Relay(wire, renaming=renaming)) for wire in site.wires]
        ports = {wire: relay.port for wire, relay in zip(site.wires, relays, strict=True)}
        direct = site.driver(site.access)
        stack.callback(direct.close)
        networks = direct.catalogue().networks
        world = World(
            direct,
            gateway,
            guest=site.guest,
            network=networks[0].ref if networks else None,
            deadline=20,
        )
        if kind is ProviderKind.XCPNG:  # it tells the place of its NBD server behind TLS
            plain = socket.create_connection
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(
                socket,
                "create_connection",
                lambda at, *more, **how: plain((at[0], ports.get(at[1], at[1])), *more, **how),
            )
        trial = Trial(site, relays, world)
        stack.callback(trial.close)
        yield trial


@pytest.mark.parametrize("manner", HOSTILE)
def test_no_call_waits_for_an_api_for_ever(trial: Trial, manner: Manner):
    told = trial.outcomes(manner, side=False)
    late = {name: seconds for name, (_, seconds) in told.items() if seconds > PATIENCE}
    assert late == {}
    wrong = {
        name: outcome
        for name, (outcome, _) in told.items()
        if not isinstance(outcome, Unavailable | Unknown)
        and name not in QUIET[trial.site.access.provider]
    }
    assert wrong == {}


@pytest.mark.parametrize("manner", [Manner.DEAF, Manner.DRIPPING])
def test_no_call_waits_for_a_shell_or_a_disk_server_for_ever(trial: Trial, manner: Manner):
    if len(trial.relays) == 1:
        pytest.skip("this provider has one wire only")
    told = trial.outcomes(manner, side=True)
    late = {name: seconds for name, (_, seconds) in told.items() if seconds > PATIENCE}
    assert late == {}
    named = (Unavailable, Unknown, Busy)  # busy: a server that is not in rescue yet
    assert any(isinstance(told[name][0], named) for name in ("find_export", "open_export"))


@pytest.mark.parametrize("manner", [Manner.DEAF, Manner.DRIPPING])
def test_no_open_disk_is_read_or_written_for_ever(trial: Trial, manner: Manner):
    side = len(trial.relays) > 1
    trial.exported()
    driver: Any = trial.opened(side=side)
    reader = until(lambda: driver.open_export(trial.made.export))
    trial.turn(manner, side=side)
    told = {
        "read": timed(lambda: reader.read(0, 64 * KIB)),
        "extents": timed(lambda: list(reader.extents())),
        "close reader": timed(reader.close),
    }
    trial.heal()
    if Capability.DISK_IMPORT in capabilities(driver):
        writer = until(lambda: driver.open_import(trial.made.instance, trial.made.source.volume))
        for each in (True, False):
            trial.turn(manner, side=each)

        def written() -> None:
            writer.write(0, bytes(range(256)) * 1024)
            writer.finish()

        told |= {"write": timed(written), "close writer": timed(writer.close)}
        trial.heal()
    driver.close()
    assert {name: seconds for name, (_, seconds) in told.items() if seconds > PATIENCE} == {}
    if "write" in told:
        assert isinstance(told["write"][0], Unavailable)
    if side:  # where all is one wire, what was read ahead may be told
        assert isinstance(told["read"][0], Unavailable)


def test_no_connection_is_closed_for_ever(trial: Trial):
    driver = trial.opened(side=len(trial.relays) > 1)
    for side in (True, False):
        trial.turn(Manner.DEAF, side=side)
    _, seconds = timed(driver.close)
    trial.heal()
    assert seconds < PATIENCE


@pytest.mark.parametrize("manner", HOSTILE)
def test_no_image_is_sent_for_ever(trial: Trial, manner: Manner):
    if Capability.IMAGE_PUSH not in capabilities(trial.site.driver):
        pytest.skip("this provider only fetches")
    driver: Any = trial.opened(side=False)

    def data() -> Iterator[bytes]:
        trial.turn(manner, side=False)
        for at in range(0, len(file.data), 256 * KIB):
            yield file.data[at : at + 256 * KIB]

    file = trial.made.file
    outcome, seconds = timed(
        lambda: driver.push_image(trial.made.new(), "image", file.source, data())
    )
    trial.heal()
    driver.close()
    assert seconds < PATIENCE
    assert isinstance(outcome, Unavailable)


def until(call: Callable[[], Any]) -> Any:
    """What `call` answers once a busy machine lets it do so within its time."""
    end = time.monotonic() + 20
    while True:
        try:
            return call()
        except (Unavailable, Busy):
            assert time.monotonic() < end
