"""One simulated OVHcloud account: a folder, the API's endpoint, rescue systems, and test knobs."""

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from drivers.simulators.faults import REALISTIC, Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.http import HttpServer
from drivers.simulators.identity import keep, private_key, remembered
from drivers.simulators.ovhcloud.estate import Estate
from drivers.simulators.ovhcloud.rescue import Rescues
from drivers.simulators.ovhcloud.wire import TOKEN_PATH, Api, Keys, api_server
from drivers.simulators.witness import Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a customer would hand over for this site."""

    application_key: str
    application_secret: str = field(repr=False)
    consumer_key: str = field(repr=False)
    client_id: str
    client_secret: str = field(repr=False)
    ssh_private_key: str = field(repr=False)


class OvhSim:
    """A site that starts, stops, and goes on in its folder where it was."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "ovh",
        port: int = 0,
        profile: Profile = REALISTIC,
        witness: Witness | None = None,
        seed: int = 0,
        servers: int = 6,
        disk: int = 8 << 20,
        vracks: int = 1,
        addresses: int = 2,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.profile, self.witness = folder, name, profile, witness
        self.faults = Faults(profile, seed=seed)
        self._seed, self._servers, self._disk = seed, servers, disk
        self._vracks, self._addresses = vracks, addresses
        self._identity = identity = remembered(folder, _made)
        self.credentials = Credentials(
            application_key=identity["application"],
            application_secret=identity["secret"],
            consumer_key=identity["consumer"],
            client_id=identity["account"],
            client_secret=identity["password"],
            ssh_private_key=identity["ssh_key"],
        )
        self.keys = Keys(identity)
        self._port = port or int(identity.get("api_port", "0"))
        self._ports: dict[str, int] = json.loads(identity.get("ssh_ports", "{}"))
        self._estate: Estate | None = None
        self._api: HttpServer[Api] | None = None
        self._rescues: Rescues | None = None
        self.faults.watch(self._reached)

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """State from the folder, servers that ran run again, the API's socket open."""
        self._estate = estate = Estate(
            self.folder,
            name=self.name,
            profile=self.profile,
            faults=self.faults,
            witness=self.witness,
            seed=self._seed,
        )
        if not estate.servers:
            estate.rent(
                self._servers,
                disk=self._disk,
                vracks=self._vracks,
                addresses=self._addresses,
            )
        self._rescues = Rescues(estate, ports=self._ports)
        with estate.changing():
            estate.resume()
        self._api = api_server(Api(estate, self.keys), port=self._port)
        self._api.start()
        self._port = self._api.port
        self._identity |= {"api_port": str(self._port), "ssh_ports": json.dumps(self._ports)}
        keep(self.folder, self._identity)
        return self

    def stop(self) -> None:
        """Shut the site down; what ran is remembered and runs again after `start`."""
        if self._api is not None and self._rescues is not None and self._estate is not None:
            self._api.stop()
            self._estate.close()
            self._rescues.close()
        self._api = self._estate = self._rescues = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reached(self, down: bool) -> None:  # noqa: FBT001  # the watcher's one fact
        if self._api is None or self._rescues is None:
            return
        self._rescues.cut(down=down)
        if down:
            self._api.stop()
        else:
            self._api.start()

    # -- where ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/1.0"

    @property
    def token_url(self) -> str:
        return f"http://127.0.0.1:{self._port}{TOKEN_PATH}"

    @property
    def ssh_at(self) -> str:
        """Where each server's rescue answers, as the driver's option has it."""
        return ",".join(f"{name}=127.0.0.1:{port}" for name, port in sorted(self._ports.items()))

    @property
    def estate(self) -> Estate:
        """What is rented, for tests that look behind the API."""
        if self._estate is None:
            raise RuntimeError(f"the simulated site {self.name} is not started")
        return self._estate

    @property
    def api(self) -> Api:
        if self._api is None:
            raise RuntimeError(f"the simulated site {self.name} is not started")
        return self._api.site

    @property
    def rescues(self) -> Rescues:
        if self._rescues is None:
            raise RuntimeError(f"the simulated site {self.name} is not started")
        return self._rescues

    @property
    def guests(self) -> Guests:
        return self.estate.guests


def _made() -> dict[str, str]:
    return {
        "application": secrets.token_hex(8),
        "secret": secrets.token_hex(16),
        "consumer": secrets.token_hex(16),
        "account": f"EU.{secrets.token_hex(8)}",
        "password": secrets.token_hex(16),
        "ssh_key": private_key(),
    }
