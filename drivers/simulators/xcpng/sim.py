"""One simulated XCP-ng pool: a folder, an XAPI endpoint, an NBD server, and test knobs."""

import secrets
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from drivers.simulators.faults import REALISTIC, Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.http import HttpServer
from drivers.simulators.identity import fingerprint, keep, make_certificate, remembered
from drivers.simulators.witness import Witness
from drivers.simulators.xcpng import vms
from drivers.simulators.xcpng.nbd import NbdServer
from drivers.simulators.xcpng.pool import NULL, Pool
from drivers.simulators.xcpng.wire import Host, api_server

USER = "fedctl"
COORDINATOR, MEMBER = "127.0.0.1", "127.0.0.2"
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a customer would hand over for this pool."""

    username: str
    password: str = field(repr=False)
    fingerprint: str  # SHA-256 of the certificate


class XcpngSim:
    """A pool that starts, stops, and goes on in its folder where it was.

    `purpose` is what the management network is for: `nbd` (with TLS), `insecure_nbd`, or nothing.
    `member` adds a host that is not the coordinator, at 127.0.0.2 and the same port.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "xcp",
        port: int = 0,
        nbd_port: int = 0,
        profile: Profile = REALISTIC,
        witness: Witness | None = None,
        seed: int = 0,
        network: str = "shop-net",
        purpose: str = "nbd",
        member: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.profile, self.witness = folder, name, profile, witness
        self.faults = Faults(profile, seed=seed)
        self._network, self._purpose, self._with_member = network, purpose, member
        self._identity = identity = remembered(folder, lambda: _made(folder))
        self.credentials = Credentials(
            username=USER,
            password=identity["password"],
            fingerprint=fingerprint(folder / "xapi.pem"),
        )
        self._ports = {
            "api": port or int(identity.get("api_port", "0")),
            "nbd": nbd_port or int(identity.get("nbd_port", "0")),
        }
        self._pool: Pool | None = None
        self._servers: list[HttpServer[Host] | NbdServer] = []
        self.faults.watch(self._reached)

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """State from the folder, VMs that ran run again, all sockets open."""
        self._pool = pool = Pool(
            self.folder,
            name=self.name,
            profile=self.profile,
            faults=self.faults,
            witness=self.witness,
        )
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.folder / "xapi.pem", self.folder / "xapi.key")
        nbd = NbdServer(pool, port=self._ports["nbd"], tls=tls)
        api = api_server(pool, address=COORDINATOR, port=self._ports["api"], tls=tls)
        self._servers = [nbd, api]
        nbd.start()
        pool.unplug = nbd.cut
        pool.is_user = lambda name, password: (
            (name, password)
            == (
                self.credentials.username,
                self.credentials.password,
            )
        )
        self._first(pool, nbd.port)
        api.start()
        self._ports = {"api": api.port, "nbd": nbd.port}
        if self._with_member:
            self._servers.append(
                api_server(pool, address=MEMBER, port=api.port, tls=tls, coordinator=COORDINATOR)
            )
            self._servers[-1].start()
        kept = {f"{which}_port": str(port) for which, port in self._ports.items()}
        keep(self.folder, self._identity | kept)
        return self

    def _first(self, pool: Pool, nbd_port: int) -> None:
        """What is there before anybody comes, and what ran when the pool stopped."""
        certificate = (self.folder / "xapi.pem").read_text()
        if not pool.tables["host"]:
            self._install(pool, certificate)
        pool.put("host", pool.only("host"), nbd_port=nbd_port, certificate=certificate)
        for vbd in pool.where("VBD", VM=pool.where("VM", is_control_domain=True)[0]):
            pool.drop("VBD", vbd)
        for vm in [
            *pool.where("VM", power_state="Running"),
            *pool.where("VM", power_state="Paused"),
        ]:
            if not pool.row("VM", vm)["is_control_domain"]:
                pool.drop("VM_guest_metrics", pool.row("VM", vm)["guest_metrics"])
                pool.put("VM", vm, guest_metrics=NULL)
                vms.run(pool, vm)

    def _install(self, pool: Pool, certificate: str) -> None:
        metrics = pool.add("host_metrics", memory_total=64 * GIB, memory_free=60 * GIB, live=True)
        host = pool.add(
            "host",
            name_label=f"{self.name}-1",
            address=COORDINATOR,
            enabled=True,
            metrics=metrics,
            software_version={
                "product_brand": "XCP-ng",
                "product_version": "8.3.0",
                "xapi_build": "26.1.0",
            },
            API_version_major=2,
            API_version_minor=21,
            other_config={},
            certificate=certificate,
        )
        sr = pool.add(
            "SR",
            name_label="Local storage",
            name_description="",
            type="ext",
            content_type="user",
            shared=False,
            physical_size=pool.size,
            other_config={},
            tags=[],
        )
        pool.add("pool", name_label=self.name, master=host, default_SR=sr, other_config={})
        net = pool.add(
            "network",
            name_label=self._network,
            name_description="",
            MTU=1500,
            other_config={},
            bridge="xenbr0",
            managed=True,
            tags=[],
            purpose=[self._purpose] if self._purpose else [],
            default_locking_mode="unlocked",
        )
        pool.add("PIF", network=net, host=host, device="eth0", management=True, other_config={})
        pool.add(
            "network",
            name_label="Host internal management network",
            name_description="",
            MTU=1500,
            other_config={"is_host_internal_management_network": "true"},
            bridge="xenapi",
            managed=True,
            tags=[],
            purpose=[],
            default_locking_mode="unlocked",
        )
        common = {"other_config": {}, "platform": {}, "HVM_boot_policy": "", "HVM_boot_params": {}}
        vms.new(
            pool,
            name_label=f"Control domain on host: {self.name}-1",
            is_a_template=False,
            **(common | {"is_control_domain": True, "power_state": "Running"}),
        )
        vms.new(
            pool,
            name_label="Other install media",
            is_a_template=True,
            is_default_template=True,
            **common,
        )

    def stop(self) -> None:
        """Shut the pool down; what ran is remembered and runs again after `start`."""
        for server in self._servers:
            server.stop()
        if self._pool is not None:
            self._pool.close()
        self._servers, self._pool = [], None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reached(self, down: bool) -> None:  # noqa: FBT001  # the watcher's one fact
        for server in self._servers:
            if down:
                server.stop()
            else:
                server.start()

    # -- where ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://{COORDINATOR}:{self._ports['api']}"

    @property
    def nbd_port(self) -> int:
        return self._ports["nbd"]

    @property
    def member_url(self) -> str:
        return f"https://{MEMBER}:{self._ports['api']}"

    @property
    def pool(self) -> Pool:
        """The running database, for tests that look behind the API."""
        if self._pool is None:
            raise RuntimeError(f"the simulated pool {self.name} is not started")
        return self._pool

    @property
    def guests(self) -> Guests:
        return self.pool.guests

    # -- knobs ---------------------------------------------------------------------------------

    def expire_sessions(self) -> None:
        """Every session ends now, also those that wait inside a call."""
        with self.pool.lock:
            self.pool.sessions.clear()


def _made(folder: Path) -> dict[str, str]:
    make_certificate(
        folder / "xapi.pem",
        folder / "xapi.key",
        name="localhost",
        addresses=(COORDINATOR, MEMBER),
    )
    return {"password": secrets.token_urlsafe(16)}
