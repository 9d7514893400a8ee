"""One simulated OpenNebula site: a folder, an XML-RPC endpoint, an ssh server, and test knobs."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from drivers.simulators.faults import REALISTIC, Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.http import HttpServer
from drivers.simulators.identity import keep, private_key, public, remembered
from drivers.simulators.opennebula import networks, vms
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.oned import Oned, User
from drivers.simulators.opennebula.ssh import DatastoreHost
from drivers.simulators.opennebula.wire import api_server
from drivers.simulators.witness import Witness

USER = "fedctl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a customer would hand over for this site."""

    user: str
    token: str = field(repr=False)
    ssh_user: str
    ssh_private_key: str = field(repr=False)
    ssh_host_key: str  # the public key line that known_hosts would hold


class OpenNebulaSim:
    """A site that starts, stops, and goes on in its folder where it was.

    `tm` is how VMs get their disks: `shared` links persistent images, `local` moves them to the
    host, so that the datastore's file is stale until the VM terminates.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "one",
        port: int = 0,
        ssh_port: int = 0,
        profile: Profile = REALISTIC,
        witness: Witness | None = None,
        seed: int = 0,
        tm: str = "local",
        network: str = "shop-net",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.profile, self.witness = folder, name, profile, witness
        self.faults = Faults(profile, seed=seed)
        self._seed, self._tm, self._network = seed, tm, network
        self._identity = identity = remembered(folder, _made)
        self.credentials = Credentials(
            user=USER,
            token=identity["token"],
            ssh_user="oneadmin",
            ssh_private_key=identity["ssh_key"],
            ssh_host_key=public(identity["host_key"]),
        )
        self._ports = {
            "api": port or int(identity.get("api_port", "0")),
            "ssh": ssh_port or int(identity.get("ssh_port", "0")),
        }
        self._oned: Oned | None = None
        self._api: HttpServer[Oned] | None = None
        self._ssh: DatastoreHost | None = None
        self.faults.watch(self._reached)

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """State from the folder, VMs that ran run again, both sockets open."""
        self._oned = oned = Oned(
            self.folder,
            name=self.name,
            profile=self.profile,
            faults=self.faults,
            witness=self.witness,
            tm=self._tm,
            seed=self._seed,
        )
        self._first(oned)
        with oned.changing():
            for vm in oned.vms.values():
                if (vm.state, vm.lcm) == (one.ACTIVE, one.RUNNING):
                    vms.start(oned, vm)
                elif vm.state == one.ACTIVE and vm.lcm != 36:  # BOOT_FAILURE
                    vm.state, vm.lcm = one.POWEROFF, 0
        self._api = api_server(oned, port=self._ports["api"])
        self._ssh = DatastoreHost(
            oned,
            port=self._ports["ssh"],
            host_key=self._identity["host_key"],
            authorized=public(self._identity["ssh_key"]),
        )
        self._api.start()
        self._ssh.start()
        self._ports = {"api": self._api.port, "ssh": self._ssh.port}
        kept = {f"{which}_port": str(port) for which, port in self._ports.items()}
        keep(self.folder, self._identity | kept)
        return self

    def _first(self, oned: Oned) -> None:
        """What an administrator made before anybody came: two users and a network."""
        if oned.users:
            return
        admin = User(id=0, name="oneadmin", password=self._identity["admin"])
        ours = User(id=2, name=USER, password=self._identity["password"])
        ours.tokens[self._identity["token"]] = float("inf")
        oned.users = {0: admin, 2: ours}
        number = oned.number("network")
        oned.networks[number] = networks.shop(number, self._network, "10.0.4.0")

    def stop(self) -> None:
        """Shut the site down; what ran is remembered and runs again after `start`."""
        if self._api is not None and self._ssh is not None and self._oned is not None:
            self._api.stop()
            self._ssh.close()
            self._oned.close()
        self._api = self._ssh = self._oned = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reached(self, down: bool) -> None:  # noqa: FBT001  # the watcher's one fact
        if self._api is None or self._ssh is None:
            return
        for server in (self._api, self._ssh):
            if down:
                server.stop()
            else:
                server.start()

    # -- where ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['api']}/RPC2"

    @property
    def ssh_address(self) -> tuple[str, int]:
        return "127.0.0.1", self._ports["ssh"]

    @property
    def oned(self) -> Oned:
        """The running daemon, for tests that look behind the API."""
        if self._oned is None:
            raise RuntimeError(f"the simulated site {self.name} is not started")
        return self._oned

    @property
    def guests(self) -> Guests:
        return self.oned.guests

    # -- knobs ---------------------------------------------------------------------------------

    def limit(self, **quota: int) -> None:
        """Give our user a quota: VMS, CPU, MEMORY (MiB), IMAGES, SIZE (MiB); -1 lifts it."""
        user = self.oned.users[2]
        with self.oned.changing():
            for key, limit in quota.items():
                place = user.vm_quota if key in {"VMS", "CPU", "MEMORY"} else user.datastore_quota
                place[key] = limit


def _made() -> dict[str, str]:
    return {
        "admin": secrets.token_urlsafe(16),
        "password": secrets.token_urlsafe(16),
        "token": secrets.token_hex(20),
        "ssh_key": private_key(),
        "host_key": private_key(),
    }
